"""Page through the deliveries of a notification: to cancel, recall, edit, redrive or resume them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from notify import policy
from notify.policy import Step
from notify.progress import resume_stalled
from notify.redrive import reopen
from shared import keys
from shared.concurrency import gather_limited
from shared.contract.faults import unknown_notification
from shared.queue_messages import Delivery, Sweep, Task
from shared.records import DeliveryRecord, StoredNotification
from shared.services import Services
from shared.states import DeliveryState
from shared.storage.deliveries import shard_names

#: Deliveries of one page.
PAGE_DELIVERIES = 200
#: The watchdog resumes a held delivery this long after its timer was due. Sooner, it would repeat the work of timers
#: that are late after an outage.
HELD_OVERDUE = timedelta(days=1)

log = logging.getLogger(__name__)


async def sweep_page(services: Services, message: Sweep) -> None:
    """Enqueue messages for one page of deliveries, then the next page, delayed by the time that sending them takes.

    Raises `MessageRefused` if the notification is not stored.
    """
    if message.task is Task.WATCHDOG and not message.shard:
        await resume_stalled(services, message.notification)
        return
    notification = await services.notifications.get(message.notification)
    if notification is None:
        raise unknown_notification()
    only_open = message.task is Task.WATCHDOG
    if only_open and not message.after:
        remaining = [name for name in shard_names(notification.shards) if name >= message.shard]
        shard = await services.deliveries.first_open_shard(message.notification, remaining)
        if shard is None:
            return
        message = replace(message, shard=shard)
    page = await services.deliveries.page(
        message.notification, message.shard, message.after, PAGE_DELIVERIES, only_open=only_open
    )
    messages = await _messages(services, message, notification, page)
    await gather_limited(
        messages, lambda delivery: services.queues.enqueue_delivery(delivery, urgent=notification.urgent)
    )
    if next_page := _next_page(message, notification, page):
        await services.queues.enqueue_sweep(next_page, len(messages) / services.settings.tenant_rate)


def _next_page(
    message: Sweep, notification: StoredNotification, page: Sequence[tuple[Delivery, DeliveryRecord]]
) -> Sweep | None:
    """Return the message for the page after `page`, or None after the last."""
    if len(page) == PAGE_DELIVERIES:
        return replace(message, after=keys.key(page[-1][0].recipient), poison_retries=0)
    shards = [name for name in shard_names(notification.shards) if name > message.shard]
    return replace(message, shard=shards[0], after="", poison_retries=0) if shards else None


async def _messages(
    services: Services,
    message: Sweep,
    notification: StoredNotification,
    page: Sequence[tuple[Delivery, DeliveryRecord]],
) -> Sequence[Delivery]:
    """Return a message for each delivery of the page to which the sweep's task applies."""
    if message.task is Task.REDRIVE:
        return await reopen(services, message.notification, page)
    if message.task is Task.WATCHDOG:  # the page has only open deliveries
        if page:
            counts = dict(Counter(f"{known.state} {known.reason}".strip() for _, known in page))
            log.info(
                "Notification %s (%s) has open deliveries in shard %s: %s",
                notification.key,
                notification.identity,
                message.shard,
                counts,
            )
        held_due, other_due = services.clock() - HELD_OVERDUE, services.real_time()
        return [
            delivery
            for delivery, known in page
            if policy.next_step(known, held_due if known.reason in policy.HOLD_REASONS else other_due)[0]
            is not Step.WAIT
        ]
    # Held, or never attempted: the worker that added it may have died before it enqueued its message.
    waiting = [
        delivery
        for delivery, known in page
        if message.task in (Task.CANCEL, Task.RECALL)
        and not known.state.final
        and (known.reason in policy.HOLD_REASONS or delivery.etag)
    ]
    # A delivery that is being sent now may turn out to be sent.
    sent = [
        replace(delivery, task=message.task, attempts=0)
        for delivery, known in page
        if message.task is not Task.CANCEL and known.state in (DeliveryState.SENT, DeliveryState.SENDING)
    ]
    return [*waiting, *sent]
