"""Several see to the same person at once, or one dies and another goes on: nothing is lost, and nothing told twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest

from local.fake_teams.api import PersonView, TeamsFault
from notify.delivery.deliver import deliver
from notify.redrive import reopen
from shared.preferences.preferences import FOREVER
from shared.queue_messages import DELIVERIES, RECIPIENTS, Delivery, RecipientTask, Task
from shared.records import HeldDelivery
from shared.services import Services
from shared.states import DeliveryState
from shared.storage import timers
from shared.storage.notifications import StoredNotification
from shared.storage.table import Conflict
from tests.support.digests import ask, came, go_to, one, prefer, see_to, texts
from tests.support.herald import Herald, user
from timer_digest import digest_sender
from timer_digest.digest_plan import MAX_SEPARATE_MESSAGES
from timer_digest.held_items import digest_preferences_of, read_plan
from timer_digest.release_held import release
from timer_digest.settlement import DeliveryResult, settle_digest
from timer_digest.thread_groups import DigestEntry


async def card_on_its_way(timed: Herald) -> Delivery:
    """Let it be half a minute past nine in Berlin of the 24th, and the digest be made; returns its card's message."""
    timed.clock.moved += datetime(2026, 11, 24, 8, 0, 30, tzinfo=UTC) - timed.clock()
    await timed.tick()
    await timed._drain(RECIPIENTS, lambda body: release(timed.services, RecipientTask.decode(body)))
    [message] = await timed.outside_queues.get_queue_client(DELIVERIES).peek_messages()
    return Delivery.decode(message.content.encode())


