"""Recurring announcements: each occurrence once, at its time, whoever dies, whatever changes, and after an outage."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.fake_teams.api import PersonView
from notify.ingest import ingest
from shared.announcements import MAX_MISSED_STORED, SOURCE
from shared.states import NotificationState, ScheduleState
from shared.storage.notifications import StoredNotification, notification_key
from shared.storage.schedules import StoredSchedule
from shared.time.localtime import load_zone
from tests.notify.test_scheduling import advance_to, set_clock
from tests.support.herald import Herald, user
from tests.support.tapped import TAP, Tap
from timer_digest.tick import tick

#: A Monday, in the hour before 09:00 in Berlin.
MONDAY = datetime(2026, 11, 23, 7, 30, tzinfo=UTC)
NINE = MONDAY + timedelta(minutes=30)
DAY = timedelta(days=1)
CATS = "BEGIN:VCALENDAR\nBEGIN:VEVENT\nDTSTART;VALUE=DATE:20201124\nRRULE:FREQ=YEARLY\nEND:VEVENT\nEND:VCALENDAR"


def announcement(*to: PersonView, **changes: Any) -> dict[str, Any]:
    content = {"title": changes.pop("title", "Good morning")}
    notification = {"recipients": [*map(user, to)], "category": "news", "content": content}
    return {"rule": "0 9 * * *", "timeZone": "Europe/Berlin", "notification": notification} | changes


async def order(herald: Herald, command: str, name: str = "morning", **more: Any) -> None:
    body = {"command": command, "target": {"schedule": name}, **more}
    await ingest(herald.services, json.dumps(body).encode(), uuid.uuid4().hex)


async def recur(herald: Herald, *to: PersonView, name: str = "morning", **changes: Any) -> None:
    await order(herald, "schedule", name, announcement=announcement(*to, **changes))


async def stored(herald: Herald, name: str = "morning") -> StoredSchedule:
    found = await herald.services.schedules.get(herald.tenant, name)
    assert found
    return found


async def occurrence(herald: Herald, of: str, name: str = "morning") -> StoredNotification | None:
    return await herald.services.notifications.get(notification_key(herald.tenant, SOURCE + name, of))


async def state_of(herald: Herald, of: str, name: str = "morning") -> NotificationState | None:
    found = await occurrence(herald, of, name)
    return found.state if found else None


async def titles(herald: Herald) -> list[str]:
    return [message.activity["summary"] for message in await herald.received()]


async def reasons(herald: Herald) -> list[tuple[str, str]]:
    """Why messages were refused, and where their first fault is."""
    return [(letter["reason"], json.loads(letter["faults"])[0]["pointer"]) for letter in await herald.dead_letters()]


@pytest.fixture
async def timed(tapped: Herald) -> Herald:
    """Herald, whose delays go by the test's clock, and whose storage tells of each operation; it is `MONDAY`."""
    set_clock(tapped, MONDAY)
    return tapped


@pytest.fixture
async def ada(timed: Herald) -> PersonView:
    [ada] = (await timed.grow(people=1)).people
    await timed.know(ada, time_zone="Europe/Berlin")
    return ada


async def test_each_occurrence_is_a_notification_of_its_own_that_its_wall_time_names(
    timed: Herald, ada: PersonView
) -> None:
    await recur(timed, ada)
    for number in range(3):
        await advance_to(timed, NINE + number * DAY - timedelta(minutes=1))
        assert len(await timed.received()) == number
        await advance_to(timed, NINE + number * DAY)
        assert len(await timed.received()) == number + 1
        assert await state_of(timed, f"2026-11-{23 + number}T09:00") is NotificationState.FINISHED
    assert (await stored(timed)).occurrence == "2026-11-26T09:00"
    assert await timed.dead_letters() == []


