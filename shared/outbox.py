"""What Herald itself has to tell one recipient: an answer, a digest, a message that was snoozed.

It is a notification like those of upstream, and goes the same way from its delivery on; only nobody has to validate it
or to list its recipients.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from shared.contract.parsing import stored
from shared.services import Services
from shared.states import NotificationState, Purpose
from shared.storage import timers
from shared.storage.delivery_counts import ALONE
from shared.storage.notifications import Notification, notification_key
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
    """Send `data` (canonical JSON of a `contract.Notification`) to a recipient (`notify.audience`), now or at `at`.

    Returns the key of the notification. The same identity again is the same notification, whatever its data: to post
    it twice sends it once, and finishes what a process that died had begun.
    """
    now = services.clock()
    new = Notification(
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
        await services.due.put(at, timers.NOTIFICATION, new.key)
        return new.key
    urgent = stored(data).priority == "urgent"
    for message in await services.deliveries.add(new.key, ALONE, {recipient: 0}, now, fresh=fresh):
        await services.queues.deliver(message, urgent=urgent)
    return new.key
