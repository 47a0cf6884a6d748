"""The tick enqueues the work of each due timer once, also if it crashes, is late or runs twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError

from local.fake_teams.api import PersonView
from shared import keys as storage_keys
from shared.queue_messages import EXPANSIONS, Expansion
from shared.records import StoredNotification
from shared.states import NotificationState, ReferenceKind
from shared.storage.dead_letters import DeadLetters
from shared.storage.entity_writes import Operation, Row
from shared.storage.table import Table
from tests.support.herald import Herald, user
from tests.support.tapped import TAP, OperationCounter


async def schedule(herald: Herald, ahead: timedelta) -> tuple[PersonView, StoredNotification]:
    """Schedule a notification in this time; return its recipient and the notification."""
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    at = (herald.clock() + ahead).replace(tzinfo=None).isoformat(timespec="minutes")
    notification = await herald.submit(user(ada), schedule={"at": at, "timeZone": "UTC"})
    return ada, notification


async def test_scheduled_notification_is_sent_at_its_time_and_once(herald: Herald) -> None:
    await schedule(herald, timedelta(hours=2))
    assert await herald.tick() == 0
    await herald.handle_messages()
    assert await herald.received() == []
    herald.clock.offset += timedelta(hours=2, seconds=1)
    assert await herald.tick() == 1
    await herald.handle_messages()
    assert await herald.tick() == 0
    await herald.handle_messages()
    assert len(await herald.received()) == 1


async def test_scheduled_notification_is_sent_after_the_app_was_down(herald: Herald) -> None:
    await schedule(herald, timedelta(minutes=5))
    herald.clock.offset += timedelta(minutes=50)
    assert await herald.tick() == 1
    await herald.handle_messages()
    assert len(await herald.received()) == 1


async def test_tick_that_fires_early_waits_for_its_minute(herald: Herald) -> None:
    minute = (herald.clock() + timedelta(minutes=5)).replace(second=0, microsecond=0)
    await herald.services.timers.put(minute, "notification", "a" * 64)
    herald.clock.offset += minute - timedelta(seconds=0.3) - herald.clock()
    assert await herald.tick() == 1


async def test_tick_leaves_the_rest_to_the_next_one_after_its_time_limit(
    herald: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    minute = herald.clock() - timedelta(minutes=3)
    await asyncio.gather(*(herald.services.timers.put(minute, "notification", f"{key:064x}") for key in range(130)))
    monkeypatch.setattr("timer_digest.tick.MAX_TICK_SECONDS", 0.0)
    assert [await herald.tick() for _ in range(3)] == [100, 30, 0]
    assert await herald.message_count(EXPANSIONS) == 130


async def test_concurrent_ticks_send_a_notification_once(herald: Herald) -> None:
    await schedule(herald, timedelta(minutes=5))
    herald.clock.offset += timedelta(minutes=7)
    await asyncio.gather(herald.tick(), herald.tick(), herald.tick())
    await herald.handle_messages()
    await herald.tick()
    await herald.handle_messages()
    assert len(await herald.received()) == 1


async def test_timer_written_into_a_past_minute_is_found(herald: Herald) -> None:
    _, notification = await schedule(herald, timedelta(minutes=5))
    herald.clock.offset += timedelta(hours=1)
    await herald.tick()
    long_ago = herald.clock() - timedelta(days=30)
    await herald.services.timers.put(long_ago, "notification", notification.key)
    assert await herald.tick() == 1


async def test_tick_reads_more_than_one_page(herald: Herald) -> None:
    now = herald.clock()
    keys = [f"{number:064x}" for number in range(120)]
    await asyncio.gather(*(herald.services.timers.put(now - timedelta(minutes=1 + n % 7), "notification", k) for n, k in enumerate(keys)))  # noqa: E501  # fmt: skip
    assert await herald.tick() == 120


async def test_digests_are_enqueued_at_the_rate_of_their_tenant(
    herald: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate, due_at = herald.services.settings.tenant_rate, herald.clock() - timedelta(minutes=1)
    people = [f"{tenant};u:{number}" for number in range(2 * rate + 5) for tenant in (herald.tenant, "another")]
    await asyncio.gather(*(herald.services.timers.put(due_at, "digest", key) for key in people))
    await asyncio.gather(*(herald.services.timers.put(due_at, "release", key) for key in people))
    delays: Counter[float] = Counter()

    async def put(name: str, text: str, delay: float = 0) -> None:
        delays[delay] += 1

    monkeypatch.setattr(herald.services.queues, "put", put)
    assert await herald.tick() == 2 * len(people)
    assert delays == {0: 2 * rate + len(people), 1: 2 * rate, 2: 10}


async def test_timer_of_unknown_kind_stays_for_a_newer_version(herald: Herald) -> None:
    now = herald.clock()
    await herald.services.timers.put(now - timedelta(minutes=2), "somethingNew", "x")
    await schedule(herald, timedelta(minutes=1))
    herald.clock.offset += timedelta(minutes=3)
    assert await herald.tick() == 1
    remaining = [timer.kind async for page in herald.services.timers.read_due(herald.clock(), 10) for timer in page]
    assert remaining == ["somethingNew"]


async def test_recipients_are_looked_up_when_a_scheduled_notification_is_sent(herald: Herald) -> None:
    ada, notification = await schedule(herald, timedelta(minutes=5))
    assert notification.state is NotificationState.SCHEDULED
    moved = {"service_url": "https://127.0.0.1:1/"}
    await herald.services.conversations.save(
        herald.tenant,
        ReferenceKind.USER,
        ada.object_id,
        moved,
        at=herald.clock(),
    )
    herald.clock.offset += timedelta(minutes=7)
    await herald.tick()
    await herald.handle_messages()
    assert await herald.counts(notification) == {"failed": 1}


async def test_failed_timer_stays_for_the_next_tick_and_does_not_block_others(
    herald: Herald, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = herald.clock()
    broken = [f"{number:064x}" for number in range(150)]
    await asyncio.gather(*(herald.services.timers.put(now - timedelta(minutes=9), "watchdog", key) for key in broken))
    await schedule(herald, timedelta(minutes=1))
    herald.clock.offset += timedelta(minutes=3)
    sweep = herald.services.queues.enqueue_sweep
    monkeypatch.setattr(herald.services.queues, "enqueue_sweep", _fail)
    assert await herald.tick() == 1
    await herald.handle_messages()
    assert len(await herald.received()) == 1
    assert "failed and stays due" in caplog.text
    monkeypatch.setattr(herald.services.queues, "enqueue_sweep", sweep)
    assert await herald.tick() >= 150


async def _fail(message: object) -> None:
    raise OSError("no such queue")


async def test_timer_set_again_during_the_tick_stays_due(herald: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    timers, minute = herald.services.timers, herald.clock() - timedelta(minutes=3)
    keys = [f"{number:064x}" for number in range(40)]
    await asyncio.gather(*(timers.put(minute, "notification", key) for key in keys))
    expand = herald.services.queues.enqueue_expansion

    async def put_again(message: Expansion, delay: float = 0) -> None:
        await expand(message, delay)
        if message.notification in keys[:2]:
            await timers.put(minute, "notification", message.notification)

    monkeypatch.setattr(herald.services.queues, "enqueue_expansion", put_again)
    assert await herald.tick() == 40
    monkeypatch.undo()
    assert await herald.tick() == 2
    assert await herald.tick() == 0


async def test_timers_that_cannot_be_deleted_do_not_block_others(
    herald: Herald, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now, batch = herald.clock(), Table.batch
    failed: list[Sequence[Operation]] = []
    for number in range(40):
        await herald.services.timers.put(now - timedelta(minutes=9), "notification", f"{number:064x}")
    await herald.services.timers.put(now - timedelta(minutes=3), "notification", "a" * 64)

    async def fail_once(table: Table, operations: Sequence[Operation]) -> list[str]:
        if not failed:
            failed.append(operations)
            raise HttpResponseError("503")
        return await batch(table, operations)

    monkeypatch.setattr(Table, "batch", fail_once)
    assert await herald.tick() == 41
    assert "were not deleted and fire again" in caplog.text
    assert await herald.tick() == len(failed[0])


async def test_work_is_enqueued_in_the_order_of_its_minutes(herald: Herald) -> None:
    now = herald.clock()
    keys = [f"{number:064x}" for number in range(60)]
    await asyncio.gather(
        *(
            herald.services.timers.put(now - timedelta(minutes=61 - n), "notification", key)
            for n, key in enumerate(keys)
        )
    )
    await herald.tick()
    queue = herald.outside_queues.get_queue_client(EXPANSIONS)
    found = [Expansion.decode(each.content.encode()).notification async for each in queue.receive_messages()]
    assert found == keys[: len(found)]
    assert len(found) == 60


@pytest.mark.parametrize(
    "stored", [(1_000,), pytest.param((1_000, 100_000), marks=[pytest.mark.full, pytest.mark.timeout(900)])]
)
async def test_cost_of_a_tick_depends_only_on_the_due_timers(tapped: Herald, stored: tuple[int, ...]) -> None:
    """One query for 100 timers, one message for each, and one write for each partition of their rows."""
    now, first = tapped.clock(), 0
    for last in stored:
        await store(tapped, first, last)
        first = last
        keys = [f"{number:064x}" for number in range(100)]
        await asyncio.gather(
            *(
                tapped.services.timers.put(now - timedelta(minutes=1 + n % 7), "notification", key)
                for n, key in enumerate(keys)
            )
        )
        counter = OperationCounter()
        token = TAP.set(counter)
        assert await tapped.tick() == 100
        TAP.reset(token)
        reads = counter.operations.pop("")
        assert reads <= 2
        partitions = {(n % 7, storage_keys.shard(key)) for n, key in enumerate(keys)}
        assert counter.operations == {"queue/expansions": 100, "HeraldTimers": len(partitions)}


async def store(herald: Herald, first: int, last: int) -> None:
    """Store people and timers of another day, numbered from `first` to `last`."""
    timers, people = herald.services.timers._table, herald.services.conversations._table
    day = herald.clock() + timedelta(days=2)
    for start in range(first, last, 100):
        numbers = range(start, min(last, start + 100))
        minute = f"{day + timedelta(minutes=start // 100):%Y-%m-%dT%H:%M};0"
        person = f"{herald.tenant};user;{start // 100 % 16:x}"
        await timers.batch(
            [
                ("create", {"PartitionKey": minute, "RowKey": f"notification;{n:064x}", "v": 1, "key": f"{n:064x}"})
                for n in numbers
            ]
        )
        await people.batch(
            [("create", {"PartitionKey": person, "RowKey": f"{n:032x}", "v": 1, "id": f"{n:032x}"}) for n in numbers]
        )


def timer_row(minute: str, row: str, **columns: object) -> dict[str, object]:
    return {"PartitionKey": f"{minute};0", "RowKey": row, **columns}


KEY = "a" * 64
UNREADABLE_ROWS = [
    timer_row("0000-00-00T00:00", f"notification;{KEY}", v=1, key=KEY),
    timer_row("2026-01-01", f"notification;{KEY}", v=1, key=KEY),
    timer_row("2026-01-01T00:00", f"notification;{KEY}", v=1),
    timer_row("2026-01-01T00:00", f"notification;{KEY}", v=1, key=7),
    timer_row("2026-01-01T00:00", f"notification;{KEY}", v=1, key=""),
    timer_row("2026-01-01T00:00", f"notification;{KEY}", v="one", key=KEY),
    timer_row("2026-01-01T00:00", "release;x", v=1, key="tenant"),
    timer_row("2026-01-01T00:00", "occurrence;x", v=1, key="tenant;"),
    timer_row("2026-01-01T00:00", "digest;x", v=1, key=b"tenant;u:1"),
]


@pytest.mark.parametrize("row", UNREADABLE_ROWS, ids=lambda row: " ".join(map(str, row.values()))[:40])
async def test_malformed_row_is_set_aside_and_does_not_block_others(herald: Herald, row: dict[str, object]) -> None:
    """docs/odd-inputs.md, Times."""
    await herald.services.timers._table.put(row)
    await schedule(herald, timedelta(minutes=1))
    herald.clock.offset += timedelta(minutes=3)
    assert await herald.tick() == 1
    await herald.handle_messages()
    assert len(await herald.received()) == 1
    [letter] = await herald.dead_letters()
    assert (letter["queue"], letter["reason"]) == ("Timers", "unreadable")
    assert json.loads(letter["body"])["RowKey"] == row["RowKey"]
    assert json.loads(letter["faults"])[0]["message"].startswith("a row of table Timers: ")
    assert [timer async for page in herald.services.timers.read_due(herald.clock(), 10) for timer in page] == []


async def test_row_of_a_newer_version_stays_and_is_reported_once(herald: Herald) -> None:
    """docs/odd-inputs.md, Times."""
    row = timer_row("2026-01-01T00:00", f"notification;{KEY}", v=2, key=KEY, more="x")
    await herald.services.timers._table.put(row)
    await schedule(herald, timedelta(minutes=1))
    herald.clock.offset += timedelta(minutes=3)
    assert await herald.tick() == 1
    [letter] = await herald.dead_letters()
    assert (letter["queue"], letter["reason"]) == ("Timers", "newerVersion")
    await herald.services.dead_letters.delete(letter)
    assert await herald.tick() == 0
    assert await herald.dead_letters() == []
    [left] = [timer async for page in herald.services.timers.read_due(herald.clock(), 10) for timer in page]
    assert left.unreadable
    assert left.unreadable.is_newer


async def test_tick_continues_without_the_dead_letter_of_a_row(
    herald: Herald, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """docs/odd-inputs.md, Times."""
    await herald.services.timers._table.put(UNREADABLE_ROWS[3])
    await schedule(herald, timedelta(minutes=1))
    herald.clock.offset += timedelta(minutes=3)
    monkeypatch.setattr(DeadLetters, "put", _fail_to_put)
    assert await herald.tick() == 1
    assert "was not set aside: the next tick tries again" in caplog.text
    monkeypatch.undo()
    await herald.tick()
    assert len(await herald.dead_letters()) == 1


async def _fail_to_put(*_: object) -> None:
    raise HttpResponseError("503")


async def test_table_that_cannot_be_read_does_not_end_the_tick_with_an_error(
    herald: Herald, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """docs/odd-inputs.md, Times."""
    minute = herald.clock() - timedelta(minutes=3)
    await asyncio.gather(*(herald.services.timers.put(minute, "notification", f"{key:064x}") for key in range(130)))
    pages = Table.pages

    async def fail_after_one(table: Table, *values: Any, **more: Any) -> AsyncIterator[list[Row]]:
        async for page in pages(table, *values, **more):
            yield page
            raise HttpResponseError("503")

    monkeypatch.setattr(Table, "pages", fail_after_one)
    assert await herald.tick() == 100
    assert "Timers cannot be read: the next tick continues" in caplog.text
    monkeypatch.undo()
    assert await herald.tick() == 30
