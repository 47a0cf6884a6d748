"""The direct path: a notification to a few recipients that is due now is delivered by the function that ingests it.

It needs no expansion, no second queue, no counts and no watchdog, because its queue message comes again until all is
stored. A copy of that message adds the deliveries that are missing, unless the notification was cancelled, and enqueues
all: a worker may have died before it did what follows from a result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from notify.audience import list_page
from notify.delivery.deliver import deliver_directly
from notify.expansion import expand
from notify.progress import finish, finish_directly
from shared.concurrency import gather_limited
from shared.queue_messages import Expansion
from shared.records import StoredNotification
from shared.services import Services
from shared.states import DeliveryState, NotificationState
from shared.storage.delivery_counts import FEW_SHARD, MAX_FEW, MAX_FEW_ROWS
from shared.teams.rate_limiter import RetryLater

#: Longest time that a delivery may wait for its slot and its turn. An urgent one may wait until slots are free that
#: others have (`rate_windows.MAX_AHEAD`), and for some urgent ones: its queue would take longer.
LONGEST_WAIT_SECONDS, LONGEST_URGENT_WAIT_SECONDS = 0.25, 1.0
#: Urgent notifications of one process that may wait so long at a time: a flood of them would hold up all ingestion.
MAX_WAITING_URGENT = 8

_urgent_limit = asyncio.Semaphore(MAX_WAITING_URGENT)  # never waited for

#: Each recipient, with its index in the audience (`AudiencePage.recipients`).
Recipients = Mapping[str, int]


def is_direct(new: StoredNotification) -> bool:
    """Return whether a new notification takes the direct path: a queue is the better place for what has to wait."""
    content = new.content
    is_due = new.state is NotificationState.ACCEPTED and content.schedule is None
    return not new.shards and is_due and content.on_missing != "install"


async def list_few(services: Services, new: StoredNotification) -> Recipients | None:
    """Return the recipients of a notification; None if they cannot be found now, so that expansion has to try again."""
    try:
        return (await list_page(services, new.tenant, new.content.recipients, "", MAX_FEW)).recipients
    except RetryLater:
        return None


def as_expanded(new: StoredNotification, recipients: Recipients) -> StoredNotification:
    """Return a new notification as it is stored if it takes the direct path."""
    return new.changed(state=NotificationState.EXPANDED, total=len(recipients), page=1)


async def send_directly(services: Services, notification: StoredNotification, recipients: Recipients) -> None:
    """Deliver a notification that was just stored. What would have to wait is enqueued.

    If this raises, nothing is lost: the notification's queue message has to come again.
    """
    ended: dict[str, DeliveryState] = {}

    async def deliver_all(longest_wait: float) -> None:
        async def deliver_to(recipient: str) -> None:
            index = recipients[recipient]
            await deliver_directly(services, notification, recipient, index, ended, longest_wait=longest_wait)

        await gather_limited(list(recipients), deliver_to)

    if notification.urgent and not _urgent_limit.locked():
        async with _urgent_limit:
            await deliver_all(LONGEST_URGENT_WAIT_SECONDS)
    else:
        await deliver_all(LONGEST_WAIT_SECONDS)
    await finish_directly(services, notification, ended)


async def resume_directly(
    services: Services, notification: StoredNotification, recipients: Recipients | None, *, is_redelivered: bool
) -> None:
    """Do what a worker has left that died in `send_directly`. `recipients` are those of `list_few`.

    Of a finished notification, something can be left only if the queue has delivered its message again.
    """
    key, state = notification.key, notification.state
    if state is NotificationState.EXPANDED and not notification.counts:
        if recipients is None:
            again = await services.notifications.advance(notification, state=NotificationState.ACCEPTED, page=0)
            await expand(services, Expansion(again.key, 0))
            return
        await services.deliveries.add(key, FEW_SHARD, recipients, services.clock())
    elif not (state is NotificationState.CANCELLED or (state is NotificationState.FINISHED and is_redelivered)):
        return
    # Also those that are no longer listed, as an address may name somebody else by now, and those that have ended: that
    # worker may have died before it did what follows from the result.
    for message, _ in await services.deliveries.page(key, FEW_SHARD, "", MAX_FEW_ROWS):
        await services.queues.enqueue_delivery(message, urgent=notification.urgent)
    total = (await services.deliveries.counts(key, notification.shards)).total()
    if state is NotificationState.EXPANDED and total != notification.total:
        # Two addresses may turn out to be those of one person.
        await services.notifications.advance(notification, total=total)
    await finish(services, key)
