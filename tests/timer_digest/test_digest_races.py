"""Several workers serve one recipient at once, or one crashes and another continues: nothing is lost or sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest
from azure.core.exceptions import ServiceResponseError

from local.fake_teams.api import PersonView, TeamsFault
from notify.delivery.deliver import deliver
from notify.redrive import reopen
from shared.preferences.preferences import FOREVER
from shared.queue_messages import DELIVERIES, RECIPIENTS, Delivery, RecipientTask, Task
from shared.records import HeldDelivery, StoredNotification
from shared.services import Services
from shared.states import DeliveryState, NotificationState, Purpose
from shared.storage import timers
from shared.storage.table import Conflict
from tests.support.digests import (
    add_person,
    advance_to,
    card_texts,
    received_by,
    run_recipient_tasks,
    run_task,
    send_to,
    set_preferences,
    slots_taken,
)
from tests.support.herald import Herald, user
from timer_digest import digest_sender
from timer_digest.digest_plan import MAX_SEPARATE_MESSAGES
from timer_digest.held_items import digest_preferences_of, make_plan
from timer_digest.release_held import release
from timer_digest.settlement import DeliveryResult, settle_digest
from timer_digest.thread_groups import DigestEntry


async def make_digest(timed: Herald) -> Delivery:
    """Move the clock to 09:00:30 in Berlin on the 24th, make the digest that is due, and return its card's message."""
    timed.clock.offset += datetime(2026, 11, 24, 8, 0, 30, tzinfo=UTC) - timed.clock()
    await timed.tick()
    with slots_taken():
        await run_recipient_tasks(timed)
    [message] = await timed.outside_queues.get_queue_client(DELIVERIES).peek_messages()
    return Delivery.decode(message.content.encode())


