"""Digests: at each person's own time, once, with what it says on the card, and what becomes of what they told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest

from local.fake_teams.api import Fault
from notify.control import SETTLED
from notify.delivery import deliver
from shared import telling
from shared.preferences import FOREVER, Mode
from shared.queues import DELIVERIES, PEOPLE, Delivery, Person, Task
from shared.services import Services
from shared.states import DeliveryState
from shared.store import due
from shared.store.conversations import Kind, Status
from shared.store.notifications import Notification
from shared.store.table import Conflict
from shared.store.waiting import Item
from tests.notify.conftest import Herald, user
from tests.timer_digest.digests import ask, came, go_to, one, prefer, texts
from timer_digest import digesting
from timer_digest.choosing import MOST_ALONE, MOST_TOLD, choose, wants_of
from timer_digest.releasing import release
from timer_digest.stories import Case


async def see_to(herald: Herald, recipient: str, task: Task) -> None:
    """Have somebody seen to, with all that follows at once."""
    await herald.services.queues.wake(Person(herald.tenant, recipient, task))
    await herald.send()


async def test_what_waits_goes_out_in_one_card_at_the_local_time(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = [await ask(timed, ada, f"Build {number}") for number in range(3)]
    await go_to(timed, "2026-11-24T07:59:30")
    assert await came(timed, ada) == []
    assert [await timed.counts(each) for each in asked] == [{"open": 1}] * 3
    await go_to(timed, "2026-11-24T08:00:30")
    [digest] = await came(timed, ada)
    assert [text for text in texts(digest) if text.startswith("Build")] == ["Build 2", "Build 1", "Build 0"]
    assert [await timed.counts(each) for each in asked] == [{"digested": 1}] * 3
    for each in asked:
        row = await timed.row(each, f"u:{ada.object_id}")
        assert (row["state"], row["reason"], row["rule"]) == ("digested", "", "digest")
        assert (await timed.now(each)).state == "finished"
    assert await timed.services.waiting.of(timed.tenant, f"u:{ada.object_id}", 10) == []


async def test_there_is_one_each_day_with_what_came_since(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    for day in (24, 25, 26):
        await ask(timed, ada, f"Build {day}")
        await go_to(timed, f"2026-11-{day}T08:01")
        assert f"Build {day}" in texts((await came(timed, ada))[-1])
        await go_to(timed, f"2026-11-{day}T18:00")
    assert len(await came(timed, ada)) == 3


async def test_an_empty_one_is_not_sent(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada, expiresAt="2026-11-23T12:00:00Z")
    off = await ask(timed, ada)
    await timed.command("cancel", off)
    await go_to(timed, "2026-11-24T08:01")
    assert await came(timed, ada) == []
    assert (await timed.counts(asked), await timed.counts(off)) == ({"expired": 1}, {"cancelled": 1})
    await timed.run()
    assert await came(timed, ada) == []


async def test_what_expired_or_was_called_off_is_not_in_it(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    late = await ask(timed, ada, "Late", expiresAt="2026-11-23T12:00:00Z")
    off, told = await ask(timed, ada, "Off"), await ask(timed, ada, "Told")
    await timed.command("cancel", off)
    await go_to(timed, "2026-11-24T08:01")
    [digest] = await came(timed, ada)
    assert "Told" in texts(digest)
    assert not {"Late", "Off"} & set(texts(digest))
    found = [await timed.counts(each) for each in (late, off, told)]
    assert found == [{"expired": 1}, {"cancelled": 1}, {"digested": 1}]


async def test_the_wish_at_the_moment_of_the_digest_decides(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00", categories={"builds": Mode.DIGEST, "news": Mode.DIGEST})
    build, news = await ask(timed, ada, "Build 1"), await ask(timed, ada, "News 1", category="news")
    await prefer(timed, ada, categories={"builds": Mode.OFF, "news": Mode.IMMEDIATE})
    await go_to(timed, "2026-11-24T08:01")
    [alone] = await came(timed, ada)
    assert alone.activity["summary"] == "News 1"
    assert (await timed.counts(build), await timed.counts(news)) == ({"suppressed": 1}, {"sent": 1})


async def test_a_pause_puts_the_digest_off_to_its_end(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada)
    await prefer(timed, ada, paused_until=datetime(2026, 11, 25, 12, tzinfo=UTC))
    for when in ("24T08:01", "25T08:01"):
        await go_to(timed, f"2026-11-{when}")
        assert await came(timed, ada) == []
    await go_to(timed, "2026-11-25T12:01")
    assert len(await came(timed, ada)) == 1
    assert await timed.counts(asked) == {"digested": 1}


async def test_quiet_hours_over_the_slot_put_the_digest_off_to_their_end(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00", quiet="20:00-10:30")
    await ask(timed, ada)
    await go_to(timed, "2026-11-24T09:29:30")
    assert await came(timed, ada) == []
    await go_to(timed, "2026-11-24T09:31")
    assert len(await came(timed, ada)) == 1
    state = await timed.services.waiting.digest(timed.tenant, f"u:{ada.object_id}")
    assert state.last == date(2026, 11, 24)


async def test_of_a_thread_only_the_newest_state_is_told(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    thread = {"key": "build/42", "onRepeat": "update"}
    asked = [await ask(timed, ada, f"State {number}", thread=thread) for number in range(4)]
    await ask(timed, ada, "Another")
    await go_to(timed, "2026-11-24T08:01")
    [digest] = await came(timed, ada)
    told = texts(digest)
    assert "State 3" in told
    assert not {"State 0", "State 1", "State 2"} & set(told)
    assert any("4 updates" in text for text in told)
    assert told[0] == "Digest: 5 notifications"
    assert [await timed.counts(each) for each in asked] == [{"digested": 1}] * 4


async def test_what_is_older_than_what_its_thread_showed_is_superseded(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00", categories={"builds": Mode.DIGEST, "pager": Mode.IMMEDIATE})
    old = await ask(timed, ada, "Old", thread={"key": "t"})
    timed.clock.moved += timedelta(minutes=1)
    await ask(timed, ada, "New", thread={"key": "t"}, category="pager")
    await go_to(timed, "2026-11-24T08:01")
    assert [each.activity["summary"] for each in await came(timed, ada)] == ["New"]
    assert await timed.counts(old) == {"superseded": 1}
    assert (await timed.now(old)).state == "finished"


async def test_what_is_only_simulated_is_not_told(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada, simulate=True)
    await go_to(timed, "2026-11-24T08:01")
    assert await came(timed, ada) == []
    assert await timed.counts(asked) == {"simulated": 1}


@pytest.mark.parametrize("count", [MOST_ALONE, MOST_ALONE + 1])
async def test_more_than_five_that_a_pause_held_are_one_digest(timed: Herald, count: int) -> None:
    ada = await one(timed, "2026-11-23T10:00", paused_until=datetime(2026, 11, 24, 7, tzinfo=UTC))
    asked = [await ask(timed, ada, f"News {number}", category="news") for number in range(count)]
    build = await ask(timed, ada, "Build 1")
    await go_to(timed, "2026-11-24T06:59")
    await go_to(timed, "2026-11-24T07:01")
    digest = count > MOST_ALONE
    assert len(await came(timed, ada)) == (1 if digest else count)
    ended = {"digested": 1} if digest else {"sent": 1}
    assert [await timed.counts(each) for each in asked] == [ended] * count
    # The regular one of that day still comes.
    assert await timed.counts(build) == {"open": 1}
    await go_to(timed, "2026-11-24T08:01")
    assert "Build 1" in texts((await came(timed, ada))[-1])


async def test_a_pause_that_ends_at_the_slot_makes_one_digest_of_both(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    await ask(timed, ada, "Build 1")
    await prefer(timed, ada, paused_until=datetime(2026, 11, 24, 8, tzinfo=UTC))
    for number in range(6):
        await ask(timed, ada, f"News {number}", category="news")
    await go_to(timed, "2026-11-24T07:59")
    await go_to(timed, "2026-11-24T08:01")
    [digest] = await came(timed, ada)
    assert {"Build 1", "News 0", "News 5"} <= set(texts(digest))


async def test_who_asks_has_it_at_once_in_quiet_hours_too_and_the_regular_one_besides(timed: Herald) -> None:
    ada = await one(timed, "2026-11-24T06:00", quiet="22:00-08:00")
    await prefer(timed, ada, quiet="")
    await ask(timed, ada, "Early")
    await prefer(timed, ada, quiet="22:00-08:00")
    await see_to(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    assert len(await came(timed, ada)) == 1
    await prefer(timed, ada, quiet="")
    await ask(timed, ada, "Regular")
    await go_to(timed, "2026-11-24T08:01")
    assert ["Early" in texts(each) for each in await came(timed, ada)] == [True, False]
    assert "Regular" in texts((await came(timed, ada))[1])


@pytest.mark.parametrize(
    ("held", "reason"), [({"paused_until": FOREVER}, "paused"), ({"quiet": "00:00-23:59"}, "quietHours")]
)
async def test_who_asks_has_what_a_pause_or_quiet_hours_hold_for_the_digest_and_nothing_else(
    timed: Herald, held: dict[str, Any], reason: str
) -> None:
    ada = await one(timed, "2026-11-24T06:00", **held)
    asked = [await ask(timed, ada, f"Build {number}") for number in range(2)]
    off, muted = await ask(timed, ada, "Off"), await ask(timed, ada, "Muted", thread={"key": "muted"})
    news = [await ask(timed, ada, f"News {number}", category="news") for number in range(MOST_ALONE + 1)]
    assert (await timed.row(asked[0], f"u:{ada.object_id}"))["reason"] == reason
    await timed.command("cancel", off)
    await timed.services.conversations.prefer(
        timed.tenant, Kind.USER, ada.object_id, lambda old: old.mute("muted", FOREVER, timed.clock())
    )
    await see_to(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    [digest] = await came(timed, ada)
    assert texts(digest)[0] == "Digest: 2 notifications"
    assert [await timed.counts(each) for each in asked] == [{"digested": 1}] * 2
    assert [await timed.counts(each) for each in (*news, muted)] == [{"open": 1}] * (MOST_ALONE + 2)
    left = await timed.services.waiting.of(timed.tenant, f"u:{ada.object_id}", 100)
    assert {item.delivery.notification for item in left} == {each.key for each in (*news, muted)}
    await see_to(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    assert len(await came(timed, ada)) == 1


async def test_who_asks_has_it_also_behind_much_that_is_not_meant_for_it(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.early.PAGE", 2)
    ada = await one(timed, "2026-11-24T06:00", paused_until=FOREVER)
    news = [await ask(timed, ada, f"News {number}", category="news") for number in range(5)]
    timed.clock.moved += timedelta(seconds=5)
    builds = [await ask(timed, ada, f"Build {number}") for number in range(5)]
    await see_to(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    assert [await timed.counts(each) for each in builds] == [{"digested": 1}] * 5
    assert [await timed.counts(each) for each in news] == [{"open": 1}] * 5
    assert len(await timed.services.waiting.of(timed.tenant, f"u:{ada.object_id}", 100)) == 5


async def card_on_its_way(timed: Herald) -> Delivery:
    """Let it be half a minute past nine in Berlin of the 24th, and the digest be made; returns its card's message."""
    timed.clock.moved += datetime(2026, 11, 24, 8, 0, 30, tzinfo=UTC) - timed.clock()
    await timed.tick()
    await timed._drain(PEOPLE, lambda body: release(timed.services, Person.decode(body)))
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
    await timed._drain(PEOPLE, lambda body: release(timed.services, Person.decode(body)))
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
    await release(timed.services, Person(timed.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW))
    await deliver(timed.services, card)
    assert await timed.counts(second) == {"open": 1}
    await timed.send()
    assert await timed.counts(second) == {"digested": 1}


