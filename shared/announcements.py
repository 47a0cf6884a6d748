"""Recurring announcements: turn each due occurrence into a notification, and compute the next occurrence.

The order of the writes makes it safe to repeat, also by two workers at once: first the notification, whose id is the
occurrence's name, then the message that expands it, the schedule's next occurrence, and the timer for that. The timer
that fired is deleted after all of these.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import orjson

from shared.contract.faults import Fault, MessageRefused
from shared.contract.models import RECIPIENT, Announcement
from shared.contract.parsing import parse_message
from shared.publishing import accept, shard_count
from shared.queue_messages import NOTIFICATIONS, Expansion
from shared.records import StoredNotification, notification_key
from shared.services import Services
from shared.states import NotificationState, ScheduleState
from shared.storage import timers
from shared.storage.schedules import StoredSchedule
from shared.storage.table import Conflict
from shared.storage.unreadable import SCHEDULES, UnreadableRow
from shared.time.holidays import Holidays
from shared.time.localtime import FIRST_ZONE, load_zone, to_wall_time
from shared.time.recurrence import Occurrence, Recurrence, zone_of_rule

#: Prefix of the source of a schedule's notifications; the schedule's name follows.
SOURCE = "/herald/schedules/"
#: Events of one calendar that a log line names if they cannot be read.
MAX_LEFT_OUT_LOGGED = 10
#: Occurrences of one schedule that are stored as missed after an outage; beyond them, only the log names them.
MAX_MISSED_STORED = 100
#: Time from when the first zone on earth reaches a wall time until the last one does.
AROUND_THE_WORLD = timedelta(hours=26)

log = logging.getLogger(__name__)


async def announce_due(services: Services, tenant: str, name: str) -> bool:
    """Turn each due occurrence of a schedule into a notification, in order, and set the timer for the next one.

    A schedule that is no longer valid is paused, with a dead letter; one whose row is malformed gets a dead letter.
    Returns False if a newer instance must do it.
    """
    try:
        await _announce_due(services, tenant, name)
    except UnreadableRow as unreadable:
        await services.dead_letters.put_row(SCHEDULES, unreadable, services.clock())
        return not unreadable.is_newer
    return True


async def _announce_due(services: Services, tenant: str, name: str) -> None:
    schedule, now, stored = await services.schedules.get(tenant, name), services.clock(), 0
    while schedule and schedule.state is ScheduleState.ACTIVE and schedule.next_due <= now:
        after = schedule.next_due
        try:
            await asyncio.to_thread(_check, services, schedule)  # it parses the announcement, maybe with a calendar
            if stored < MAX_MISSED_STORED or after >= _missed_before(services, schedule, now):
                await _announce_occurrence(services, schedule, now)
                stored += 1
            else:
                after = _missed_before(services, schedule, now)
                message = "Missed occurrences are not stored: source %s, id %s and all later ones until %s"
                log.error(message, SOURCE + name, schedule.occurrence, after)
            schedule = await advance_schedule(services, schedule, after)
        except MessageRefused as refused:
            await _pause_invalid(services, schedule, refused)
            schedule = await services.schedules.get(tenant, name)
        except Conflict:
            schedule = await services.schedules.get(tenant, name)
    if schedule:
        await set_timer(services, schedule)


def _check(services: Services, schedule: StoredSchedule) -> None:
    """Raise `MessageRefused` if this version does not accept the announcement of a stored schedule."""
    try:
        schedule_zone(schedule.announcement, services.settings.default_time_zone)
    except ValueError as error:
        raise MessageRefused("invalid", _faults(schedule, error)) from None


async def advance_schedule(services: Services, schedule: StoredSchedule, after: datetime) -> StoredSchedule:
    """Store the first occurrence after an instant as the next one, or end the schedule.

    Raises `Conflict`, and `MessageRefused` if this version does not accept the announcement.
    """
    try:
        # In a thread: to read a calendar and to follow its rules takes up to a second.
        found = await asyncio.to_thread(_find_next, schedule, after, services.settings.default_time_zone)
    except ValueError as error:
        faults = await asyncio.to_thread(_faults, schedule, error)
        raise MessageRefused("invalid", faults) from None
    if found is None:
        return await services.schedules.change(schedule, state=ScheduleState.ENDED)
    return await services.schedules.change(
        schedule, state=ScheduleState.ACTIVE, next_due=found.at, occurrence=found.name
    )


def _find_next(schedule: StoredSchedule, after: datetime, default_zone: str) -> Occurrence | None:
    announcement = schedule.announcement
    return next_occurrence(announcement, after, schedule_zone(announcement, default_zone))


def _command(schedule: StoredSchedule) -> bytes:
    """Return the command that creates a schedule, as an upstream system would send it."""
    head = {"command": "schedule", "target": {"schedule": schedule.name}, "tenant": schedule.tenant}
    try:
        return orjson.dumps(head | {"announcement": orjson.loads(schedule.data)})
    except orjson.JSONDecodeError:
        return schedule.data


def _faults(schedule: StoredSchedule, error: ValueError) -> Sequence[Fault]:
    """Return the faults of a stored announcement, with pointers into its command."""
    try:
        parse_message(_command(schedule))
    except MessageRefused as refused:
        return refused.faults
    return [Fault("/announcement/rule", str(error).splitlines()[0])]


async def _pause_invalid(services: Services, schedule: StoredSchedule, refused: MessageRefused) -> None:
    """Store a dead letter with the command of a schedule, then pause it."""
    hint = "is no longer valid, and is paused: send it again without these faults, then resumeSchedule"
    row = await services.dead_letters.put(
        NOTIFICATIONS,
        f"schedule;{schedule.tenant};{schedule.name}",
        _command(schedule),
        refused.reason,
        [*refused.faults, Fault("/announcement", hint)],
        services.clock(),
    )
    log.error("The schedule %s is no longer valid and is paused: see DeadLetters %s", SOURCE + schedule.name, row)
    with suppress(Conflict):  # it was changed meanwhile, and is read again
        await services.schedules.change(schedule, state=ScheduleState.PAUSED)


async def set_timer(services: Services, schedule: StoredSchedule) -> None:
    """Set the timer for the next occurrence of a schedule that is active."""
    if schedule.state is ScheduleState.ACTIVE:
        await services.timers.put(schedule.next_due, timers.OCCURRENCE, schedule.tenant, schedule.name)


def _missed_before(services: Services, schedule: StoredSchedule, now: datetime) -> datetime:
    """Return the time before which an occurrence is too late by now in every zone."""
    category = services.categories.of(schedule.announcement.notification.category)
    return now - category.late_grace(services.settings.late_grace) - AROUND_THE_WORLD


async def _announce_occurrence(services: Services, schedule: StoredSchedule, now: datetime) -> None:
    source, announcement = SOURCE + schedule.name, schedule.announcement
    zone_name = zone_name_of(announcement)
    own_time = {"at": schedule.occurrence} | ({"timeZone": zone_name} if zone_name else {})
    value = orjson.loads(schedule.data)["notification"] | {"schedule": own_time}
    data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    new = StoredNotification(
        key=notification_key(schedule.tenant, source, schedule.occurrence),
        tenant=schedule.tenant,
        source=source,
        id=schedule.occurrence,
        content_hash=hashlib.sha256(data).hexdigest(),
        data=data,
        state=NotificationState.SCHEDULED,
        created=now,
        shards=shard_count(announcement.notification.recipients),
        due=schedule.next_due,
        time=schedule.next_due,
    )
    stored, _ = await accept(services, new)
    if stored.state is NotificationState.SCHEDULED:
        await services.queues.enqueue_expansion(Expansion(stored.key, 0))


def zone_name_of(announcement: Announcement) -> str:
    """Return the zone of an announcement, or the one that its rule names (TZID), or "" for the default zone."""
    return announcement.time_zone or zone_of_rule(announcement.rule)


def schedule_zone(announcement: Announcement, default_zone: str) -> ZoneInfo:
    """Return the zone in which its occurrences become due: its own; for `recipient`, the first zone on earth."""
    zone = zone_name_of(announcement) or default_zone
    return load_zone(FIRST_ZONE if zone == RECIPIENT else zone)


def next_occurrence(announcement: Announcement, after: datetime, zone: ZoneInfo) -> Occurrence | None:
    """Return the first occurrence in `zone` strictly after an instant, or None if there is none."""
    return next(occurrences(announcement, after, zone), None)


def occurrences(announcement: Announcement, after: datetime, zone: ZoneInfo) -> Iterator[Occurrence]:
    """Yield the occurrences in `zone` strictly after an instant, in order; often without end."""
    return _recurrence(announcement, to_wall_time(after, zone), zone).occurrences(after, zone)


def recipient_occurrences(announcement: Announcement, after: datetime, zone: ZoneInfo) -> Iterator[Occurrence]:
    """Yield when a recipient in `zone` gets the occurrences strictly after an instant, with `timeZone` `recipient`.

    Each wall time is a notification of its own, since the clocks of `FIRST_ZONE` skip none. Those that the clocks of
    `zone` skip all come at the end of the gap.
    """
    return _recurrence(announcement, to_wall_time(after, zone), zone).occurrences_by_wall_time(after, zone)


def _recurrence(announcement: Announcement, after: datetime, zone: ZoneInfo) -> Recurrence:
    """Return its rule; of the holidays it skips, only those from the year of the wall time `after` on are read."""
    start, end = (datetime.fromisoformat(at) if at else None for at in (announcement.start, announcement.end))
    dates, calendar = frozenset(map(date.fromisoformat, announcement.skip)), announcement.holidays
    skip = _skipped_dates(calendar, after.year, dates) if calendar else dates
    return Recurrence(announcement.rule, start, end, skip, None if announcement.time_zone == RECIPIENT else zone)


@lru_cache(maxsize=32)
def _skipped_dates(calendar: str, year: int, dates: frozenset[date]) -> Holidays:
    """Return the holidays of a calendar from a year on, and `dates`. Cached, since parsing a calendar is slow."""
    holidays = Holidays(calendar, date(year, 1, 1), dates)
    for line in holidays.left_out[:MAX_LEFT_OUT_LOGGED]:
        log.warning("The calendar of an announcement was read without %s", line)
    return holidays
