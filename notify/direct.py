"""The direct path: a notification to a few recipients that is due now is delivered by the function that ingests it.

It needs no expansion, no second queue, no counts and no watchdog, because its queue message comes again until all is
stored. A copy of that message expands the notification as usual (`notify.expansion`), which adds what is missing.
"""

from __future__ import annotations

from notify.audience import list_page
from notify.delivery.deliver import deliver_directly
from notify.progress import finish_directly
from shared.concurrency import gather_limited
from shared.queue_messages import Delivery, Expansion
from shared.records import StoredNotification
from shared.services import Services
from shared.states import DeliveryState, NotificationState
from shared.storage.delivery_counts import FEW_SHARD, MAX_FEW
from shared.teams.rate_limiter import RetryLater


def is_direct(notification: StoredNotification) -> bool:
    """Return whether a new notification takes the direct path: for what has to wait, a queue is the better place."""
    content = notification.content
    return (
        notification.state is NotificationState.ACCEPTED
        and not notification.shards
        and content.schedule is None
        and content.on_missing != "install"
    )


async def send_directly(services: Services, notification: StoredNotification) -> None:
    """Deliver a notification that was just stored. What would have to wait is enqueued.

    If this raises, nothing is lost: the notification's queue message has to come again.
    """
    try:
        page = await list_page(services, notification.tenant, notification.content.recipients, "", MAX_FEW)
    except RetryLater as later:
        await services.queues.enqueue_expansion(Expansion(notification.key, 0), later.seconds)
        return
    ended: list[DeliveryState] = []

    async def deliver_to(recipient: str) -> None:
        message = Delivery(notification.key, FEW_SHARD, recipient, "", 0)
        await deliver_directly(services, notification, message, page.recipients[recipient], ended)

    await gather_limited(list(page.recipients), deliver_to)
    await finish_directly(services, notification, len(page.recipients), ended)
