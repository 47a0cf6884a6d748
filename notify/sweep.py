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
from shared.queue_messages import Delivery, Sweep, Task
from shared.records import DeliveryRecord
from shared.services import Services
from shared.states import DeliveryState
from shared.storage.deliveries import shard_names
from shared.storage.notifications import StoredNotification

#: Deliveries of one page.
PAGE_DELIVERIES = 200
#: How long after its timer the watchdog resumes a held delivery. Sooner, it would repeat after an outage what the late
#: timers do.
HELD_OVERDUE = timedelta(days=1)

log = logging.getLogger(__name__)


async def sweep_page(services: Services, message: Sweep) -> None:
    """See to one page of deliveries, then put the next page on the queue, for when about its turn comes."""
    if message.task is Task.WATCH and not message.shard:
        await resume_stalled(services, message.notification)
        return
    notification = await services.notifications.get(message.notification)
    if notification is None:
        return
    found = await services.deliveries.page(message.notification, message.shard, message.after, PAGE_DELIVERIES)
    todo = await _todo(services, message, notification, found)
    await gather_limited(todo, lambda delivery: services.queues.enqueue_delivery(delivery, urgent=notification.urgent))
    following = _following(message, notification, found)
    if following:
        await services.queues.enqueue_sweep(following, len(todo) / services.settings.tenant_rate)


def _following(
    message: Sweep, notification: StoredNotification, found: Sequence[tuple[Delivery, DeliveryRecord]]
) -> Sweep | None:
    """The page after the one of `message`, where `found` was seen to; None after the last."""
    if len(found) == PAGE_DELIVERIES:
        return replace(message, after=keys.key(found[-1][0].recipient), poison_retries=0)
    rest = [name for name in shard_names(notification.shards) if name > message.shard]
    return replace(message, shard=rest[0], after="", poison_retries=0) if rest else None


async def _todo(
    services: Services,
    message: Sweep,
    notification: StoredNotification,
    found: Sequence[tuple[Delivery, DeliveryRecord]],
) -> Sequence[Delivery]:
    """The messages that do the task of `message` for those of a page for which there is something to do."""
    if message.task is Task.REDRIVE:
        return await reopen(services, message.notification, found)
    if message.task is Task.WATCH:
        still = [each for each in found if not each[1].state.final]
        if still:
            waiting = dict(Counter(f"{state.state} {state.reason}".strip() for _, state in still))
            log.info("Notification %s is under way in part %s: %s", notification.key, message.shard, waiting)
        people, machines = services.clock() - HELD_OVERDUE, services.real_time()
        return [
            delivery
            for delivery, state in still
            if policy.step(state, people if state.reason in policy.HELD else machines)[0] is not Step.WAIT
        ]
    waits = [
        delivery
        for delivery, state in found
        if message.task in (Task.CANCEL, Task.RECALL) and not state.state.final and state.reason in policy.HELD
    ]
    # What is being sent at this moment may turn out to have been sent.
    sent = [
        replace(delivery, task=message.task, attempts=0)
        for delivery, state in found
        if message.task is not Task.CANCEL and state.state in (DeliveryState.SENT, DeliveryState.SENDING)
    ]
    return [*waits, *sent]
