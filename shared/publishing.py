"""Store a notification once under its identity, and publish Herald's own messages to one recipient.

A reply, a digest, a welcome or a snoozed message is a notification like those of upstream systems, and is delivered in
the same way. Only validation and expansion are skipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime

from shared.contract.models import AllRecipient, GroupRecipient, Recipient, TeamRecipient, TopicRecipient
from shared.queue_messages import NO_ROW, Delivery
from shared.records import StoredNotification, notification_key
from shared.services import Services
from shared.states import NotificationState, Purpose
from shared.storage import timers
from shared.storage.deliveries import SHARDED_FROM
from shared.storage.delivery_counts import FEW_SHARD, MAX_FEW
from shared.storage.markers import cancellation
from shared.storage.table import Conflict

#: The category of Herald's own messages. People cannot opt out of it: it has the replies to their commands.
CATEGORY = "herald"


async def post(
    services: Services,
    *,
    tenant: str,
    recipient: str,
    source: str,
    identifier: str,
    data: bytes,
    purpose: Purpose,
    at: datetime | None = None,
) -> str:
    """Send `data` (canonical JSON of a `models.Notification`) to one recipient (`u:...` or `c:...`), now or at `at`.

    Returns the notification's key. Posting the same identity again sends nothing twice, whatever its data, and finishes
    what a crashed worker had begun.
    """
    notification, is_new = await store(
        services, tenant=tenant, source=source, identifier=identifier, data=data, purpose=purpose, at=at
    )
    if at and notification.state is NotificationState.SCHEDULED:
        await services.timers.put(at, timers.NOTIFICATION, notification.key)
    elif not at:
        await enqueue(services, notification, recipient, is_new=is_new)
    return notification.key


async def store(
    services: Services,
    *,
    tenant: str,
    source: str,
    identifier: str,
    data: bytes,
    purpose: Purpose,
    at: datetime | None = None,
) -> tuple[StoredNotification, bool]:
    """Store a notification to one recipient without its delivery, unless there is one of this identity.

    Returns the stored notification, and whether it is new.
    """
    new = StoredNotification(
        key=notification_key(tenant, source, identifier),
        tenant=tenant,
        source=source,
        id=identifier,
        content_hash=hashlib.sha256(data).hexdigest(),
        data=data,
        state=NotificationState.SCHEDULED if at else NotificationState.EXPANDED,
        created=services.clock(),
        shards=0,
        total=None if at else 1,
        due=at,
        purpose=purpose,
    )
    return await _insert_once(services, new)


async def enqueue(
    services: Services, notification: StoredNotification, recipient: str, *, is_new: bool = False
) -> bool:
    """Enqueue the delivery of a notification to one recipient, unless it has ended; return whether it was enqueued.

    Of one that is new, the worker that handles the message writes the row with its claim.
    """
    if notification.state is NotificationState.FINISHED:
        return False
    messages = [Delivery(notification.key, FEW_SHARD, recipient, NO_ROW, 0)]
    if not is_new:
        messages = await services.deliveries.add(notification.key, FEW_SHARD, {recipient: 0}, services.clock())
    for message in messages:
        await services.queues.enqueue_delivery(message, urgent=notification.urgent)
    return bool(messages)


async def accept(services: Services, new: StoredNotification) -> tuple[StoredNotification, bool]:
    """Store a notification that is listed (`NotificationIndex`), unless there is one of its identity.

    Returns the stored notification, and whether it is new.
    """
    if new.content.cancellation_key:
        # Before the row, so that every accepted notification can be cancelled by its key.
        await services.markers.put(cancellation(new.tenant, new.content.cancellation_key), new.key)
    stored, is_new = await _insert_once(services, new)
    await services.notification_index.put(stored)  # also if it was stored before: that worker may have died before this
    return stored, is_new


async def _insert_once(services: Services, new: StoredNotification) -> tuple[StoredNotification, bool]:
    """Insert a notification, or read the one with its key; return it, and whether it is new."""
    try:
        return await services.notifications.insert(new), True
    except Conflict:
        found = await services.notifications.get(new.key)
        if found is None:
            raise  # deleted between the two: the caller tries again
        return found, False


def shard_count(recipients: Sequence[Recipient]) -> int:
    """Return the number of partitions of the deliveries: 16 if the audience may be large, 0 if it is small, else 1.

    Most teams and topics have fewer people than `SHARDED_FROM`; of a larger one, the counts change in larger batches.
    """
    if len(recipients) >= SHARDED_FROM or any(isinstance(each, AllRecipient | GroupRecipient) for each in recipients):
        return 16
    is_few = len(recipients) <= MAX_FEW and not any(
        isinstance(each, TeamRecipient | TopicRecipient) for each in recipients
    )
    return 0 if is_few else 1
