"""The direct path: a notification to a few recipients is delivered where it is ingested, under the usual rules."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any
from unittest.mock import AsyncMock

import pytest

from local.fake_teams.api import TeamsFault
from notify.audience import AudiencePage
from notify.delivery.deliver import deliver_directly
from notify.ingest import ingest
from shared.queue_messages import DELIVERIES, DELIVERIES_URGENT
from shared.rate_windows import SECOND, TenantLane
from shared.states import NotificationState
from shared.storage.delivery_counts import MAX_FEW
from shared.storage.table import Conflict
from shared.teams.rate_limiter import RetryLater
from tests.notify.scenarios import single_recipient
from tests.notify.test_crashes import begin, check
from tests.support.crashes import Host, crash_at_each_write, pause_at_each_write
from tests.support.herald import Herald, notification, user
from tests.support.tapped import TAP, OperationCounter


async def stored_people(herald: Herald, count: int) -> list[Any]:
    await herald.grow(people=count)
    return await herald.store_people(count)


async def timers(herald: Herald) -> int:
    return len([row async for row in herald.outside_tables.get_table_client("HeraldTimers").list_entities()])


async def test_one_message_to_one_person_takes_eight_operations_besides_its_slot(tapped: Herald) -> None:
    ada, bob = await stored_people(tapped, 2)
    await tapped.submit(user(bob))  # the first notification of a category stores its name
    counter = OperationCounter()
    token = TAP.set(counter)
    await ingest(tapped.services, notification(user(ada)), "m1")
    TAP.reset(token)
    slots = counter.operations.pop("HeraldRateLanes")
    reads = counter.operations.pop("")
    assert counter.operations == {
        "HeraldNotifications": 2,  # the row, and the result
        "HeraldNotificationIndex": 1,
        "HeraldConversations": 1,  # the conversation's windows
        "HeraldDeliveries": 2,  # the claim, which is the row's first write, and the result
    }
    assert (reads, slots) == (1, 1)  # the conversation reference
    assert len(await tapped.received()) == 2


async def test_recipients_end_each_in_their_own_way_and_the_notification_is_finished_once(timed: Herald) -> None:
    ada, bob, cyd, dan = await stored_people(timed, 4)
    await timed.teams.inject(
        TeamsFault(operation="send", person=bob.object_id, status=403, code="ConversationBlockedByUser")
    )
    await timed.teams.inject(
        TeamsFault(operation="send", person=dan.object_id, status=412, code="PreconditionFailed", count=1)
    )
    submitted = await timed.submit(*map(user, (ada, bob, cyd, dan)))
    assert (submitted.state, submitted.total) == (NotificationState.EXPANDED, 4)
    assert await timed.counts(submitted) == {"sent": 2, "suppressed": 1, "open": 1}
    await timed.run_until_idle()
    after = await timed.reload(submitted)
    assert (after.state, json.loads(after.counts)) == (NotificationState.FINISHED, {"sent": 3, "suppressed": 1})
    assert await timers(timed) == 0


async def test_more_than_ten_recipients_are_expanded(timed: Herald) -> None:
    people = await stored_people(timed, MAX_FEW + 1)
    few, more = await timed.submit(*map(user, people[:-1])), await timed.submit(*map(user, people))
    assert (few.state, few.shards) == (NotificationState.FINISHED, 0)
    assert (more.state, more.shards) == (NotificationState.EXPANDED, 1)
    assert await timed.message_count(DELIVERIES) == MAX_FEW + 1
    await timed.run_until_idle()
    assert await timed.counts(more) == {"sent": MAX_FEW + 1}


@pytest.mark.parametrize(("seconds", "priority"), [(0.1, "normal"), (0.7, "urgent")])
async def test_delivery_waits_for_a_slot_that_is_near(timed: Herald, seconds: float, priority: str) -> None:
    """An urgent one waits longer, since its queue is polled once a second only."""
    [ada] = await stored_people(timed, 1)
    take_slots(timed, seconds)
    assert await timed.counts(await timed.submit(user(ada), priority=priority)) == {"sent": 1}


@pytest.mark.parametrize(
    ("seconds", "priority", "queue"), [(0.5, "normal", DELIVERIES), (1.5, "urgent", DELIVERIES_URGENT)]
)
async def test_delivery_that_would_wait_for_a_slot_goes_to_its_queue(
    timed: Herald, seconds: float, priority: str, queue: str
) -> None:
    [ada] = await stored_people(timed, 1)
    take_slots(timed, seconds)
    submitted = await timed.submit(user(ada), priority=priority)
    assert await timed.counts(submitted) == {"open": 1}
    assert await timed.message_count(queue) == 1
    await timed.run_until_idle()
    assert (await timed.reload(submitted)).state is NotificationState.FINISHED
    assert len(await timed.received()) == 1


async def test_flood_of_urgent_notifications_goes_to_its_queue(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only some of them wait where they are ingested: otherwise they would hold up all others."""
    [ada] = await stored_people(timed, 1)
    monkeypatch.setattr("notify.direct._urgent_limit", asyncio.Semaphore(0))
    take_slots(timed, 0.7)
    assert await timed.counts(await timed.submit(user(ada), priority="urgent")) == {"open": 1}
    assert await timed.message_count(DELIVERIES_URGENT) == 1