async def test_an_occurrence_is_kept_on_the_wall_through_a_change_of_clocks(timed: Herald, ada: PersonView) -> None:
    before = datetime(2027, 3, 27, 8, tzinfo=UTC)
    set_clock(timed, before - timedelta(minutes=5))
    await recur(timed, ada)
    for at in (before, before + DAY - timedelta(hours=1)):
        await advance_to(timed, at - timedelta(minutes=1))
        count = len(await timed.received())
        await advance_to(timed, at)
        assert len(await timed.received()) == count + 1


async def test_everybody_is_told_each_day_at_their_own_time(timed: Herald) -> None:
    places = ("Asia/Tokyo", "Europe/Berlin", "America/New_York")
    people = (await timed.grow(people=3)).people
    for person, place in zip(people, places, strict=True):
        await timed.know(person, time_zone=place)
    await recur(timed, *people, timeZone="recipient")
    told: list[str] = []
    for day in (24, 25):
        for person, place in zip(people, places, strict=True):
            at = datetime(2026, 11, day, 9, tzinfo=load_zone(place))
            await advance_to(timed, at.astimezone(UTC) - timedelta(minutes=1))
            assert [message.person for message in await timed.received()] == told
            await advance_to(timed, at.astimezone(UTC) + timedelta(seconds=1))
            told.append(person.object_id)
            assert [message.person for message in await timed.received()] == told
    assert await state_of(timed, "2026-11-24T09:00") is NotificationState.FINISHED


async def test_holidays_and_left_out_dates_are_skipped_and_the_end_ends_it(timed: Herald, ada: PersonView) -> None:
    await recur(timed, ada, skip=["2026-11-26"], holidays=CATS, end="2026-11-27T09:00")
    for day in range(8):
        await advance_to(timed, NINE + day * DAY)
    days = [f"2026-11-{day}T09:00" for day in range(23, 31)]
    assert [await state_of(timed, day) is not None for day in days] == [True, False, True, False, True] + 3 * [False]
    assert (await stored(timed)).state is ScheduleState.ENDED
    assert len(await timed.received()) == 3


async def test_what_was_missed_in_an_outage_is_said_and_what_is_late_within_the_grace_is_sent_once(
    timed: Herald, ada: PersonView, caplog: pytest.LogCaptureFixture
) -> None:
    await recur(timed, ada, rule="0 9,10,11 * * *")
    await advance_to(timed, NINE)
    await advance_to(timed, NINE + timedelta(days=1, hours=2, minutes=30))
    for _ in range(2):
        days = ["2026-11-23T10:00", "2026-11-23T11:00", "2026-11-24T09:00", "2026-11-24T10:00"]
        assert {await state_of(timed, day) for day in days} == {NotificationState.MISSED}
        assert await state_of(timed, "2026-11-24T11:00") is NotificationState.FINISHED
        assert len(await timed.received()) == 2
        await timed.tick()
        await timed.send()
    assert caplog.text.count("is missed") == 4