async def test_delivery_due_while_a_digest_is_sent_is_released_after_it(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00", quiet="07:00-09:01")
    await send_to(timed, ada)
    await set_preferences(timed, ada, quiet="")
    await make_digest(timed)
    await set_preferences(timed, ada, quiet="07:00-09:01")
    news = await timed.submit(user(ada), category="news")
    await deliver(timed.services, await timed.message(news, f"u:{ada.object_id}"))
    timed.clock.offset += timedelta(minutes=1)
    await timed.tick()
    await run_recipient_tasks(timed)
    assert await timed.counts(news) == {"open": 1}
    await timed.handle_messages()
    assert await timed.counts(news) == {"sent": 1}


async def test_repeated_message_of_a_card_does_not_end_the_next_digest(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    first = await send_to(timed, ada, "First")
    card = await make_digest(timed)
    await timed.handle_messages()
    assert await timed.counts(first) == {"digested": 1}
    second = await send_to(timed, ada, "Second")
    with slots_taken():
        await release(timed.services, RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW))
    await deliver(timed.services, card)
    assert await timed.counts(second) == {"open": 1}
    await timed.handle_messages()
    assert await timed.counts(second) == {"digested": 1}


async def redrive_before_settlement(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> tuple[StoredNotification, Delivery]:
    """Redrive a notification whose digest has failed, after a crash between its final state and the settled digest.

    Returns the notification and the message of the digest's card.
    """
    ada = await add_person(timed, "2026-11-23T10:00")
    notification = await send_to(timed, ada)
    await timed.teams.inject(
        TeamsFault(operation="send", person=ada.object_id, status=400, code="Bad Argument", count=1)
    )
    card = await make_digest(timed)
    await deliver(timed.services, card)
    with monkeypatch.context() as crash:
        crash.setattr(timed.services.held_deliveries, "save_digest_state", AsyncMock(side_effect=RuntimeError))
        with pytest.raises(RuntimeError):
            await release(timed.services, RecipientTask(timed.tenant, card.recipient, Task.RELEASE))
    assert await timed.counts(notification) == {"failed": 1}
    await timed.clear_queue(RECIPIENTS)
    await timed.outside_queues.get_queue_client(DELIVERIES).clear_messages()
    await timed.command("redrive", notification)
    return notification, card


async def test_delivery_redriven_before_its_digest_is_settled_is_in_the_next_one(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    notification, card = await redrive_before_settlement(timed, monkeypatch)
    await deliver(timed.services, card)
    await timed.handle_messages()
    await advance_to(timed, "2026-11-25T08:01")
    assert await timed.counts(notification) == {"digested": 1}


async def test_late_settlement_does_not_end_deliveries_reserved_for_the_next_digest(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    notification, card = await redrive_before_settlement(timed, monkeypatch)
    services = timed.services
    digests = await services.held_deliveries.digest_state(timed.tenant, card.recipient)
    await release(services, RecipientTask(timed.tenant, card.recipient, Task.RELEASE))
    with slots_taken():
        await release(services, RecipientTask(timed.tenant, card.recipient, Task.DIGEST_NOW))
    assert (await timed.row(notification, card.recipient))["rule"] == "digest 2"
    task = RecipientTask(timed.tenant, card.recipient, Task.RELEASE)
    with pytest.raises(Conflict):
        await settle_digest(services, task, digests, [], DeliveryResult(DeliveryState.FAILED))
    assert await timed.counts(notification) == {"open": 1}
    await timed.handle_messages()
    assert await timed.counts(notification) == {"digested": 1}


async def test_delivery_held_while_a_digest_is_sent_is_in_the_next_one(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    await send_to(timed, ada, "Before")
    timed.clock.offset += timedelta(hours=22, seconds=30)
    await timed.tick()
    with slots_taken():
        await run_recipient_tasks(timed)
    meanwhile = await timed.submit(user(ada), content={"title": "Meanwhile"})
    await deliver(timed.services, await timed.message(meanwhile, f"u:{ada.object_id}"))
    await timed.handle_messages()
    [first] = await received_by(timed, ada)
    assert "Before" in card_texts(first)
    assert "Meanwhile" not in card_texts(first)
    await timed.run_until_idle()
    [_, second] = await received_by(timed, ada)
    assert "Meanwhile" in card_texts(second)
    assert "Before" not in card_texts(second)
    assert await timed.counts(meanwhile) == {"digested": 1}


async def test_concurrent_workers_send_one_digest(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notifications = [await send_to(timed, ada, f"Build {number}") for number in range(3)]
    timed.clock.offset += timedelta(hours=22, seconds=30)
    task = RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.RELEASE)
    await asyncio.gather(*(release(timed.services, task) for _ in range(4)))
    await timed.handle_messages()
    await timed.run_until_idle()
    assert len(await received_by(timed, ada)) == 1
    assert [await timed.counts(each) for each in notifications] == [{"digested": 1}] * 3


async def test_message_of_a_reserved_delivery_sends_nothing(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notification = await send_to(timed, ada)
    timed.clock.offset += timedelta(hours=22, seconds=30)
    await timed.tick()
    with slots_taken():
        await run_recipient_tasks(timed)
    await set_preferences(timed, ada, categories={})  # it would be sent alone now
    await deliver(timed.services, await timed.message(notification, f"u:{ada.object_id}"))
    await run_task(timed, f"u:{ada.object_id}", Task.RECONSIDER)
    await timed.run_until_idle()
    assert len(await received_by(timed, ada)) == 1
    assert await timed.counts(notification) == {"digested": 1}


def release_before_reserving(key: str) -> Callable[..., Coroutine[None, None, DigestEntry | None]]:
    """Return `_reserve` with another worker that releases the delivery of this notification just before it."""
    reserve = digest_sender._reserve

    async def reserve_too_late(
        services: Services, task: RecipientTask, number: int, item: HeldDelivery, entry: DigestEntry
    ) -> DigestEntry | None:
        if item.delivery.notification == key:
            known = await services.deliveries.get(item.delivery)
            assert known
            await digest_sender.clear_rule(services, item.delivery, known)
        return await reserve(services, task, number, item, entry)

    return reserve_too_late


async def test_digest_is_sent_with_fewer_items_if_one_was_released(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notifications = [await send_to(timed, ada, f"Build {number}") for number in range(3)]
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(digest_sender, "_reserve", release_before_reserving(notifications[1].key))
        timed.clock.offset += timedelta(hours=22, seconds=30)
        await timed.tick()
        await run_recipient_tasks(timed)
    await timed.handle_messages()
    [digest] = await received_by(timed, ada)
    assert card_texts(digest)[0] == "Digest: 2 notifications"
    await timed.run_until_idle()
    assert [await timed.counts(each) for each in notifications] == [{"digested": 1}] * 3


async def test_released_item_that_makes_the_card_larger_leaves_others_for_the_next_digest(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    object.__setattr__(timed.services.settings, "max_activity_kb", 16)
    ada = await add_person(timed, "2026-11-23T10:00")
    long = {"text": "ö" * 120, "link": {"title": "Open", "url": "https://ci.example/" + "x" * 470}}
    thread: dict[str, Any] = {"thread": {"key": "t"}, "priority": "urgent"}
    older = await send_to(timed, ada, "Older " + "Ä" * 100, content=long, **thread)
    timed.clock.offset += timedelta(seconds=1)
    newest = await send_to(timed, ada, "Newest", **thread)
    others = [await send_to(timed, ada, f"Build {number:02} " + "Ä" * 90) for number in range(40)]
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(digest_sender, "_reserve", release_before_reserving(newest.key))
        timed.clock.offset += timedelta(hours=22, seconds=30)
        await timed.tick()
        await run_recipient_tasks(timed)
    await timed.handle_messages()
    [digest] = await received_by(timed, ada)
    shown = {text[:8] for text in card_texts(digest)}
    digested = [each for each in others if await timed.counts(each) == {"digested": 1}]
    assert await timed.counts(older) == {"digested": 1}
    assert 0 < len(digested) < len(others)
    assert {f"Build {others.index(each):02}" for each in digested} <= shown


async def test_digest_is_settled_at_the_next_digest_time_if_its_message_is_lost(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    first = await send_to(timed, ada)
    timed.clock.offset += timedelta(hours=22, seconds=30)
    await timed.tick()
    with slots_taken():
        await run_recipient_tasks(timed)
    await timed.handle_batch(DELIVERIES, lambda body: deliver(timed.services, Delivery.decode(body)))
    await timed.clear_queue(RECIPIENTS)
    assert await timed.counts(first) == {"open": 1}
    await advance_to(timed, "2026-11-25T08:01")
    assert await timed.counts(first) == {"digested": 1}
    assert len(await received_by(timed, ada)) == 1


@pytest.mark.parametrize(
    "digest_preferences",
    [{"digest": "daily 10:00"}, {"categories": {}, "quiet": "20:00-10:00"}],
    ids=["digest due", "quiet hours end"],
)
async def test_task_of_a_tick_whose_clock_is_ahead_is_not_lost(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, digest_preferences: dict[str, object]
) -> None:
    ada = await add_person(timed, "2026-11-23T09:50", time_zone="UTC", **digest_preferences)
    await send_to(timed, ada)
    await advance_to(timed, "2026-11-23T09:59:30")
    timed.clock.offset += timedelta(seconds=30)
    delayed = asyncio.Event()
    # A timer of the same minute keeps the tick from deleting the recipient's timer.
    monkeypatch.setattr(timed.services.queues, "enqueue_sweep", lambda *_: delayed.wait())
    await timed.services.timers.put(timed.clock(), timers.WATCHDOG, "f" * 64)
    ticking = asyncio.create_task(timed.tick())
    behind = replace(timed.services, clock=lambda: timed.clock() - timedelta(seconds=1))
    while not await timed.handle_batch(RECIPIENTS, lambda body: release(behind, RecipientTask.decode(body))):
        await asyncio.sleep(0.01)
    await timed.handle_batch(DELIVERIES, lambda body: deliver(behind, Delivery.decode(body)))
    assert await received_by(timed, ada) == []
    delayed.set()
    await ticking
    await timed.advance_clock(61)
    assert len(await received_by(timed, ada)) == 1


async def test_outdated_plan_does_not_take_deliveries_reserved_for_the_next_digest(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, ada = timed.services, await add_person(timed, "2026-11-23T10:00", time_zone="UTC")
    task = RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW)

    async def plan() -> Callable[[], Coroutine[None, None, bool]]:
        items, state = await services.held_deliveries.list_due(task.tenant, task.recipient, services.clock(), 100)
        digest_preferences = await digest_preferences_of(services, task)
        planned = await make_plan(services, task, digest_preferences, state, items)
        return lambda: digest_sender.send_digest(services, task, state, planned, digest_preferences)

    await send_to(timed, ada, "Build 1")
    first = await plan()
    await send_to(timed, ada, "Build 2")
    outdated = await plan()
    await first()
    await timed.handle_messages()
    second, move = await plan(), services.held_deliveries.save_digest_state
    reserved, resumed = asyncio.Event(), asyncio.Event()

    async def pause(*state: Any) -> str:
        reserved.set()
        await resumed.wait()
        return await move(*state)

    monkeypatch.setattr(services.held_deliveries, "save_digest_state", pause)
    making = asyncio.create_task(second())
    await reserved.wait()
    monkeypatch.undo()
    with pytest.raises(Conflict):
        await outdated()
    await set_preferences(timed, ada, categories={})
    await release(services, replace(task, task=Task.RECONSIDER))
    await timed.handle_messages()
    resumed.set()
    await asyncio.gather(making, return_exceptions=True)
    await timed.handle_messages()
    included = [text for each in await received_by(timed, ada) for text in card_texts(each)]
    assert [included.count("Build 1"), included.count("Build 2")] == [1, 1]


async def crash_before_sending(herald: Herald, person: PersonView, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a person's digest with a worker that crashes before it sends the card."""
    with monkeypatch.context() as crash:
        crash.setattr("timer_digest.digest_sender.deliver_single", AsyncMock(side_effect=RuntimeError))
        with pytest.raises(RuntimeError):
            await release(herald.services, RecipientTask(herald.tenant, f"u:{person.object_id}", Task.RELEASE))


async def test_digest_of_a_crashed_worker_is_sent_as_it_was_stored(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    object.__setattr__(timed.services.settings, "max_activity_kb", 16)
    ada = await add_person(timed, "2026-11-23T10:00")
    notifications = [await send_to(timed, ada, f"Build {number}") for number in range(20)]
    timed.clock.offset += datetime(2026, 11, 24, 8, 0, 5, tzinfo=UTC) - timed.clock()
    await crash_before_sending(timed, ada, monkeypatch)
    long = {"text": "ö" * 120, "link": {"title": "Open", "url": "https://ci.example/" + "x" * 470}}
    for number, each in enumerate(notifications):
        await timed.command("edit", each, content={"title": f"Build {number} " + "Ä" * 100, **long})
    timed.clock.offset += timedelta(seconds=10)
    await run_task(timed, f"u:{ada.object_id}", Task.RELEASE)
    [digest] = await received_by(timed, ada)
    assert sorted(text for text in card_texts(digest) if text.startswith("Build ")) == sorted(
        f"Build {number}" for number in range(20)
    )
    assert [await timed.counts(each) for each in notifications] == [{"digested": 1}] * 20


async def test_deliveries_of_an_ended_pause_follow_a_digest_that_is_being_sent(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00", paused_until=FOREVER)
    news = [await send_to(timed, ada, f"News {number}", category="news") for number in range(MAX_SEPARATE_MESSAGES + 1)]
    build = await send_to(timed, ada, "Build 1")
    task = RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW)
    with slots_taken():
        await release(timed.services, task)
    await set_preferences(timed, ada, paused_until=None)
    await release(timed.services, replace(task, task=Task.RECONSIDER))
    await timed.handle_messages()
    assert len(await received_by(timed, ada)) == 2
    assert [await timed.counts(each) for each in (build, *news)] == [{"digested": 1}] * (MAX_SEPARATE_MESSAGES + 2)


async def test_digest_now_includes_deliveries_that_were_just_reconsidered(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notification = await send_to(timed, ada)
    task = RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.RECONSIDER)
    await release(timed.services, task)
    await release(timed.services, replace(task, task=Task.DIGEST_NOW))
    await timed.handle_messages()
    assert await timed.counts(notification) == {"digested": 1}


async def test_card_sent_by_another_worker_is_the_stored_one(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timer_digest.digest_plan.MAX_DIGEST_ITEMS", 2)
    ada = await add_person(timed, "2026-11-25T10:00")
    await send_to(timed, ada, "Vote", schedule={"at": "2026-11-27T10:00", "timeZone": "recipient"}, priority="urgent")
    await advance_to(timed, "2026-11-26T20:01")
    await advance_to(timed, "2026-11-27T09:01")
    for number in range(3):
        await send_to(timed, ada, f"Build {number}")
    timed.clock.offset += datetime(2026, 11, 28, 8, 0, 5, tzinfo=UTC) - timed.clock()
    await crash_before_sending(timed, ada, monkeypatch)
    await run_task(timed, f"u:{ada.object_id}", Task.RELEASE)
    [digest] = await received_by(timed, ada)
    assert {"Vote", "Build 2", " · 27\u00a0Nov\u00a02026,\u00a010:00"} <= set(card_texts(digest))
    assert "2 more in your next digest. Write **digest now** to get it immediately." in card_texts(digest)


async def test_next_tick_makes_the_digest_if_no_planned_delivery_can_be_reserved(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timer_digest.digest_plan.MAX_DIGEST_ITEMS", 1)
    ada = await add_person(timed, "2026-11-23T10:00")
    older = await send_to(timed, ada, "Older")
    timed.clock.offset += timedelta(minutes=1)
    newer = await send_to(timed, ada, "Newer")
    message = replace(await timed.message(newer, f"u:{ada.object_id}"), etag="")
    known = await timed.delivery_record(message)  # a worker ended it and crashed before it deleted the held row
    await timed.services.deliveries.settle(
        message, known.etag, DeliveryState.EXPIRED, now=timed.clock(), previous=DeliveryState.QUEUED
    )
    await advance_to(timed, "2026-11-24T08:01")
    await advance_to(timed, "2026-11-24T08:02")
    assert await timed.counts(older) == {"digested": 1}


async def test_delivery_redriven_before_its_held_row_is_deleted_is_released(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notification, task = await send_to(timed, ada), RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.RECONSIDER)
    await set_preferences(timed, ada, categories={})
    await timed.teams.inject(
        TeamsFault(operation="send", person=ada.object_id, status=400, code="Bad Argument", count=1)
    )
    with monkeypatch.context() as crash:
        crash.setattr(timed.services.held_deliveries, "delete", AsyncMock(side_effect=[None, RuntimeError]))
        with pytest.raises(RuntimeError):
            await release(timed.services, task)
    await timed.handle_messages()
    assert await timed.counts(notification) == {"failed": 1}
    message = replace(await timed.message(notification, task.recipient), etag="")
    await reopen(timed.services, notification.key, [(message, await timed.delivery_record(message))])
    await release(timed.services, task)
    await timed.handle_messages()
    assert await timed.counts(notification) == {"sent": 1}


async def test_release_that_meets_the_end_of_a_card_looks_again(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads the card's row before the card ends, and its notification after that: no message would end it again."""
    services = timed.services
    ada = await add_person(timed, "2026-11-23T10:00", paused_until=FOREVER)
    news = [await send_to(timed, ada, f"News {number}", category="news") for number in range(MAX_SEPARATE_MESSAGES + 1)]
    await send_to(timed, ada, "Build 1")
    task = RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW)
    send, get = services.connector.send, services.notifications.get
    arrived, answered = asyncio.Event(), asyncio.Event()

    async def send_slowly(*args: Any, **kwargs: Any) -> Any:
        outcome = await send(*args, **kwargs)
        arrived.set()
        await answered.wait()
        return outcome

    async def get_after_the_end(key: str) -> StoredNotification | None:
        if asyncio.current_task() is not sending and not answered.is_set():
            stored = await get(key)
            if stored and stored.purpose is Purpose.DIGEST_NOW:
                answered.set()
                await sending
        return await get(key)

    monkeypatch.setattr(services.connector, "send", send_slowly)
    monkeypatch.setattr(services.notifications, "get", get_after_the_end)
    sending = asyncio.create_task(release(services, task))
    await arrived.wait()
    await set_preferences(timed, ada, paused_until=None)
    await release(services, replace(task, task=Task.RECONSIDER))
    await timed.handle_messages()
    assert answered.is_set()
    assert [await timed.counts(each) for each in news] == [{"digested": 1}] * len(news)


async def test_items_of_a_card_that_a_second_worker_sent_before_may_have_arrived_twice(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that makes a digest stalls; its message comes again, and the answer to the second worker is lost."""
    ada = await add_person(timed, "2026-11-23T10:00")
    build, recipient = await send_to(timed, ada), f"u:{ada.object_id}"
    await timed.teams.inject(TeamsFault(operation="send", person=ada.object_id, status=503, accept=True, count=1))
    monkeypatch.setattr("notify.policy.backoff", lambda *_: 0.0)
    claim = timed.services.deliveries.claim

    async def claim_late(*args: Any) -> str:
        with monkeypatch.context() as second:
            second.setattr(timed.services.deliveries, "claim", claim)
            await release(timed.services, RecipientTask(timed.tenant, recipient, Task.RELEASE))
            await timed.handle_batch(DELIVERIES, lambda body: deliver(timed.services, Delivery.decode(body)))
        return await claim(*args)

    monkeypatch.setattr(timed.services.deliveries, "claim", claim_late)
    await release(timed.services, RecipientTask(timed.tenant, recipient, Task.DIGEST_NOW))
    monkeypatch.undo()
    await timed.run_until_idle()
    assert len(await received_by(timed, ada)) == 2
    row = await timed.row(build, recipient)
    assert (row["state"], row["maybe_twice"]) == ("digested", True)


async def test_delivery_redriven_as_soon_as_its_digest_failed_is_open(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    build, settle = await send_to(timed, ada), timed.services.deliveries.settle
    fault = TeamsFault(operation="send", person=ada.object_id, status=400, code="Bad Argument", count=1)
    await timed.teams.inject(fault)

    async def settle_before_a_redrive(message: Delivery, *args: Any, **kwargs: Any) -> bool:
        is_last = await settle(message, *args, **kwargs)
        if message.notification == build.key:
            monkeypatch.undo()
            await timed.command("redrive", build)
        return is_last

    monkeypatch.setattr(timed.services.deliveries, "settle", settle_before_a_redrive)
    await release(timed.services, RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW))
    stored = await timed.reload(build)
    assert (stored.state, stored.counts) == (NotificationState.EXPANDED, "")
    await advance_to(timed, "2026-11-24T08:02")
    assert (await timed.reload(build)).counts == '{"digested":1}'


async def test_more_digests_than_a_process_sends_at_once_are_enqueued(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notification = await send_to(timed, ada)
    monkeypatch.setattr(digest_sender, "_direct_limit", asyncio.Semaphore(0))
    await release(timed.services, RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW))
    assert await timed.message_count(DELIVERIES) == 1
    await timed.handle_messages()
    assert await timed.counts(notification) == {"digested": 1}


async def test_resumed_deliveries_are_released_after_a_digest_that_was_made_meanwhile(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`digest now` wins against the worker that reconsiders, and ends without that worker's items."""
    services, reserve, send = timed.services, digest_sender._reserve, timed.services.connector.send
    ada = await add_person(timed, "2026-11-23T10:00")
    await send_to(timed, ada)
    await set_preferences(timed, ada, paused_until=FOREVER)
    news = [await send_to(timed, ada, f"News {number}", category="news") for number in range(MAX_SEPARATE_MESSAGES + 1)]
    task = RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW)
    is_sending, is_answered = asyncio.Event(), asyncio.Event()
    other: list[asyncio.Task[None]] = []

    async def send_slowly(*args: Any, **kwargs: Any) -> Any:
        is_sending.set()
        await is_answered.wait()
        return await send(*args, **kwargs)

    async def reserve_late(services: Services, task: RecipientTask, *rest: Any) -> DigestEntry | None:
        if task.task is Task.RECONSIDER:
            if not other:
                other.append(asyncio.create_task(release(services, replace(task, task=Task.DIGEST_NOW))))
            await is_sending.wait()
        return await reserve(services, task, *rest)

    monkeypatch.setattr(services.connector, "send", send_slowly)
    monkeypatch.setattr(digest_sender, "_reserve", reserve_late)
    await set_preferences(timed, ada, paused_until=None)
    await release(services, replace(task, task=Task.RECONSIDER))
    is_answered.set()
    await other[0]
    await timed.run_until_idle()
    assert [await timed.counts(each) for each in news] == [{"digested": 1}] * len(news)


async def test_digest_is_sent_again_at_once_after_a_fault_of_the_storage(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notification, task = await send_to(timed, ada), RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW)
    with monkeypatch.context() as fault:
        fault.setattr(timed.services.rate_limiter, "wait_for_slot", AsyncMock(side_effect=ServiceResponseError("away")))
        with pytest.raises(ServiceResponseError):
            await release(timed.services, task)
    await release(timed.services, task)  # its message comes again
    await timed.handle_messages()
    assert await timed.counts(notification) == {"digested": 1}
