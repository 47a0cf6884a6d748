"""Expand an audience: add the deliveries of one page of recipients when the page before it begins to be sent.

The first delivery message of a page carries the number of the next page, and whoever handles it enqueues that page. So
the queue holds about one page of a notification, however fast or slow sending is.

The notification's row holds the number of the next page. The order of the writes is: the rows of the deliveries, their
messages, the next page in the row. A page that arrives twice, or again after a crash, adds only what is missing.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from notify.audience import AudiencePage, explain_empty, is_unlisted_team, list_page
from notify.policy import MAX_BACKOFF_SECONDS, RETRY_PERIOD
from notify.progress import finish, schedule_check
from shared.concurrency import gather_limited
from shared.contract.faults import Fault, unknown_notification
from shared.contract.models import RECIPIENT
from shared.queue_messages import EXPANSIONS, Expansion
from shared.records import StoredNotification
from shared.services import Services
from shared.states import NotificationState, Purpose, Reason
from shared.storage import timers
from shared.storage.deliveries import shard_of
from shared.storage.table import Conflict
from shared.teams.rate_limiter import RetryLater

#: A page has as many recipients as the tenant's rate allows in PAGE_SECONDS, and at most MAX_PAGE_RECIPIENTS.
PAGE_SECONDS = 5
MAX_PAGE_RECIPIENTS = 1000
#: Delay of a page that arrives while the page before it is still being added; it doubles for each later try.
EARLY_PAGE_DELAY_SECONDS = 2
#: Largest difference between the clocks of two workers.
CLOCK_SKEW_SECONDS = 60.0

#: States in which recipients are still to be listed.
EXPANDABLE = (NotificationState.ACCEPTED, NotificationState.SCHEDULED, NotificationState.EXPANDING)

log = logging.getLogger(__name__)


async def expand(services: Services, message: Expansion) -> None:
    """List one page of recipients, and enqueue its deliveries and the next page.

    Raises `MessageRefused` if the notification is not stored.
    """
    notification = await services.notifications.get(message.notification)
    if notification is None:
        raise unknown_notification()
    if notification.state is NotificationState.SCHEDULED:
        if (begun := await _begin_scheduled(services, notification, message)) is None:
            return
        notification = begun
    if notification.state in EXPANDABLE and message.page >= notification.page:
        if message.page > notification.page:
            wait = min(EARLY_PAGE_DELAY_SECONDS * 2 ** min(message.tries, 10), MAX_BACKOFF_SECONDS)
            await services.queues.enqueue_expansion(replace(message, tries=message.tries + 1), wait)
            return
        if notification.page_retry and notification.page_retry > services.real_time():
            return  # another message lists it then: the watchdog's must not add a try
        if notification.page == 0:
            await schedule_check(services, notification.key)
        if paused := services.rate_limiter.paused_seconds(notification.tenant):
            await services.queues.enqueue_expansion(message, paused)
            return
        try:
            page = await _add_page(services, notification)
        except RetryLater as later:
            await _retry_page(services, notification, message, later.seconds)
            return
        notification = await _advance_page(services, notification, page)
    if notification.state is NotificationState.EXPANDED:
        await finish(services, notification.key)  # the last delivery may have ended before the expansion did


async def _retry_page(services: Services, notification: StoredNotification, message: Expansion, seconds: float) -> None:
    """Enqueue a page again that Teams did not list, later each time; after a day or at its expiry, it has failed."""
    now = services.real_time()
    since = message.since or now.timestamp()
    has_expired = notification.expires is not None and notification.expires <= services.clock()
    if now.timestamp() - since > RETRY_PERIOD.total_seconds() or has_expired:
        fault = Fault("", "Teams did not list the recipients: `redrive` the notification to try again")
        body, identifier = message.encode().encode(), f"{message.notification};{message.page}"
        await services.dead_letters.put(EXPANSIONS, identifier, body, Reason.EXHAUSTED, [fault], services.clock())
        log.error(
            "Notification %s (%s) has failed: Teams did not list its recipients",
            notification.key,
            notification.identity,
        )
        await fail_expansion(services, message)
        return
    tries = message.tries + 1
    wait = min(seconds * 2 ** min(message.tries, 10), MAX_BACKOFF_SECONDS)
    # The message first: without it, only the watchdog would list the page.
    await services.queues.enqueue_expansion(replace(message, tries=tries, since=since), wait)
    with suppress(Conflict):  # the notification was cancelled or edited meanwhile
        await services.notifications.advance(notification, page_retry=now + timedelta(seconds=wait))


async def fail_expansion(services: Services, message: Expansion) -> None:
    """Let the notification fail whose page cannot be listed; `redrive` resumes it."""
    while True:
        notification = await services.notifications.get(message.notification)
        if notification is None or notification.page != message.page or notification.state not in EXPANDABLE:
            return
        try:
            await services.notifications.advance(notification, state=NotificationState.FAILED)
        except Conflict:
            continue
        return


async def _begin_scheduled(
    services: Services, scheduled: StoredNotification, message: Expansion
) -> StoredNotification | None:
    """Begin a scheduled notification, or end it as missed; return it as stored, or None if it is not due yet.

    The new state is written before any recipient is listed: from then on `reschedule` is refused.
    """
    found: StoredNotification | None = scheduled
    while found and found.state is NotificationState.SCHEDULED:
        now = services.clock()
        if found.due and found.due > now:
            early_seconds = (found.due - now).total_seconds()
            if early_seconds < CLOCK_SKEW_SECONDS:
                await services.queues.enqueue_expansion(message, early_seconds)
            else:  # the timer was for the time before a reschedule
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
            log.warning(
                "Notification %s (%s) is missed, it was due at %s: redrive it to send it now",
                found.key,
                found.identity,
                found.due,
            )
    return found


def _is_local_time(notification: StoredNotification) -> bool:
    """Return whether it is due at each recipient's own time."""
    schedule = notification.content.schedule
    return schedule is not None and schedule.time_zone == RECIPIENT


