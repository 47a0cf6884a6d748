"""Preferences decide when a delivery is sent, and held deliveries are sent when the hold ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.fake_teams.api import PersonView
from notify.command_dispatch import SWEEP_DELAY_SECONDS
from shared.preferences.preferences import FOREVER, Preferences
from shared.queue_messages import DELIVERIES, RecipientTask, Task
from shared.records import HeldDelivery
from shared.states import Mode, ReferenceKind
from tests.support.herald import Herald, user
from timer_digest.release_held import release


async def add_person(herald: Herald) -> PersonView:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    return ada


async def set_preferences(herald: Herald, person: PersonView, **preferences: Any) -> Preferences:
    return await herald.services.conversations.change_preferences(
        herald.tenant, ReferenceKind.USER, person.object_id, lambda old: replace(old, **preferences)
    )


async def reevaluate_held(herald: Herald, person: PersonView) -> None:
    await herald.services.queues.enqueue_recipient(
        RecipientTask(herald.tenant, f"u:{person.object_id}", Task.RECONSIDER)
    )
    await herald.handle_messages()


def now(herald: Herald) -> datetime:
    return herald.clock().astimezone(UTC)


async def test_opted_out_notification_is_suppressed_and_its_row_names_the_rule(timed: Herald) -> None:
    ada = await add_person(timed)
    await set_preferences(timed, ada, categories={"builds": Mode.OFF})
    submitted, other = await timed.submit(user(ada)), await timed.submit(user(ada), category="news")
    await timed.handle_messages()
    row = await timed.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row["reason"], row["rule"]) == ("suppressed", "optedOut", "optedOut")
    assert (await timed.row(other, f"u:{ada.object_id}"))["rule"] == "send"
    assert len(await timed.received()) == 1


@pytest.mark.parametrize("command", ["cancel", "recall"])
@pytest.mark.parametrize(
    "preferences", [{"categories": {"builds": Mode.DIGEST}}, {"paused_until": FOREVER}, {"quiet": "00:00-23:59"}]
)
async def test_held_delivery_is_cancelled_by_cancel_and_recall(
    timed: Herald, command: str, preferences: dict[str, Any]
) -> None:
    ada = await add_person(timed)
    await set_preferences(timed, ada, **preferences)
    cancelled, other = await timed.submit(user(ada)), await timed.submit(user(ada))
    await timed.handle_messages()
    await timed.command(command, cancelled)
    await timed.advance_clock(SWEEP_DELAY_SECONDS + 1)
    assert await timed.counts(cancelled) == {"cancelled": 1}
    assert (await timed.reload(cancelled)).counts == '{"cancelled":1}'
    [held] = await timed.services.held_deliveries.list(timed.tenant, f"u:{ada.object_id}", 10)
    assert held.delivery.notification == other.key
    assert await timed.counts(other) == {"open": 1}


async def test_deliveries_held_for_local_time_are_cancelled(timed: Herald) -> None:
    await timed.grow(people=5)
    people = await timed.store_people(5)
    at = (now(timed) + timedelta(days=2)).strftime("%Y-%m-%dT%H:%M")
    schedule = {"at": at, "timeZone": "recipient"}
    submitted = await timed.submit(*map(user, people), schedule=schedule)
    due = (await timed.reload(submitted)).due
    assert due
    await timed.advance_clock((due - now(timed)).total_seconds() + 1)
    assert await timed.counts(submitted) == {"open": 5}
    await timed.command("cancel", submitted)
    await timed.advance_clock(SWEEP_DELAY_SECONDS + 1)
    assert await timed.counts(submitted) == {"cancelled": 5}
    await timed.run_until_idle()
    assert await timed.received() == []


@pytest.mark.usefixtures("queued")
async def test_preferences_are_evaluated_when_sending_not_when_enqueueing(timed: Herald) -> None:
    ada = await add_person(timed)
    submitted = await timed.submit(user(ada))
    assert await timed.message_count(DELIVERIES) == 1
    await set_preferences(timed, ada, stopped=True)
    await timed.handle_messages()
    assert await timed.counts(submitted) == {"suppressed": 1}


async def test_own_action_is_suppressed(timed: Herald) -> None:
    ada = await add_person(timed)
    actor = {"title": "Done", "actor": {"name": "Ada", "user": ada.object_id.upper()}}
    submitted = await timed.submit(user(ada), content=actor)
    await timed.handle_messages()
    assert (await timed.row(submitted, f"u:{ada.object_id}"))["reason"] == "ownAction"
    await set_preferences(timed, ada, own_actions=True)
    second = await timed.submit(user(ada), content=actor)
    await timed.handle_messages()
    assert await timed.counts(second) == {"sent": 1}


@pytest.mark.parametrize("hold", ["pause", "mute", "quiet"])
async def test_held_delivery_is_sent_once_when_the_hold_ends(timed: Herald, hold: str) -> None:
    ada = await add_person(timed)
    end = (now(timed) + timedelta(hours=2)).replace(second=0, microsecond=0)
    if hold == "pause":
        await set_preferences(timed, ada, paused_until=end)
    elif hold == "mute":
        await set_preferences(timed, ada, mutes=Preferences().mute("t", end, now(timed)).mutes)
    else:
        start = end - timedelta(hours=4)
        await set_preferences(timed, ada, quiet=f"{start:%H:%M}-{end:%H:%M}", time_zone="UTC")
    submitted = await timed.submit(user(ada), thread={"key": "t"})
    await timed.handle_messages()
    assert await timed.counts(submitted) == {"open": 1}
    await timed.advance_clock((end - now(timed)).total_seconds() - 90)
    assert not await timed.received()
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 1}
    assert len(await timed.received()) == 1
    assert not await timed.services.held_deliveries.list(timed.tenant, f"u:{ada.object_id}", 10)


async def test_ending_a_pause_early_sends_held_deliveries(timed: Herald) -> None:
    ada = await add_person(timed)
    await set_preferences(timed, ada, paused_until=FOREVER)
    submitted = await timed.submit(user(ada))
    await timed.advance_clock(timedelta(days=30).total_seconds())
    assert await timed.counts(submitted) == {"open": 1}
    await set_preferences(timed, ada, paused_until=None)
    await reevaluate_held(timed, ada)
    assert await timed.counts(submitted) == {"sent": 1}


@pytest.mark.usefixtures("queued")
async def test_ending_a_pause_while_a_delivery_is_being_held_sends_it(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, put = await add_person(timed), timed.services.held_deliveries.put

    async def change_preferences_then_put(tenant: str, item: HeldDelivery) -> None:
        await set_preferences(timed, ada, paused_until=None)
        await release(timed.services, RecipientTask(tenant, f"u:{ada.object_id}", Task.RECONSIDER))
        await put(tenant, item)

    await set_preferences(timed, ada, paused_until=FOREVER)
    submitted = await timed.submit(user(ada))
    monkeypatch.setattr(timed.services.held_deliveries, "put", change_preferences_then_put)
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 1}
    assert len(await timed.received()) == 1


async def test_mute_that_outlasts_a_pause_holds_the_delivery_again(timed: Herald) -> None:
    ada = await add_person(timed)
    pause_end = (now(timed) + timedelta(hours=1)).replace(second=0, microsecond=0)
    mute_end = pause_end + timedelta(hours=1)
    await set_preferences(timed, ada, paused_until=pause_end, mutes=Preferences().mute("t", mute_end, now(timed)).mutes)
    submitted = await timed.submit(user(ada), thread={"key": "t"})
    await timed.handle_messages()
    assert (await timed.row(submitted, f"u:{ada.object_id}"))["reason"] == "paused"
    await timed.advance_clock((pause_end - now(timed)).total_seconds() + 61)
    row = await timed.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("queued", "muted")
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 1}


async def test_held_deliveries_can_expire_and_be_cancelled(timed: Herald) -> None:
    ada = await add_person(timed)
    end = now(timed) + timedelta(hours=3)
    await set_preferences(timed, ada, paused_until=end)
    expired = await timed.submit(user(ada), expiresAt=(now(timed) + timedelta(hours=1)).isoformat())
    cancelled = await timed.submit(user(ada))
    await timed.handle_messages()
    await timed.command("cancel", cancelled)
    await timed.run_until_idle()
    assert await timed.counts(expired) == {"expired": 1}
    assert await timed.counts(cancelled) == {"cancelled": 1}
    assert not await timed.received()


async def test_duplicate_message_holds_a_delivery_once(timed: Herald) -> None:
    ada = await add_person(timed)
    await set_preferences(timed, ada, paused_until=now(timed) + timedelta(hours=1))
    submitted = await timed.submit(user(ada))
    message = await timed.message(submitted, f"u:{ada.object_id}")
    await timed.handle_messages()
    for _ in range(2):
        await timed.services.queues.enqueue_delivery(message)
    await timed.handle_messages()
    assert len(await timed.services.held_deliveries.list(timed.tenant, f"u:{ada.object_id}", 10)) == 1
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 1}
    assert len(await timed.received()) == 1


async def test_preferences_may_be_stored_before_the_install(timed: Herald) -> None:
    ada = await add_person(timed)
    other = "00000000-0000-4000-8000-000000000001"
    await timed.services.conversations.change_preferences(
        timed.tenant, ReferenceKind.USER, other, lambda old: replace(old, time_zone="Asia/Tokyo")
    )
    people, _ = await timed.services.conversations.list_people(timed.tenant, "", 100, timed.clock())
    assert other not in people
    known = await timed.services.conversations.get(timed.tenant, ReferenceKind.USER, other)
    assert known
    assert known.preferences.time_zone == "Asia/Tokyo"
    await timed.store_reference(ada)  # an install keeps them
    await set_preferences(timed, ada, locale="de")
    await timed.store_reference(ada, name="Ada again")
    after = await timed.services.conversations.get(timed.tenant, ReferenceKind.USER, ada.object_id)
    assert after
    assert (after.preferences.locale, after.name) == ("de", "Ada again")
