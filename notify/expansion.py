"""Fan-out: one page of recipients at a time, each when about its turn comes.

The notification's row holds the page that is next. The order of a page is: the rows of its deliveries, their
messages, the row's next page, the message for that. So a page that comes twice, or again after a crash, adds
what is missing, and only the page that is the row's goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict

from notify.audience import NotNow, Page, page
from notify.progress import finish, watch
from shared.queues import Delivery, Expansion
from shared.services import Services
from shared.states import NotificationState
from shared.store.deliveries import shard_of
from shared.store.notifications import Notification
from shared.store.table import Conflict

#: A page is so many seconds of the tenant's rate, and never more recipients than this.
PAGE_SECONDS = 5
LONGEST_PAGE = 1000
#: Messages that are put on the queue at the same time.
AT_ONCE = 32

#: States in which there are recipients to list.
LISTED = (NotificationState.ACCEPTED, NotificationState.SCHEDULED, NotificationState.EXPANDING)

log = logging.getLogger(__name__)


async def expand(services: Services, message: Expansion) -> None:
    """List one page of recipients, and put its deliveries and the next page on their queues."""
    notification = await services.notifications.get(message.notification)
    if notification is None:
        log.warning("No notification %s: its page is dropped", message.notification)
        return
    following = message.page + 1
    if notification.page == message.page and notification.state in LISTED:
        if notification.page == 0:
            await watch(services, notification.key)
        try:
            found = await _put_page(services, notification)
        except NotNow as later:
            await services.queues.expand(message, later.seconds)
            return
        notification = await _move_on(services, notification, found.cursor)
        delay = 0 if notification.urgent else len(found.recipients) / services.settings.tenant_rate
    else:
        delay = 0
    if notification.state is NotificationState.EXPANDED:
        await finish(services, notification.key)  # the last delivery may have ended before the list did
    # Also where a copy of this page moved the row on: it may have died before it put the next one.
    if notification.page == following and notification.state is NotificationState.EXPANDING:
        await services.queues.expand(Expansion(notification.key, following), delay)


async def _put_page(services: Services, notification: Notification) -> Page:
    limit = min(LONGEST_PAGE, PAGE_SECONDS * services.settings.tenant_rate)
    recipients = notification.content.recipients
    found = await page(services, notification.tenant, recipients, notification.cursor, limit)
    by_shard: dict[str, list[str]] = defaultdict(list)
    for recipient in found.recipients:
        by_shard[shard_of(recipient, notification.shards)].append(recipient)
    gate = asyncio.Semaphore(AT_ONCE)

    async def put(message: Delivery) -> None:
        async with gate:
            await services.queues.deliver(message, urgent=notification.urgent)

    for shard, part in by_shard.items():
        messages = await services.deliveries.add(notification.key, shard, part, services.clock())
        await asyncio.gather(*(put(each) for each in messages))
    return found


async def _move_on(services: Services, notification: Notification, cursor: str) -> Notification:
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