async def failed_before_it_was_settled(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> tuple[Notification, Delivery]:
    """What a digest told that failed, whose end was written down, but not that the digest is settled; and its card."""
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada)
    await timed.teams.fault(Fault(operation="send", person=ada.object_id, status=400, code="Bad Argument", count=1))
    card = await card_on_its_way(timed)
    with monkeypatch.context() as dying:
        dying.setattr(timed.services.waiting, "move_digest", AsyncMock(side_effect=RuntimeError))
        with pytest.raises(RuntimeError):
            await deliver(timed.services, card)
    assert await timed.counts(asked) == {"failed": 1}
    await timed.outside_queues.get_queue_client(DELIVERIES).clear_messages()
    await timed.command("redrive", asked)
    return asked, card


async def test_what_is_tried_again_before_the_digest_that_told_it_is_settled_waits_for_the_next_one(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, card = await failed_before_it_was_settled(timed, monkeypatch)
    await deliver(timed.services, card)
    await go_to(timed, "2026-11-25T08:01")
    assert await timed.counts(asked) == {"digested": 1}


async def test_who_settles_a_digest_too_late_ends_nothing_that_the_next_one_keeps(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, card = await failed_before_it_was_settled(timed, monkeypatch)
    services = timed.services
    digests = await services.waiting.digest(timed.tenant, card.recipient)
    await deliver(services, card)
    await release(services, Person(timed.tenant, card.recipient, Task.DIGEST_NOW))
    assert (await timed.row(asked, card.recipient))["rule"] == "digest 2"
    with pytest.raises(Conflict):
        await telling.settle(services, timed.tenant, card.recipient, digests, [], DeliveryState.FAILED, None)
    assert await timed.counts(asked) == {"open": 1}
    await timed.send()
    assert await timed.counts(asked) == {"digested": 1}


async def test_what_comes_while_it_is_sent_is_in_the_next_one(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    await ask(timed, ada, "Before")
    timed.clock.moved += timedelta(hours=22, seconds=30)
    await timed.tick()
    await timed._drain(PEOPLE, lambda body: release(timed.services, Person.decode(body)))
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
    person = Person(timed.tenant, f"u:{ada.object_id}", Task.DIGEST)
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
    await timed._drain(PEOPLE, lambda body: release(timed.services, Person.decode(body)))
    await prefer(timed, ada, categories={})  # it would be sent alone now
    await deliver(timed.services, Delivery(asked.key, "0", f"u:{ada.object_id}", "", 0))
    await see_to(timed, f"u:{ada.object_id}", Task.RECONSIDER)
    await timed.run()
    assert len(await came(timed, ada)) == 1
    assert await timed.counts(asked) == {"digested": 1}


async def test_a_new_zone_moves_the_next_one_and_gives_no_date_two(timed: Herald) -> None:
    ada = await one(timed, "2026-11-24T07:00", time_zone="Asia/Tokyo", digest="daily 18:00")
    await ask(timed, ada, "Tokyo")
    await go_to(timed, "2026-11-24T09:01")
    assert len(await came(timed, ada)) == 1
    # Nine hours to the west it is 10:00 of the same date: 18:00 comes again.
    await prefer(timed, ada, time_zone="Europe/London")
    await ask(timed, ada, "London")
    await go_to(timed, "2026-11-25T17:59")
    assert len(await came(timed, ada)) == 1
    await go_to(timed, "2026-11-25T18:01")
    assert len(await came(timed, ada)) == 2


async def test_a_zone_that_changes_before_the_slot_moves_it(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T20:00")
    await ask(timed, ada)
    await prefer(timed, ada, time_zone="America/New_York")
    await go_to(timed, "2026-11-24T13:59")
    assert await came(timed, ada) == []
    await go_to(timed, "2026-11-24T14:01")
    assert len(await came(timed, ada)) == 1


async def test_a_new_time_moves_the_next_one_and_gives_no_date_two(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    await ask(timed, ada, "First")
    await go_to(timed, "2026-11-24T08:01")
    await prefer(timed, ada, digest="daily 12:00")
    await see_to(timed, f"u:{ada.object_id}", Task.RECONSIDER)
    await ask(timed, ada, "Second")
    await go_to(timed, "2026-11-24T22:00")
    assert len(await came(timed, ada)) == 1
    await go_to(timed, "2026-11-25T11:01")
    assert len(await came(timed, ada)) == 2


async def test_without_digests_any_more_what_waited_comes_alone(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada)
    await prefer(timed, ada, digest="off")
    await go_to(timed, "2026-11-24T08:01")
    assert await timed.counts(asked) == {"sent": 1}


@pytest.mark.parametrize(
    ("before", "slot"),
    [
        pytest.param("2027-03-27T20:00", "2027-03-28T01:00", id="the clocks skip it"),
        pytest.param("2026-10-24T20:00", "2026-10-25T00:30", id="the clocks show it twice"),
    ],
)
async def test_a_night_in_which_the_clocks_change_has_one(timed: Herald, before: str, slot: str) -> None:
    ada = await one(timed, before, digest="daily 02:30")
    asked = await ask(timed, ada)
    at = datetime.fromisoformat(slot)
    await go_to(timed, (at - timedelta(seconds=30)).isoformat())
    assert await came(timed, ada) == []
    await go_to(timed, (at + timedelta(seconds=30)).isoformat())
    assert await timed.counts(asked) == {"digested": 1}
    again = await ask(timed, ada)
    await go_to(timed, (at + timedelta(hours=12)).isoformat())
    assert await timed.counts(again) == {"open": 1}


async def test_after_an_outage_there_is_one_for_all_its_days(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    await ask(timed, ada)
    timed.clock.moved += timedelta(days=3)
    await timed.tick()
    await timed.send()
    assert len(await came(timed, ada)) == 1
    await ask(timed, ada)
    await go_to(timed, "2026-11-27T08:01")
    assert len(await came(timed, ada)) == 2


async def test_what_is_told_too_late_is_for_the_date_of_its_slot(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00", digest="daily 23:59")
    await ask(timed, ada, "First")
    timed.clock.moved += datetime(2026, 11, 23, 23, 3, tzinfo=UTC) - timed.clock()  # 00:03 in Berlin
    await timed.tick()
    await timed.send()
    assert len(await came(timed, ada)) == 1
    await ask(timed, ada, "Second")
    await go_to(timed, "2026-11-24T22:59:30")
    assert len(await came(timed, ada)) == 2


@pytest.mark.parametrize("most", [10, pytest.param(MOST_TOLD, marks=pytest.mark.full)])
async def test_what_is_too_much_for_one_comes_when_it_is_asked_for(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("timer_digest.choosing.MOST_TOLD", most)
    ada = await one(timed, "2026-11-23T10:00")
    asked = [await timed.ask(user(ada), content={"title": f"Build {n}"}) for n in range(most + 3)]
    await timed.send()
    await go_to(timed, "2026-11-24T08:01")
    [digest] = await came(timed, ada)
    assert texts(digest)[0] == f"Digest: {most} notifications"
    assert any("and 3 more" in text for text in texts(digest))
    await see_to(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    [_, rest] = await came(timed, ada)
    assert texts(rest)[0] == "Digest: 3 notifications"
    told = [text for each in (digest, rest) for text in texts(each) if text.startswith("Build ")]
    assert sorted(told) == sorted(f"Build {n}" for n in range(most + 3))
    assert [await timed.counts(each) for each in asked] == [{"digested": 1}] * (most + 3)


async def test_it_speaks_the_language_that_its_reader_chose(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00", locale="de")
    await ask(timed, ada, "Build 1")
    await go_to(timed, "2026-11-24T08:01")
    [digest] = await came(timed, ada)
    assert texts(digest)[0] == "Übersicht: 1 Mitteilung"


async def test_what_does_not_fit_on_the_card_stays_for_the_next_one(timed: Herald) -> None:
    object.__setattr__(timed.services.settings, "max_activity_kb", 12)
    ada = await one(timed, "2026-11-23T10:00")
    long = {"link": {"title": "Open", "url": "https://ci.example/" + "x" * 470}}
    asked = [await ask(timed, ada, f"Build {number}", content=long) for number in range(12)]
    asked.append(await ask(timed, ada, "Build 12", content=long, priority="urgent"))
    await timed.run()
    found = await came(timed, ada)
    assert len(found) == 2
    assert next(text for text in texts(found[0]) if text.startswith("Build ")) == "Build 12"
    assert any("in the next digest" in text for text in texts(found[0]))
    told = [text for each in found for text in texts(each) if text.startswith("Build ")]
    assert sorted(told) == sorted(f"Build {number}" for number in range(13))
    assert [await timed.counts(each) for each in asked] == [{"digested": 1}] * 13


async def test_what_did_not_fit_can_be_called_off(timed: Herald) -> None:
    object.__setattr__(timed.services.settings, "max_activity_kb", 12)
    ada = await one(timed, "2026-11-23T10:00")
    long = {"link": {"title": "Open", "url": "https://ci.example/" + "x" * 470}}
    asked = [await ask(timed, ada, f"Build {number}", content=long) for number in range(12)]
    await go_to(timed, "2026-11-24T08:01")
    [left, *_] = [each for each in asked if await timed.counts(each) == {"open": 1}]
    await timed.command("cancel", left)
    await timed.wait(SETTLED + 1)
    assert await timed.counts(left) == {"cancelled": 1}


async def test_where_less_can_be_told_than_was_planned_the_rest_is_told(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = [await ask(timed, ada, f"Build {number}") for number in range(3)]
    keep = digesting._keep

    async def lose(services: Services, person: Person, number: int, item: Item, case: Case) -> Case | None:
        if item.delivery.notification == asked[1].key:  # just now somebody else lets it go
            known = await services.deliveries.get(item.delivery)
            assert known
            await digesting.free(services, item.delivery, known)
        return await keep(services, person, number, item, case)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(digesting, "_keep", lose)
        timed.clock.moved += timedelta(hours=22, seconds=30)
        await timed.tick()
        await timed._drain(PEOPLE, lambda body: release(timed.services, Person.decode(body)))
    await timed.send()
    [digest] = await came(timed, ada)
    assert texts(digest)[0] == "Digest: 2 notifications"
    await timed.run()
    assert [await timed.counts(each) for each in asked] == [{"digested": 1}] * 3


async def test_who_has_uninstalled_gets_none_and_its_items_say_so(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada)
    await timed.services.conversations.save(
        timed.tenant, Kind.USER, ada.object_id, {}, at=timed.clock(), status=Status.UNINSTALLED
    )
    await go_to(timed, "2026-11-24T08:01")
    row = await timed.row(asked, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("suppressed", "notInstalled")
    assert (await timed.now(asked)).state == "finished"
    assert await timed.services.waiting.of(timed.tenant, f"u:{ada.object_id}", 10) == []


async def test_what_a_failed_digest_told_has_failed_and_can_be_tried_again(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada)
    await timed.teams.fault(Fault(operation="send", person=ada.object_id, status=400, code="Bad Argument", count=1))
    await go_to(timed, "2026-11-24T08:01")
    row = await timed.row(asked, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("failed", "badRequest")
    await timed.command("redrive", asked)
    await go_to(timed, "2026-11-25T08:01")
    assert await timed.counts(asked) == {"digested": 1}
    assert len(await came(timed, ada)) == 1


async def test_a_digest_whose_end_nobody_told_is_settled_with_the_next_slot(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    first = await ask(timed, ada)
    timed.clock.moved += timedelta(hours=22, seconds=30)
    await timed.tick()
    await timed._drain(PEOPLE, lambda body: release(timed.services, Person.decode(body)))
    monkeypatch.setattr("shared.telling.over", AsyncMock())
    await timed._drain(DELIVERIES, lambda body: deliver(timed.services, Delivery.decode(body)))
    monkeypatch.undo()
    assert await timed.counts(first) == {"open": 1}
    await go_to(timed, "2026-11-25T08:01")
    assert await timed.counts(first) == {"digested": 1}
    assert len(await came(timed, ada)) == 1


async def test_a_channel_has_its_digest_by_its_own_wishes(timed: Herald) -> None:
    timed.clock.moved += datetime(2026, 11, 23, 10, tzinfo=UTC) - timed.clock()
    [team] = (await timed.grow(teams=1)).teams
    channel = team.channels[0].id
    await timed.teams.set_installed([team.id])
    await know_channel(timed, team.id, channel)
    await timed.services.conversations.prefer(
        timed.tenant, Kind.CONVERSATION, channel, lambda old: old.with_mode("builds", Mode.DIGEST)
    )
    place = {"channel": {"teamId": team.id, "channelId": channel}}
    asked = [await timed.ask(place, content={"title": f"Build {number}"}) for number in range(2)]
    await timed.send()
    assert await timed.received() == []
    await go_to(timed, "2026-11-24T09:01")
    [digest] = await timed.received()
    assert {"Build 0", "Build 1"} <= set(texts(digest))
    assert [await timed.counts(each) for each in asked] == [{"digested": 1}] * 2


async def know_channel(herald: Herald, team: str, channel: str) -> None:
    seen = {"service_url": herald.teams.service_url, "conversation_type": "channel", "team": team}
    save = herald.services.conversations.save
    await save(herald.tenant, Kind.CONVERSATION, channel, seen, at=herald.clock(), status=Status.ACTIVE)
    installed = {"service_url": herald.teams.service_url}
    await save(herald.tenant, Kind.TEAM, team, installed, at=herald.clock(), status=Status.ACTIVE)


@pytest.mark.parametrize(
    "wants",
    [{"digest": "daily 10:00"}, {"categories": {}, "quiet": "20:00-10:00"}],
    ids=["for a digest", "after quiet hours"],
)
async def test_who_is_woken_by_a_clock_that_is_ahead_of_the_next_is_not_forgotten(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, wants: dict[str, object]
) -> None:
    ada = await one(timed, "2026-11-23T09:50", time_zone="UTC", **wants)
    await ask(timed, ada)
    await go_to(timed, "2026-11-23T09:59:30")
    timed.clock.moved += timedelta(seconds=30)
    late = asyncio.Event()
    monkeypatch.setattr(timed.services.queues, "sweep", lambda *_: late.wait())  # of a waking of the same minute
    await timed.services.due.put(timed.clock(), due.WATCH, "f" * 64)
    ticking = asyncio.create_task(timed.tick())
    behind = replace(timed.services, clock=lambda: timed.clock() - timedelta(seconds=1))
    while not await timed._drain(PEOPLE, lambda body: release(behind, Person.decode(body))):
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
    person = Person(timed.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW)

    async def plan() -> Callable[[], Coroutine[None, None, None]]:
        items, state = await services.waiting.ready(person.tenant, person.recipient, services.clock(), 100)
        wants = await wants_of(services, person)
        chosen = await choose(services, person, wants, state.last, items)
        return lambda: digesting.send(services, person, state, chosen, wants)

    await ask(timed, ada, "Build 1")
    first = await plan()
    await ask(timed, ada, "Build 2")
    sleeper = await plan()
    await first()
    await timed.send()
    second, move = await plan(), services.waiting.move_digest
    kept, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(*state: Any) -> str:
        kept.set()
        await goes_on.wait()
        return await move(*state)

    monkeypatch.setattr(services.waiting, "move_digest", slow)
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
    told = [text for each in await came(timed, ada) for text in texts(each)]
    assert [told.count("Build 1"), told.count("Build 2")] == [1, 1]


async def channel_with_a_thread(herald: Herald, **wants: Any) -> tuple[str, str]:
    """Recipients that are a channel, with these wishes, and a thread in it."""
    herald.clock.moved += datetime(2026, 11, 23, 10, tzinfo=UTC) - herald.clock()
    [team] = (await herald.grow(teams=1)).teams
    channel = team.channels[0].id
    await herald.teams.set_installed([team.id])
    await know_channel(herald, team.id, channel)
    await herald.ask({"conversation": channel}, content={"title": "Root"})
    await herald.send()
    [root] = await herald.received()
    await herald.services.conversations.prefer(
        herald.tenant, Kind.CONVERSATION, channel, lambda old: replace(old, **wants)
    )
    return f"c:{channel}", f"c:{channel};messageid={root.id}"


async def test_what_goes_to_a_thread_waits_with_its_channel(timed: Herald) -> None:
    channel, thread = await channel_with_a_thread(timed, paused_until=FOREVER)
    asked = await timed.ask(*({"conversation": each[2:]} for each in (channel, thread)))
    await timed.send()
    assert len(await timed.services.waiting.of(timed.tenant, channel, 10)) == 2
    await timed.services.conversations.prefer(
        timed.tenant, Kind.CONVERSATION, channel[2:], lambda old: replace(old, paused_until=None)
    )
    await see_to(timed, channel, Task.RECONSIDER)
    assert await timed.counts(asked) == {"sent": 2}
    assert await timed.services.waiting.of(timed.tenant, channel, 10) == []


async def test_what_goes_to_a_thread_is_in_the_digest_of_its_channel(timed: Herald) -> None:
    channel, thread = await channel_with_a_thread(timed, categories={"builds": Mode.DIGEST})
    both = await timed.ask(*({"conversation": each[2:]} for each in (channel, thread)), content={"title": "Both"})
    alone = await timed.ask({"conversation": thread[2:]}, content={"title": "In a thread"})
    await timed.send()
    await go_to(timed, "2026-11-24T09:01")
    [_, digest] = await timed.received()
    assert {"Both", "In a thread"} <= set(texts(digest))
    assert await timed.counts(both) == {"digested": 2}
    assert await timed.counts(alone) == {"digested": 1}
    assert await timed.services.waiting.of(timed.tenant, channel, 10) == []


async def test_what_waits_for_something_else_does_not_stand_behind_much_that_waits_for_a_digest(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timer_digest.releasing.MOST", 3)
    ada = await one(timed, "2026-11-23T10:00", digest="weekly sun 09:00", quiet="20:00-06:00")
    for number in range(4):
        await ask(timed, ada, f"Build {number}")
    timed.clock.moved += timedelta(hours=11)
    alerts = [await ask(timed, ada, f"Alert {number}", category="alerts") for number in range(4)]
    own = {"at": "2026-11-24T08:00", "timeZone": "recipient"}
    alerts.append(await ask(timed, ada, "At eight", category="alerts", schedule=own))
    await go_to(timed, "2026-11-24T07:01")
    assert [await timed.counts(each) for each in alerts] == [{"sent": 1}] * 5


@pytest.mark.parametrize(
    ("change", "at"),
    [({"digest": "daily 17:00"}, "2026-11-24T16:01"), ({"time_zone": "America/New_York"}, "2026-11-24T14:01")],
    ids=["another hour", "another zone"],
)
async def test_a_change_of_hour_or_zone_leaves_nothing_at_the_old_hour(
    timed: Herald, change: dict[str, str], at: str
) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    await ask(timed, ada, "First")
    await go_to(timed, "2026-11-23T19:00")
    await prefer(timed, ada, **change)
    await see_to(timed, f"u:{ada.object_id}", Task.RECONSIDER)
    await go_to(timed, "2026-11-24T08:01")
    await ask(timed, ada, "Second")
    assert await came(timed, ada) == []
    await go_to(timed, at)
    [digest] = await came(timed, ada)
    assert {"First", "Second"} <= set(texts(digest))


@pytest.mark.parametrize("held", [{"paused_until": FOREVER}, {"quiet": "20:00-10:30"}], ids=["a pause", "quiet hours"])
async def test_a_digest_that_something_put_off_comes_once_that_is_called_off(
    timed: Herald, held: dict[str, Any]
) -> None:
    ada = await one(timed, "2026-11-22T10:00", digest="weekly mon 09:00")
    await ask(timed, ada, "Before")
    await prefer(timed, ada, **held)
    await go_to(timed, "2026-11-23T07:00")
    await ask(timed, ada, "Meanwhile")
    await go_to(timed, "2026-11-23T09:00")
    assert await came(timed, ada) == []
    await prefer(timed, ada, quiet="", paused_until=None)
    await see_to(timed, f"u:{ada.object_id}", Task.RECONSIDER)
    [digest] = await came(timed, ada)
    assert {"Before", "Meanwhile"} <= set(texts(digest))


@pytest.mark.parametrize("count", [MOST_ALONE, MOST_ALONE + 1])
async def test_more_than_five_that_a_pause_held_are_one_digest_when_it_is_called_off(timed: Herald, count: int) -> None:
    ada = await one(timed, "2026-11-23T10:00", paused_until=FOREVER)
    asked = [await ask(timed, ada, f"News {number}", category="news") for number in range(count)]
    build = await ask(timed, ada, "Build 1")
    await prefer(timed, ada, paused_until=None)
    await see_to(timed, f"u:{ada.object_id}", Task.RECONSIDER)
    digest = count > MOST_ALONE
    assert len(await came(timed, ada)) == (1 if digest else count)
    assert [await timed.counts(each) for each in asked] == [{"digested" if digest else "sent": 1}] * count
    await go_to(timed, "2026-11-24T08:01")
    assert await timed.counts(build) == {"digested": 1}


async def test_what_one_digest_cannot_tell_when_a_pause_is_called_off_comes_after_it(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timer_digest.choosing.MOST_TOLD", 7)
    ada = await one(timed, "2026-11-23T10:00", paused_until=FOREVER)
    asked = [await ask(timed, ada, f"News {number}", category="news") for number in range(9)]
    await prefer(timed, ada, paused_until=None)
    await see_to(timed, f"u:{ada.object_id}", Task.RECONSIDER)
    digest, *_ = found = await came(timed, ada)
    assert len(found) == 3
    assert not any("more" in text for text in texts(digest))
    assert sum([await timed.counts(each) for each in asked], Counter[str]()) == {"digested": 7, "sent": 2}


async def test_a_wish_that_changes_in_quiet_hours_does_not_lose_the_digest_that_they_put_off(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00", quiet="08:00-10:30")
    await ask(timed, ada)
    await go_to(timed, "2026-11-24T08:30")
    await prefer(timed, ada, own_actions=True)
    await see_to(timed, f"u:{ada.object_id}", Task.RECONSIDER)
    await go_to(timed, "2026-11-24T09:29")
    assert await came(timed, ada) == []
    await go_to(timed, "2026-11-24T09:31")
    assert len(await came(timed, ada)) == 1


async def test_what_was_scheduled_during_a_pause_waits_for_the_first_slot_after_its_time(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    await ask(timed, ada, "Vote", schedule={"at": "2026-11-27T12:00", "timeZone": "Europe/Berlin"})
    await go_to(timed, "2026-11-27T10:00")
    await prefer(timed, ada, paused_until=datetime(2026, 11, 27, 17, tzinfo=UTC))
    await go_to(timed, "2026-11-27T11:01")
    await go_to(timed, "2026-11-27T17:01")
    assert await came(timed, ada) == []
    await go_to(timed, "2026-11-28T08:01")
    assert len(await came(timed, ada)) == 1


async def test_of_too_much_the_urgent_and_the_newest_state_of_a_thread_are_told_first(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timer_digest.choosing.MOST_TOLD", 4)
    ada = await one(timed, "2026-11-23T10:00")
    told = ["Build 0", "Build 1", "State 0", "State 1", "State 2", "Fire"]
    for number, title in enumerate(told):
        thread = {"thread": {"key": "t"}} if title.startswith("State") else {}
        urgent = {"priority": "urgent"} if title == "Fire" else {}
        await ask(timed, ada, title, **thread, **urgent)
        timed.clock.moved += timedelta(minutes=number)
    await go_to(timed, "2026-11-24T08:01")
    [digest] = await came(timed, ada)
    assert [text for text in texts(digest) if text in told] == ["Fire", "State 2"]
    await see_to(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    assert [text for text in texts((await came(timed, ada))[1]) if text in told] == ["Build 1", "Build 0"]


async def test_a_thread_of_more_states_than_a_digest_tells_shows_the_newest_and_no_other_later(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timer_digest.choosing.MOST_TOLD", 3)
    ada = await one(timed, "2026-11-23T10:00")
    asked = []
    for number in range(5):
        asked.append(await ask(timed, ada, f"State {number}", thread={"key": "t"}))
        timed.clock.moved += timedelta(minutes=1)
    await timed.run()
    [digest] = await came(timed, ada)
    assert "State 4" in texts(digest)
    assert [await timed.counts(each) for each in asked] == [{"superseded": 1}] * 2 + [{"digested": 1}] * 3


async def test_what_got_longer_before_its_digest_is_posted_again_waits_for_the_next_one(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    object.__setattr__(timed.services.settings, "max_activity_kb", 16)
    ada = await one(timed, "2026-11-23T10:00")
    asked = [await ask(timed, ada, f"Build {number}") for number in range(20)]
    timed.clock.moved += datetime(2026, 11, 24, 8, 0, 5, tzinfo=UTC) - timed.clock()
    with monkeypatch.context() as dying:
        dying.setattr(digesting, "_post", AsyncMock(side_effect=RuntimeError))
        with pytest.raises(RuntimeError):
            await release(timed.services, Person(timed.tenant, f"u:{ada.object_id}", Task.DIGEST))
    long = {"text": "ö" * 120, "link": {"title": "Open", "url": "https://ci.example/" + "x" * 470}}
    for number, each in enumerate(asked):
        await timed.command("edit", each, content={"title": f"Build {number} " + "Ä" * 100, **long})
    timed.clock.moved += timedelta(seconds=10)
    await see_to(timed, f"u:{ada.object_id}", Task.DIGEST)
    [digest] = await came(timed, ada)
    told = [text for text in texts(digest) if text.startswith("Build ")]
    counts = sum([await timed.counts(each) for each in asked], Counter[str]())
    assert 0 < len(told) < 20
    assert counts == {"digested": len(told), "open": 20 - len(told)}
    await timed.run()
    every = [text for each in await came(timed, ada) for text in texts(each) if text.startswith("Build ")]
    assert len(every) == len(set(every)) == 20


async def test_what_a_pause_held_follows_a_digest_that_is_on_its_way_when_it_is_called_off(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00", paused_until=FOREVER)
    news = [await ask(timed, ada, f"News {number}", category="news") for number in range(MOST_ALONE + 1)]
    build = await ask(timed, ada, "Build 1")
    person = Person(timed.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW)
    await release(timed.services, person)
    await prefer(timed, ada, paused_until=None)
    await release(timed.services, replace(person, task=Task.RECONSIDER))
    await timed.send()
    assert len(await came(timed, ada)) == 2
    assert [await timed.counts(each) for each in (build, *news)] == [{"digested": 1}] * (MOST_ALONE + 2)


async def test_what_comes_at_its_recipients_own_time_waits_for_the_slot_after_that_and_says_so(timed: Herald) -> None:
    ada = await one(timed, "2026-11-25T10:00")
    await ask(timed, ada, "Vote", schedule={"at": "2026-11-27T10:00", "timeZone": "recipient"})
    await go_to(timed, "2026-11-26T20:01")
    await go_to(timed, "2026-11-27T08:30")
    await prefer(timed, ada, paused_until=datetime(2026, 11, 27, 9, 30, tzinfo=UTC))
    await go_to(timed, "2026-11-27T09:01")
    await go_to(timed, "2026-11-27T09:31")
    assert await came(timed, ada) == []
    await go_to(timed, "2026-11-28T08:01")
    [digest] = await came(timed, ada)
    assert any("2026-11-27 10:00" in text for text in texts(digest))


async def test_a_thread_of_any_name_waits_and_is_told(timed: Herald) -> None:
    channel, _ = await channel_with_a_thread(timed, categories={"builds": Mode.DIGEST})
    odd = [f"{channel[2:]};messageid={name}" for name in ("a/b#c?d", "1\u20282;3", "%2F" + "/" * 150)]
    asked = await timed.ask(*({"conversation": each} for each in odd))
    await timed.send()
    await go_to(timed, "2026-11-24T09:01")
    assert await timed.counts(asked) == {"digested": 3}
    assert await timed.services.waiting.of(timed.tenant, channel, 10) == []


async def test_the_same_thread_key_in_two_places_is_two_threads(timed: Herald) -> None:
    channel, thread = await channel_with_a_thread(timed, categories={"builds": Mode.DIGEST})
    for place, title in ((thread, "Failed"), (channel, "Fine")):
        told = {"content": {"title": title}, "thread": {"key": "deploy"}}
        await timed.ask({"conversation": place[2:]}, **told)
    await timed.send()
    await go_to(timed, "2026-11-24T09:01")
    [_, digest] = await timed.received()
    assert {"Failed", "Fine"} <= set(texts(digest))


async def test_what_is_decided_anew_is_not_out_of_reach_of_who_asks_for_the_digest(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada)
    person = Person(timed.tenant, f"u:{ada.object_id}", Task.RECONSIDER)
    await release(timed.services, person)
    await release(timed.services, replace(person, task=Task.DIGEST_NOW))
    await timed.send()
    assert await timed.counts(asked) == {"digested": 1}
