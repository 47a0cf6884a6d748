"""A notification finishes although workers run at once or die, and the watchdog resumes one that is stalled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from local.fake_teams.api import PersonView, TeamsFault
from notify.delivery.deliver import deliver
from notify.expansion import expand
from notify.progress import FIRST_CHECK_DELAY, finish
from notify.redrive import reopen
from notify.sweep import sweep_page
from shared import publishing
from shared.queue_messages import DELIVERIES, EXPANSIONS, SWEEPS, Delivery, Expansion, Sweep, Task
from shared.records import StoredNotification
from shared.services import open_services
from shared.settings import load_settings
from shared.states import DeliveryState, NotificationState, Purpose
from shared.storage import timers
from shared.storage.deliveries import CLAIM_SECONDS, shard_names, shard_of
from shared.storage.delivery_counts import COUNTS
from tests.support.herald import Herald, user
from tests.support.tapped import TAP, Tap

pytestmark = pytest.mark.usefixtures("queued")

#: More storage operations than a delivery, or the last page of a small audience, needs.
MAX_OPERATIONS = 40


class Pause(Tap):
    """Pause after the given number of storage operations until `resumed` is set."""

    def __init__(self, operations: int) -> None:
        self.left = operations
        self.is_paused, self.resumed = asyncio.Event(), asyncio.Event()

    async def after(self, written: str) -> None:
        self.left -= 1
        if self.left == 0:
            self.is_paused.set()
            await self.resumed.wait()


async def test_delivery_reopened_while_it_is_settled_is_not_finished(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ada] = (await timed.grow(people=1)).people
    await timed.store_reference(ada)
    data = json.dumps({"recipients": [user(ada)], "category": "x", "content": {"title": "Own"}}).encode()
    await timed.teams.inject(
        TeamsFault(operation="send", person=ada.object_id, status=400, code="Bad Argument", count=1)
    )
    key = await publishing.post(
        timed.services,
        tenant=timed.tenant,
        recipient=f"u:{ada.object_id}",
        source="/own",
        identifier="1",
        data=data,
        purpose=Purpose.SNOOZE,
    )
    settle, deliveries = timed.services.deliveries.settle, timed.services.deliveries

    async def settle_slowly(message: Delivery, *arguments: Any, **more: Any) -> bool:
        is_last = await settle(message, *arguments, **more)
        known = await deliveries.get(message)
        assert known
        await reopen(timed.services, key, [(message, known)])
        return is_last

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(deliveries, "settle", settle_slowly)
        await timed.handle_batch(DELIVERIES, lambda body: deliver(timed.services, Delivery.decode(body)))
    now = await timed.services.notifications.get(key)
    assert now
    assert (now.state, now.counts, +await deliveries.counts(key, 0)) == ("expanded", "", {"open": 1})


async def run_during(first: Awaitable[None], second: Awaitable[None], operations: int) -> bool:
    """Run `second` while `first` is paused after so many operations; return whether it needed that many."""
    pause = Pause(operations)
    token = TAP.set(pause)
    task = asyncio.ensure_future(first)
    TAP.reset(token)
    is_paused = asyncio.ensure_future(pause.is_paused.wait())
    await asyncio.wait((task, is_paused), return_when=asyncio.FIRST_COMPLETED)
    is_paused.cancel()
    was_paused = pause.is_paused.is_set()
    await second
    pause.resumed.set()
    await task
    return was_paused


async def submit_accepted(herald: Herald, *recipients: dict[str, str]) -> StoredNotification:
    """Submit a notification that is accepted and not expanded."""
    submitted = await herald.submit(*recipients, schedule={"at": "2099-01-01T09:00", "timeZone": "UTC"}, simulate=True)
    return await herald.services.notifications.advance(submitted, state=NotificationState.ACCEPTED, due=None)


async def test_notification_finishes_at_every_interleaving_of_last_delivery_and_last_page(tapped: Herald) -> None:
    await tapped.grow(people=1)
    [ada] = await tapped.store_people(1)
    for expansion_first in (True, False):
        for operations in range(1, MAX_OPERATIONS):
            submitted = await submit_accepted(tapped, user(ada))
            # The state after the page has added its delivery, and before it advances the row.
            message = await add_row(tapped, submitted, ada)
            page, delivery = expand(tapped.services, Expansion(submitted.key, 0)), deliver(tapped.services, message)
            was_paused = await run_during(*((page, delivery) if expansion_first else (delivery, page)), operations)
            after = await tapped.reload(submitted)
            assert (after.state, after.counts) == (NotificationState.FINISHED, '{"simulated":1}')
            await tapped.clear_queue(DELIVERIES)
            if not was_paused:
                break
        else:
            raise AssertionError(f"there are more than {MAX_OPERATIONS} operations")


async def add_row(herald: Herald, of: StoredNotification, person: PersonView) -> Delivery:
    """Add the row of a delivery, and return its message."""
    recipient = f"u:{person.object_id}"
    shard = shard_of(recipient, of.shards)
    [message] = await herald.services.deliveries.add(of.key, shard, dict.fromkeys([recipient], 0), herald.clock())
    return message


async def test_notification_finishes_if_the_last_deliveries_of_two_shards_end_at_once(tapped: Herald) -> None:
    await tapped.grow(people=8)
    people = await tapped.store_people(8)
    by_shard = {shard_of(f"u:{each.object_id}", 16): each for each in people}
    two = list(by_shard.values())[:2]
    assert len(two) == 2
    another = await open_services(load_settings(tapped.environ), tapped.storage.open(), tapped.clock)
    for operations in range(1, MAX_OPERATIONS):
        # An audience that may be large has 16 shards.
        submitted = await submit_accepted(tapped, *map(user, two), {"topic": "nobody's"})
        submitted = await tapped.services.notifications.advance(submitted, state=NotificationState.EXPANDED)
        first, second = [await add_row(tapped, submitted, each) for each in two]
        was_paused = await run_during(deliver(tapped.services, first), deliver(another, second), operations)
        after = await tapped.reload(submitted)
        assert (after.state, after.counts) == (NotificationState.FINISHED, '{"simulated":2}')
        if not was_paused:
            break
    else:
        raise AssertionError(f"there are more than {MAX_OPERATIONS} operations")
    await another.close()


async def test_end_of_a_broadcast_reads_few_counts(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    deliveries, table = timed.services.deliveries, timed.services.deliveries._table
    get, reads = table.get, 0

    async def count_reads(partition: str, row: str, *more: Any) -> Any:
        nonlocal reads
        reads += row == COUNTS
        return await get(partition, row, *more)

    monkeypatch.setattr("shared.publishing.SHARDED_FROM", 1)
    submitted = await submit_accepted(timed, {"topic": "nobody's"})
    submitted = await timed.services.notifications.advance(submitted, state=NotificationState.EXPANDED)
    messages = []
    for shard in shard_names(submitted.shards):
        messages += await deliveries.add(submitted.key, shard, {f"u:{shard}": 0}, timed.clock())
    monkeypatch.setattr(table, "get", count_reads)
    finished = []
    for message in messages:
        assert await deliveries.settle(message, message.etag, DeliveryState.SENT, now=timed.clock())
        finished.append(await finish(timed.services, submitted.key))
    assert finished == [False] * 15 + [True]
    assert reads == 15 + 16  # all partitions only when the last one ends
    assert (await timed.reload(submitted)).counts == '{"sent":16}'


async def submit_to_people(herald: Herald, count: int = 1) -> tuple[list[PersonView], StoredNotification]:
    await herald.grow(people=count)
    people = await herald.store_people(count)
    return people, await herald.submit(*map(user, people))


async def run_watchdog(herald: Herald) -> None:
    """Move the clock to the watchdog's first check, and do all work that follows."""
    await herald.advance_clock(FIRST_CHECK_DELAY.total_seconds() + 61)


