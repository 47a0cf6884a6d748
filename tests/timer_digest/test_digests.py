"""Digests: at each person's own time, once, with what it says on the card, and what becomes of what they told."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from local.fake_teams.api import TeamsFault
from notify.command_dispatch import SWEEP_DELAY_SECONDS
from shared.preferences.preferences import FOREVER
from shared.queue_messages import Task
from shared.states import Mode, ReferenceKind, ReferenceStatus
from tests.support.digests import ask, came, go_to, one, prefer, see_to, texts
from tests.support.herald import Herald, user
from timer_digest.digest_plan import MAX_DIGEST_ITEMS, MAX_SEPARATE_MESSAGES


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
    assert await timed.services.held_deliveries.of(timed.tenant, f"u:{ada.object_id}", 10) == []


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
    state = await timed.services.held_deliveries.digest(timed.tenant, f"u:{ada.object_id}")
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


@pytest.mark.parametrize("count", [MAX_SEPARATE_MESSAGES, MAX_SEPARATE_MESSAGES + 1])
async def test_more_than_five_that_a_pause_held_are_one_digest(timed: Herald, count: int) -> None:
    ada = await one(timed, "2026-11-23T10:00", paused_until=datetime(2026, 11, 24, 7, tzinfo=UTC))
    asked = [await ask(timed, ada, f"News {number}", category="news") for number in range(count)]
    build = await ask(timed, ada, "Build 1")
    await go_to(timed, "2026-11-24T06:59")
    await go_to(timed, "2026-11-24T07:01")
    digest = count > MAX_SEPARATE_MESSAGES
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
    news = [await ask(timed, ada, f"News {number}", category="news") for number in range(MAX_SEPARATE_MESSAGES + 1)]
    assert (await timed.row(asked[0], f"u:{ada.object_id}"))["reason"] == reason
    await timed.command("cancel", off)
    await timed.services.conversations.change_preferences(
        timed.tenant, ReferenceKind.USER, ada.object_id, lambda old: old.mute("muted", FOREVER, timed.clock())
    )
    await see_to(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    [digest] = await came(timed, ada)
    assert texts(digest)[0] == "Digest: 2 notifications"
    assert [await timed.counts(each) for each in asked] == [{"digested": 1}] * 2
    assert [await timed.counts(each) for each in (*news, muted)] == [{"open": 1}] * (MAX_SEPARATE_MESSAGES + 2)
    left = await timed.services.held_deliveries.of(timed.tenant, f"u:{ada.object_id}", 100)
    assert {item.delivery.notification for item in left} == {each.key for each in (*news, muted)}
    await see_to(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    assert len(await came(timed, ada)) == 1


async def test_digest_now_finds_its_items_behind_many_others(timed: Herald) -> None:
    ada = await one(timed, "2026-11-24T06:00", paused_until=FOREVER)
    news = [await ask(timed, ada, f"News {number}", category="news") for number in range(5)]
    timed.clock.moved += timedelta(seconds=5)
    builds = [await ask(timed, ada, f"Build {number}") for number in range(5)]
    await see_to(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    assert [await timed.counts(each) for each in builds] == [{"digested": 1}] * 5
    assert [await timed.counts(each) for each in news] == [{"open": 1}] * 5
    assert len(await timed.services.held_deliveries.of(timed.tenant, f"u:{ada.object_id}", 100)) == 5


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


@pytest.mark.parametrize("most", [10, pytest.param(MAX_DIGEST_ITEMS, marks=pytest.mark.full)])
async def test_what_is_too_much_for_one_comes_when_it_is_asked_for(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("timer_digest.digest_plan.MAX_DIGEST_ITEMS", most)
    ada = await one(timed, "2026-11-23T10:00")
    asked = [await timed.ask(user(ada), content={"title": f"Build {n}"}) for n in range(most + 3)]
    await timed.send()
    await go_to(timed, "2026-11-24T08:01")
    [digest] = await came(timed, ada)
    assert texts(digest)[0] == f"Digest: {most} notifications"
    assert any(text.startswith("3 more in your next digest.") for text in texts(digest))
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
    assert texts(digest)[0] == "Übersicht: 1 Benachrichtigung"


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
    assert any("in your next digest" in text for text in texts(found[0]))
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
    await timed.wait(SWEEP_DELAY_SECONDS + 1)
    assert await timed.counts(left) == {"cancelled": 1}


async def test_who_has_uninstalled_gets_none_and_its_items_say_so(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada)
    await timed.services.conversations.save(
        timed.tenant, ReferenceKind.USER, ada.object_id, {}, at=timed.clock(), status=ReferenceStatus.UNINSTALLED
    )
    await go_to(timed, "2026-11-24T08:01")
    row = await timed.row(asked, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("suppressed", "notInstalled")
    assert (await timed.now(asked)).state == "finished"
    assert await timed.services.held_deliveries.of(timed.tenant, f"u:{ada.object_id}", 10) == []


async def test_what_a_failed_digest_told_has_failed_and_can_be_tried_again(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada)
    await timed.teams.inject(
        TeamsFault(operation="send", person=ada.object_id, status=400, code="Bad Argument", count=1)
    )
    await go_to(timed, "2026-11-24T08:01")
    row = await timed.row(asked, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("failed", "badRequest")
    await timed.command("redrive", asked)
    await go_to(timed, "2026-11-25T08:01")
    assert await timed.counts(asked) == {"digested": 1}
    assert len(await came(timed, ada)) == 1


async def test_what_waits_for_something_else_does_not_stand_behind_much_that_waits_for_a_digest(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timer_digest.release_held.MAX_ITEMS", 3)
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


@pytest.mark.parametrize("count", [MAX_SEPARATE_MESSAGES, MAX_SEPARATE_MESSAGES + 1])
async def test_more_than_five_that_a_pause_held_are_one_digest_when_it_is_called_off(timed: Herald, count: int) -> None:
    ada = await one(timed, "2026-11-23T10:00", paused_until=FOREVER)
    asked = [await ask(timed, ada, f"News {number}", category="news") for number in range(count)]
    build = await ask(timed, ada, "Build 1")
    await prefer(timed, ada, paused_until=None)
    await see_to(timed, f"u:{ada.object_id}", Task.RECONSIDER)
    digest = count > MAX_SEPARATE_MESSAGES
    assert len(await came(timed, ada)) == (1 if digest else count)
    assert [await timed.counts(each) for each in asked] == [{"digested" if digest else "sent": 1}] * count
    await go_to(timed, "2026-11-24T08:01")
    assert await timed.counts(build) == {"digested": 1}


async def test_what_one_digest_cannot_tell_when_a_pause_is_called_off_comes_after_it(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timer_digest.digest_plan.MAX_DIGEST_ITEMS", 7)
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
    monkeypatch.setattr("timer_digest.digest_plan.MAX_DIGEST_ITEMS", 4)
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
    monkeypatch.setattr("timer_digest.digest_plan.MAX_DIGEST_ITEMS", 3)
    ada = await one(timed, "2026-11-23T10:00")
    asked = []
    for number in range(5):
        asked.append(await ask(timed, ada, f"State {number}", thread={"key": "t"}))
        timed.clock.moved += timedelta(minutes=1)
    await timed.run()
    [digest] = await came(timed, ada)
    assert "State 4" in texts(digest)
    assert [await timed.counts(each) for each in asked] == [{"superseded": 1}] * 2 + [{"digested": 1}] * 3


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
    assert any("2026\u201111\u201127\u00a010:00" in text for text in texts(digest))
