"""Retry poison messages, on which Herald's own code failed five times, and then store them as dead letters."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from datetime import timedelta

from notify.expansion import fail_expansion
from notify.progress import finish
from shared.contract.faults import Fault, MessageRefused
from shared.contract.identity import UNKNOWN, Identity, read_identity, with_id
from shared.queue_messages import (
    MESSAGES,
    NO_ROW,
    NOTIFICATIONS,
    Delivery,
    Expansion,
    NewerVersion,
    RecipientTask,
    Sweep,
    Task,
    Unreadable,
)
from shared.queues import to_text
from shared.services import Services
from shared.states import DIGESTS, DeliveryState, Purpose, Reason
from shared.storage.markers import welcomed
from shared.storage.table import Conflict

#: How often a poison message is requeued, and the delay of each retry.
MAX_POISON_RETRIES = 2
RETRY_DELAY_SECONDS = 60
#: Delay before a recipient's held deliveries are evaluated again after the message for that became a dead letter.
RECHECK_DELAY = timedelta(days=1)

log = logging.getLogger(__name__)


async def retry_poison(services: Services, queue: str, body: bytes, message_id: str) -> None:
    """Requeue a poison message of `queue`; after its last retry, store it as a dead letter and fail its delivery."""
    if queue == NOTIFICATIONS:
        await _retry_upstream(services, body, message_id)
        return
    try:
        message = MESSAGES[queue].decode(body)
    except (NewerVersion, Unreadable, MessageRefused):
        await _store_dead_letter(services, queue, body, message_id, UNKNOWN)
        return
    identity = await _identity_of(services, message)
    if message.poison_retries < MAX_POISON_RETRIES:
        _log_retry(queue, message_id, identity, message.poison_retries)
        again = replace(message, poison_retries=message.poison_retries + 1)
        await services.queues.put(queue, again.encode(), RETRY_DELAY_SECONDS)
        return
    await _store_dead_letter(services, queue, body, message_id, identity)
    if isinstance(message, Delivery) and message.task is Task.SEND:
        await _fail_delivery(services, message)
    elif isinstance(message, Expansion):
        await fail_expansion(services, message)
    elif isinstance(message, RecipientTask):  # the recipient's held deliveries must not be lost with it
        await services.queues.enqueue_recipient(replace(message, poison_retries=0), RECHECK_DELAY.total_seconds())


async def _retry_upstream(services: Services, body: bytes, message_id: str) -> None:
    """Retry a message of an upstream system. It has no field for its retries, so markers count them by its hash.

    A message without an id gets that of its first reception, so that the retries are the same notification.
    """
    body = with_id(body, message_id)
    marker = f"poisonRetries;{hashlib.sha256(body).hexdigest()}"
    retries = await services.markers.list(marker)
    if len(retries) >= MAX_POISON_RETRIES:
        await _store_dead_letter(services, NOTIFICATIONS, body, message_id, read_identity(body))
        for retry in retries:  # otherwise it would have no retries when it is redriven
            await services.markers.delete(marker, retry)
        return
    _log_retry(NOTIFICATIONS, message_id, read_identity(body), len(retries))
    # The body stays as it is, so that its hash finds the markers.
    await services.queues.put(NOTIFICATIONS, to_text(body), RETRY_DELAY_SECONDS)
    await services.markers.put(marker, str(len(retries)))


async def _identity_of(services: Services, message: Expansion | Delivery | Sweep | RecipientTask) -> Identity:
    """Return the identity of the notification that an internal message is about."""
    if isinstance(message, RecipientTask):
        return UNKNOWN
    notification = await services.notifications.get(message.notification)
    return notification.identity if notification else UNKNOWN


def _log_retry(queue: str, message_id: str, identity: Identity, retries: int) -> None:
    log.warning(
        "Message %s on %s (%s) failed five times: retry %d of %d follows in %d s; see the errors before this line",
        message_id,
        queue,
        identity,
        retries + 1,
        MAX_POISON_RETRIES,
        RETRY_DELAY_SECONDS,
    )


async def _store_dead_letter(services: Services, queue: str, body: bytes, message_id: str, identity: Identity) -> None:
    fault = Fault("", "failed on every try; fix the error in the log, then redrive it")
    row = await services.dead_letters.put(queue, message_id, body, Reason.POISON, [fault], services.clock(), identity)
    log.error(
        "Message %s on %s (%s) failed on every try: redrive DeadLetters row %s after the error is fixed",
        message_id,
        queue,
        identity,
        row,
    )


async def _fail_delivery(services: Services, message: Delivery) -> None:
    while True:
        known = await services.deliveries.get(message)
        if known.state.final if known else message.etag != NO_ROW:
            break
        was_claimed = known is not None and known.state is DeliveryState.SENDING  # its request may have reached Teams
        try:
            await services.deliveries.settle(
                message,
                known.etag if known else "",
                DeliveryState.FAILED,
                now=services.real_time(),
                reason=Reason.POISON,
                maybe_twice=was_claimed,
            )
        except Conflict:
            continue
        break
    await finish(services, message.notification)  # also if it had ended: that worker may have died before this
    notification = await services.notifications.get(message.notification)
    if notification is None:
        return
    if notification.purpose in DIGESTS:
        await services.queues.enqueue_recipient(RecipientTask(notification.tenant, message.recipient, Task.RELEASE))
    elif notification.purpose is Purpose.WELCOME and (known is None or known.state is DeliveryState.QUEUED):
        await services.markers.delete(welcomed(notification.tenant), message.recipient, notification.key)
