"""Expand an audience: add the deliveries of one page of recipients, about when the page is due.

The notification's row holds the number of the next page. The order of the writes is: the rows of the deliveries, their
messages, the next page in the row, the message for that page. A page that comes twice, or again after a crash, adds
only what is missing, and only the page that the row names goes on.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import replace
from datetime import datetime

from notify.audience import AudiencePage, list_page
from notify.progress import finish, watch
from shared.concurrency import gather_limited
from shared.contract.models import RECIPIENT
from shared.queue_messages import Expansion
from shared.services import Services
from shared.states import NotificationState, Purpose
from shared.storage import timers
from shared.storage.deliveries import shard_of
from shared.storage.notifications import StoredNotification
from shared.storage.table import Conflict
from shared.teams.rate_limiter import RetryLater

#: A page is so many seconds of the tenant's rate, and never more recipients than this.
PAGE_SECONDS = 5
MAX_PAGE_RECIPIENTS = 1000
#: A page is listed so many seconds before its turn, so that its deliveries are there when those before it are sent.
LEAD_SECONDS = 4.0
#: Seconds by which the clocks of two processes differ at most.
CLOCK_SKEW_SECONDS = 60.0

#: States in which there are recipients to list.
LISTED = (NotificationState.ACCEPTED, NotificationState.SCHEDULED, NotificationState.EXPANDING)

log = logging.getLogger(__name__)


async def expand(services: Services, message: Expansion) -> None:
    """List one page of recipients, and put its deliveries and the next page on their queues."""
    notification = await services.notifications.get(message.notification)
    if notification is None:
        log.warning("No notification %s: its page is dropped", message.notification)
        return
    if notification.state is NotificationState.SCHEDULED:
        if (begun := await _begin(services, notification, message)) is None:
            return
        notification = begun
    following = Expansion(notification.key, message.page + 1, expected_start=message.expected_start)
    delay = 0.0
    if notification.page == message.page and notification.state in LISTED:
        if notification.page == 0:
            await watch(services, notification.key)
        if held := services.rate_limiter.paused_seconds(notification.tenant):
            await services.queues.enqueue_expansion(message, held)
            return
        try:
            found = await _put_page(services, notification)
        except RetryLater as later:
            await services.queues.enqueue_expansion(message, later.seconds)
            return
        notification = await _move_on(services, notification, found.cursor)
        if not notification.urgent and not _at_their_own_time(notification):
            # Reckoned from this page's turn, not from now: else what each page comes late would add up.
            now, takes = services.real_time().timestamp(), len(found.recipients) / services.settings.tenant_rate
            following = replace(following, expected_start=max(message.expected_start, now) + takes)
            delay = max(0.0, following.expected_start - LEAD_SECONDS - now)
    if notification.state is NotificationState.EXPANDED:
        await finish(services, notification.key)  # the last delivery may have ended before the list did
    # Also where a copy of this page moved the row on: it may have died before it put the next one.
    if notification.page == following.page and notification.state is NotificationState.EXPANDING:
        await services.queues.enqueue_expansion(following, delay)


async def _begin(services: Services, scheduled: StoredNotification, message: Expansion) -> StoredNotification | None:
    """Begin with what is scheduled, or see that it is missed; returns it as it is then, None where it is too early.

    That is written before anybody is listed: whoever reschedules it from then on is told that it has begun.
    """
    found: StoredNotification | None = scheduled
    while found and found.state is NotificationState.SCHEDULED:
        now = services.clock()
        if found.due and found.due > now:
            early = (found.due - now).total_seconds()
            if early < CLOCK_SKEW_SECONDS:  # clocks differ a little
                await services.queues.enqueue_expansion(message, early)
            else:  # or much; or what woke it is a time that it had before it was rescheduled
                await services.timers.put(found.due, timers.NOTIFICATION, found.key)
            return None
        missed = _is_missed(services, found, now)
        try:
            found = await services.notifications.advance(
                found, state=NotificationState.MISSED if missed else NotificationState.ACCEPTED
            )
        except Conflict:
            found = await services.notifications.get(found.key)
            continue
        if missed:
            log.warning("Notification %s is missed: it was due at %s", found.key, found.due)
    return found


def _at_their_own_time(notification: StoredNotification) -> bool:
    """Whether most of its deliveries only wait, each for its recipient's own time: all are listed before that."""
    schedule = notification.content.schedule
    return schedule is not None and schedule.time_zone == RECIPIENT


def _is_missed(services: Services, notification: StoredNotification, now: datetime) -> bool:
    """Whether it is too late to begin with it; one in each recipient's own zone is looked at one by one."""
    if notification.purpose is not Purpose.NOTIFICATION or _at_their_own_time(notification):
        return False
    grace = services.categories.of(notification.content.category).late_grace(services.settings.late_grace)
    return notification.due is not None and now - notification.due > grace


async def _put_page(services: Services, notification: StoredNotification) -> AudiencePage:
    limit = min(MAX_PAGE_RECIPIENTS, PAGE_SECONDS * services.settings.tenant_rate)
    recipients = notification.content.recipients
    found = await list_page(services, notification.tenant, recipients, notification.cursor, limit)
    by_shard: dict[str, dict[str, int]] = defaultdict(dict)
    for recipient, place in found.recipients.items():
        by_shard[shard_of(recipient, notification.shards)][recipient] = place
    now, fresh = services.clock(), notification.page == 0
    due_called_at = now.timestamp() if _at_their_own_time(notification) else 0.0
    for shard, part in by_shard.items():
        messages = await services.deliveries.add(notification.key, shard, part, now, fresh=fresh)
        calls = [replace(message, due_called_at=due_called_at) for message in messages]
        await gather_limited(
            calls, lambda message: services.queues.enqueue_delivery(message, urgent=notification.urgent)
        )
    return found


async def _move_on(services: Services, notification: StoredNotification, cursor: str) -> StoredNotification:
    """Let the row show the next page, or the end; returns it as it is then, whoever moved it."""
    this = notification.page
    changes: dict[str, object] = {"page": this + 1, "cursor": cursor}
    if cursor:
        changes["state"] = NotificationState.EXPANDING
    else:
        counts = await services.deliveries.counts(notification.key, notification.shards)
        changes |= {"state": NotificationState.EXPANDED, "total": counts.total()}
    while notification.page == this and notification.state in LISTED:
        try:
            return await services.notifications.advance(notification, **changes)
        except Conflict:
            found = await services.notifications.get(notification.key)
            if found is None:
                raise
            notification = found
    return notification
