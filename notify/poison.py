"""Retry messages on which our own code failed five times, one by one, and then move them to the dead letters."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from datetime import timedelta

from notify.expansion import LISTED
from notify.progress import finish
from shared.contract.faults import Fault, MessageRefused
from shared.queue_messages import (
    MESSAGES,
    NOTIFICATIONS,
    Delivery,
    Expansion,
    NewerVersion,
    RecipientTask,
    Task,
    Unreadable,
)
from shared.services import Services
from shared.states import DIGESTS, DeliveryState, NotificationState, Purpose, Reason
from shared.storage.markers import welcomed
from shared.storage.table import Conflict

#: How often a message is put back before it is given up, and after how many seconds.
MAX_POISON_RETRIES = 2
RETRY_DELAY_SECONDS = 60
#: When somebody for whom something waits is looked at again whose message was given up.
RECHECK_DELAY = timedelta(days=1)

log = logging.getLogger(__name__)


async def retry_poison(services: Services, queue: str, body: bytes, message_id: str) -> None:
    """See to a message of the poison queue of `queue`."""
    if queue == NOTIFICATIONS:
        await _rescue_upstream(services, body, message_id)
        return
    try:
        message = MESSAGES[queue].decode(body)
    except (NewerVersion, Unreadable, MessageRefused):
        await _give_up(services, queue, body, message_id)
        return
    if message.poison_retries < MAX_POISON_RETRIES:
        log.warning("A message on %s was poisonous, and gets another chance", queue)
        await services.queues.put(
            queue, replace(message, poison_retries=message.poison_retries + 1).encode(), RETRY_DELAY_SECONDS
        )
        return
    await _give_up(services, queue, body, message_id)
    if isinstance(message, Delivery) and message.task is Task.SEND:
        await _fail_delivery(services, message)
    elif isinstance(message, Expansion):
        await _fail_notification(services, message)
    elif isinstance(message, RecipientTask):  # what waits for them is not given up
        await services.queues.enqueue_recipient(replace(message, poison_retries=0), RECHECK_DELAY.total_seconds())


async def _rescue_upstream(services: Services, body: bytes, message_id: str) -> None:
    """The same for a message of upstream's, in which there is no place to count its chances: they are marked."""
    what = f"chances;{hashlib.sha256(body).hexdigest()}"
    used = await services.markers.list(what)
    if len(used) >= MAX_POISON_RETRIES:
        await _give_up(services, NOTIFICATIONS, body, message_id)
        for chance in used:  # or it had none when it is redriven
            await services.markers.delete(what, chance)
        return
    log.warning("A message on %s was poisonous, and gets another chance", NOTIFICATIONS)
    # As it came, or its chances would not be found again.
    await services.queues.put(NOTIFICATIONS, body.decode(), RETRY_DELAY_SECONDS)
    await services.markers.put(what, str(len(used)))


async def _give_up(services: Services, queue: str, body: bytes, message_id: str) -> None:
    fault = Fault("", "failed each time it was tried")
    row = await services.dead_letters.put(queue, message_id, body, Reason.POISON, [fault], services.clock())
    log.error("A message on %s was given up: see DeadLetters %s", queue, row)


async def _fail_delivery(services: Services, message: Delivery) -> None:
    while (known := await services.deliveries.get(message)) and not known.state.final:
        begun = known.state is DeliveryState.SENDING  # it failed, or its process died, with the request under way
        try:
            await services.deliveries.settle(
                message,
                known.etag,
                DeliveryState.FAILED,
                now=services.real_time(),
                reason=Reason.POISON,
                maybe_twice=begun,
            )
        except Conflict:
            continue
        break
    await finish(services, message.notification)  # also where it had ended: who ended it may have died before this
    notification = await services.notifications.get(message.notification)
    if notification is None:
        return
    if notification.purpose in DIGESTS:
        await services.queues.enqueue_recipient(RecipientTask(notification.tenant, message.recipient, Task.RELEASE))
    elif notification.purpose is Purpose.WELCOME and known and known.state is DeliveryState.QUEUED:
        await services.markers.delete(welcomed(notification.tenant), message.recipient, notification.key)


async def _fail_notification(services: Services, message: Expansion) -> None:
    while True:
        notification = await services.notifications.get(message.notification)
        if notification is None or notification.page != message.page or notification.state not in LISTED:
            return
        try:
            await services.notifications.advance(notification, state=NotificationState.FAILED)
        except Conflict:
            continue
        return