async def test_of_very_many_missed_ones_some_are_stored_and_the_latest_still_sent(
    timed: Herald, ada: PersonView, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.announcements.MAX_MISSED_STORED", 3)
    monkeypatch.setattr("shared.announcements.AROUND_THE_WORLD", timedelta())
    assert MAX_MISSED_STORED > 3
    await recur(timed, ada, rule="*/30 * * * *")
    await advance_to(timed, NINE + timedelta(hours=10))
    assert await state_of(timed, "2026-11-23T10:00") is NotificationState.MISSED
    assert await state_of(timed, "2026-11-23T10:30") is None
    assert f"are not stored: source {SOURCE}morning, id 2026-11-23T10:30 and all" in caplog.text
    for of in ("2026-11-23T18:30", "2026-11-23T19:00"):
        assert await state_of(timed, of) is NotificationState.FINISHED
    assert len(await timed.received()) == 2
    assert (await stored(timed)).occurrence == "2026-11-23T19:30"


async def test_the_same_command_again_changes_nothing_and_another_moves_what_comes_next(
    timed: Herald, ada: PersonView
) -> None:
    await recur(timed, ada)
    before = await stored(timed)
    await recur(timed, ada)
    assert await stored(timed) == before
    await recur(timed, ada, rule="0 10 * * *", title="Later")
    assert (await stored(timed)).occurrence == "2026-11-23T10:00"
    await advance_to(timed, NINE)
    assert await titles(timed) == []
    await advance_to(timed, NINE + timedelta(hours=1))
    await advance_to(timed, NINE + timedelta(hours=2))
    assert await titles(timed) == ["Later"]


async def test_after_a_change_of_zone_no_date_has_the_same_occurrence_twice(timed: Herald, ada: PersonView) -> None:
    await recur(timed, ada)
    await advance_to(timed, NINE)
    await recur(timed, ada, timeZone="America/New_York", title="Again")
    assert (await stored(timed)).occurrence == "2026-11-23T09:00"
    await advance_to(timed, NINE + timedelta(hours=6))
    assert await titles(timed) == ["Good morning"]
    await advance_to(timed, NINE + timedelta(days=1, hours=6))
    assert await titles(timed) == ["Good morning", "Again"]
    assert await timed.dead_letters() == []


async def test_what_was_due_before_a_change_goes_by_what_was_said_until_then(timed: Herald, ada: PersonView) -> None:
    await recur(timed, ada)
    set_clock(timed, NINE + timedelta(seconds=20))
    await recur(timed, ada, rule="0 18 * * *", title="Good evening")
    await timed.send()
    assert await titles(timed) == ["Good morning"]
    assert (await stored(timed)).occurrence == "2026-11-23T18:00"


async def test_nothing_comes_while_it_is_paused_and_nothing_is_made_up_for(timed: Herald, ada: PersonView) -> None:
    await recur(timed, ada)
    await order(timed, "pauseSchedule")
    await advance_to(timed, NINE)
    await recur(timed, ada, title="Changed")
    await advance_to(timed, NINE + DAY)
    assert await titles(timed) == []
    await order(timed, "resumeSchedule")
    await order(timed, "resumeSchedule")
    await timed.send()
    assert await titles(timed) == []
    await advance_to(timed, NINE + 2 * DAY)
    assert await titles(timed) == ["Changed"]
    assert await timed.dead_letters() == []


async def test_what_is_deleted_comes_no_more_until_it_is_asked_for_again(timed: Herald, ada: PersonView) -> None:
    await recur(timed, ada)
    await order(timed, "deleteSchedule")
    await order(timed, "deleteSchedule")
    await advance_to(timed, NINE)
    assert await titles(timed) == []
    assert await timed.dead_letters() == []
    await order(timed, "resumeSchedule")
    assert await reasons(timed) == [("unknown", "/target/schedule")]
    await recur(timed, ada)
    await advance_to(timed, NINE + DAY)
    assert await titles(timed) == ["Good morning"]


async def test_an_occurrence_can_be_cancelled_by_its_name(timed: Herald, ada: PersonView) -> None:
    await recur(timed, ada, timeZone="recipient", rule="0 12 * * *")
    await advance_to(timed, MONDAY + timedelta(hours=15))
    target = {"source": f"{SOURCE}morning", "id": "2026-11-24T12:00"}
    await ingest(timed.services, json.dumps({"command": "cancel", "target": target}).encode(), "m")
    for day in (24, 25):
        await advance_to(timed, datetime(2026, 11, day, 11, 0, 1, tzinfo=UTC))
    assert len(await timed.received()) == 1
    assert await state_of(timed, "2026-11-24T12:00") is NotificationState.CANCELLED


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"rule": "0 25 * * *"}, "/announcement/rule"),
        ({"rule": "FREQ=WEEKLY"}, "/announcement/rule"),
        ({"rule": "0 9 30 2 *"}, "/announcement/rule"),
        ({"end": "2026-11-22T09:00"}, "/announcement/rule"),
        ({"skip": ["tomorrow"]}, "/announcement/skip/0"),
        ({"holidays": "none"}, "/announcement/holidays"),
        ({"timeZone": "Mars"}, "/announcement/timeZone"),
        ({"start": "2026-11-22"}, "/announcement/start"),
        ({"notification": {"recipients": [], "category": "c", "content": {"title": "t"}}},
         "/announcement/notification/recipients"),
        ({"notification": {"recipients": [{"all": True}], "category": "c", "content": {"title": "t"},
                           "expiresAt": "2026-12-01T00:00Z"}}, "/announcement/notification"),
        ({"notification": {"recipients": [{"all": True}], "category": "c", "content": {"title": "t"}, "tenant": "x"}},
         "/announcement/notification/tenant"),
        ({"notification": {"recipients": [{"all": True}], "category": "c",
                           "card": {"type": "AdaptiveCard", "version": "1.5", "body": [{"type": "Nothing"}]}}},
         "/announcement/notification/card/body/0/type"),
    ],
)  # fmt: skip
async def test_what_cannot_recur_is_refused_with_a_pointer(
    timed: Herald, ada: PersonView, changes: dict[str, Any], pointer: str
) -> None:
    await recur(timed, ada, **changes)
    [(reason, where)] = await reasons(timed)
    assert reason == "invalid"
    assert where.startswith(pointer)
    assert await timed.services.schedules.get(timed.tenant, "morning") is None


