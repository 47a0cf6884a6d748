"""What people want decides at the moment of sending, and what their wishes held goes out when they end."""

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


async def one(herald: Herald) -> PersonView:
    await herald.grow(people=1)
    [ada] = await herald.people(1)
    return ada


async def prefer(herald: Herald, person: PersonView, **wishes: Any) -> Preferences:
    return await herald.services.conversations.prefer(
        herald.tenant, ReferenceKind.USER, person.object_id, lambda old: replace(old, **wishes)
    )


async def reconsider(herald: Herald, person: PersonView) -> None:
    await herald.services.queues.enqueue_recipient(
        RecipientTask(herald.tenant, f"u:{person.object_id}", Task.RECONSIDER)
    )
    await herald.send()


def now(herald: Herald) -> datetime:
    return herald.clock().astimezone(UTC)


async def test_what_nobody_wants_is_suppressed_and_its_row_says_by_which_rule(timed: Herald) -> None:
    ada = await one(timed)
    await prefer(timed, ada, categories={"builds": Mode.OFF})
    asked, other = await timed.ask(user(ada)), await timed.ask(user(ada), category="news")
    await timed.send()
    row = await timed.row(asked, f"u:{ada.object_id}")
    assert (row["state"], row["reason"], row["rule"]) == ("suppressed", "optedOut", "optedOut")
    assert (await timed.row(other, f"u:{ada.object_id}"))["rule"] == "send"
    assert len(await timed.received()) == 1


@pytest.mark.parametrize("command", ["cancel", "recall"])
@pytest.mark.parametrize(
    "wishes", [{"categories": {"builds": Mode.DIGEST}}, {"paused_until": FOREVER}, {"quiet": "00:00-23:59"}]
)
async def test_what_waits_for_its_recipient_ends_when_it_is_called_off(
    timed: Herald, command: str, wishes: dict[str, Any]
) -> None:
    ada = await one(timed)
    await prefer(timed, ada, **wishes)
    off, other = await timed.ask(user(ada)), await timed.ask(user(ada))
    await timed.send()
    await timed.command(command, off)
    await timed.wait(SWEEP_DELAY_SECONDS + 1)
    assert await timed.counts(off) == {"cancelled": 1}
    assert (await timed.now(off)).counts == '{"cancelled":1}'
    [left] = await timed.services.held_deliveries.of(timed.tenant, f"u:{ada.object_id}", 10)
    assert left.delivery.notification == other.key
    assert await timed.counts(other) == {"open": 1}


async def test_what_waits_for_everyone_s_own_time_ends_when_it_is_called_off(timed: Herald) -> None:
    await timed.grow(people=5)
    people = await timed.people(5)
    at = (now(timed) + timedelta(days=2)).strftime("%Y-%m-%dT%H:%M")
    schedule = {"at": at, "timeZone": "recipient"}
    asked = await timed.ask(*map(user, people), schedule=schedule)
    due = (await timed.now(asked)).due
    assert due
    await timed.wait((due - now(timed)).total_seconds() + 1)
    assert await timed.counts(asked) == {"open": 5}
    await timed.command("cancel", asked)
    await timed.wait(SWEEP_DELAY_SECONDS + 1)
    assert await timed.counts(asked) == {"cancelled": 5}
    await timed.run()
    assert await timed.received() == []


async def test_a_wish_that_comes_between_queueing_and_sending_counts(timed: Herald) -> None:
    ada = await one(timed)
    asked = await timed.ask(user(ada))
    assert await timed.waiting(DELIVERIES) == 1
    await prefer(timed, ada, stopped=True)
    await timed.send()
    assert await timed.counts(asked) == {"suppressed": 1}


async def test_who_set_it_off_is_not_told(timed: Herald) -> None:
    ada = await one(timed)
    actor = {"title": "Done", "actor": {"name": "Ada", "user": ada.object_id.upper()}}
    asked = await timed.ask(user(ada), content=actor)
    await timed.send()
    assert (await timed.row(asked, f"u:{ada.object_id}"))["reason"] == "ownAction"
    await prefer(timed, ada, own_actions=True)
    again = await timed.ask(user(ada), content=actor)
    await timed.send()
    assert await timed.counts(again) == {"sent": 1}


