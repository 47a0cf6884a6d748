"""A notification is stored once under its identity, whoever asks for it and however often."""

from __future__ import annotations

from collections.abc import Sequence

from shared.contract.models import AllRecipient, Recipient, TeamRecipient, TopicRecipient
from shared.services import Services
from shared.storage.deliveries import SHARDED_FROM
from shared.storage.markers import cancellation
from shared.storage.notifications import Notification
from shared.storage.table import Conflict


async def accept(services: Services, new: Notification) -> Notification:
    """Store it, and return it as it is then; the one that has its identity, where there is one."""
    if new.content.cancellation_key:
        # Before the row: what is accepted can be called off.
        await services.marks.put(cancellation(new.tenant, new.content.cancellation_key), new.key)
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