class Dying(Tap):
    """A process that dies at `point`: 1 is before its first storage operation, 2 after it; 0 is never."""

    def __init__(self, point: int = 0) -> None:
        self._point, self.count = point, 0

    async def before(self, written: str) -> None:
        self._step()

    async def after(self, written: str) -> None:
        self._step()

    def _step(self) -> None:
        self.count += 1
        if self._point and self.count >= self._point:
            raise Dead


class Dead(BaseException):
    """The process is gone: nothing in it catches this."""


class Sleeping(Dying):
    """A process that stands still at its `point`, until it is woken."""

    def __init__(self, point: int) -> None:
        super().__init__(point)
        self.asleep, self.woken = asyncio.Event(), asyncio.Event()

    async def before(self, written: str) -> None:
        await self._stand()

    async def after(self, written: str) -> None:
        await self._stand()

    async def _stand(self) -> None:
        try:
            self._step()
        except Dead:
            self.asleep.set()
            await self.woken.wait()


async def one_of_each(herald: Herald, name: str) -> Counter[str]:
    """Things of all kinds that are due at `NINE`: what somebody new is to see of them, once each."""
    set_clock(herald, MONDAY)
    [ada] = (await herald.grow(people=1)).people
    await herald.know(ada, time_zone="Europe/Berlin")
    nine = {"at": "2026-11-23T09:00", "timeZone": "Europe/Berlin"}
    await herald.ask(user(ada), content={"title": f"Scheduled {name}"}, schedule=nine)
    own_time = {"at": "2026-11-23T09:00", "timeZone": "recipient"}
    await herald.ask(user(ada), content={"title": f"At her time {name}"}, schedule=own_time)
    await herald.send()
    await recur(herald, ada, name=name, title=f"Recurring {name}")
    await recur(herald, ada, name=f"{name} own", title=f"Recurring at her time {name}", timeZone="recipient")
    asked = await herald.ask(user(ada), content={"title": f"Watched {name}"})
    await herald.services.timers.put(NINE, "watch", asked.key)
    await herald.services.timers.put(NINE, "digest", f"{herald.tenant};u:{ada.object_id}")
    await herald.send()
    return Counter(f"{title} {name}" for title in ("Scheduled", "At her time", "Recurring", "Watched"))


async def tapped_tick(herald: Herald, tapping: Tap) -> None:
    token = TAP.set(tapping)
    try:
        await tick(herald.services)
    finally:
        TAP.reset(token)


