"""Apply a digest's final state to every delivery that it includes.

A digest is one of Herald's own notifications; `digest_identity` is its id. The state of its recipient's digests is one
row of the table HeldDeliveries (`DigestState`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from notify.progress import finish, finish_after
from shared.concurrency import gather_limited
from shared.queue_messages import Delivery, RecipientTask, Task
from shared.records import DeliveryRecord, DigestState, HeldDelivery, notification_key
from shared.services import Services
from shared.states import DeliveryState, Reason, Rule
from shared.storage.table import Conflict

#: The `source` of digests.
SOURCE = "/herald/digests"
#: Most held deliveries of one recipient that are read at a time.
MAX_ITEMS = 1000
#: Delay before the deliveries of a cancelled digest are evaluated again; its settlement is stored by then.
REEVALUATION_DELAY_SECONDS = 5

#: Followed by the digest's number, this is the rule of a delivery that is reserved for a digest.
RESERVED = f"{Rule.DIGEST} "


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The final state of the digest's own delivery. `maybe_twice`: one more request for it may have reached Teams."""

    state: DeliveryState
    reason: Reason | None = None
    maybe_twice: bool = False


def digest_identity(recipient: str, state: DigestState) -> str:
    """Return the id of the recipient's last digest as a notification.

    A number can come again (the row that counts them may be removed, and a worker may lose the write that takes a
    number), so the id also names the deliveries that the digest includes.
    """
    included = ";".join(f"{delivery.notification}{delivery.recipient}" for delivery in state.included)
    return f"{recipient};{state.number};{hashlib.sha256(included.encode()).hexdigest()[:16]}"


def digest_key(tenant: str, recipient: str, state: DigestState) -> str:
    """Return the key of the recipient's last digest as a notification."""
    return notification_key(tenant, SOURCE, digest_identity(recipient, state))


def reserved_for(known: DeliveryRecord) -> int:
    """Return the number of the digest for which a delivery is reserved, 0 for none."""
    is_reserved = known.state is DeliveryState.QUEUED and known.rule.startswith(RESERVED)
    return int(known.rule.removeprefix(RESERVED)) if is_reserved else 0


async def settle_digest(
    services: Services, task: RecipientTask, state: DigestState, items: Sequence[HeldDelivery], result: DeliveryResult
) -> DigestState:
    """End each delivery in the last digest as `result` says, and return the new digest state.

    Their held rows are deleted; `items` are those that were read. The deliveries of a digest that was `CANCELLED` are
    held again instead. Raises `Conflict` if another worker changed the digest state since it was read.
    """
    if result.state is DeliveryState.CANCELLED:
        return await _hold_again(services, task, state, result)
    is_sent = result.state in (DeliveryState.SENT, DeliveryState.SIMULATED)
    final = replace(result, state=DeliveryState.DIGESTED, reason=None) if is_sent else result
    have_ended = await gather_limited(
        state.included, lambda delivery: end_delivery(services, delivery, final, state.number)
    )
    # A delivery that was redriven since is held anew, and keeps its item.
    ended = {delivery.identity for delivery, has_ended in zip(state.included, have_ended, strict=True) if has_ended}
    ended_items = {item.key: item for item in items if item.delivery.identity in ended}
    if len(ended_items) < len(ended):  # `digest now` also includes what a pause holds, which `items` may lack
        held = await services.held_deliveries.list_for_digest(task.tenant, task.recipient, MAX_ITEMS)
        ended_items |= {item.key: item for item in held if item.delivery.identity in ended}
    settled = replace(state, included=())
    etag = await services.held_deliveries.save_digest_state(
        task.tenant, task.recipient, settled, list(ended_items.values())
    )
    return replace(settled, etag=etag)


async def _hold_again(
    services: Services, task: RecipientTask, state: DigestState, result: DeliveryResult
) -> DigestState:
    async def free(delivery: Delivery) -> None:
        known = await services.deliveries.get(delivery)
        if known and reserved_for(known) == state.number:
            await services.deliveries.defer(
                delivery,
                known.etag,
                Reason.DIGEST,
                not_before=services.clock(),
                now=services.real_time(),
                maybe_twice=result.maybe_twice,
                rule=str(Rule.DIGEST),
            )

    await gather_limited(state.included, free)
    # Enqueued before the state is written: after a crash between the two, the items are still evaluated again.
    again = RecipientTask(task.tenant, task.recipient, Task.RECONSIDER)
    await services.queues.enqueue_recipient(again, REEVALUATION_DELAY_SECONDS)
    freed = replace(state, included=(), last_date=state.previous_date)  # its date is free for another digest
    return replace(freed, etag=await services.held_deliveries.save_digest_state(task.tenant, task.recipient, freed))


async def end_delivery(services: Services, delivery: Delivery, result: DeliveryResult, number: int = 0) -> bool:
    """Write the final state of a delivery if its row has the message's ETag or is reserved for digest `number`.

    Returns whether the delivery is final now, whoever ended it.
    """
    etag, message = delivery.etag, replace(delivery, etag="")
    # Read before the delivery ends, so that a command that reopens it meanwhile changes the ETag.
    notification = await services.notifications.recent(message.notification)
    while True:
        try:
            is_last = await services.deliveries.settle(
                message,
                etag,
                result.state,
                previous=DeliveryState.QUEUED,
                now=services.real_time(),
                reason=result.reason,
                maybe_twice=result.maybe_twice,
                rule=str(Rule.DIGEST),
            )
            break
        except Conflict:
            known = await services.deliveries.get(message)
            if known and number and reserved_for(known) == number:
                etag = known.etag
                continue
            if known is None or not known.state.final:
                return known is None
            # It may have been the last: its worker may have crashed before it finished the notification.
            await finish(services, message.notification)
            return True
    if is_last and notification:
        await finish_after(services, notification, message.shard, result.state)
    return True
