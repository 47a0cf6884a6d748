"""A notification finishes whatever meets whatever, and what stands still is resumed, or it is said why it stands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from local.fake_teams.api import PersonView, TeamsFault
from notify.delivery.deliver import deliver
from notify.expansion import expand
from notify.progress import FIRST_CHECK_DELAY, finish
from notify.redrive import reopen
from shared import publishing
from shared.queue_messages import DELIVERIES, EXPANSIONS, SWEEPS, Delivery, Expansion, Task
from shared.services import open_services
from shared.settings import load_settings
from shared.states import DeliveryState, NotificationState, Purpose
from shared.storage import timers
from shared.storage.deliveries import CLAIM_SECONDS, shard_names, shard_of
from shared.storage.delivery_counts import COUNTS
from shared.storage.notifications import StoredNotification
from tests.support.herald import Herald, user
from tests.support.tapped import TAP, Tap

#: More storage operations than a delivery or the last page of a small audience has.
MANY = 40


class Pause(Tap):
    """Stops after the given number of operations until it is told to go on."""

    def __init__(self, operations: int) -> None:
        self.left = operations
        self.is_current, self.goes_on = asyncio.Event(), asyncio.Event()

    async def after(self, written: str) -> None:
        self.left -= 1
        if self.left == 0:
            self.is_current.set()
            await self.goes_on.wait()


async def test_one_that_is_tried_again_while_its_end_is_written_down_is_not_finished(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ada] = (await timed.grow(people=1)).people
    await timed.know(ada)
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
        last = await settle(message, *arguments, **more)
        known = await deliveries.get(message)
        assert known
        await reopen(timed.services, key, [(message, known)])
        return last

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(deliveries, "settle", settle_slowly)
        await timed._drain(DELIVERIES, lambda body: deliver(timed.services, Delivery.decode(body)))
    now = await timed.services.notifications.get(key)
    assert now
    assert (now.state, now.counts, +await deliveries.counts(key, 0)) == ("expanded", "", {"open": 1})


async def between(first: Awaitable[None], second: Awaitable[None], operations: int) -> bool:
    """Do `second` while `first` stands after so many operations; whether it had as many."""
    pause = Pause(operations)
    token = TAP.set(pause)
    task = asyncio.ensure_future(first)
    TAP.reset(token)
    is_current = asyncio.ensure_future(pause.is_current.wait())
    await asyncio.wait((task, is_current), return_when=asyncio.FIRST_COMPLETED)
    is_current.cancel()
    met = pause.is_current.is_set()
    await second
    pause.goes_on.set()
    await task
    return met


async def accepted(herald: Herald, *recipients: dict[str, str]) -> StoredNotification:
    """A notification, none of whose recipients is listed yet."""
    asked = await herald.ask(*recipients, schedule={"at": "2099-01-01T09:00", "timeZone": "UTC"}, simulate=True)
    return await herald.services.notifications.advance(asked, state=NotificationState.ACCEPTED, due=None)


async def test_it_finishes_at_every_interleaving_of_the_last_delivery_and_the_end_of_the_list(tapped: Herald) -> None:
    await tapped.grow(people=1)
    [ada] = await tapped.people(1)
    for expansion_first in (True, False):
        for operations in range(1, MANY):
            asked = await accepted(tapped, user(ada))
            # As it is when the page has put its delivery, and has not moved on.
            message = await row(tapped, asked, ada)
            page, delivery = expand(tapped.services, Expansion(asked.key, 0)), deliver(tapped.services, message)
            met = await between(*((page, delivery) if expansion_first else (delivery, page)), operations)
            after = await tapped.now(asked)
            assert (after.state, after.counts) == (NotificationState.FINISHED, '{"simulated":1}')
            await tapped.lose(DELIVERIES)
            if not met:
                break
        else:
            raise AssertionError("there are more operations than thought")


async def row(herald: Herald, of: StoredNotification, person: PersonView) -> Delivery:
    """Add the row of a delivery; returns its message."""
    recipient = f"u:{person.object_id}"
    shard = shard_of(recipient, of.shards)
    [message] = await herald.services.deliveries.add(of.key, shard, dict.fromkeys([recipient], 0), herald.clock())
    return message


async def test_it_finishes_when_the_last_deliveries_of_two_partitions_end_at_once(tapped: Herald) -> None:
    await tapped.grow(people=8)
    people = await tapped.people(8)
    by_shard = {shard_of(f"u:{each.object_id}", 16): each for each in people}
    two = list(by_shard.values())[:2]
    assert len(two) == 2
    another = await open_services(load_settings(tapped.environ), tapped.storage.open(), tapped.clock)
    for operations in range(1, MANY):
        # An audience that may be large lies in 16 partitions.
        asked = await accepted(tapped, *map(user, two), {"topic": "nobody's"})
        asked = await tapped.services.notifications.advance(asked, state=NotificationState.EXPANDED)
        first, second = [await row(tapped, asked, each) for each in two]
        met = await between(deliver(tapped.services, first), deliver(another, second), operations)
        after = await tapped.now(asked)
        assert (after.state, after.counts) == (NotificationState.FINISHED, '{"simulated":2}')
        if not met:
            break
    else:
        raise AssertionError("there are more operations than thought")
    await another.close()


async def test_end_of_a_broadcast_reads_few_counts(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    deliveries, table = timed.services.deliveries, timed.services.deliveries._table
    get, reads = table.get, 0

    async def count_reads(partition: str, row: str, *more: Any) -> Any:
        nonlocal reads
        reads += row == COUNTS
        return await get(partition, row, *more)

    asked = await accepted(timed, {"topic": "nobody's"})
    asked = await timed.services.notifications.advance(asked, state=NotificationState.EXPANDED)
    messages = []
    for shard in shard_names(asked.shards):
        messages += await deliveries.add(asked.key, shard, {f"u:{shard}": 0}, timed.clock())
    monkeypatch.setattr(table, "get", count_reads)
    finished = []
    for message in messages:
        assert await deliveries.settle(message, message.etag, DeliveryState.SENT, now=timed.clock())
        finished.append(await finish(timed.services, asked.key))
    assert finished == [False] * 15 + [True]
    assert reads == 15 + 16  # all partitions only when the last one ends
    assert (await timed.now(asked)).counts == '{"sent":16}'


async def one(herald: Herald, count: int = 1) -> tuple[list[PersonView], StoredNotification]:
    await herald.grow(people=count)
    people = await herald.people(count)
    return people, await herald.ask(*map(user, people))


async def watched(herald: Herald) -> None:
    """Let the time pass until the watch looks at what stands, and what it resumed is done."""
    await herald.wait(FIRST_CHECK_DELAY.total_seconds() + 61)


async def test_a_delivery_whose_message_was_lost_is_resumed_and_sent_once(timed: Herald) -> None:
    _, asked = await one(timed, 3)
    assert await timed.lose(DELIVERIES) == 3
    await watched(timed)
    assert len(await timed.received()) == 3
    assert (await timed.now(asked)).counts == '{"sent":3}'


async def test_a_page_whose_message_was_lost_is_resumed(timed: Herald, caplog: pytest.LogCaptureFixture) -> None:
    await timed.grow(people=9)
    for each in await timed.people(9):
        await timed.services.topics.subscribe(timed.tenant, "t", f"u:{each.object_id}")
    object.__setattr__(timed.services.settings, "tenant_rate", 1)  # pages of five
    asked = await timed.ask({"topic": "t"})
    object.__setattr__(timed.services.settings, "tenant_rate", 45)
    await timed.send()
    assert await timed.lose(EXPANSIONS) == 1
    await watched(timed)
    assert "is still being expanded: its page 1" in caplog.text
    await timed.run()
    assert (await timed.now(asked)).counts == '{"sent":9}'


async def test_an_end_that_was_lost_is_found(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(*_: object) -> None:
        raise ConnectionError

    _, asked = await one(timed)
    monkeypatch.setattr("notify.delivery.record.finish", lost)
    with pytest.raises(ConnectionError):
        await timed.send()
    assert (await timed.now(asked)).state is NotificationState.EXPANDED
    await watched(timed)
    assert (await timed.now(asked)).state is NotificationState.FINISHED


async def test_the_claim_of_a_process_that_died_is_resolved_also_where_no_message_is_left(timed: Herald) -> None:
    [ada], asked = await one(timed)
    message = await timed.message(asked, f"u:{ada.object_id}")
    await timed.services.deliveries.claim(message, await timed.state(message), timed.clock())
    await timed.lose(DELIVERIES)
    await timed.run()
    ended = await timed.row(asked, f"u:{ada.object_id}")
    assert (ended["state"], ended["maybe_twice"]) == ("sent", True)


async def test_a_cancelled_one_is_watched_too_until_nothing_is_open(timed: Herald) -> None:
    _, asked = await one(timed, 2)
    await timed.lose(DELIVERIES)
    await timed.command("cancel", asked)
    await timed.run()
    after = await timed.now(asked)
    assert (after.state, after.counts) == (NotificationState.CANCELLED, '{"cancelled":2}')


async def test_it_is_said_what_the_deliveries_wait_for(timed: Herald, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    await timed.teams.inject(
        TeamsFault(operation="send", status=412, code="PreconditionFailed", retry_after=3600, count=1)
    )
    _, asked = await one(timed)
    await timed.send()
    await watched(timed)
    assert "{'queued precondition': 1}" in caplog.text
    await timed.run()
    assert await timed.counts(asked) == {"sent": 1}


async def test_what_only_waits_for_its_time_gets_no_second_message(timed: Herald) -> None:
    await timed.teams.inject(
        TeamsFault(operation="send", status=412, code="PreconditionFailed", retry_after=3600, count=1)
    )
    await one(timed)
    await timed.send()
    await watched(timed)
    assert [name for _, name, _ in timed.kept] == [DELIVERIES]


async def test_watching_a_long_time_adds_few_messages(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day in which nothing can be sent: what waits is looked at ever more rarely."""
    _, asked = await one(timed)
    monkeypatch.setattr(timed.services.rate_limiter, "paused_seconds", lambda _: 60.0)
    looks, end = 0, timed.clock() + timedelta(days=1)
    while timed.clock() < end:
        await timed.lose(DELIVERIES)  # only the watch is of interest here
        due = [at async for at in timed._due()]
        await timed.wait((min(due) - timed.clock()).total_seconds() + 1)
        looks += 1
    assert 5 < looks < 20
    monkeypatch.setattr(timed.services.rate_limiter, "paused_seconds", lambda _: 0.0)
    await timed.run()
    assert await timed.counts(asked) == {"sent": 1}


