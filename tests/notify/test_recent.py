"""What is known of a notification for two seconds is no older, whoever wrote it and however late it is answered."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.states import NotificationState
from shared.storage.entity_writes import Row
from shared.storage.notifications import MAX_CACHE_SECONDS, Notifications, StoredNotification
from shared.storage.table import Table
from tests.support.herald import Herald


class Slow(Table):
    """A table whose answer to the first write waits until it may come."""

    def __init__(self, table: Table) -> None:
        super().__init__(table._client)
        self._write = table._write  # type: ignore[method-assign]
        self.written, self.answers = asyncio.Event(), asyncio.Event()

    async def merge(self, row: Row, etag: str) -> str:
        first = not self.written.is_set()
        new = await super().merge(row, etag)
        if first:
            self.written.set()
            await self.answers.wait()
        return new


@pytest.fixture
def now() -> list[float]:
    return [100.0]


async def stored(herald: Herald, state: NotificationState) -> StoredNotification:
    return await herald.services.notifications.insert(
        StoredNotification(
            key="a" * 64,
            tenant=herald.tenant,
            source="/ci",
            id="1",
            content_hash="",
            data=b"{}",
            state=state,
            created=datetime.now(UTC),
            shards=1,
        )
    )


def another(herald: Herald, now: list[float]) -> Notifications:
    return Notifications(herald.services.notifications._table, lambda: now[0])


async def writing(
    of: StoredNotification, herald: Herald, now: list[float]
) -> tuple[Notifications, Slow, asyncio.Task[Any]]:
    """The notifications of a process whose first write has happened, and not been answered."""
    slow = Slow(herald.services.notifications._table)
    notifications = Notifications(slow, lambda: now[0])
    task = asyncio.create_task(notifications.advance(of, page=7))
    await slow.written.wait()
    return notifications, slow, task


async def test_a_late_answer_does_not_hide_what_was_written_after(herald: Herald, now: list[float]) -> None:
    of = await stored(herald, NotificationState.EXPANDING)
    notifications, slow, first = await writing(of, herald, now)
    now[0] += 0.1
    seen = await notifications.get(of.key)
    assert seen
    await notifications.advance(seen, state=NotificationState.CANCELLED)
    now[0] += 1
    slow.answers.set()
    await first
    known = await notifications.recent(of.key)
    assert known
    assert known.state is NotificationState.CANCELLED


async def test_what_was_written_is_as_old_as_the_write_not_as_its_answer(herald: Herald, now: list[float]) -> None:
    of = await stored(herald, NotificationState.EXPANDED)
    notifications, slow, first = await writing(of, herald, now)
    fresh = await another(herald, now).get(of.key)
    assert fresh
    await another(herald, now).advance(fresh, state=NotificationState.CANCELLED)
    now[0] += MAX_CACHE_SECONDS + 0.1
    slow.answers.set()
    await first
    known = await notifications.recent(of.key)
    assert known
    assert known.state is NotificationState.CANCELLED


async def test_what_waits_for_its_time_may_be_moved_by_others_at_any_moment(herald: Herald, now: list[float]) -> None:
    of = await stored(herald, NotificationState.SCHEDULED)
    notifications = another(herald, now)
    moved = await notifications.advance(of, rescheduled=datetime.now(UTC))
    await another(herald, now).advance(moved, state=NotificationState.EXPANDED)
    known = await notifications.recent(of.key)
    assert known
    assert known.state is NotificationState.EXPANDED


async def test_what_this_process_wrote_is_not_read_again(herald: Herald, now: list[float]) -> None:
    of = await stored(herald, NotificationState.EXPANDED)
    notifications = another(herald, now)
    await notifications.advance(of, state=NotificationState.FINISHED)
    reads = []
    notifications._table.get = lambda *_: reads.append(1)  # type: ignore[method-assign, assignment]
    known = await notifications.recent(of.key)
    assert known
    assert (known.state, reads) == (NotificationState.FINISHED, [])
