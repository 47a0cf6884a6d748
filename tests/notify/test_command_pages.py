"""Commands by a cancellation key that many notifications have: page by page, and finished after a crash."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from notify.ingest import ingest
from shared.queue_messages import NOTIFICATIONS, SWEEPS
from shared.records import StoredNotification, notification_key
from shared.states import NotificationState
from shared.storage.markers import cancellation
from tests.support.crashes import MAX_POINTS, Host, crash_at_each_write
from tests.support.herald import Herald, user
from tests.support.tapped import TAP, OperationCounter

LATER = {"at": "2099-01-01T09:00", "timeZone": "UTC"}
KEY = "build/42"
CANCEL = {"command": "cancel", "target": {"cancellationKey": KEY}}
CANCELLED, SCHEDULED = NotificationState.CANCELLED, NotificationState.SCHEDULED


async def submit_scheduled(herald: Herald, count: int, key: str = KEY) -> list[StoredNotification]:
    person = {"user": "00000000-0000-4000-8000-000000000001"}
    schedule = {"at": f"{herald.clock() + timedelta(days=365):%Y-%m-%dT%H:%M}", "timeZone": "UTC"}
    submitted = [herald.submit(person, schedule=schedule, cancellationKey=key) for _ in range(count)]
    return list(await asyncio.gather(*submitted))


async def submit_below(herald: Herald, cursor: str) -> list[StoredNotification]:
    """Submit notifications until one is on a page that a command with this cursor has passed; return those."""
    while not (found := [each for each in await submit_scheduled(herald, 1) if each.key < cursor]):
        continue
    return found


async def states(herald: Herald, of: list[StoredNotification]) -> set[NotificationState]:
    return {each.state for each in await asyncio.gather(*map(herald.reload, of))}


async def cursors(herald: Herald) -> list[str]:
    table = herald.outside_tables.get_table_client("HeraldMarkers")
    return [str(row["owner"]) async for row in table.list_entities() if row["PartitionKey"].startswith("commandCursor")]


def use_pages_of(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notify.command_pages.PAGE_NOTIFICATIONS", count)


async def put_command(herald: Herald, **command: Any) -> None:
    await herald.services.queues.put(NOTIFICATIONS, json.dumps(command))


async def test_one_call_applies_a_command_to_one_page(tapped: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operations of a call depend on the page, and not on how many notifications have the key."""
    use_pages_of(20, monkeypatch)
    calls = []
    for count in (40, 300):
        submitted, others = await submit_scheduled(tapped, count, f"{count}"), await submit_scheduled(tapped, 1)
        counter = OperationCounter()
        token = TAP.set(counter)
        await ingest(tapped.services, json.dumps(CANCEL | {"target": {"cancellationKey": f"{count}"}}).encode(), "m1")
        TAP.reset(token)
        calls.append(counter.operations)
        found = [each.state for each in await asyncio.gather(*map(tapped.reload, submitted))]
        assert found.count(CANCELLED) == 20
        assert await tapped.message_count(NOTIFICATIONS) == 1
        await tapped.handle_messages()
        assert await states(tapped, submitted) == {CANCELLED}
        assert await states(tapped, others) == {SCHEDULED}
        assert await cursors(tapped) == []
        await tapped.clear_queue(SWEEPS)
        tapped.delayed.clear()
    assert calls[0] == calls[1]
    assert calls[0].total() <= 10 * 20
    assert await tapped.dead_letters() == []