async def test_what_came_due_while_it_was_sent_goes_when_it_has_ended(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00", quiet="07:00-09:01")
    await ask(timed, ada)
    await prefer(timed, ada, quiet="")
    await card_on_its_way(timed)
    await prefer(timed, ada, quiet="07:00-09:01")
    news = await timed.ask(user(ada), category="news")
    await deliver(timed.services, await timed.message(news, f"u:{ada.object_id}"))
    timed.clock.moved += timedelta(minutes=1)
    await timed.tick()
    await timed._drain(RECIPIENTS, lambda body: release(timed.services, RecipientTask.decode(body)))
    assert await timed.counts(news) == {"open": 1}
    await timed.send()
    assert await timed.counts(news) == {"sent": 1}


async def test_a_card_that_comes_again_ends_nothing_of_the_next_digest(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    first = await ask(timed, ada, "First")
    card = await card_on_its_way(timed)
    await timed.send()
    assert await timed.counts(first) == {"digested": 1}
    second = await ask(timed, ada, "Second")
    await release(timed.services, RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW))
    await deliver(timed.services, card)
    assert await timed.counts(second) == {"open": 1}
    await timed.send()
    assert await timed.counts(second) == {"digested": 1}


async def failed_before_it_was_settled(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> tuple[StoredNotification, Delivery]:
    """What a digest told that failed, whose end was written down, but not that the digest is settled; and its card."""
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada)
    await timed.teams.inject(
        TeamsFault(operation="send", person=ada.object_id, status=400, code="Bad Argument", count=1)
    )
    card = await card_on_its_way(timed)
    await deliver(timed.services, card)
    with monkeypatch.context() as dying:
        dying.setattr(timed.services.held_deliveries, "move_digest", AsyncMock(side_effect=RuntimeError))
        with pytest.raises(RuntimeError):
            await release(timed.services, RecipientTask(timed.tenant, card.recipient, Task.RELEASE))
    assert await timed.counts(asked) == {"failed": 1}
    await timed.lose(RECIPIENTS)
    await timed.outside_queues.get_queue_client(DELIVERIES).clear_messages()
    await timed.command("redrive", asked)
    return asked, card


async def test_what_is_tried_again_before_the_digest_that_told_it_is_settled_waits_for_the_next_one(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, card = await failed_before_it_was_settled(timed, monkeypatch)
    await deliver(timed.services, card)
    await timed.send()
    await go_to(timed, "2026-11-25T08:01")
    assert await timed.counts(asked) == {"digested": 1}


async def test_who_settles_a_digest_too_late_ends_nothing_that_the_next_one_keeps(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, card = await failed_before_it_was_settled(timed, monkeypatch)
    services = timed.services
    digests = await services.held_deliveries.digest(timed.tenant, card.recipient)
    await release(services, RecipientTask(timed.tenant, card.recipient, Task.RELEASE))
    await release(services, RecipientTask(timed.tenant, card.recipient, Task.DIGEST_NOW))
    assert (await timed.row(asked, card.recipient))["rule"] == "digest 2"
    task = RecipientTask(timed.tenant, card.recipient, Task.RELEASE)
    with pytest.raises(Conflict):
        await settle_digest(services, task, digests, [], DeliveryResult(DeliveryState.FAILED))
    assert await timed.counts(asked) == {"open": 1}
    await timed.send()
    assert await timed.counts(asked) == {"digested": 1}


async def test_what_comes_while_it_is_sent_is_in_the_next_one(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    await ask(timed, ada, "Before")
    timed.clock.moved += timedelta(hours=22, seconds=30)
    await timed.tick()
    await timed._drain(RECIPIENTS, lambda body: release(timed.services, RecipientTask.decode(body)))
    meanwhile = await timed.ask(user(ada), content={"title": "Meanwhile"})
    await deliver(timed.services, await timed.message(meanwhile, f"u:{ada.object_id}"))
    await timed.send()
    [first] = await came(timed, ada)
    assert "Before" in texts(first)
    assert "Meanwhile" not in texts(first)
    await timed.run()
    [_, second] = await came(timed, ada)
    assert "Meanwhile" in texts(second)
    assert "Before" not in texts(second)
    assert await timed.counts(meanwhile) == {"digested": 1}


async def test_several_who_see_to_somebody_at_once_send_one(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = [await ask(timed, ada, f"Build {number}") for number in range(3)]
    timed.clock.moved += timedelta(hours=22, seconds=30)
    person = RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.RELEASE)
    await asyncio.gather(*(release(timed.services, person) for _ in range(4)))
    await timed.send()
    await timed.run()
    assert len(await came(timed, ada)) == 1
    assert [await timed.counts(each) for each in asked] == [{"digested": 1}] * 3


async def test_a_message_of_a_delivery_that_a_digest_keeps_sends_nothing(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada)
    timed.clock.moved += timedelta(hours=22, seconds=30)
    await timed.tick()
    await timed._drain(RECIPIENTS, lambda body: release(timed.services, RecipientTask.decode(body)))
    await prefer(timed, ada, categories={})  # it would be sent alone now
    await deliver(timed.services, Delivery(asked.key, "0", f"u:{ada.object_id}", "", 0))
    await see_to(timed, f"u:{ada.object_id}", Task.RECONSIDER)
    await timed.run()
    assert len(await came(timed, ada)) == 1
    assert await timed.counts(asked) == {"digested": 1}


async def test_where_less_can_be_told_than_was_planned_the_rest_is_told(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = [await ask(timed, ada, f"Build {number}") for number in range(3)]
    reserve = digest_sender._reserve

    async def lose(
        services: Services, person: RecipientTask, number: int, item: HeldDelivery, entry: DigestEntry
    ) -> DigestEntry | None:
        if item.delivery.notification == asked[1].key:  # just now somebody else lets it go
            known = await services.deliveries.get(item.delivery)
            assert known
            await digest_sender.clear_hold(services, item.delivery, known)
        return await reserve(services, person, number, item, entry)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(digest_sender, "_reserve", lose)
        timed.clock.moved += timedelta(hours=22, seconds=30)
        await timed.tick()
        await timed._drain(RECIPIENTS, lambda body: release(timed.services, RecipientTask.decode(body)))
    await timed.send()
    [digest] = await came(timed, ada)
    assert texts(digest)[0] == "Digest: 2 notifications"
    await timed.run()
    assert [await timed.counts(each) for each in asked] == [{"digested": 1}] * 3


async def test_digest_is_settled_at_the_next_slot_if_its_message_is_lost(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    first = await ask(timed, ada)
    timed.clock.moved += timedelta(hours=22, seconds=30)
    await timed.tick()
    await timed._drain(RECIPIENTS, lambda body: release(timed.services, RecipientTask.decode(body)))
    await timed._drain(DELIVERIES, lambda body: deliver(timed.services, Delivery.decode(body)))
    await timed.lose(RECIPIENTS)
    assert await timed.counts(first) == {"open": 1}
    await go_to(timed, "2026-11-25T08:01")
    assert await timed.counts(first) == {"digested": 1}
    assert len(await came(timed, ada)) == 1


@pytest.mark.parametrize(
    "digest_preferences",
    [{"digest": "daily 10:00"}, {"categories": {}, "quiet": "20:00-10:00"}],
    ids=["for a digest", "after quiet hours"],
)
async def test_who_is_woken_by_a_clock_that_is_ahead_of_the_next_is_not_forgotten(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, digest_preferences: dict[str, object]
) -> None:
    ada = await one(timed, "2026-11-23T09:50", time_zone="UTC", **digest_preferences)
    await ask(timed, ada)
    await go_to(timed, "2026-11-23T09:59:30")
    timed.clock.moved += timedelta(seconds=30)
    late = asyncio.Event()
    monkeypatch.setattr(
        timed.services.queues, "enqueue_sweep", lambda *_: late.wait()
    )  # of a waking of the same minute
    await timed.services.timers.put(timed.clock(), timers.WATCH, "f" * 64)
    ticking = asyncio.create_task(timed.tick())
    behind = replace(timed.services, clock=lambda: timed.clock() - timedelta(seconds=1))
    while not await timed._drain(RECIPIENTS, lambda body: release(behind, RecipientTask.decode(body))):
        await asyncio.sleep(0.01)
    await timed._drain(DELIVERIES, lambda body: deliver(behind, Delivery.decode(body)))
    assert await came(timed, ada) == []
    late.set()
    await ticking
    await timed.wait(61)
    assert len(await came(timed, ada)) == 1


async def test_what_is_kept_for_the_next_digest_is_not_taken_by_one_that_comes_too_late(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, ada = timed.services, await one(timed, "2026-11-23T10:00", time_zone="UTC")
    person = RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW)

    async def plan() -> Callable[[], Coroutine[None, None, None]]:
        items, state = await services.held_deliveries.ready(person.tenant, person.recipient, services.clock(), 100)
        digest_preferences = await digest_preferences_of(services, person)
        chosen = await read_plan(services, person, digest_preferences, state, items)
        return lambda: digest_sender.send_digest(services, person, state, chosen, digest_preferences)

    await ask(timed, ada, "Build 1")
    first = await plan()
    await ask(timed, ada, "Build 2")
    sleeper = await plan()
    await first()
    await timed.send()
    second, move = await plan(), services.held_deliveries.move_digest
    kept, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(*state: Any) -> str:
        kept.set()
        await goes_on.wait()
        return await move(*state)

    monkeypatch.setattr(services.held_deliveries, "move_digest", slow)
    making = asyncio.create_task(second())
    await kept.wait()
    monkeypatch.undo()
    with pytest.raises(Conflict):
        await sleeper()
    await prefer(timed, ada, categories={})
    await release(services, replace(person, task=Task.RECONSIDER))
    await timed.send()
    goes_on.set()
    await asyncio.gather(making, return_exceptions=True)
    await timed.send()
    included = [text for each in await came(timed, ada) for text in texts(each)]
    assert [included.count("Build 1"), included.count("Build 2")] == [1, 1]


async def crash_before_enqueue(herald: Herald, person: PersonView, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as dying:
        dying.setattr("shared.publishing.enqueue", AsyncMock(side_effect=RuntimeError))
        with pytest.raises(RuntimeError):
            await release(herald.services, RecipientTask(herald.tenant, f"u:{person.object_id}", Task.RELEASE))


async def test_digest_of_a_crashed_worker_is_sent_as_it_was_stored(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    object.__setattr__(timed.services.settings, "max_activity_kb", 16)
    ada = await one(timed, "2026-11-23T10:00")
    asked = [await ask(timed, ada, f"Build {number}") for number in range(20)]
    timed.clock.moved += datetime(2026, 11, 24, 8, 0, 5, tzinfo=UTC) - timed.clock()
    await crash_before_enqueue(timed, ada, monkeypatch)
    long = {"text": "ö" * 120, "link": {"title": "Open", "url": "https://ci.example/" + "x" * 470}}
    for number, each in enumerate(asked):
        await timed.command("edit", each, content={"title": f"Build {number} " + "Ä" * 100, **long})
    timed.clock.moved += timedelta(seconds=10)
    await see_to(timed, f"u:{ada.object_id}", Task.RELEASE)
    [digest] = await came(timed, ada)
    assert sorted(text for text in texts(digest) if text.startswith("Build ")) == sorted(
        f"Build {number}" for number in range(20)
    )
    assert [await timed.counts(each) for each in asked] == [{"digested": 1}] * 20


async def test_what_a_pause_held_follows_a_digest_that_is_on_its_way_when_it_is_called_off(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00", paused_until=FOREVER)
    news = [await ask(timed, ada, f"News {number}", category="news") for number in range(MAX_SEPARATE_MESSAGES + 1)]
    build = await ask(timed, ada, "Build 1")
    person = RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW)
    await release(timed.services, person)
    await prefer(timed, ada, paused_until=None)
    await release(timed.services, replace(person, task=Task.RECONSIDER))
    await timed.send()
    assert len(await came(timed, ada)) == 2
    assert [await timed.counts(each) for each in (build, *news)] == [{"digested": 1}] * (MAX_SEPARATE_MESSAGES + 2)


async def test_what_is_decided_anew_is_not_out_of_reach_of_who_asks_for_the_digest(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada)
    person = RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.RECONSIDER)
    await release(timed.services, person)
    await release(timed.services, replace(person, task=Task.DIGEST_NOW))
    await timed.send()
    assert await timed.counts(asked) == {"digested": 1}


async def test_a_card_that_another_posts_says_what_the_first_one_would_have(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timer_digest.digest_plan.MAX_DIGEST_ITEMS", 2)
    ada = await one(timed, "2026-11-25T10:00")
    await ask(timed, ada, "Vote", schedule={"at": "2026-11-27T10:00", "timeZone": "recipient"}, priority="urgent")
    await go_to(timed, "2026-11-26T20:01")
    await go_to(timed, "2026-11-27T09:01")
    for number in range(3):
        await ask(timed, ada, f"Build {number}")
    timed.clock.moved += datetime(2026, 11, 28, 8, 0, 5, tzinfo=UTC) - timed.clock()
    await crash_before_enqueue(timed, ada, monkeypatch)
    await see_to(timed, f"u:{ada.object_id}", Task.RELEASE)
    [digest] = await came(timed, ada)
    assert {"Vote", "Build 2", " · 2026\u201111\u201127\u00a010:00"} <= set(texts(digest))
    assert "2 more in your next digest. Write **digest now** to get it immediately." in texts(digest)


async def test_where_others_see_to_all_that_one_would_tell_the_rest_is_told_soon(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timer_digest.digest_plan.MAX_DIGEST_ITEMS", 1)
    ada = await one(timed, "2026-11-23T10:00")
    older = await ask(timed, ada, "Older")
    timed.clock.moved += timedelta(minutes=1)
    newer = await ask(timed, ada, "Newer")
    message = replace(await timed.message(newer, f"u:{ada.object_id}"), etag="")
    known = await timed.state(message)  # somebody ended it, and died before its item went
    await timed.services.deliveries.settle(
        message, known.etag, DeliveryState.EXPIRED, now=timed.clock(), previous=DeliveryState.QUEUED
    )
    await go_to(timed, "2026-11-24T08:01")
    await go_to(timed, "2026-11-24T08:02")
    assert await timed.counts(older) == {"digested": 1}


async def test_what_is_tried_again_while_its_item_is_still_there_is_let_go(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked, person = await ask(timed, ada), RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.RECONSIDER)
    await prefer(timed, ada, categories={})
    await timed.teams.inject(
        TeamsFault(operation="send", person=ada.object_id, status=400, code="Bad Argument", count=1)
    )
    with monkeypatch.context() as dying:
        dying.setattr(timed.services.held_deliveries, "done", AsyncMock(side_effect=[None, RuntimeError]))
        with pytest.raises(RuntimeError):
            await release(timed.services, person)
    await timed.send()
    assert await timed.counts(asked) == {"failed": 1}
    message = replace(await timed.message(asked, person.recipient), etag="")
    await reopen(timed.services, asked.key, [(message, await timed.state(message))])
    await release(timed.services, person)
    await timed.send()
    assert await timed.counts(asked) == {"sent": 1}