def take_slots(herald: Herald, seconds: float) -> None:
    """Let others take all slots of the next seconds."""
    limiter = herald.services.rate_limiter
    limiter._queue(herald.tenant).lane = TenantLane(next_slot=limiter._clock() + int(seconds * SECOND))


async def test_delivery_whose_conversation_is_paused_goes_to_its_queue(timed: Herald) -> None:
    ada, bob = await stored_people(timed, 2)
    await timed.services.rate_limiter.pause_conversation(timed.tenant, f"u:{ada.object_id}", 0.5)
    submitted = await timed.submit(user(ada), user(bob))
    assert await timed.counts(submitted) == {"open": 1, "sent": 1}
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 2}


@pytest.mark.parametrize("pauses", [False, True], ids=["dies", "stops"])
async def test_worker_dies_or_stops_while_it_hands_over(
    host: Host, monkeypatch: pytest.MonkeyPatch, *, pauses: bool
) -> None:
    monkeypatch.setattr("notify.direct.LONGEST_WAIT_SECONDS", -1.0)
    story = pause_at_each_write if pauses else crash_at_each_write
    await story(host, lambda: begin(host, single_recipient), lambda scenario: check(host, scenario))


def claim_after(herald: Herald, command: str, body: bytes) -> Callable[..., Coroutine[Any, Any, str]]:
    """Return the claim of a worker that stalls before it: meanwhile a command comes and takes effect."""
    claim = herald.services.deliveries.claim

    async def late(*args: Any) -> str:
        content = {"content": {"title": "New"}} if command == "edit" else {}
        await herald.command(command, await herald.stored(body), **content)
        await herald.advance_clock(30)  # less than a claim allows
        return await claim(*args)

    return late