@pytest.mark.parametrize("count", [1, 5])
async def test_key_with_up_to_one_page_needs_one_call(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    use_pages_of(5, monkeypatch)
    submitted = await submit_scheduled(timed, count)
    await ingest(timed.services, json.dumps(CANCEL).encode(), "m1")
    assert await states(timed, submitted) == {CANCELLED}
    assert (await timed.message_count(NOTIFICATIONS), await cursors(timed)) == (0, [])


@pytest.mark.parametrize("command", ["recall", "edit", "redrive"])
async def test_each_command_reaches_all_pages(timed: Herald, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    use_pages_of(2, monkeypatch)
    [ada] = (await timed.grow(people=1)).people
    await timed.store_reference(ada)
    schedule = LATER if command == "redrive" else None
    submitted = [await timed.submit(user(ada), cancellationKey=KEY, schedule=schedule) for _ in range(5)]
    await timed.handle_messages()
    if command == "redrive":
        for each in submitted:  # their recipients could not be listed
            await timed.services.notifications.advance(each, state=NotificationState.FAILED, due=None)
    more = {"content": {"title": "New"}} if command == "edit" else {}
    await put_command(timed, command=command, target={"cancellationKey": KEY}, **more)
    await timed.run_until_idle()
    received = await timed.received()
    after = [await timed.reload(each) for each in submitted]
    assert len(received) == 5
    if command == "recall":
        assert all(each.deleted_at for each in received)
    elif command == "edit":
        assert {each.activity["summary"] for each in received} == {"New"}
        assert [each.revision for each in after] == [1] * 5
    else:
        assert {each.state for each in after} == {NotificationState.FINISHED}
    assert (await timed.dead_letters(), await cursors(timed)) == ([], [])


async def test_repeated_command_with_the_same_text_reaches_what_came_after_the_first(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if an older instance, which knows no cursor, handled the rest of the first and left its cursor."""
    use_pages_of(1, monkeypatch)
    submitted = await submit_scheduled(timed, 4)
    body = json.dumps(CANCEL).encode()
    for _ in range(3):
        await ingest(timed.services, body, "m1")
    await timed.clear_queue(NOTIFICATIONS)
    submitted += await submit_below(timed, (await cursors(timed))[0])
    await ingest(timed.services, body, "m2")
    await timed.handle_messages()
    assert await states(timed, submitted) == {CANCELLED}
    assert len(await cursors(timed)) == 1


async def test_copy_of_a_command_that_arrives_in_the_middle_leaves_nothing_out(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upstream system sends the very same message again, after it has added a notification."""
    use_pages_of(1, monkeypatch)
    body = json.dumps(CANCEL | {"id": "c1"}).encode()
    submitted = await submit_scheduled(timed, 4)
    for _ in range(3):
        await ingest(timed.services, body, "m1")
        await timed.clear_queue(NOTIFICATIONS)
    added = await submit_below(timed, (await cursors(timed))[0])
    await asyncio.gather(ingest(timed.services, body, "m1"), ingest(timed.services, body, "m2"))
    await timed.handle_messages()
    assert await states(timed, submitted + added) == {CANCELLED}
    assert await cursors(timed) == []


async def test_worker_that_dies_at_any_write_of_a_command_leaves_it_to_the_next(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_pages_of(2, monkeypatch)
    numbers = iter(range(MAX_POINTS))

    async def begin() -> list[StoredNotification]:
        key = f"key {next(numbers)}"
        submitted = await submit_scheduled(host, 5, key)
        # With an id: a queue delivers a message again with the same id, and the host of this test with another.
        await host.put(json.dumps(CANCEL | {"id": key, "target": {"cancellationKey": key}}).encode())
        return submitted

    async def check(submitted: list[StoredNotification]) -> None:
        assert await states(host, submitted) == {CANCELLED}
        assert (await host.message_count(NOTIFICATIONS), await cursors(host)) == (0, [])

    await crash_at_each_write(host, begin, check)
    assert await host.dead_letters() == []


async def test_refusals_of_several_pages_share_a_dead_letter_and_stop_no_page(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use_pages_of(2, monkeypatch)
    submitted = await submit_scheduled(timed, 6)
    refusing = sorted(submitted, key=lambda each: each.key)[::2]
    for each in refusing:
        await timed.services.notifications.advance(await timed.reload(each), state=CANCELLED)
    new = {"at": "2098-01-01T09:00"}
    await put_command(timed, command="reschedule", target={"cancellationKey": KEY}, schedule=new)
    await timed.handle_messages()
    others = [await timed.reload(each) for each in submitted if each not in refusing]
    assert len(others) == 3
    assert {str(each.due) for each in others} == {"2098-01-01 09:00:00+00:00"}
    [letter] = await timed.dead_letters()
    [fault] = json.loads(letter["faults"])
    assert (letter["queue"], letter["reason"], fault["pointer"]) == (NOTIFICATIONS, "begun", "/target")
    assert f"id {refusing[-1].id}: can be rescheduled only while" in fault["message"]
    assert all(f"id {each.id}): can be rescheduled" in caplog.text for each in refusing)
    assert json.loads(letter["body"])["schedule"] == new


async def test_pages_of_notifications_that_were_deleted_are_passed(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Markers may outlive their notifications."""
    use_pages_of(2, monkeypatch)
    for number in range(4):
        key = notification_key(timed.tenant, "deleted", str(number))
        await timed.services.markers.put(cancellation(timed.tenant, KEY), key)
    submitted = await submit_scheduled(timed, 2)
    await put_command(timed, **CANCEL)
    await timed.handle_messages()
    assert await states(timed, submitted) == {CANCELLED}
    assert await timed.dead_letters() == []