def _is_missed(services: Services, notification: StoredNotification, now: datetime) -> bool:
    """Return whether the grace for a late start is over. At each recipient's own time, each delivery decides that."""
    if notification.purpose is not Purpose.NOTIFICATION or _is_local_time(notification):
        return False
    grace = services.categories.of(notification.content.category).late_grace(services.settings.late_grace)
    return notification.due is not None and now - notification.due > grace


async def _add_page(services: Services, notification: StoredNotification) -> AudiencePage:
    """Add the rows of the next page of deliveries, enqueue their messages, and return the page."""
    limit = min(MAX_PAGE_RECIPIENTS, PAGE_SECONDS * services.settings.tenant_rate)
    recipients = notification.content.recipients
    page = await list_page(services, notification.tenant, recipients, notification.cursor, limit)
    for index in page.empty:
        log.warning(
            "Recipient /recipients/%d of notification %s (%s) is an audience of nobody: %s",
            index,
            notification.key,
            notification.identity,
            explain_empty(recipients[index]),
        )
    for recipient, index in page.recipients.items():
        if is_unlisted_team(recipients[index], recipient):
            log.warning(
                "Recipient /recipients/%d of notification %s (%s) is a team whose members Teams does not list to the "
                "bot: nobody in it is notified; the reason is in the row of its delivery",
                index,
                notification.key,
                notification.identity,
            )
    by_shard: dict[str, dict[str, int]] = defaultdict(dict)
    for recipient, index in page.recipients.items():
        by_shard[shard_of(recipient, notification.shards)][recipient] = index
    now, fresh = services.clock(), notification.page == 0
    due_called_at = now.timestamp() if _is_local_time(notification) else 0.0
    next_page = notification.page + 1 if page.cursor else 0
    for shard, indexes in by_shard.items():
        added = await services.deliveries.add(notification.key, shard, indexes, now, fresh=fresh)
        messages = [replace(message, due_called_at=due_called_at) for message in added]
        if messages and next_page:
            messages[0] = replace(messages[0], next_page=next_page)
            next_page = 0
        await gather_limited(
            messages, lambda message: services.queues.enqueue_delivery(message, urgent=notification.urgent)
        )
    if next_page:  # no message carries it
        await services.queues.enqueue_expansion(Expansion(notification.key, next_page))
    return page


async def _advance_page(services: Services, notification: StoredNotification, page: AudiencePage) -> StoredNotification:
    """Store the next page, or the end of the expansion, unless another worker did; return the stored notification."""
    current = notification.page
    changes: dict[str, object] = {"page": current + 1, "cursor": page.cursor}
    if page.left_out:
        left_out = Counter(json.loads(notification.left_out or "{}")) + Counter(page.left_out)
        changes["left_out"] = json.dumps(left_out, sort_keys=True)
    if page.cursor:
        changes["state"] = NotificationState.EXPANDING
    else:
        total = len(page.recipients)
        if current:  # earlier pages may have had some of the same people
            total = (await services.deliveries.counts(notification.key, notification.shards)).total()
        changes |= {"state": NotificationState.EXPANDED, "total": total}
    while notification.page == current and notification.state in EXPANDABLE:
        try:
            return await services.notifications.advance(notification, **changes)
        except Conflict:
            found = await services.notifications.get(notification.key)
            if found is None:
                raise
            notification = found
    return notification
