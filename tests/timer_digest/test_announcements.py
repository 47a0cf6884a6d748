"""Recurring announcements: each occurrence is sent once at its time, also after crashes, changes and outages."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError

from local.fake_teams.api import Behaviour, PersonView
from notify.ingest import ingest
from shared.announcements import MAX_MISSED_STORED, SOURCE
from shared.queue_messages import NEWER_VERSION_WAITS, NOTIFICATIONS
from shared.records import StoredNotification, notification_key
from shared.states import NotificationState, ScheduleState
from shared.storage.schedules import Schedules, StoredSchedule
from shared.time.localtime import load_zone
from tests.notify.test_scheduling import advance_to, set_clock
from tests.support.herald import Herald, user
from tests.support.tapped import TAP, Tap
from timer_digest.tick import tick

#: A Monday, half an hour before 09:00 in Berlin.
MONDAY = datetime(2026, 11, 23, 7, 30, tzinfo=UTC)
NINE = MONDAY + timedelta(minutes=30)
DAY = timedelta(days=1)
HOLIDAYS = "BEGIN:VCALENDAR\nBEGIN:VEVENT\nDTSTART;VALUE=DATE:20201124\nRRULE:FREQ=YEARLY\nEND:VEVENT\nEND:VCALENDAR"


def announcement(*to: PersonView, **changes: Any) -> dict[str, Any]:
    content = {"title": changes.pop("title", "Good morning")}
    notification = {"recipients": [*map(user, to)], "category": "news", "content": content}
    return {"rule": "0 9 * * *", "timeZone": "Europe/Berlin", "notification": notification} | changes


async def command_schedule(herald: Herald, command: str, name: str = "morning", **more: Any) -> None:
    """Send a command about the schedule of this name."""
    body = {"command": command, "target": {"schedule": name}, **more}
    await ingest(herald.services, json.dumps(body).encode(), uuid.uuid4().hex)


async def set_schedule(herald: Herald, *to: PersonView, name: str = "morning", **changes: Any) -> None:
    """Create or change a schedule with an announcement to these people, daily at 09:00 in Berlin."""
    await command_schedule(herald, "schedule", name, announcement=announcement(*to, **changes))


async def stored_schedule(herald: Herald, name: str = "morning") -> StoredSchedule:
    found = await herald.services.schedules.get(herald.tenant, name)
    assert found
    return found


async def stored_occurrence(herald: Herald, of: str, name: str = "morning") -> StoredNotification | None:
    """Return the notification of an occurrence, or None if it has not been announced."""
    return await herald.services.notifications.get(notification_key(herald.tenant, SOURCE + name, of))


async def state_of(herald: Herald, of: str, name: str = "morning") -> NotificationState | None:
    found = await stored_occurrence(herald, of, name)
    return found.state if found else None


async def titles(herald: Herald) -> list[str]:
    return [message.activity["summary"] for message in await herald.received()]


async def refusals(herald: Herald) -> list[tuple[str, str]]:
    """Return the reason and the pointer of the first fault of each dead letter."""
    return [(letter["reason"], json.loads(letter["faults"])[0]["pointer"]) for letter in await herald.dead_letters()]


@pytest.fixture
async def timed(tapped: Herald) -> Herald:
    """Herald with the clock at `MONDAY`; delays follow that clock, and each storage operation can be tapped."""
    set_clock(tapped, MONDAY)
    return tapped


@pytest.fixture
async def ada(timed: Herald) -> PersonView:
    [ada] = (await timed.grow(people=1)).people
    await timed.store_reference(ada, time_zone="Europe/Berlin")
    return ada


async def test_each_occurrence_is_a_notification_named_by_its_wall_time(timed: Herald, ada: PersonView) -> None:
    await set_schedule(timed, ada)
    for number in range(3):
        await advance_to(timed, NINE + number * DAY - timedelta(minutes=1))
        assert len(await timed.received()) == number
        await advance_to(timed, NINE + number * DAY)
        assert len(await timed.received()) == number + 1
        assert await state_of(timed, f"2026-11-{23 + number}T09:00") is NotificationState.FINISHED
    assert (await stored_schedule(timed)).occurrence == "2026-11-26T09:00"
    assert await timed.dead_letters() == []


async def test_occurrence_keeps_its_wall_time_after_a_clock_change(timed: Herald, ada: PersonView) -> None:
    before = datetime(2027, 3, 27, 8, tzinfo=UTC)
    set_clock(timed, before - timedelta(minutes=5))
    await set_schedule(timed, ada)
    for at in (before, before + DAY - timedelta(hours=1)):
        await advance_to(timed, at - timedelta(minutes=1))
        count = len(await timed.received())
        await advance_to(timed, at)
        assert len(await timed.received()) == count + 1


async def test_recipient_time_announcement_is_sent_in_each_zone_at_its_time(timed: Herald) -> None:
    zones = ("Asia/Tokyo", "Europe/Berlin", "America/New_York")
    people = (await timed.grow(people=3)).people
    for person, zone in zip(people, zones, strict=True):
        await timed.store_reference(person, time_zone=zone)
    await set_schedule(timed, *people, timeZone="recipient")
    received: list[str] = []
    for day in (24, 25):
        for person, zone in zip(people, zones, strict=True):
            at = datetime(2026, 11, day, 9, tzinfo=load_zone(zone))
            await advance_to(timed, at.astimezone(UTC) - timedelta(minutes=1))
            assert [message.person for message in await timed.received()] == received
            await advance_to(timed, at.astimezone(UTC) + timedelta(seconds=1))
            received.append(person.object_id)
            assert [message.person for message in await timed.received()] == received
    assert await state_of(timed, "2026-11-24T09:00") is NotificationState.FINISHED


async def test_holidays_and_skipped_dates_have_no_occurrence(timed: Herald, ada: PersonView) -> None:
    await set_schedule(timed, ada, skip=["2026-11-26"], holidays=HOLIDAYS, end="2026-11-27T09:00")
    for day in range(8):
        await advance_to(timed, NINE + day * DAY)
    days = [f"2026-11-{day}T09:00" for day in range(23, 31)]
    assert [await state_of(timed, day) is not None for day in days] == [True, False, True, False, True] + 3 * [False]
    assert (await stored_schedule(timed)).state is ScheduleState.ENDED
    assert len(await timed.received()) == 3


async def test_outage_misses_old_occurrences_and_sends_one_within_the_grace(
    timed: Herald, ada: PersonView, caplog: pytest.LogCaptureFixture
) -> None:
    await set_schedule(timed, ada, rule="0 9,10,11 * * *")
    await advance_to(timed, NINE)
    await advance_to(timed, NINE + timedelta(days=1, hours=2, minutes=30))
    for _ in range(2):
        days = ["2026-11-23T10:00", "2026-11-23T11:00", "2026-11-24T09:00", "2026-11-24T10:00"]
        assert {await state_of(timed, day) for day in days} == {NotificationState.MISSED}
        assert await state_of(timed, "2026-11-24T11:00") is NotificationState.FINISHED
        assert len(await timed.received()) == 2
        await timed.tick()
        await timed.handle_messages()
    assert caplog.text.count("is missed") == 4


async def test_long_outage_stores_some_missed_occurrences_and_sends_the_latest(
    timed: Herald, ada: PersonView, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.announcements.MAX_MISSED_STORED", 3)
    monkeypatch.setattr("shared.announcements.AROUND_THE_WORLD", timedelta())
    assert MAX_MISSED_STORED > 3
    await set_schedule(timed, ada, rule="*/30 * * * *")
    await advance_to(timed, NINE + timedelta(hours=10))
    assert await state_of(timed, "2026-11-23T10:00") is NotificationState.MISSED
    assert await state_of(timed, "2026-11-23T10:30") is None
    assert f"are not stored: source {SOURCE}morning, id 2026-11-23T10:30 and all" in caplog.text
    for of in ("2026-11-23T18:30", "2026-11-23T19:00"):
        assert await state_of(timed, of) is NotificationState.FINISHED
    assert len(await timed.received()) == 2
    assert (await stored_schedule(timed)).occurrence == "2026-11-23T19:30"


async def test_same_command_changes_nothing_and_a_new_rule_moves_the_next_occurrence(
    timed: Herald, ada: PersonView
) -> None:
    await set_schedule(timed, ada)
    before = await stored_schedule(timed)
    await set_schedule(timed, ada)
    assert await stored_schedule(timed) == before
    await set_schedule(timed, ada, rule="0 10 * * *", title="Later")
    assert (await stored_schedule(timed)).occurrence == "2026-11-23T10:00"
    await advance_to(timed, NINE)
    assert await titles(timed) == []
    await advance_to(timed, NINE + timedelta(hours=1))
    await advance_to(timed, NINE + timedelta(hours=2))
    assert await titles(timed) == ["Later"]


async def test_new_zone_does_not_repeat_an_occurrence(timed: Herald, ada: PersonView) -> None:
    await set_schedule(timed, ada)
    await advance_to(timed, NINE)
    await set_schedule(timed, ada, timeZone="America/New_York", title="Again")
    assert (await stored_schedule(timed)).occurrence == "2026-11-23T09:00"
    await advance_to(timed, NINE + timedelta(hours=6))
    assert await titles(timed) == ["Good morning"]
    await advance_to(timed, NINE + timedelta(days=1, hours=6))
    assert await titles(timed) == ["Good morning", "Again"]
    assert await timed.dead_letters() == []


async def test_occurrence_due_before_a_change_has_the_old_content(timed: Herald, ada: PersonView) -> None:
    await set_schedule(timed, ada)
    set_clock(timed, NINE + timedelta(seconds=20))
    await set_schedule(timed, ada, rule="0 18 * * *", title="Good evening")
    await timed.handle_messages()
    assert await titles(timed) == ["Good morning"]
    assert (await stored_schedule(timed)).occurrence == "2026-11-23T18:00"


async def test_paused_schedule_sends_nothing_and_does_not_catch_up(timed: Herald, ada: PersonView) -> None:
    await set_schedule(timed, ada)
    await command_schedule(timed, "pauseSchedule")
    await advance_to(timed, NINE)
    await set_schedule(timed, ada, title="Changed")
    await advance_to(timed, NINE + DAY)
    assert await titles(timed) == []
    await command_schedule(timed, "resumeSchedule")
    await command_schedule(timed, "resumeSchedule")
    await timed.handle_messages()
    assert await titles(timed) == []
    await advance_to(timed, NINE + 2 * DAY)
    assert await titles(timed) == ["Changed"]
    assert await timed.dead_letters() == []


async def test_deleted_schedule_sends_nothing_until_it_is_created_again(timed: Herald, ada: PersonView) -> None:
    await set_schedule(timed, ada)
    await command_schedule(timed, "deleteSchedule")
    await command_schedule(timed, "deleteSchedule")
    await advance_to(timed, NINE)
    assert await titles(timed) == []
    assert await timed.dead_letters() == []
    await command_schedule(timed, "resumeSchedule")
    assert await refusals(timed) == [("unknown", "/target/schedule")]
    await set_schedule(timed, ada)
    await advance_to(timed, NINE + DAY)
    assert await titles(timed) == ["Good morning"]


async def test_occurrence_can_be_cancelled_by_its_name(timed: Herald, ada: PersonView) -> None:
    await set_schedule(timed, ada, timeZone="recipient", rule="0 12 * * *")
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
async def test_invalid_announcement_is_refused_with_a_pointer(
    timed: Herald, ada: PersonView, changes: dict[str, Any], pointer: str
) -> None:
    await set_schedule(timed, ada, **changes)
    [(reason, found)] = await refusals(timed)
    assert reason == "invalid"
    assert found.startswith(pointer)
    assert await timed.services.schedules.get(timed.tenant, "morning") is None


class CrashingWorker(Tap):
    """A worker that crashes at `point`: 1 is before its first storage operation, 2 after it, with 0 never."""

    def __init__(self, point: int = 0) -> None:
        self._point, self.count = point, 0

    async def before(self, written: str) -> None:
        self._step()

    async def after(self, written: str) -> None:
        self._step()

    def _step(self) -> None:
        self.count += 1
        if self._point and self.count >= self._point:
            raise Crash


class Crash(BaseException):
    """The worker has crashed: none of its code catches this."""


class PausingWorker(CrashingWorker):
    """A worker that pauses at `point` until `resumed` is set."""

    def __init__(self, point: int) -> None:
        super().__init__(point)
        self.paused, self.resumed = asyncio.Event(), asyncio.Event()

    async def before(self, written: str) -> None:
        await self._pause_at_point()

    async def after(self, written: str) -> None:
        await self._pause_at_point()

    async def _pause_at_point(self) -> None:
        try:
            self._step()
        except Crash:
            self.paused.set()
            await self.resumed.wait()


async def add_timers(herald: Herald, name: str) -> Counter[str]:
    """Create a timer of each kind, due at `NINE`; return the titles that a new person is to receive, once each."""
    set_clock(herald, MONDAY)
    [ada] = (await herald.grow(people=1)).people
    await herald.store_reference(ada, time_zone="Europe/Berlin")
    due = {"at": "2026-11-23T09:00", "timeZone": "Europe/Berlin"}
    await herald.submit(user(ada), content={"title": f"Scheduled {name}"}, schedule=due)
    own_time = {"at": "2026-11-23T09:00", "timeZone": "recipient"}
    await herald.submit(user(ada), content={"title": f"Recipient time {name}"}, schedule=own_time)
    await herald.handle_messages()
    await set_schedule(herald, ada, name=name, title=f"Recurring {name}")
    await set_schedule(herald, ada, name=f"{name} own", title=f"Recurring recipient time {name}", timeZone="recipient")
    watched = await herald.submit(user(ada), content={"title": f"Watched {name}"})
    await herald.services.timers.put(NINE, "watchdog", watched.key)
    await herald.services.timers.put(NINE, "digest", f"{herald.tenant};u:{ada.object_id}")
    await herald.handle_messages()
    return Counter(f"{title} {name}" for title in ("Scheduled", "Recipient time", "Recurring", "Watched"))


async def tick_with(herald: Herald, worker: Tap) -> None:
    token = TAP.set(worker)
    try:
        await tick(herald.services)
    finally:
        TAP.reset(token)


async def check_next_tick(herald: Herald, name: str, expected: Counter[str]) -> None:
    """Check that after one more tick each message was sent once, and the next occurrence has a timer."""
    await tick(herald.services)
    await herald.handle_messages()
    assert Counter(title for title in await titles(herald) if title.endswith(name)) == expected
    assert (await stored_schedule(herald, name)).occurrence == "2026-11-24T09:00"
    named = [list(each.subject) async for page in herald.services.timers.read_due(NINE + DAY, 100) for each in page]
    assert [herald.tenant, name] in named
    await command_schedule(herald, "deleteSchedule", name)
    await command_schedule(herald, "deleteSchedule", f"{name} own")
    assert await herald.dead_letters() == []


async def test_tick_that_crashes_at_any_operation_is_completed_by_the_next(timed: Herald) -> None:
    for point in range(1, 200):
        name = f"d{point}"
        expected = await add_timers(timed, name)
        set_clock(timed, NINE)
        has_crashed = False
        try:
            await tick_with(timed, CrashingWorker(point))
        except Crash:
            has_crashed = True
        await check_next_tick(timed, name, expected)
        if not has_crashed:
            assert point > 20
            return
    raise AssertionError("there are more than 200 points")


async def test_tick_that_pauses_at_any_operation_repeats_nothing(timed: Herald) -> None:
    for point in range(1, 200):
        name = f"s{point}"
        expected = await add_timers(timed, name)
        set_clock(timed, NINE)
        worker = PausingWorker(point)
        slow = asyncio.create_task(tick_with(timed, worker))
        stop = asyncio.create_task(worker.paused.wait())
        await asyncio.wait((slow, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        has_paused = worker.paused.is_set()
        await tick(timed.services)
        await timed.handle_messages()
        worker.resumed.set()
        await slow
        await check_next_tick(timed, name, expected)
        if not has_paused:
            assert point > 20
            return
    raise AssertionError("there are more than 200 points")


async def test_concurrent_ticks_send_each_message_once(timed: Herald) -> None:
    await timed.teams.set_behaviour(Behaviour(enforce_limits=False))
    timed.services.rate_limiter._real_time = timed.clock
    expected = await add_timers(timed, "t")
    set_clock(timed, NINE)
    await asyncio.gather(*(tick(timed.services) for _ in range(4)))
    for _ in range(5):
        await timed.advance_clock(30)  # each repeated message takes a turn of the conversation
    await check_next_tick(timed, "t", expected)


@pytest.mark.parametrize("point", range(1, 9))
async def test_schedule_command_is_completed_after_a_crash(timed: Herald, ada: PersonView, point: int) -> None:
    command = {"command": "schedule", "target": {"schedule": "morning"}}
    for changes in ({}, {"rule": "0 10 * * *"}):
        body = json.dumps(command | {"announcement": announcement(ada, **changes)}).encode()
        token = TAP.set(CrashingWorker(point))
        try:
            await ingest(timed.services, body, "m")
        except Crash:
            pass
        finally:
            TAP.reset(token)
        await ingest(timed.services, body, "m")
    await advance_to(timed, NINE)
    await advance_to(timed, NINE + timedelta(hours=1))
    assert len(await timed.received()) == 1
    assert await state_of(timed, "2026-11-23T10:00") is NotificationState.FINISHED


@pytest.mark.parametrize("command", ["pauseSchedule", "deleteSchedule"])
async def test_occurrences_due_before_pause_or_delete_are_sent_or_missed(
    timed: Herald, ada: PersonView, command: str
) -> None:
    await set_schedule(timed, ada)
    set_clock(timed, NINE + 2 * DAY + timedelta(minutes=30))  # nothing ran for three occurrences
    await command_schedule(timed, command)
    await timed.handle_messages()
    found = [await state_of(timed, f"2026-11-{day}T09:00") for day in (23, 24, 25, 26)]
    assert found == [NotificationState.MISSED, NotificationState.MISSED, NotificationState.FINISHED, None]
    assert len(await timed.received()) == 1
    assert (await stored_schedule(timed)).state is not ScheduleState.ACTIVE


async def change_row(herald: Herald, **columns: object) -> None:
    key_columns = {"PartitionKey": herald.tenant, "RowKey": "morning"}
    await herald.services.schedules._table.merge(key_columns | columns, (await stored_schedule(herald)).etag)


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"rule": "0 9 ? * *"}, "/announcement/rule"),
        ({"timeZone": "Mars/Olympus"}, "/announcement/timeZone"),
        ({"holidays": "BEGIN:VCALENDAR"}, "/announcement/holidays"),
        ({"notification": {}}, "/announcement/notification/recipients"),
        ({"ends": "2027-01-01"}, "/announcement/ends"),
    ],
)
async def test_schedule_that_no_longer_validates_is_paused_with_a_dead_letter(
    timed: Herald, ada: PersonView, changes: dict[str, object], pointer: str
) -> None:
    """docs/odd-inputs.md, Times."""
    await set_schedule(timed, ada)
    await set_schedule(timed, ada, name="other", title="Another")
    await change_row(timed, data=json.dumps(announcement(ada) | changes).encode())
    await advance_to(timed, NINE)
    assert await titles(timed) == ["Another"]
    assert (await stored_schedule(timed)).state is ScheduleState.PAUSED
    [letter] = await timed.dead_letters()
    assert (letter["queue"], letter["reason"]) == ("notifications", "invalid")
    faults = json.loads(letter["faults"])
    assert pointer in [fault["pointer"] for fault in faults]
    assert faults[-1]["message"].startswith("is no longer valid, and is paused: send it again")
    assert json.loads(letter["body"])["target"] == {"schedule": "morning"}
    # A resume of what is still invalid is refused, and what is sent without the faults can be resumed.
    await command_schedule(timed, "resumeSchedule")
    assert (await stored_schedule(timed)).state is ScheduleState.PAUSED
    assert len(await timed.dead_letters()) == 2
    await set_schedule(timed, ada, title="Mended")
    await command_schedule(timed, "resumeSchedule")
    await advance_to(timed, NINE + DAY)
    assert (await titles(timed))[1:] in (["Mended", "Another"], ["Another", "Mended"])


async def test_command_for_a_schedule_that_no_longer_validates_is_handled(timed: Herald, ada: PersonView) -> None:
    """docs/odd-inputs.md, Times."""
    await set_schedule(timed, ada)
    await change_row(timed, data=b"{}")
    set_clock(timed, NINE + DAY)
    await set_schedule(timed, ada, title="Mended")
    assert (await stored_schedule(timed)).state is ScheduleState.PAUSED
    assert [reason for reason, _ in await refusals(timed)] == ["invalid"]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [({"state": "sleepy"}, "unreadable"), ({"next_due": "soon"}, "unreadable"), ({"data": "{}"}, "unreadable"),
     ({"v": 2}, "newerVersion")],
)  # fmt: skip
async def test_row_of_a_schedule_that_cannot_be_read_is_set_aside(
    timed: Herald, ada: PersonView, columns: dict[str, object], reason: str
) -> None:
    """docs/odd-inputs.md, Times."""
    await set_schedule(timed, ada)
    await set_schedule(timed, ada, name="other", title="Another")
    await change_row(timed, **columns)
    await advance_to(timed, NINE)
    assert await titles(timed) == ["Another"]
    [letter] = await timed.dead_letters()
    assert (letter["queue"], letter["reason"]) == ("Schedules", reason)
    due = [timer.subject async for page in timed.services.timers.read_due(NINE, 100) for timer in page]
    assert due == ([] if reason == "unreadable" else [[timed.tenant, "morning"]])


@pytest.mark.parametrize("command", ["schedule", "pauseSchedule", "resumeSchedule", "deleteSchedule"])
@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({"state": "sleepy"}, "that has the state 'sleepy', which no schedule has: delete it there"),
        ({"data": "{}"}, "that has no announcement in the column data"),
        ({"v": "1"}, "that has '1' as its version: a number is expected"),
    ],
)
async def test_command_for_a_row_that_cannot_be_read_is_refused(
    timed: Herald, ada: PersonView, command: str, columns: dict[str, object], fault: str
) -> None:
    """docs/odd-inputs.md, Times."""
    await set_schedule(timed, ada)
    await change_row(timed, **columns)
    more: dict[str, Any] = {"announcement": announcement(ada)} if command == "schedule" else {}
    await command_schedule(timed, command, **more)
    [letter] = await timed.dead_letters()
    [found] = json.loads(letter["faults"])
    assert (letter["queue"], letter["reason"], found["pointer"]) == (NOTIFICATIONS, "invalid", "/target/schedule")
    assert fault in found["message"]
    assert json.loads(letter["body"])["command"] == command


async def test_command_for_a_schedule_of_a_newer_version_is_put_back(timed: Herald, ada: PersonView) -> None:
    """docs/odd-inputs.md, Times."""
    await set_schedule(timed, ada)
    timed.delayed.clear()
    await change_row(timed, v=2)
    await command_schedule(timed, "pauseSchedule")
    [(at, queue, text)] = timed.delayed
    assert (queue, json.loads(text)["command"]) == (NOTIFICATIONS, "pauseSchedule")
    assert at > timed.clock() + timedelta(seconds=NEWER_VERSION_WAITS.shortest - 10)
    assert await timed.dead_letters() == []


async def test_schedule_that_cannot_be_fetched_does_not_block_others(
    timed: Herald, ada: PersonView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/odd-inputs.md, Times."""
    await set_schedule(timed, ada)
    await set_schedule(timed, ada, name="other", title="Another")
    get = Schedules.get

    async def fail_for_one(schedules: Schedules, tenant: str, name: str) -> StoredSchedule | None:
        if name == "morning":
            raise HttpResponseError("503")
        return await get(schedules, tenant, name)

    monkeypatch.setattr(Schedules, "get", fail_for_one)
    await advance_to(timed, NINE)
    assert await titles(timed) == ["Another"]
    monkeypatch.undo()
    await advance_to(timed, NINE + timedelta(minutes=1))
    assert await titles(timed) == ["Another", "Good morning"]
