"""Recurring announcements: turn each due occurrence into a notification, and compute the next occurrence.

The order of the writes makes it safe to repeat, also by two workers at once: first the notification, whose id is the
occurrence's name, then the message that expands it, the schedule's next occurrence, and the timer for that. The timer
that fired is deleted after all of these.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import orjson

from shared.contract.models import RECIPIENT, Announcement
from shared.publishing import accept, shard_count
from shared.queue_messages import Expansion
from shared.records import StoredNotification, notification_key
from shared.services import Services
from shared.states import NotificationState, ScheduleState
from shared.storage import timers
from shared.storage.schedules import StoredSchedule
from shared.storage.table import Conflict
from shared.time.holidays import Holidays
from shared.time.localtime import FIRST_ZONE, load_zone, to_wall_time
from shared.time.recurrence import Occurrence, Recurrence

#: Prefix of the source of a schedule's notifications; the schedule's name follows.
SOURCE = "/herald/schedules/"
#: Occurrences of one schedule that are stored as missed after an outage; beyond them, only the log names them.
MAX_MISSED_STORED = 100
#: Time from when the first zone on earth reaches a wall time until the last one does.
AROUND_THE_WORLD = timedelta(hours=26)

log = logging.getLogger(__name__)


async def announce_due(services: Services, tenant: str, name: str) -> None:
    """Turn each due occurrence of a schedule into a notification, in order, and set the timer for the next one."""
    schedule, now, stored = await services.schedules.get(tenant, name), services.clock(), 0
    while schedule and schedule.state is ScheduleState.ACTIVE and schedule.next_due <= now:
        after = schedule.next_due
        if stored < MAX_MISSED_STORED or after >= _missed_before(services, schedule, now):
            await _announce_occurrence(services, schedule, now)
            stored += 1
        else:
            after = _missed_before(services, schedule, now)
            message = "Missed occurrences are not stored: source %s, id %s and all later ones until %s"
            log.error(message, SOURCE + name, schedule.occurrence, after)
        try:
            schedule = await advance_schedule(services, schedule, after)
        except Conflict:
            schedule = await services.schedules.get(tenant, name)
    if schedule:
        await set_timer(services, schedule)


async def advance_schedule(services: Services, schedule: StoredSchedule, after: datetime) -> StoredSchedule:
    """Store the first occurrence after an instant as the next one, or end the schedule; raises `Conflict`."""
    zone = schedule_zone(schedule.announcement, services.settings.default_time_zone)
    found = next_occurrence(schedule.announcement, after, zone)
    if found is None:
        return await services.schedules.change(schedule, state=ScheduleState.ENDED)
    return await services.schedules.change(
        schedule, state=ScheduleState.ACTIVE, next_due=found.at, occurrence=found.name
    )


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
    own_time = {"at": schedule.occurrence} | ({"timeZone": announcement.time_zone} if announcement.time_zone else {})
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
    stored = await accept(services, new)
    if stored.state is NotificationState.SCHEDULED:
        await services.queues.enqueue_expansion(Expansion(stored.key, 0))


def schedule_zone(announcement: Announcement, default_zone: str) -> ZoneInfo:
    """Return the zone in which its occurrences become due: its own; for `recipient`, the first zone on earth."""
    zone = announcement.time_zone or default_zone
    return load_zone(FIRST_ZONE if zone == RECIPIENT else zone)


def next_occurrence(announcement: Announcement, after: datetime, zone: ZoneInfo) -> Occurrence | None:
    """Return the first occurrence in `zone` strictly after an instant, or None if there is none."""
    return next(occurrences(announcement, after, zone), None)


def occurrences(announcement: Announcement, after: datetime, zone: ZoneInfo) -> Iterator[Occurrence]:
    """Yield the occurrences in `zone` strictly after an instant, in order; often without end."""
    return _recurrence(announcement, to_wall_time(after, zone)).occurrences(after, zone)


def recipient_occurrences(announcement: Announcement, after: datetime, zone: ZoneInfo) -> Iterator[Occurrence]:
    """Yield when a recipient in `zone` gets the occurrences strictly after an instant, with `timeZone` `recipient`.

    Each wall time is a notification of its own, since the clocks of `FIRST_ZONE` skip none. Those that the clocks of
    `zone` skip all come at the end of the gap.
    """
    return _recurrence(announcement, to_wall_time(after, zone)).occurrences_by_wall_time(after, zone)


def _recurrence(announcement: Announcement, after: datetime) -> Recurrence:
    """Return its rule; of the holidays it skips, only those from the year of the wall time `after` on are read."""
    start, end = (datetime.fromisoformat(at) if at else None for at in (announcement.start, announcement.end))
    dates, calendar = frozenset(map(date.fromisoformat, announcement.skip)), announcement.holidays
    skip = _skipped_dates(calendar, after.year, dates) if calendar else dates
    return Recurrence(announcement.rule, start, end, skip)


@lru_cache(maxsize=32)
def _skipped_dates(calendar: str, year: int, dates: frozenset[date]) -> Holidays:
    """Return the holidays of a calendar from a year on, and `dates`. Cached, since parsing a calendar is slow."""
    return Holidays(calendar, date(year, 1, 1), dates)