async def test_the_watch_of_what_is_finished_or_gone_ends(timed: Herald) -> None:
    _, asked = await one(timed)
    await timed.send()
    await timed.services.timers.put(timed.clock(), timers.WATCH, "0" * 64)
    await timed.run()
    assert [each async for each in timed._due()] == []
    assert await timed.waiting(SWEEPS) == 0
    assert (await timed.now(asked)).state is NotificationState.FINISHED


async def test_a_copy_never_takes_the_claim_of_another(timed: Herald) -> None:
    """Whoever makes copies of a message, none of them is taken for a delivery that nobody has begun."""
    [ada], asked = await one(timed)
    message = await timed.message(asked, f"u:{ada.object_id}")
    await timed.lose(DELIVERIES)
    await timed.services.deliveries.claim(message, await timed.state(message), timed.clock())

    async def by_the_page() -> list[Delivery]:
        return await timed.services.deliveries.add(asked.key, "0", dict.fromkeys([message.recipient], 0), timed.clock())

    async def by_the_sweep() -> list[Delivery]:
        return [delivery for delivery, _ in await timed.services.deliveries.page(asked.key, "0", "", 10)]

    async def by_waiting() -> list[Delivery]:
        await deliver(timed.services, message)
        return [Delivery.decode(text.encode()) for _, name, text in timed.kept if name == DELIVERIES]

    makers: list[Callable[[], Awaitable[list[Delivery]]]] = [by_the_page, by_the_sweep, by_waiting]
    for make in makers:
        for copy in await make():
            await deliver(timed.services, copy)
            assert await timed.received() == []
    timed.clock.moved += timedelta(seconds=CLAIM_SECONDS + 1)
    for make in makers[:2]:
        for copy in await make():
            await deliver(timed.services, copy)
    ended = await timed.row(asked, f"u:{ada.object_id}")
    assert (ended["state"], ended["maybe_twice"]) == ("sent", True)
    assert len(await timed.received()) == 1


