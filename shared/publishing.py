"""Store a notification once under its identity, and publish Herald's own messages to one recipient.

An answer, a digest, a welcome or a snoozed message is a notification like those of upstream systems, and takes the same
way from its delivery on. Only validation and expansion are skipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime

from shared.contract.models import AllRecipient, Recipient, TeamRecipient, TopicRecipient
from shared.contract.parsing import parse_stored
from shared.services import Services
from shared.states import NotificationState, Purpose
from shared.storage import timers
from shared.storage.deliveries import SHARDED_FROM
from shared.storage.delivery_counts import SINGLE_SHARD
from shared.storage.markers import cancellation
from shared.storage.notifications import StoredNotification, notification_key
from shared.storage.table import Conflict

#: The category of what Herald says on its own: nobody can opt out of the answer to what they asked.
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
    """Send `data` (canonical JSON of a `models.Notification`) to a recipient (`notify.audience`), now or at `at`.

    Returns the key of the notification. The same identity again is the same notification, whatever its data: to post
    it twice sends it once, and finishes what a process that died had begun.
    """
    now = services.clock()
    new = StoredNotification(
        key=notification_key(tenant, source, identifier),
        tenant=tenant,
        source=source,
        id=identifier,
        content_hash=hashlib.sha256(data).hexdigest(),
        data=data,
        state=NotificationState.SCHEDULED if at else NotificationState.EXPANDED,
        created=now,
        shards=0,
        total=None if at else 1,
        due=at,
        purpose=purpose,
    )
    fresh = True
    try:
        await services.notifications.insert(new)
    except Conflict:
        fresh = False
        found = await services.notifications.get(new.key)
        if found is None or found.state is NotificationState.FINISHED:
            return new.key
    if at:
        await services.timers.put(at, timers.NOTIFICATION, new.key)
        return new.key
    urgent = parse_stored(data).priority == "urgent"
    for message in await services.deliveries.add(new.key, SINGLE_SHARD, {recipient: 0}, now, fresh=fresh):
        await services.queues.enqueue_delivery(message, urgent=urgent)
    return new.key


async def accept(services: Services, new: StoredNotification) -> StoredNotification:
    """Store it, and return it as it is then; the one that has its identity, where there is one."""
    if new.content.cancellation_key:
        # Before the row: what is accepted can be called off.
        await services.markers.put(cancellation(new.tenant, new.content.cancellation_key), new.key)
    try:
        return await services.notifications.insert(new)
    except Conflict:
        found = await services.notifications.get(new.key)
        if found is None:
            raise  # removed between the two: it comes again
        return found


def shards(recipients: Sequence[Recipient]) -> int:
    """In how many partitions the deliveries lie: several where the audience is, or may be, large."""
    large = (AllRecipient, TeamRecipient, TopicRecipient)
    many = len(recipients) >= SHARDED_FROM or any(isinstance(each, large) for each in recipients)
    return 16 if many else 1