async def test_delivery_with_a_lost_message_is_resumed_and_sent_once(timed: Herald) -> None:
    _, submitted = await submit_to_people(timed, 3)
    assert await timed.clear_queue(DELIVERIES) == 3
    await run_watchdog(timed)
    assert len(await timed.received()) == 3
    assert (await timed.reload(submitted)).counts == '{"sent":3}'


async def test_page_with_a_lost_message_is_resumed(timed: Herald, caplog: pytest.LogCaptureFixture) -> None:
    await timed.grow(people=9)
    for each in await timed.store_people(9):
        await timed.services.topics.subscribe(timed.tenant, "t", f"u:{each.object_id}")
    object.__setattr__(timed.services.settings, "tenant_rate", 1)  # pages of five
    submitted = await timed.submit({"topic": "t"})
    object.__setattr__(timed.services.settings, "tenant_rate", 45)
    await timed.handle_messages(DELIVERIES)
    assert await timed.clear_queue(EXPANSIONS) == 1
    await run_watchdog(timed)
    assert "is still being expanded: its page 1" in caplog.text
    await timed.run_until_idle()
    assert (await timed.reload(submitted)).counts == '{"sent":9}'


async def test_watchdog_finishes_what_a_dead_worker_did_not(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    async def crash(*_: object) -> None:
        raise ConnectionError

    _, submitted = await submit_to_people(timed)
    monkeypatch.setattr("notify.delivery.record.finish_after", crash)
    with pytest.raises(ConnectionError):
        await timed.handle_messages()
    assert (await timed.reload(submitted)).state is NotificationState.EXPANDED
    await run_watchdog(timed)
    assert (await timed.reload(submitted)).state is NotificationState.FINISHED


async def test_claim_of_a_dead_worker_is_resolved_without_its_message(timed: Herald) -> None:
    [ada], submitted = await submit_to_people(timed)
    message = await timed.message(submitted, f"u:{ada.object_id}")
    await timed.services.deliveries.claim(message, await timed.delivery_record(message), timed.clock())
    await timed.clear_queue(DELIVERIES)
    await timed.run_until_idle()
    row = await timed.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row["maybe_twice"]) == ("sent", True)