async def test_a_copy_does_not_come_before_the_next_try_is_due(timed: Herald) -> None:
    await timed.teams.inject(
        TeamsFault(operation="send", status=412, code="PreconditionFailed", retry_after=60, count=1)
    )
    [ada], asked = await one(timed)
    await timed.send()
    for copy in await timed.services.deliveries.add(asked.key, "0", {f"u:{ada.object_id}": 0}, timed.clock()):
        await deliver(timed.services, copy)
    assert (await timed.teams.stats()).count("send") == 1


@pytest.mark.parametrize("state", [NotificationState.CANCELLED, NotificationState.EXPANDED])
async def test_copies_that_end_the_same_delivery_at_once_count_it_once(timed: Herald, state: NotificationState) -> None:
    people, asked = await one(timed, 5)
    messages = [await timed.message(asked, f"u:{each.object_id}") for each in people]
    changes: dict[str, object] = {"state": state}
    if state is NotificationState.EXPANDED:
        changes["expires"] = timed.clock()
    await timed.services.notifications.advance(asked, **changes)
    await asyncio.gather(*(deliver(timed.services, each) for each in messages * 4))
    ended = DeliveryState.CANCELLED if state is NotificationState.CANCELLED else DeliveryState.EXPIRED
    assert await timed.counts(asked) == {str(ended): 5}