@pytest.mark.parametrize("change", ["cancel", "edit", "recall"])
async def test_command_that_comes_while_it_is_sent_takes_effect(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The row of the delivery does not exist yet when the command's sweep looks for it."""
    [ada] = await stored_people(timed, 1)
    body = notification(user(ada))
    with monkeypatch.context() as patch:
        patch.setattr(timed.services.deliveries, "claim", claim_after(timed, change, body))
        await ingest(timed.services, body, "m1")
    await timed.run_until_idle()
    after = await timed.stored(body)
    expected = {"cancel": {"sent": 1}, "edit": {"sent": 1}, "recall": {"recalled": 1}}[change]
    assert await timed.counts(after) == expected
    assert json.loads(after.counts) == expected
    received = [each for each in await timed.received() if not each.deleted_at]
    titles = [each.activity["summary"] for each in received]
    assert titles == {"cancel": ["Done"], "edit": ["New"], "recall": []}[change]


async def test_repeated_message_adds_only_what_is_missing(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker dies after the first of three deliveries; the message comes again."""
    people = await stored_people(timed, 3)
    body, deliver = notification(*map(user, people)), deliver_directly

    async def die(*args: Any, **options: Any) -> None:
        if people[0].object_id in args[2]:
            await deliver(*args, **options)
        raise ConnectionError

    monkeypatch.setattr("notify.direct.deliver_directly", die)
    with pytest.raises(ConnectionError):
        await ingest(timed.services, body, "m1")
    await ingest(timed.services, body, "m1", 2)
    await timed.run_until_idle()
    assert Counter(each.person for each in await timed.received()) == Counter(each.object_id for each in people)
    after = await timed.stored(body)
    assert (after.state, json.loads(after.counts)) == (NotificationState.FINISHED, {"sent": 3})


async def test_recipients_that_cannot_be_found_now_are_expanded(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    [ada] = await stored_people(timed, 1)

    async def list_page(*_: Any) -> Any:
        raise RetryLater(30)

    monkeypatch.setattr("notify.direct.list_page", list_page)
    submitted = await timed.submit(user(ada))
    assert await timed.message_count(DELIVERIES) == 1
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 1}
    assert (await timed.reload(submitted)).state is NotificationState.FINISHED


async def test_two_addresses_that_become_one_person_before_the_repetition_are_finished(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob = await stored_people(timed, 2)
    body = notification(user(ada), user(bob))
    monkeypatch.setattr("notify.direct.deliver_directly", AsyncMock(side_effect=ConnectionError))
    with pytest.raises(ConnectionError):
        await ingest(timed.services, body, "m1")
    page = AudiencePage({f"u:{ada.object_id}": 0}, "")
    monkeypatch.setattr("notify.direct.list_page", AsyncMock(return_value=page))
    await ingest(timed.services, body, "m1", 2)
    await timed.run_until_idle()
    after = await timed.stored(body)
    assert (after.state, after.total, after.counts) == (NotificationState.FINISHED, 1, '{"sent":1}')


async def die(*_: Any, **__: Any) -> Any:
    raise ConnectionError


async def ended_counts(herald: Herald, body: bytes) -> tuple[Counter[str], dict[str, int]]:
    """Do all work there is; return the counts of the notification's rows, and those that are stored."""
    await herald.run_until_idle()
    after = await herald.stored(body)
    return await herald.counts(after), json.loads(after.counts or "{}")


@pytest.mark.parametrize("begun", [0, 1, 2], ids=["before_a_claim", "after_one_claim", "after_all_claims"])
async def test_worker_dies_with_its_claims_and_the_notification_is_cancelled(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, begun: int
) -> None:
    """Nothing but the repeated message knows of the claimed deliveries."""
    ada, bob = await stored_people(timed, 2)
    body, deliver = notification(user(ada), user(bob)), deliver_directly

    async def die_later(*args: Any, **options: Any) -> None:
        if args[2] in [f"u:{each.object_id}" for each in (ada, bob)[:begun]]:
            await deliver(*args, **options)
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr("notify.delivery.deliver._send_claimed", die)
        patch.setattr("notify.direct.deliver_directly", die_later)
        with pytest.raises(ConnectionError):
            await ingest(timed.services, body, "m1")
    await timed.command("cancel", await timed.stored(body))
    await timed.advance_clock(600)
    await ingest(timed.services, body, "m1", 2)
    rows, stored = await ended_counts(timed, body)
    assert rows == stored
    assert rows == ({"unknown": begun} if begun else {})
    assert (await timed.stored(body)).state is NotificationState.CANCELLED


async def test_claim_that_comes_after_the_cancellation_is_not_left_open(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancellation has counted that there is nothing; then the delivery is claimed, and its worker dies."""
    [ada] = await stored_people(timed, 1)
    body = notification(user(ada))
    with monkeypatch.context() as patch:
        patch.setattr(timed.services.deliveries, "claim", claim_after(timed, "cancel", body))
        patch.setattr("notify.delivery.deliver._send_claimed", die)
        with pytest.raises(ConnectionError):
            await ingest(timed.services, body, "m1")
    await timed.advance_clock(600)
    await ingest(timed.services, body, "m1", 2)
    assert await ended_counts(timed, body) == ({"unknown": 1}, {"unknown": 1})


async def test_recipients_that_cannot_be_found_again_are_not_lost(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker dies before the first row; when the message comes again, Teams or Graph does not answer."""
    ada, bob = await stored_people(timed, 2)
    body = notification(user(ada), user(bob))
    with monkeypatch.context() as patch:
        patch.setattr("notify.direct.deliver_directly", die)
        with pytest.raises(ConnectionError):
            await ingest(timed.services, body, "m1")
        patch.setattr("notify.direct.list_page", AsyncMock(side_effect=RetryLater(30)))
        await ingest(timed.services, body, "m1", 2)
    assert await ended_counts(timed, body) == ({"sent": 2}, {"sent": 2})
    assert (await timed.stored(body)).state is NotificationState.FINISHED
    assert len(await timed.received()) == 2


async def test_copy_of_a_notification_of_an_older_version_sends_nothing_twice(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That version stored the deliveries of one or two recipients in a counted partition."""
    ada, bob = await stored_people(timed, 2)
    body = notification(user(ada), user(bob))
    await timed.teams.inject(
        TeamsFault(operation="send", person=bob.object_id, status=412, code="PreconditionFailed", count=1)
    )
    with monkeypatch.context() as patch:
        patch.setattr("notify.ingest.shard_count", lambda _: 1)
        await ingest(timed.services, body, "m1")
    await timed.handle_messages()  # the first is sent, the second waits for its next try
    assert len(await timed.received()) == 1
    await ingest(timed.services, body, "m2")
    assert await ended_counts(timed, body) == ({"sent": 2}, {"sent": 2})
    assert len(await timed.received()) == 2


async def test_address_that_names_another_person_at_the_repetition_leaves_no_delivery_open(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob = await stored_people(timed, 2)
    body = notification(user(ada))
    with monkeypatch.context() as patch:
        patch.setattr("notify.delivery.deliver._send_claimed", die)
        with pytest.raises(ConnectionError):
            await ingest(timed.services, body, "m1")
        page = AudiencePage({f"u:{bob.object_id}": 0}, "")
        patch.undo()
        patch.setattr("notify.direct.list_page", AsyncMock(return_value=page))
        await timed.advance_clock(600)
        await ingest(timed.services, body, "m1", 2)
    rows, stored = await ended_counts(timed, body)
    assert rows == stored == {"sent": 2}


async def test_conflict_after_the_result_counts_no_delivery_twice(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two is sent, and its step after that meets a conflict; the other waits for its next try."""
    ada, bob = await stored_people(timed, 2)
    await timed.teams.inject(
        TeamsFault(operation="send", person=bob.object_id, status=412, code="PreconditionFailed", count=1)
    )
    monkeypatch.setattr("notify.delivery.deliver.store_host", AsyncMock(side_effect=[Conflict, None, None, None]))
    submitted = await timed.submit(user(ada), user(bob))
    assert await timed.counts(submitted) == {"sent": 1, "open": 1}
    assert (submitted.state, submitted.counts) == (NotificationState.EXPANDED, "")
    await timed.run_until_idle()
    assert (await timed.reload(submitted)).counts == '{"sent":2}'


@pytest.mark.parametrize("change", ["edit", "recall"])
async def test_worker_dies_after_the_result_and_the_command_takes_effect(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The command's sweep found no row, and the worker dies before it enqueues the change."""
    [ada] = await stored_people(timed, 1)
    body = notification(user(ada))
    with monkeypatch.context() as patch:
        patch.setattr(timed.services.deliveries, "claim", claim_after(timed, change, body))
        patch.setattr("notify.delivery.record.enqueue_missed_change", die)
        with pytest.raises(ConnectionError):
            await ingest(timed.services, body, "m1")
    await ingest(timed.services, body, "m1", 2)
    expected = {"edit": {"sent": 1}, "recall": {"recalled": 1}}[change]
    assert await ended_counts(timed, body) == (expected, expected)
    titles = [each.activity["summary"] for each in await timed.received() if not each.deleted_at]
    assert titles == {"edit": ["New"], "recall": []}[change]


async def test_worker_dies_after_the_result_and_the_thread_is_recorded(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ada] = await stored_people(timed, 1)
    thread = {"key": "build-42", "onRepeat": "update"}
    body = notification(user(ada), thread=thread)
    with monkeypatch.context() as patch:
        patch.setattr("notify.delivery.deliver._record_conversation", die)
        with pytest.raises(ConnectionError):
            await ingest(timed.services, body, "m1")
    await ingest(timed.services, body, "m1", 2)
    assert await ended_counts(timed, body) == ({"sent": 1}, {"sent": 1})
    await timed.submit(user(ada), thread=thread, content={"title": "Again"})
    assert len(await timed.received()) == 1


async def test_worker_dies_after_a_result_while_another_ends_the_last_delivery(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob = await stored_people(timed, 2)
    await timed.teams.inject(
        TeamsFault(operation="send", person=bob.object_id, status=412, code="PreconditionFailed", count=1)
    )
    thread = {"key": "build-42", "onRepeat": "update"}
    body = notification(user(ada), user(bob), thread=thread)
    with monkeypatch.context() as patch:
        patch.setattr("notify.delivery.deliver._record_conversation", die)
        with pytest.raises(ConnectionError):
            await ingest(timed.services, body, "m1")
    await timed.run_until_idle()
    await ingest(timed.services, body, "m1", 2)
    assert await ended_counts(timed, body) == ({"sent": 2}, {"sent": 2})
    await timed.submit(user(ada), thread=thread, content={"title": "Again"})
    assert len(await timed.received()) == 2
