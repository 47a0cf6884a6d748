"""Digests: when they are sent, what their cards show, and the final states of the included deliveries."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from local.fake_teams.api import TeamsFault
from notify.command_dispatch import SWEEP_DELAY_SECONDS
from shared.preferences.preferences import FOREVER
from shared.queue_messages import Delivery, RecipientTask, Task
from shared.records import DeliveryRecord
from shared.states import Mode, ReferenceKind, ReferenceStatus
from tests.support.digests import (
    add_person,
    advance_to,
    card_texts,
    received_by,
    run_recipient_tasks,
    run_task,
    send_to,
    set_preferences,
)
from tests.support.herald import Herald, user
from tests.support.tapped import TAP, OperationCounter
from timer_digest.digest_plan import MAX_DIGEST_ITEMS, MAX_SEPARATE_MESSAGES


async def test_held_deliveries_are_sent_as_one_card_at_the_local_time(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notifications = [await send_to(timed, ada, f"Build {number}") for number in range(3)]
    await advance_to(timed, "2026-11-24T07:59:30")
    assert await received_by(timed, ada) == []
    assert [await timed.counts(each) for each in notifications] == [{"open": 1}] * 3
    await advance_to(timed, "2026-11-24T08:00:30")
    [digest] = await received_by(timed, ada)
    assert [text for text in card_texts(digest) if text.startswith("Build ")] == ["Build 2", "Build 1", "Build 0"]
    assert [await timed.counts(each) for each in notifications] == [{"digested": 1}] * 3
    for each in notifications:
        row = await timed.row(each, f"u:{ada.object_id}")
        assert (row["state"], row["reason"], row["rule"]) == ("digested", "", "digest")
        assert (await timed.reload(each)).state == "finished"
    assert await timed.services.held_deliveries.list(timed.tenant, f"u:{ada.object_id}", 10) == []


async def test_digest_of_three_takes_few_operations(tapped: Herald) -> None:
    ada = await add_person(tapped, "2026-11-23T10:00")
    await send_to(tapped, ada, "Another")
    await advance_to(tapped, "2026-11-24T08:01")  # the state of her digests has a row after the first one
    notifications = [await send_to(tapped, ada, f"Build {number}") for number in range(3)]
    tapped.clock.offset += datetime(2026, 11, 25, 8, 0, 30, tzinfo=UTC) - tapped.clock()
    await tapped.tick()
    for each in notifications:
        await tapped.services.notifications.recent(each.key)  # read for another person's digest
    counter = OperationCounter()
    token = TAP.set(counter)
    await run_recipient_tasks(tapped)
    TAP.reset(token)
    assert len(await received_by(tapped, ada)) == 2
    slots, reads = counter.operations.pop("HeraldRateLanes"), counter.operations.pop("")
    # Her reference; what is due, and the end of that query's pages, which takes no request.
    assert (reads, slots) == (3, 1)
    assert counter.operations == {
        "HeraldTimers": 1,  # the next digest
        "HeraldDeliveries": 3 + 2 + 3,  # the three reserved, the digest's claim and result, the three ended
        "HeraldNotifications": 2 + 3,  # the digest and its result; the results of the three, which have no other reader
        "HeraldHeldDeliveries": 2,  # the digest is made, and settled
        "HeraldConversations": 1,  # the conversation's windows
    }


async def test_line_of_a_digest_has_the_first_link_and_plain_names(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    links = [{"title": "Open", "url": f"https://ci.example/{number}"} for number in range(2)]
    mentions = [{"name": "Bob [EXT]", "user": "bob@contoso.example"}]
    content = {"text": "For <at>Bob [EXT]</at>", "links": links, "mentions": mentions}
    await send_to(timed, ada, "Build 1 of <at>Bob [EXT]</at>", content=content)
    await advance_to(timed, "2026-11-24T08:01")
    [digest] = await received_by(timed, ada)
    assert "Build 1 of Bob [EXT]" in card_texts(digest)
    assert any(text.startswith(" · For Bob [EXT] ·") for text in card_texts(digest))
    assert json.dumps(digest.activity).count("https://ci.example/0") == 1
    assert "https://ci.example/1" not in json.dumps(digest.activity)
    assert "msteams" not in digest.activity["attachments"][0]["content"]


async def test_each_day_has_a_digest_of_new_deliveries(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    for day in (24, 25, 26):
        await send_to(timed, ada, f"Build {day}")
        await advance_to(timed, f"2026-11-{day}T08:01")
        assert f"Build {day}" in card_texts((await received_by(timed, ada))[-1])
        await advance_to(timed, f"2026-11-{day}T18:00")
    assert len(await received_by(timed, ada)) == 3


async def test_empty_digest_is_not_sent(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notification = await send_to(timed, ada, expiresAt="2026-11-23T12:00:00Z")
    off = await send_to(timed, ada)
    await timed.command("cancel", off)
    await advance_to(timed, "2026-11-24T08:01")
    assert await received_by(timed, ada) == []
    assert (await timed.counts(notification), await timed.counts(off)) == ({"expired": 1}, {"cancelled": 1})
    await timed.run_until_idle()
    assert await received_by(timed, ada) == []


async def test_digest_leaves_out_expired_and_cancelled_notifications(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    late = await send_to(timed, ada, "Late", expiresAt="2026-11-23T12:00:00Z")
    off, included = await send_to(timed, ada, "Off"), await send_to(timed, ada, "Included")
    await timed.command("cancel", off)
    await advance_to(timed, "2026-11-24T08:01")
    [digest] = await received_by(timed, ada)
    assert "Included" in card_texts(digest)
    assert not {"Late", "Off"} & set(card_texts(digest))
    found = [await timed.counts(each) for each in (late, off, included)]
    assert found == [{"expired": 1}, {"cancelled": 1}, {"digested": 1}]


async def test_digest_uses_the_preferences_at_its_time(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00", categories={"builds": Mode.DIGEST, "news": Mode.DIGEST})
    build, news = await send_to(timed, ada, "Build 1"), await send_to(timed, ada, "News 1", category="news")
    await set_preferences(timed, ada, categories={"builds": Mode.OFF, "news": Mode.IMMEDIATE})
    await advance_to(timed, "2026-11-24T08:01")
    [alone] = await received_by(timed, ada)
    assert alone.activity["summary"] == "News 1"
    assert (await timed.counts(build), await timed.counts(news)) == ({"suppressed": 1}, {"sent": 1})


async def test_pause_defers_the_digest_to_its_end(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notification = await send_to(timed, ada)
    await set_preferences(timed, ada, paused_until=datetime(2026, 11, 25, 12, tzinfo=UTC))
    for when in ("24T08:01", "25T08:01"):
        await advance_to(timed, f"2026-11-{when}")
        assert await received_by(timed, ada) == []
    await advance_to(timed, "2026-11-25T12:01")
    assert len(await received_by(timed, ada)) == 1
    assert await timed.counts(notification) == {"digested": 1}


async def test_quiet_hours_defer_the_digest_to_their_end(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00", quiet="20:00-10:30")
    await send_to(timed, ada)
    await advance_to(timed, "2026-11-24T09:29:30")
    assert await received_by(timed, ada) == []
    await advance_to(timed, "2026-11-24T09:31")
    assert len(await received_by(timed, ada)) == 1
    state = await timed.services.held_deliveries.digest_state(timed.tenant, f"u:{ada.object_id}")
    assert state.last_date == date(2026, 11, 24)


async def test_digest_shows_only_the_newest_state_of_a_thread(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    thread = {"key": "build/42", "onRepeat": "update"}
    notifications = [await send_to(timed, ada, f"State {number}", thread=thread) for number in range(4)]
    await send_to(timed, ada, "Another")
    await advance_to(timed, "2026-11-24T08:01")
    [digest] = await received_by(timed, ada)
    texts = card_texts(digest)
    assert "State 3" in texts
    assert not {"State 0", "State 1", "State 2"} & set(texts)
    assert any("4 updates" in text for text in texts)
    assert texts[0] == "Digest: 5 notifications"
    assert [await timed.counts(each) for each in notifications] == [{"digested": 1}] * 4


async def test_delivery_older_than_its_thread_shows_is_superseded(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00", categories={"builds": Mode.DIGEST, "pager": Mode.IMMEDIATE})
    old = await send_to(timed, ada, "Old", thread={"key": "t"})
    timed.clock.offset += timedelta(minutes=1)
    await send_to(timed, ada, "New", thread={"key": "t"}, category="pager")
    await advance_to(timed, "2026-11-24T08:01")
    assert [each.activity["summary"] for each in await received_by(timed, ada)] == ["New"]
    assert await timed.counts(old) == {"superseded": 1}
    assert (await timed.reload(old)).state == "finished"


async def test_digest_leaves_out_simulated_notifications(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notification = await send_to(timed, ada, simulate=True)
    await advance_to(timed, "2026-11-24T08:01")
    assert await received_by(timed, ada) == []
    assert await timed.counts(notification) == {"simulated": 1}


@pytest.mark.parametrize("count", [MAX_SEPARATE_MESSAGES, MAX_SEPARATE_MESSAGES + 1])
async def test_more_than_five_deliveries_are_one_digest_when_a_pause_ends(timed: Herald, count: int) -> None:
    ada = await add_person(timed, "2026-11-23T10:00", paused_until=datetime(2026, 11, 24, 7, tzinfo=UTC))
    notifications = [await send_to(timed, ada, f"News {number}", category="news") for number in range(count)]
    build = await send_to(timed, ada, "Build 1")
    await advance_to(timed, "2026-11-24T06:59")
    await advance_to(timed, "2026-11-24T07:01")
    is_digest = count > MAX_SEPARATE_MESSAGES
    assert len(await received_by(timed, ada)) == (1 if is_digest else count)
    expected = {"digested": 1} if is_digest else {"sent": 1}
    assert [await timed.counts(each) for each in notifications] == [expected] * count
    # The scheduled digest of that day is still sent.
    assert await timed.counts(build) == {"open": 1}
    await advance_to(timed, "2026-11-24T08:01")
    assert "Build 1" in card_texts((await received_by(timed, ada))[-1])


async def test_pause_that_ends_at_the_digest_time_makes_one_digest_of_both(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    await send_to(timed, ada, "Build 1")
    await set_preferences(timed, ada, paused_until=datetime(2026, 11, 24, 8, tzinfo=UTC))
    for number in range(6):
        await send_to(timed, ada, f"News {number}", category="news")
    await advance_to(timed, "2026-11-24T07:59")
    await advance_to(timed, "2026-11-24T08:01")
    [digest] = await received_by(timed, ada)
    assert {"Build 1", "News 0", "News 5"} <= set(card_texts(digest))


async def test_digest_now_is_sent_in_quiet_hours_and_in_addition_to_the_scheduled_one(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-24T06:00", quiet="22:00-08:00")
    await set_preferences(timed, ada, quiet="")
    await send_to(timed, ada, "Early")
    await set_preferences(timed, ada, quiet="22:00-08:00")
    await run_task(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    assert len(await received_by(timed, ada)) == 1
    await set_preferences(timed, ada, quiet="")
    await send_to(timed, ada, "Scheduled")
    await advance_to(timed, "2026-11-24T08:01")
    assert ["Early" in card_texts(each) for each in await received_by(timed, ada)] == [True, False]
    assert "Scheduled" in card_texts((await received_by(timed, ada))[1])


@pytest.mark.parametrize(
    ("held", "reason"), [({"paused_until": FOREVER}, "paused"), ({"quiet": "00:00-23:59"}, "quietHours")]
)
async def test_digest_now_includes_only_held_deliveries_meant_for_a_digest(
    timed: Herald, held: dict[str, Any], reason: str
) -> None:
    ada = await add_person(timed, "2026-11-24T06:00", **held)
    notifications = [await send_to(timed, ada, f"Build {number}") for number in range(2)]
    off, muted = await send_to(timed, ada, "Off"), await send_to(timed, ada, "Muted", thread={"key": "muted"})
    news = [await send_to(timed, ada, f"News {number}", category="news") for number in range(MAX_SEPARATE_MESSAGES + 1)]
    assert (await timed.row(notifications[0], f"u:{ada.object_id}"))["reason"] == reason
    await timed.command("cancel", off)
    await timed.services.conversations.change_preferences(
        timed.tenant, ReferenceKind.USER, ada.object_id, lambda old: old.mute("muted", FOREVER, timed.clock())
    )
    await run_task(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    [digest] = await received_by(timed, ada)
    assert card_texts(digest)[0] == "Digest: 2 notifications"
    assert [await timed.counts(each) for each in notifications] == [{"digested": 1}] * 2
    assert [await timed.counts(each) for each in (*news, muted)] == [{"open": 1}] * (MAX_SEPARATE_MESSAGES + 2)
    left = await timed.services.held_deliveries.list(timed.tenant, f"u:{ada.object_id}", 100)
    assert {item.delivery.notification for item in left} == {each.key for each in (*news, muted)}
    await run_task(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    assert len(await received_by(timed, ada)) == 1


async def test_digest_now_finds_its_items_behind_many_others(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-24T06:00", paused_until=FOREVER)
    news = [await send_to(timed, ada, f"News {number}", category="news") for number in range(5)]
    timed.clock.offset += timedelta(seconds=5)
    builds = [await send_to(timed, ada, f"Build {number}") for number in range(5)]
    await run_task(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    assert [await timed.counts(each) for each in builds] == [{"digested": 1}] * 5
    assert [await timed.counts(each) for each in news] == [{"open": 1}] * 5
    assert len(await timed.services.held_deliveries.list(timed.tenant, f"u:{ada.object_id}", 100)) == 5


async def test_new_zone_after_the_digest_makes_no_second_one_for_the_date(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-24T07:00", time_zone="Asia/Tokyo", digest="daily 18:00")
    await send_to(timed, ada, "Tokyo")
    await advance_to(timed, "2026-11-24T09:01")
    assert len(await received_by(timed, ada)) == 1
    # In London it is 09:00 on the same date, which has 18:00 once more.
    await set_preferences(timed, ada, time_zone="Europe/London")
    await send_to(timed, ada, "London")
    await advance_to(timed, "2026-11-25T17:59")
    assert len(await received_by(timed, ada)) == 1
    await advance_to(timed, "2026-11-25T18:01")
    assert len(await received_by(timed, ada)) == 2


async def test_new_zone_before_the_digest_moves_it(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T20:00")
    await send_to(timed, ada)
    await set_preferences(timed, ada, time_zone="America/New_York")
    await advance_to(timed, "2026-11-24T13:59")
    assert await received_by(timed, ada) == []
    await advance_to(timed, "2026-11-24T14:01")
    assert len(await received_by(timed, ada)) == 1


async def test_new_schedule_after_the_digest_makes_no_second_one_for_the_date(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    await send_to(timed, ada, "First")
    await advance_to(timed, "2026-11-24T08:01")
    await set_preferences(timed, ada, digest="daily 12:00")
    await run_task(timed, f"u:{ada.object_id}", Task.RECONSIDER)
    await send_to(timed, ada, "Second")
    await advance_to(timed, "2026-11-24T22:00")
    assert len(await received_by(timed, ada)) == 1
    await advance_to(timed, "2026-11-25T11:01")
    assert len(await received_by(timed, ada)) == 2


async def test_deliveries_are_sent_alone_after_digest_off(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notification = await send_to(timed, ada)
    await set_preferences(timed, ada, digest="off")
    await advance_to(timed, "2026-11-24T08:01")
    assert await timed.counts(notification) == {"sent": 1}


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        pytest.param("2027-03-27T20:00", "2027-03-28T01:00", id="skipped time"),
        pytest.param("2026-10-24T20:00", "2026-10-25T00:30", id="repeated time"),
    ],
)
async def test_night_of_a_clock_change_has_one_digest(timed: Herald, before: str, expected: str) -> None:
    ada = await add_person(timed, before, digest="daily 02:30")
    notification = await send_to(timed, ada)
    at = datetime.fromisoformat(expected)
    await advance_to(timed, (at - timedelta(seconds=30)).isoformat())
    assert await received_by(timed, ada) == []
    await advance_to(timed, (at + timedelta(seconds=30)).isoformat())
    assert await timed.counts(notification) == {"digested": 1}
    again = await send_to(timed, ada)
    await advance_to(timed, (at + timedelta(hours=12)).isoformat())
    assert await timed.counts(again) == {"open": 1}


async def test_one_digest_after_an_outage_of_several_days(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    await send_to(timed, ada)
    timed.clock.offset += timedelta(days=3)
    await timed.tick()
    await timed.handle_messages()
    assert len(await received_by(timed, ada)) == 1
    await send_to(timed, ada)
    await advance_to(timed, "2026-11-27T08:01")
    assert len(await received_by(timed, ada)) == 2


async def test_late_digest_counts_for_its_scheduled_date(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00", digest="daily 23:59")
    await send_to(timed, ada, "First")
    timed.clock.offset += datetime(2026, 11, 23, 23, 3, tzinfo=UTC) - timed.clock()  # 00:03 in Berlin
    await timed.tick()
    await timed.handle_messages()
    assert len(await received_by(timed, ada)) == 1
    await send_to(timed, ada, "Second")
    await advance_to(timed, "2026-11-24T22:59:30")
    assert len(await received_by(timed, ada)) == 2


@pytest.mark.parametrize("limit", [10, pytest.param(MAX_DIGEST_ITEMS, marks=pytest.mark.full)])
async def test_digest_now_sends_what_one_digest_leaves(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("timer_digest.digest_plan.MAX_DIGEST_ITEMS", limit)
    ada = await add_person(timed, "2026-11-23T10:00")
    notifications = [await timed.submit(user(ada), content={"title": f"Build {n}"}) for n in range(limit + 3)]
    await timed.handle_messages()
    await advance_to(timed, "2026-11-24T08:01")
    [digest] = await received_by(timed, ada)
    assert card_texts(digest)[0] == f"Digest: {limit} notifications"
    assert any(text.startswith("3 more in your next digest.") for text in card_texts(digest))
    await run_task(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    [_, rest] = await received_by(timed, ada)
    assert card_texts(rest)[0] == "Digest: 3 notifications"
    titles = [text for each in (digest, rest) for text in card_texts(each) if text.startswith("Build ")]
    assert sorted(titles) == sorted(f"Build {n}" for n in range(limit + 3))
    assert [await timed.counts(each) for each in notifications] == [{"digested": 1}] * (limit + 3)


async def test_digest_is_in_the_language_of_its_reader(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00", locale="de")
    await send_to(timed, ada, "Build 1")
    await advance_to(timed, "2026-11-24T08:01")
    [digest] = await received_by(timed, ada)
    assert card_texts(digest)[0] == "Übersicht: 1 Benachrichtigung"


async def test_deliveries_that_do_not_fit_are_in_the_next_digest(timed: Herald) -> None:
    object.__setattr__(timed.services.settings, "max_activity_kb", 12)
    ada = await add_person(timed, "2026-11-23T10:00")
    long = {"link": {"title": "Open", "url": "https://ci.example/" + "x" * 470}}
    notifications = [await send_to(timed, ada, f"Build {number}", content=long) for number in range(12)]
    notifications.append(await send_to(timed, ada, "Build 12", content=long, priority="urgent"))
    await timed.run_until_idle()
    found = await received_by(timed, ada)
    assert len(found) == 2
    assert next(text for text in card_texts(found[0]) if text.startswith("Build ")) == "Build 12"
    assert any("in your next digest" in text for text in card_texts(found[0]))
    titles = [text for each in found for text in card_texts(each) if text.startswith("Build ")]
    assert sorted(titles) == sorted(f"Build {number}" for number in range(13))
    assert [await timed.counts(each) for each in notifications] == [{"digested": 1}] * 13


async def test_delivery_that_did_not_fit_can_be_cancelled(timed: Herald) -> None:
    object.__setattr__(timed.services.settings, "max_activity_kb", 12)
    ada = await add_person(timed, "2026-11-23T10:00")
    long = {"link": {"title": "Open", "url": "https://ci.example/" + "x" * 470}}
    notifications = [await send_to(timed, ada, f"Build {number}", content=long) for number in range(12)]
    await advance_to(timed, "2026-11-24T08:01")
    [left, *_] = [each for each in notifications if await timed.counts(each) == {"open": 1}]
    await timed.command("cancel", left)
    await timed.advance_clock(SWEEP_DELAY_SECONDS + 1)
    assert await timed.counts(left) == {"cancelled": 1}


async def test_digest_of_an_uninstalled_app_is_suppressed_with_its_items(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notification = await send_to(timed, ada)
    await timed.services.conversations.save(
        timed.tenant, ReferenceKind.USER, ada.object_id, {}, at=timed.clock(), status=ReferenceStatus.UNINSTALLED
    )
    await advance_to(timed, "2026-11-24T08:01")
    row = await timed.row(notification, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("suppressed", "notInstalled")
    assert (await timed.reload(notification)).state == "finished"
    assert await timed.services.held_deliveries.list(timed.tenant, f"u:{ada.object_id}", 10) == []


async def test_deliveries_of_a_failed_digest_fail_and_can_be_redriven(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notification = await send_to(timed, ada)
    await timed.teams.inject(
        TeamsFault(operation="send", person=ada.object_id, status=400, code="Bad Argument", count=1)
    )
    await advance_to(timed, "2026-11-24T08:01")
    row = await timed.row(notification, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("failed", "badRequest")
    await timed.command("redrive", notification)
    await advance_to(timed, "2026-11-25T08:01")
    assert await timed.counts(notification) == {"digested": 1}
    assert len(await received_by(timed, ada)) == 1


async def test_other_held_deliveries_are_not_blocked_by_many_for_a_digest(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timer_digest.release_held.MAX_ITEMS", 3)
    ada = await add_person(timed, "2026-11-23T10:00", digest="weekly sun 09:00", quiet="20:00-06:00")
    for number in range(4):
        await send_to(timed, ada, f"Build {number}")
    timed.clock.offset += timedelta(hours=11)
    alerts = [await send_to(timed, ada, f"Alert {number}", category="alerts") for number in range(4)]
    own = {"at": "2026-11-24T08:00", "timeZone": "recipient"}
    alerts.append(await send_to(timed, ada, "At eight", category="alerts", schedule=own))
    await advance_to(timed, "2026-11-24T07:01")
    assert [await timed.counts(each) for each in alerts] == [{"sent": 1}] * 5


@pytest.mark.parametrize(
    ("change", "at"),
    [({"digest": "daily 17:00"}, "2026-11-24T16:01"), ({"time_zone": "America/New_York"}, "2026-11-24T14:01")],
    ids=["schedule", "zone"],
)
async def test_new_schedule_or_zone_sends_nothing_at_the_old_time(
    timed: Herald, change: dict[str, str], at: str
) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    await send_to(timed, ada, "First")
    await advance_to(timed, "2026-11-23T19:00")
    await set_preferences(timed, ada, **change)
    await run_task(timed, f"u:{ada.object_id}", Task.RECONSIDER)
    await advance_to(timed, "2026-11-24T08:01")
    await send_to(timed, ada, "Second")
    assert await received_by(timed, ada) == []
    await advance_to(timed, at)
    [digest] = await received_by(timed, ada)
    assert {"First", "Second"} <= set(card_texts(digest))


@pytest.mark.parametrize("held", [{"paused_until": FOREVER}, {"quiet": "20:00-10:30"}], ids=["pause", "quiet hours"])
async def test_deferred_digest_is_sent_when_its_pause_or_quiet_hours_are_ended_early(
    timed: Herald, held: dict[str, Any]
) -> None:
    ada = await add_person(timed, "2026-11-22T10:00", digest="weekly mon 09:00")
    await send_to(timed, ada, "Before")
    await set_preferences(timed, ada, **held)
    await advance_to(timed, "2026-11-23T07:00")
    await send_to(timed, ada, "Meanwhile")
    await advance_to(timed, "2026-11-23T09:00")
    assert await received_by(timed, ada) == []
    await set_preferences(timed, ada, quiet="", paused_until=None)
    await run_task(timed, f"u:{ada.object_id}", Task.RECONSIDER)
    [digest] = await received_by(timed, ada)
    assert {"Before", "Meanwhile"} <= set(card_texts(digest))


@pytest.mark.parametrize("count", [MAX_SEPARATE_MESSAGES, MAX_SEPARATE_MESSAGES + 1])
async def test_more_than_five_deliveries_are_one_digest_when_a_pause_is_ended_early(timed: Herald, count: int) -> None:
    ada = await add_person(timed, "2026-11-23T10:00", paused_until=FOREVER)
    notifications = [await send_to(timed, ada, f"News {number}", category="news") for number in range(count)]
    build = await send_to(timed, ada, "Build 1")
    await set_preferences(timed, ada, paused_until=None)
    await run_task(timed, f"u:{ada.object_id}", Task.RECONSIDER)
    is_digest = count > MAX_SEPARATE_MESSAGES
    assert len(await received_by(timed, ada)) == (1 if is_digest else count)
    assert [await timed.counts(each) for each in notifications] == [{"digested" if is_digest else "sent": 1}] * count
    await advance_to(timed, "2026-11-24T08:01")
    assert await timed.counts(build) == {"digested": 1}


async def test_rest_of_a_full_digest_is_sent_after_it_when_a_pause_ends(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timer_digest.digest_plan.MAX_DIGEST_ITEMS", 7)
    ada = await add_person(timed, "2026-11-23T10:00", paused_until=FOREVER)
    notifications = [await send_to(timed, ada, f"News {number}", category="news") for number in range(9)]
    await set_preferences(timed, ada, paused_until=None)
    await run_task(timed, f"u:{ada.object_id}", Task.RECONSIDER)
    digest, *_ = found = await received_by(timed, ada)
    assert len(found) == 3
    assert not any("more" in text for text in card_texts(digest))
    assert sum([await timed.counts(each) for each in notifications], Counter[str]()) == {"digested": 7, "sent": 2}


async def test_preferences_changed_in_quiet_hours_do_not_lose_the_deferred_digest(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00", quiet="08:00-10:30")
    await send_to(timed, ada)
    await advance_to(timed, "2026-11-24T08:30")
    await set_preferences(timed, ada, own_actions=True)
    await run_task(timed, f"u:{ada.object_id}", Task.RECONSIDER)
    await advance_to(timed, "2026-11-24T09:29")
    assert await received_by(timed, ada) == []
    await advance_to(timed, "2026-11-24T09:31")
    assert len(await received_by(timed, ada)) == 1


async def test_notification_due_in_a_pause_is_in_the_first_digest_after_it(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    await send_to(timed, ada, "Vote", schedule={"at": "2026-11-27T12:00", "timeZone": "Europe/Berlin"})
    await advance_to(timed, "2026-11-27T10:00")
    await set_preferences(timed, ada, paused_until=datetime(2026, 11, 27, 17, tzinfo=UTC))
    await advance_to(timed, "2026-11-27T11:01")
    await advance_to(timed, "2026-11-27T17:01")
    assert await received_by(timed, ada) == []
    await advance_to(timed, "2026-11-28T08:01")
    assert len(await received_by(timed, ada)) == 1


async def test_full_digest_includes_urgent_deliveries_and_newest_threads_first(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timer_digest.digest_plan.MAX_DIGEST_ITEMS", 4)
    ada = await add_person(timed, "2026-11-23T10:00")
    titles = ["Build 0", "Build 1", "State 0", "State 1", "State 2", "Fire"]
    for number, title in enumerate(titles):
        thread = {"thread": {"key": "t"}} if title.startswith("State") else {}
        urgent = {"priority": "urgent"} if title == "Fire" else {}
        await send_to(timed, ada, title, **thread, **urgent)
        timed.clock.offset += timedelta(minutes=number)
    await advance_to(timed, "2026-11-24T08:01")
    [digest] = await received_by(timed, ada)
    assert [text for text in card_texts(digest) if text in titles] == ["Fire", "State 2"]
    await run_task(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    assert [text for text in card_texts((await received_by(timed, ada))[1]) if text in titles] == ["Build 1", "Build 0"]


async def test_oldest_states_of_a_thread_larger_than_a_digest_are_superseded(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timer_digest.digest_plan.MAX_DIGEST_ITEMS", 3)
    ada = await add_person(timed, "2026-11-23T10:00")
    notifications = []
    for number in range(5):
        notifications.append(await send_to(timed, ada, f"State {number}", thread={"key": "t"}))
        timed.clock.offset += timedelta(minutes=1)
    await timed.run_until_idle()
    [digest] = await received_by(timed, ada)
    assert "State 4" in card_texts(digest)
    assert [await timed.counts(each) for each in notifications] == [{"superseded": 1}] * 2 + [{"digested": 1}] * 3


async def test_recipient_time_notification_is_in_the_next_digest_with_its_own_time(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-25T10:00")
    await send_to(timed, ada, "Vote", schedule={"at": "2026-11-27T10:00", "timeZone": "recipient"})
    await advance_to(timed, "2026-11-26T20:01")
    await advance_to(timed, "2026-11-27T08:30")
    await set_preferences(timed, ada, paused_until=datetime(2026, 11, 27, 9, 30, tzinfo=UTC))
    await advance_to(timed, "2026-11-27T09:01")
    await advance_to(timed, "2026-11-27T09:31")
    assert await received_by(timed, ada) == []
    await advance_to(timed, "2026-11-28T08:01")
    [digest] = await received_by(timed, ada)
    assert any("27\u00a0Nov\u00a02026,\u00a010:00" in text for text in card_texts(digest))


async def test_digest_that_was_surely_sent_is_settled_without_a_read_of_its_delivery(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    builds = [await send_to(timed, ada, f"Build {number}") for number in range(2)]
    read, get = [], timed.services.deliveries.get

    async def record(message: Delivery) -> DeliveryRecord | None:
        read.append(message.notification)
        return await get(message)

    monkeypatch.setattr(timed.services.deliveries, "get", record)
    await advance_to(timed, "2026-11-24T08:00")
    assert [(await timed.row(build, f"u:{ada.object_id}"))["state"] for build in builds] == ["digested", "digested"]
    assert [key for key in read if key not in {build.key for build in builds}] == []


async def test_items_of_an_ended_pause_that_do_not_fit_a_due_digest_follow_it(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timer_digest.digest_plan.MAX_DIGEST_ITEMS", 3)
    ada = await add_person(timed, "2026-11-23T10:00", paused_until=datetime(2026, 11, 24, 12, tzinfo=UTC))
    held = [await send_to(timed, ada, f"Build {number}", priority="urgent") for number in range(2)]
    held += [await send_to(timed, ada, f"News {number}", category="news") for number in range(8)]
    await advance_to(timed, "2026-11-24T12:01")
    await advance_to(timed, "2026-11-24T12:03")
    assert {"open": 1} not in [await timed.counts(each) for each in held]


async def test_digest_is_made_once_just_before_quiet_hours(timed: Herald) -> None:
    """Policy looks five seconds ahead, so that the digest is cancelled and its items are held again."""
    paused_until = datetime(2026, 11, 23, 20, 59, 50, tzinfo=UTC)
    ada = await add_person(timed, "2026-11-23T10:00", quiet="22:00-23:00", digest="off", paused_until=paused_until)
    for number in range(MAX_SEPARATE_MESSAGES + 1):
        await send_to(timed, ada, f"News {number}", category="news")
    timed.clock.offset += datetime(2026, 11, 23, 20, 59, 56, tzinfo=UTC) - timed.clock()
    await timed.services.queues.enqueue_recipient(RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.RELEASE))
    await timed.handle_messages()
    assert (await timed.services.held_deliveries.digest_state(timed.tenant, f"u:{ada.object_id}")).number == 1
    await advance_to(timed, "2026-11-23T22:01")
    assert len(await received_by(timed, ada)) == 1
