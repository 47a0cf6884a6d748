"""Recurring announcements: turn each due occurrence into a notification, and compute the next occurrence.

The order of the writes makes it safe to repeat, and safe when two workers do it at once: first the notification, which
is identified by the occurrence's name, then the message that expands it, the schedule's next occurrence, and the timer
for that. The timer that fired is removed after all of these.
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
from shared.publishing import accept, shards
from shared.queue_messages import Expansion
from shared.services import Services
from shared.states import NotificationState, ScheduleState
from shared.storage import timers
from shared.storage.notifications import StoredNotification, notification_key
from shared.storage.schedules import StoredSchedule
from shared.storage.table import Conflict
from shared.time.holidays import Holidays
from shared.time.localtime import FIRST_ZONE, load_zone, to_wall_time
from shared.time.recurrence import Occurrence, Recurrence

#: Prefix of the source of a schedule's notifications; the schedule's name follows.
SOURCE = "/herald/schedules/"
#: Occurrences of one schedule that are stored at most, where nothing ran for long; of what was missed beyond them,
#: only the log tells.
MAX_MISSED_STORED = 100
#: The last zone on earth gets to a wall time this long after the first.
AROUND_THE_WORLD = timedelta(hours=26)

log = logging.getLogger(__name__)


async def announce(services: Services, tenant: str, name: str) -> None:
    """Announce all that is due of a schedule, in order, and have its next occurrence wake."""
    schedule, now, told = await services.schedules.get(tenant, name), services.clock(), 0
    while schedule and schedule.state is ScheduleState.ACTIVE and schedule.next <= now:
        after = schedule.next
        if told < MAX_MISSED_STORED or after >= _missed_before(services, schedule, now):
            await _announce(services, schedule, now)
            told += 1
        else:
            after = _missed_before(services, schedule, now)
            missed = "Missed, and not even stored: source %s, id %s and all that was due after it until %s"
            log.error(missed, SOURCE + name, schedule.occurrence, after)
        try:
            schedule = await move_on(services, schedule, after)
        except Conflict:
            schedule = await services.schedules.get(tenant, name)
    if schedule:
        await wake(services, schedule)


async def move_on(services: Services, schedule: StoredSchedule, after: datetime) -> StoredSchedule:
    """Store the first occurrence after an instant, or the end; raises `Conflict`."""
    zone = zone_of(schedule.announcement, services.settings.default_time_zone)
    found = following(schedule.announcement, after, zone)
    if found is None:
        return await services.schedules.change(schedule, state=ScheduleState.ENDED)
    return await services.schedules.change(schedule, state=ScheduleState.ACTIVE, next=found.at, occurrence=found.name)


async def wake(services: Services, schedule: StoredSchedule) -> None:
    """Have the next occurrence wake, where there is one."""
    if schedule.state is ScheduleState.ACTIVE:
        await services.timers.put(schedule.next, timers.OCCURRENCE, schedule.tenant, schedule.name)


def _missed_before(services: Services, schedule: StoredSchedule, now: datetime) -> datetime:
    """Up to when an occurrence was due that is too late by now everywhere."""
    category = services.categories.of(schedule.announcement.notification.category)
    return now - category.late_grace(services.settings.late_grace) - AROUND_THE_WORLD


async def _announce(services: Services, schedule: StoredSchedule, now: datetime) -> None:
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
        shards=shards(announcement.notification.recipients),
        due=schedule.next,
        time=schedule.next,
    )
    stored = await accept(services, new)
    if stored.state is NotificationState.SCHEDULED:
        await services.queues.enqueue_expansion(Expansion(stored.key, 0))


def zone_of(announcement: Announcement, default_zone: str) -> ZoneInfo:
    """The zone by whose clocks its occurrences come due: its own, or the first of all where each has their own."""
    own = announcement.time_zone or default_zone
    return load_zone(FIRST_ZONE if own == RECIPIENT else own)


def following(announcement: Announcement, after: datetime, zone: ZoneInfo) -> Occurrence | None:
    """The first occurrence in `zone` strictly after an instant; None where there is no more."""
    return next(coming(announcement, after, zone), None)


def coming(announcement: Announcement, after: datetime, zone: ZoneInfo) -> Iterator[Occurrence]:
    """All occurrences in `zone` strictly after an instant, in order; often without end."""
    return _recurrence(announcement, to_wall_time(after, zone)).occurrences(after, zone)


def for_each_own(announcement: Announcement, after: datetime, zone: ZoneInfo) -> Iterator[Occurrence]:
    """When those come, strictly after an instant, to who lives in `zone`, of which each has their own time.

    Each wall time is a notification of its own, as no clock of `FIRST_ZONE` skips one: several that clocks skip
    elsewhere come together there, at the end of the gap.
    """
    return _recurrence(announcement, to_wall_time(after, zone)).occurrences_by_wall_time(after, zone)


def _recurrence(announcement: Announcement, after: datetime) -> Recurrence:
    """Its rule, without the dates that it leaves out from a wall time on."""
    start, end = (datetime.fromisoformat(at) if at else None for at in (announcement.start, announcement.end))
    dates, calendar = frozenset(map(date.fromisoformat, announcement.skip)), announcement.holidays
    skip = _left_out(calendar, after.year, dates) if calendar else dates
    return Recurrence(announcement.rule, start, end, skip)


@lru_cache(maxsize=32)
def _left_out(calendar: str, year: int, dates: frozenset[date]) -> Holidays:
    """The holidays of a calendar from a year on, and `dates`; not read anew for each occurrence."""
    return Holidays(calendar, date(year, 1, 1), dates)