async def end_of_story(herald: Herald, name: str, seen: Counter[str]) -> None:
    """Whoever ticks now finishes it: all was told once, and the next occurrence wakes."""
    await tick(herald.services)
    await herald.send()
    assert Counter(title for title in await titles(herald) if title.endswith(name)) == seen
    assert (await stored(herald, name)).occurrence == "2026-11-24T09:00"
    wakes = [list(each.subject) async for page in herald.services.timers.read_due(NINE + DAY, 100) for each in page]
    assert [herald.tenant, name] in wakes
    await order(herald, "deleteSchedule", name)
    await order(herald, "deleteSchedule", f"{name} own")
    assert await herald.dead_letters() == []


async def test_a_tick_may_die_before_or_after_each_of_its_operations(timed: Herald) -> None:
    for point in range(1, 200):
        name = f"d{point}"
        seen = await one_of_each(timed, name)
        set_clock(timed, NINE)
        lived = True
        try:
            await tapped_tick(timed, Dying(point))
        except Dead:
            lived = False
        await end_of_story(timed, name, seen)
        if lived:
            assert point > 20
            return
    raise AssertionError("there are more operations than thought")


async def test_a_tick_may_sleep_anywhere_while_another_does_its_work(timed: Herald) -> None:
    for point in range(1, 200):
        name = f"s{point}"
        seen = await one_of_each(timed, name)
        set_clock(timed, NINE)
        sleeping = Sleeping(point)
        slow = asyncio.create_task(tapped_tick(timed, sleeping))
        stop = asyncio.create_task(sleeping.asleep.wait())
        await asyncio.wait((slow, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        slept = sleeping.asleep.is_set()
        await tick(timed.services)
        await timed.send()
        sleeping.woken.set()
        await slow
        await end_of_story(timed, name, seen)
        if not slept:
            assert point > 20
            return
    raise AssertionError("there are more operations than thought")


async def test_two_ticks_at_once_do_no_harm(timed: Herald) -> None:
    seen = await one_of_each(timed, "t")
    set_clock(timed, NINE)
    await asyncio.gather(*(tick(timed.services) for _ in range(4)))
    await end_of_story(timed, "t", seen)


@pytest.mark.parametrize("point", range(1, 9))
async def test_who_takes_a_command_about_a_schedule_may_die_and_the_command_comes_again(
    timed: Herald, ada: PersonView, point: int
) -> None:
    command = {"command": "schedule", "target": {"schedule": "morning"}}
    for changes in ({}, {"rule": "0 10 * * *"}):
        body = json.dumps(command | {"announcement": announcement(ada, **changes)}).encode()
        token = TAP.set(Dying(point))
        try:
            await ingest(timed.services, body, "m")
        except Dead:
            pass
        finally:
            TAP.reset(token)
        await ingest(timed.services, body, "m")
    await advance_to(timed, NINE)
    await advance_to(timed, NINE + timedelta(hours=1))
    assert len(await timed.received()) == 1
    assert await state_of(timed, "2026-11-23T10:00") is NotificationState.FINISHED


@pytest.mark.parametrize("command", ["pauseSchedule", "deleteSchedule"])
async def test_what_was_due_before_it_is_paused_or_deleted_is_heard_or_missed(
    timed: Herald, ada: PersonView, command: str
) -> None:
    await recur(timed, ada)
    set_clock(timed, NINE + 2 * DAY + timedelta(minutes=30))  # nothing ran for three occurrences
    await order(timed, command)
    await timed.send()
    found = [await state_of(timed, f"2026-11-{day}T09:00") for day in (23, 24, 25, 26)]
    assert found == [NotificationState.MISSED, NotificationState.MISSED, NotificationState.FINISHED, None]
    assert len(await timed.received()) == 1
    assert (await stored(timed)).state is not ScheduleState.ACTIVE