async def test_what_expires_while_it_waits_for_its_next_try_is_not_sent(timed: Herald) -> None:
    await timed.grow(people=1)
    [ada] = await timed.people(1)
    await timed.teams.inject(
        TeamsFault(operation="send", status=412, code="PreconditionFailed", retry_after=120, count=1)
    )
    ends = timed.clock() + FIRST_CHECK_DELAY / 10
    asked = await timed.ask(user(ada), expiresAt=ends.isoformat())
    await timed.run()
    assert await timed.counts(asked) == {"expired": 1}
    assert await timed.received() == []


async def test_what_was_scheduled_long_ago_is_tried_as_long_as_any_other(timed: Herald) -> None:
    await timed.grow(people=1)
    [ada] = await timed.people(1)
    at = (timed.clock() + 3 * 24 * 6 * FIRST_CHECK_DELAY).replace(tzinfo=None).isoformat(timespec="minutes")
    asked = await timed.ask(user(ada), schedule={"at": at, "timeZone": "UTC"})
    await timed.teams.inject(TeamsFault(operation="send", status=412, code="PreconditionFailed", count=2))
    await timed.run()
    assert await timed.counts(asked) == {"sent": 1}


async def test_a_secret_that_is_wrong_over_a_weekend_fails_nothing(timed: Herald) -> None:
    await timed.teams.inject(TeamsFault(operation="send", status=412, code="PreconditionFailed", count=1))
    [ada], asked = await one(timed)
    await timed.send()
    message = await timed.message(asked, f"u:{ada.object_id}")
    await timed.lose(DELIVERIES)
    await timed.teams.inject(TeamsFault(operation="token", status=400, code="invalid_client"))
    await timed.teams.revoke_tokens()
    timed.clock.moved += 3 * 24 * 6 * FIRST_CHECK_DELAY
    await deliver(timed.services, message)
    assert await timed.counts(asked) == {"open": 1}


async def test_messages_about_what_there_is_not_do_nothing(timed: Herald) -> None:
    assert await finish(timed.services, "0" * 64) is False
    await deliver(timed.services, Delivery("0" * 64, "0", "u:x", "", 0, Task.RECALL))
    await deliver(timed.services, Delivery("0" * 64, "0", "u:x", "", 0))
    await expand(timed.services, Expansion("0" * 64, 0))
    assert await timed.received() == []