@pytest.mark.parametrize("held_by", ["pause", "mute", "quiet"])
async def test_what_a_wish_held_goes_out_when_it_ends_and_once(timed: Herald, held_by: str) -> None:
    ada = await one(timed)
    end = (now(timed) + timedelta(hours=2)).replace(second=0, microsecond=0)
    if held_by == "pause":
        await prefer(timed, ada, paused_until=end)
    elif held_by == "mute":
        await prefer(timed, ada, mutes=Preferences().mute("t", end, now(timed)).mutes)
    else:
        start = end - timedelta(hours=4)
        await prefer(timed, ada, quiet=f"{start:%H:%M}-{end:%H:%M}", time_zone="UTC")
    asked = await timed.ask(user(ada), thread={"key": "t"})
    await timed.send()
    assert await timed.counts(asked) == {"open": 1}
    await timed.wait((end - now(timed)).total_seconds() - 90)
    assert not await timed.received()
    await timed.run()
    assert await timed.counts(asked) == {"sent": 1}
    assert len(await timed.received()) == 1
    assert not await timed.services.held_deliveries.of(timed.tenant, f"u:{ada.object_id}", 10)


async def test_who_goes_on_early_gets_at_once_what_the_pause_held(timed: Herald) -> None:
    ada = await one(timed)
    await prefer(timed, ada, paused_until=FOREVER)
    asked = await timed.ask(user(ada))
    await timed.wait(timedelta(days=30).total_seconds())
    assert await timed.counts(asked) == {"open": 1}
    await prefer(timed, ada, paused_until=None)
    await reconsider(timed, ada)
    assert await timed.counts(asked) == {"sent": 1}


async def test_who_goes_on_while_a_message_is_being_held_gets_it_at_once(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, put = await one(timed), timed.services.held_deliveries.put

    async def too_late(tenant: str, item: HeldDelivery) -> None:
        await prefer(timed, ada, paused_until=None)
        await release(timed.services, RecipientTask(tenant, f"u:{ada.object_id}", Task.RECONSIDER))
        await put(tenant, item)

    await prefer(timed, ada, paused_until=FOREVER)
    asked = await timed.ask(user(ada))
    monkeypatch.setattr(timed.services.held_deliveries, "put", too_late)
    await timed.run()
    assert await timed.counts(asked) == {"sent": 1}
    assert len(await timed.received()) == 1


async def test_a_wish_that_follows_another_is_kept_too(timed: Herald) -> None:
    ada = await one(timed)
    pause = (now(timed) + timedelta(hours=1)).replace(second=0, microsecond=0)
    mute = pause + timedelta(hours=1)
    await prefer(timed, ada, paused_until=pause, mutes=Preferences().mute("t", mute, now(timed)).mutes)
    asked = await timed.ask(user(ada), thread={"key": "t"})
    await timed.send()
    assert (await timed.row(asked, f"u:{ada.object_id}"))["reason"] == "paused"
    await timed.wait((pause - now(timed)).total_seconds() + 61)
    row = await timed.row(asked, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("queued", "muted")
    await timed.run()
    assert await timed.counts(asked) == {"sent": 1}


async def test_what_waits_can_expire_and_be_called_off(timed: Herald) -> None:
    ada = await one(timed)
    end = now(timed) + timedelta(hours=3)
    await prefer(timed, ada, paused_until=end)
    late = await timed.ask(user(ada), expiresAt=(now(timed) + timedelta(hours=1)).isoformat())
    off = await timed.ask(user(ada))
    await timed.send()
    await timed.command("cancel", off)
    await timed.run()
    assert await timed.counts(late) == {"expired": 1}
    assert await timed.counts(off) == {"cancelled": 1}
    assert not await timed.received()


async def test_a_message_that_comes_twice_holds_once(timed: Herald) -> None:
    ada = await one(timed)
    await prefer(timed, ada, paused_until=now(timed) + timedelta(hours=1))
    asked = await timed.ask(user(ada))
    message = await timed.message(asked, f"u:{ada.object_id}")
    await timed.send()
    for _ in range(2):
        await timed.services.queues.enqueue_delivery(message)
    await timed.send()
    assert len(await timed.services.held_deliveries.of(timed.tenant, f"u:{ada.object_id}", 10)) == 1
    await timed.run()
    assert await timed.counts(asked) == {"sent": 1}
    assert len(await timed.received()) == 1


async def test_preferences_may_come_before_the_person_is_reached(timed: Herald) -> None:
    ada = await one(timed)
    other = "00000000-0000-4000-8000-000000000001"
    await timed.services.conversations.prefer(
        timed.tenant, ReferenceKind.USER, other, lambda old: replace(old, time_zone="Asia/Tokyo")
    )
    people, _ = await timed.services.conversations.people(timed.tenant, "", 100)
    assert other not in people
    known = await timed.services.conversations.get(timed.tenant, ReferenceKind.USER, other)
    assert known
    assert known.preferences.time_zone == "Asia/Tokyo"
    await timed.know(ada)  # an install leaves them as they are
    await prefer(timed, ada, locale="de")
    await timed.know(ada, name="Ada again")
    kept = await timed.services.conversations.get(timed.tenant, ReferenceKind.USER, ada.object_id)
    assert kept
    assert (kept.preferences.locale, kept.name) == ("de", "Ada again")