async def test_watchdog_checks_a_cancelled_notification_until_no_delivery_is_open(timed: Herald) -> None:
    _, submitted = await submit_to_people(timed, 2)
    await timed.clear_queue(DELIVERIES)
    await timed.command("cancel", submitted)
    await timed.run_until_idle()
    after = await timed.reload(submitted)
    assert (after.state, after.counts) == (NotificationState.CANCELLED, '{"cancelled":2}')


async def test_watchdog_logs_states_of_open_deliveries(timed: Herald, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    await timed.teams.inject(
        TeamsFault(operation="send", status=412, code="PreconditionFailed", retry_after=3600, count=1)
    )
    _, submitted = await submit_to_people(timed)
    await timed.handle_messages()
    await run_watchdog(timed)
    assert "{'queued precondition': 1}" in caplog.text
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 1}


async def test_watchdog_reads_only_open_deliveries_of_partitions_that_have_any(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.publishing.SHARDED_FROM", 1)
    deliveries, table = timed.services.deliveries, timed.services.deliveries._table
    query, rows_read, partitions = table.query, 0, []

    async def record(where: str, values: Mapping[str, Any], **more: Any) -> Any:
        nonlocal rows_read
        found = await query(where, values, **more)
        rows_read += len(found)
        partitions.append(values["partition"])
        return found

    submitted = await submit_accepted(timed, {"topic": "nobody's"})
    await timed.services.notifications.advance(submitted, state=NotificationState.EXPANDED)
    for shard in shard_names(submitted.shards):
        for message in await deliveries.add(
            submitted.key, shard, {f"u:{shard}{n}": n for n in range(9)}, timed.clock()
        ):
            if message.recipient not in ("u:34", "u:35", "u:b8"):
                await deliveries.settle(message, message.etag, DeliveryState.SENT, now=timed.clock())
    monkeypatch.setattr(table, "query", record)
    monkeypatch.setattr("notify.sweep.PAGE_DELIVERIES", 2)
    await sweep_page(timed.services, Sweep(submitted.key, Task.WATCHDOG, ""))
    for _ in range(9):
        await timed.handle_messages(SWEEPS)
        timed.clock.offset += timedelta(seconds=1)
        sweeps = [text for _, name, text in timed.delayed if name == SWEEPS]
        timed.delayed.clear()
        for text in sweeps:
            await timed.services.queues.put(SWEEPS, text)
    # The third read of a page finds that nothing follows a full page.
    assert (rows_read, partitions) == (3, [f"{submitted.key};{shard}" for shard in "33b"])
    assert await timed.message_count(DELIVERIES) == 3


async def test_watchdog_adds_no_message_for_a_delivery_whose_next_try_is_not_due(timed: Herald) -> None:
    await timed.teams.inject(
        TeamsFault(operation="send", status=412, code="PreconditionFailed", retry_after=3600, count=1)
    )
    await submit_to_people(timed)
    await timed.handle_messages()
    await run_watchdog(timed)
    assert [name for _, name, _ in timed.delayed] == [DELIVERIES]


async def test_watchdog_checks_become_rare(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a day, no delivery can be sent: the interval between checks grows."""
    _, submitted = await submit_to_people(timed)
    monkeypatch.setattr(timed.services.rate_limiter, "paused_seconds", lambda _: 60.0)
    checks, end = 0, timed.clock() + timedelta(days=1)
    while timed.clock() < end:
        await timed.clear_queue(DELIVERIES)  # only the watchdog matters here
        due = [at async for at in timed.due_times()]
        await timed.advance_clock((min(due) - timed.clock()).total_seconds() + 1)
        checks += 1
    assert 5 < checks < 20
    monkeypatch.setattr(timed.services.rate_limiter, "paused_seconds", lambda _: 0.0)
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 1}


async def test_watchdog_stops_for_finished_and_unknown_notifications(timed: Herald) -> None:
    _, submitted = await submit_to_people(timed)
    await timed.handle_messages()
    await timed.services.timers.put(timed.clock(), timers.WATCHDOG, "0" * 64)
    await timed.run_until_idle()
    assert [each async for each in timed.due_times()] == []
    assert await timed.message_count(SWEEPS) == 0
    assert (await timed.reload(submitted)).state is NotificationState.FINISHED


async def test_duplicate_message_never_takes_a_valid_claim(timed: Herald) -> None:
    """Wherever a duplicate message comes from, no worker takes its delivery for an untried one."""
    [ada], submitted = await submit_to_people(timed)
    message = await timed.message(submitted, f"u:{ada.object_id}")
    await timed.clear_queue(DELIVERIES)
    await timed.services.deliveries.claim(message, await timed.delivery_record(message), timed.clock())

    async def from_page() -> list[Delivery]:
        return await timed.services.deliveries.add(submitted.key, "0", {message.recipient: 0}, timed.clock())

    async def from_sweep() -> list[Delivery]:
        return [delivery for delivery, _ in await timed.services.deliveries.page(submitted.key, "0", "", 10)]

    async def from_requeue() -> list[Delivery]:
        await deliver(timed.services, message)
        return [Delivery.decode(text.encode()) for _, name, text in timed.delayed if name == DELIVERIES]

    sources: list[Callable[[], Awaitable[list[Delivery]]]] = [from_page, from_sweep, from_requeue]
    for create_messages in sources:
        for duplicate in await create_messages():
            await deliver(timed.services, duplicate)
            assert await timed.received() == []
    timed.clock.offset += timedelta(seconds=CLAIM_SECONDS + 1)
    for create_messages in sources[:2]:
        for duplicate in await create_messages():
            await deliver(timed.services, duplicate)
    row = await timed.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row["maybe_twice"]) == ("sent", True)
    assert len(await timed.received()) == 1


async def test_duplicate_message_is_not_sent_before_the_next_try_is_due(timed: Herald) -> None:
    await timed.teams.inject(
        TeamsFault(operation="send", status=412, code="PreconditionFailed", retry_after=60, count=1)
    )
    [ada], submitted = await submit_to_people(timed)
    await timed.handle_messages()
    for duplicate in await timed.services.deliveries.add(submitted.key, "0", {f"u:{ada.object_id}": 0}, timed.clock()):
        await deliver(timed.services, duplicate)
    assert (await timed.teams.stats()).count("send") == 1


@pytest.mark.parametrize("state", [NotificationState.CANCELLED, NotificationState.EXPANDED])
async def test_duplicate_messages_at_once_count_a_delivery_once(timed: Herald, state: NotificationState) -> None:
    people, submitted = await submit_to_people(timed, 5)
    messages = [await timed.message(submitted, f"u:{each.object_id}") for each in people]
    changes: dict[str, object] = {"state": state}
    if state is NotificationState.EXPANDED:
        changes["expires"] = timed.clock()
    await timed.services.notifications.advance(submitted, **changes)
    await asyncio.gather(*(deliver(timed.services, each) for each in messages * 4))
    final_state = DeliveryState.CANCELLED if state is NotificationState.CANCELLED else DeliveryState.EXPIRED
    assert await timed.counts(submitted) == {str(final_state): 5}


async def test_notification_that_expires_before_the_next_try_is_not_sent(timed: Herald) -> None:
    await timed.grow(people=1)
    [ada] = await timed.store_people(1)
    await timed.teams.inject(
        TeamsFault(operation="send", status=412, code="PreconditionFailed", retry_after=120, count=1)
    )
    ends = timed.clock() + FIRST_CHECK_DELAY / 10
    submitted = await timed.submit(user(ada), expiresAt=ends.isoformat())
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"expired": 1}
    assert await timed.received() == []


async def test_notification_scheduled_long_ago_is_retried_as_long_as_any_other(timed: Herald) -> None:
    await timed.grow(people=1)
    [ada] = await timed.store_people(1)
    at = (timed.clock() + 3 * 24 * 6 * FIRST_CHECK_DELAY).replace(tzinfo=None).isoformat(timespec="minutes")
    submitted = await timed.submit(user(ada), schedule={"at": at, "timeZone": "UTC"})
    await timed.teams.inject(TeamsFault(operation="send", status=412, code="PreconditionFailed", count=2))
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 1}


async def test_wrong_secret_for_days_fails_no_delivery(timed: Herald) -> None:
    await timed.teams.inject(TeamsFault(operation="send", status=412, code="PreconditionFailed", count=1))
    [ada], submitted = await submit_to_people(timed)
    await timed.handle_messages()
    message = await timed.message(submitted, f"u:{ada.object_id}")
    await timed.clear_queue(DELIVERIES)
    await timed.teams.inject(TeamsFault(operation="token", status=400, code="invalid_client"))
    await timed.teams.revoke_tokens()
    timed.clock.offset += 3 * 24 * 6 * FIRST_CHECK_DELAY
    await deliver(timed.services, message)
    assert await timed.counts(submitted) == {"open": 1}


async def test_notification_that_is_not_stored_is_not_finished(timed: Herald) -> None:
    assert await finish(timed.services, "0" * 64) is False
    await sweep_page(timed.services, Sweep("0" * 64, Task.WATCHDOG, ""))
    assert await timed.received() == []
