"""The cache of notifications never returns a row older than `MAX_CACHE_SECONDS`, even if responses are late."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.records import StoredNotification
from shared.states import NotificationState
from shared.storage.entity_writes import Row
from shared.storage.notifications import MAX_CACHE_SECONDS, Notifications
from shared.storage.table import Table
from tests.support.herald import Herald
from tests.support.memory import MemoryTable


class SlowTable(MemoryTable):
    """A table that delays the response to its first merge until `may_respond` is set."""

    def __init__(self, table: Table) -> None:
        super().__init__(table._client)
        self.written, self.may_respond = asyncio.Event(), asyncio.Event()

    async def merge(self, row: Row, etag: str) -> str:
        is_first = not self.written.is_set()
        new = await super().merge(row, etag)
        if is_first:
            self.written.set()
            await self.may_respond.wait()
        return new


@pytest.fixture
def now() -> list[float]:
    return [100.0]


async def insert_notification(herald: Herald, state: NotificationState) -> StoredNotification:
    return await herald.services.notifications.insert(
        StoredNotification(
            key="a" * 64,
            tenant=herald.tenant,
            source="/ci",
            id="1",
            content_hash="",
            data=b'{"recipients":[{"all":true}],"category":"builds","content":{"title":"x"}}',
            state=state,
            created=datetime.now(UTC),
            shards=1,
        )
    )


def open_another_worker(herald: Herald, now: list[float]) -> Notifications:
    return Notifications(herald.services.notifications._table, lambda: now[0])


async def begin_slow_write(
    notification: StoredNotification, herald: Herald, now: list[float]
) -> tuple[Notifications, SlowTable, asyncio.Task[Any]]:
    """Begin a write of a worker that the storage has done and not responded to."""
    slow = SlowTable(herald.services.notifications._table)
    notifications = Notifications(slow, lambda: now[0])
    task = asyncio.create_task(notifications.advance(notification, page=7))
    await slow.written.wait()
    return notifications, slow, task


async def test_late_response_does_not_hide_a_later_write(herald: Herald, now: list[float]) -> None:
    notification = await insert_notification(herald, NotificationState.EXPANDING)
    notifications, slow, write = await begin_slow_write(notification, herald, now)
    now[0] += 0.1
    current = await notifications.get(notification.key)
    assert current
    await notifications.advance(current, state=NotificationState.CANCELLED)
    now[0] += 1
    slow.may_respond.set()
    await write
    known = await notifications.recent(notification.key)
    assert known
    assert known.state is NotificationState.CANCELLED


async def test_cached_row_ages_from_the_write_not_from_its_response(herald: Herald, now: list[float]) -> None:
    notification = await insert_notification(herald, NotificationState.EXPANDED)
    notifications, slow, write = await begin_slow_write(notification, herald, now)
    fresh = await open_another_worker(herald, now).get(notification.key)
    assert fresh
    await open_another_worker(herald, now).advance(fresh, state=NotificationState.CANCELLED)
    now[0] += MAX_CACHE_SECONDS + 0.1
    slow.may_respond.set()
    await write
    known = await notifications.recent(notification.key)
    assert known
    assert known.state is NotificationState.CANCELLED


async def test_scheduled_notification_is_not_cached(herald: Herald, now: list[float]) -> None:
    notification = await insert_notification(herald, NotificationState.SCHEDULED)
    notifications = open_another_worker(herald, now)
    moved = await notifications.advance(notification, rescheduled=datetime.now(UTC))
    await open_another_worker(herald, now).advance(moved, state=NotificationState.EXPANDED)
    known = await notifications.recent(notification.key)
    assert known
    assert known.state is NotificationState.EXPANDED


async def test_written_notification_is_not_read_again(herald: Herald, now: list[float]) -> None:
    notification = await insert_notification(herald, NotificationState.EXPANDED)
    notifications = open_another_worker(herald, now)
    await notifications.advance(notification, state=NotificationState.FINISHED)
    reads = []
    notifications._table.get = lambda *_: reads.append(1)  # type: ignore[method-assign, assignment]
    known = await notifications.recent(notification.key)
    assert known
    assert (known.state, reads) == (NotificationState.FINISHED, [])
