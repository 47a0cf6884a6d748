"""Recurring announcements: each occurrence that is due becomes a notification, and the next one is computed.

The order of an occurrence is: its notification, which its name identifies, the message that lists its recipients, the
schedule's next occurrence, what wakes that. So whoever does it again, or at the same time, doubles nothing; and what
woke it is forgotten only after all of that.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime, timedelta

import orjson

from shared.acceptance import accept, shards
from shared.queues import Expansion
from shared.recurring import following, place_of
from shared.services import Services
from shared.states import NotificationState, ScheduleState
from shared.storage import timers
from shared.storage.notifications import Notification, notification_key
from shared.storage.schedules import Schedule
from shared.storage.table import Conflict

#: What the source of its notifications begins with; its name follows.
SOURCE = "/herald/schedules/"
#: Occurrences of one schedule that are stored at most, where nothing ran for long; of what was missed beyond them,
#: only the log tells.
MOST = 100
#: The last place on earth gets to a wall time this long after the first.
AROUND_THE_WORLD = timedelta(hours=26)

log = logging.getLogger(__name__)


async def announce(services: Services, tenant: str, name: str) -> None:
    """Announce all that is due of a schedule, in order, and have its next occurrence wake."""
    schedule, now, told = await services.schedules.get(tenant, name), services.clock(), 0
    while schedule and schedule.state is ScheduleState.ACTIVE and schedule.next <= now:
        after = schedule.next
        if told < MOST or after >= _missed_before(services, schedule, now):
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


async def move_on(services: Services, schedule: Schedule, after: datetime) -> Schedule:
    """Store the first occurrence after an instant, or the end; raises `Conflict`."""
    place = place_of(schedule.announcement, services.settings.default_time_zone)
    found = following(schedule.announcement, after, place)
    if found is None:
        return await services.schedules.change(schedule, state=ScheduleState.ENDED)
    return await services.schedules.change(schedule, state=ScheduleState.ACTIVE, next=found.at, occurrence=found.name)


async def wake(services: Services, schedule: Schedule) -> None:
    """Have the next occurrence wake, where there is one."""
    if schedule.state is ScheduleState.ACTIVE:
        await services.due.put(schedule.next, timers.OCCURRENCE, schedule.tenant, schedule.name)


def _missed_before(services: Services, schedule: Schedule, now: datetime) -> datetime:
    """Up to when an occurrence was due that is too late by now everywhere."""
    category = services.categories.of(schedule.announcement.notification.category)
    return now - category.late_grace(services.settings.late_grace) - AROUND_THE_WORLD


async def _announce(services: Services, schedule: Schedule, now: datetime) -> None:
    source, announcement = SOURCE + schedule.name, schedule.announcement
    own_time = {"at": schedule.occurrence} | ({"timeZone": announcement.time_zone} if announcement.time_zone else {})
    value = orjson.loads(schedule.data)["notification"] | {"schedule": own_time}
    data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    new = Notification(
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
        await services.queues.expand(Expansion(stored.key, 0))
