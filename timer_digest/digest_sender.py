"""Send one card for many held deliveries.

Nothing is lost or sent twice, wherever a worker dies and however many workers serve the same recipient:

- A delivery is *reserved* before a digest includes it: its row is changed with If-Match and names the digest's number;
  from then on no worker sends it alone. A worker that releases a held delivery changes its row first, too, so that one
  of the two meets a conflict.
- The card is stored as a notification that has no delivery yet.
- The digest is made by one write with If-Match, of the recipient's digest state (table HeldDeliveries): its number and
  what it includes. A worker that loses this write starts again. What was reserved for a digest that was made without it
  is free again.
- The card is sent at once, or its delivery is enqueued. Its identity follows from the digest state: it is sent once.
- When the card's delivery has ended, the included deliveries end, their held rows are deleted, the digest is settled:
  by the same worker, or by a task that the end of an enqueued delivery enqueues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from notify.delivery.deliver import deliver_single
from notify.progress import finish
from shared import publishing
from shared.concurrency import gather_limited
from shared.preferences.preferences import FOREVER
from shared.queue_messages import Delivery, RecipientTask, Task
from shared.records import DeliveryRecord, DigestState, HeldDelivery, StoredNotification
from shared.services import Services
from shared.states import DeliveryState, Purpose, Reason
from shared.storage import timers
from shared.storage.delivery_counts import FEW_SHARD
from shared.storage.table import Conflict
from timer_digest.digest_card import compose
from timer_digest.digest_plan import DigestPlan, DigestPreferences
from timer_digest.settlement import (
    RESERVED,
    SOURCE,
    DeliveryResult,
    digest_identity,
    digest_key,
    reserved_for,
    settle_digest,
)
from timer_digest.thread_groups import DigestEntry, ThreadGroup, group_by_priority

#: Delay of the next check if no next digest is scheduled: a fallback for the message that settles the digest.
FALLBACK_DELAY = timedelta(days=1)
#: Longest time that a digest waits for its slot where it is made. The tick makes those of a second due at once.
LONGEST_WAIT_SECONDS = 2.0
#: A digest is looked at again when its next try is overdue by this much.
LOST_MESSAGE_AFTER = timedelta(minutes=2)
#: Digests that one process sends where they are made. Further ones are enqueued, so that a Teams that hangs does not
#: stop the other tasks of recipients (`functions.MAX_CONCURRENT_RELEASES`).
MAX_DIRECT_DIGESTS = 16

_direct_limit = asyncio.Semaphore(MAX_DIRECT_DIGESTS)  # never waited for


async def send_digest(
    services: Services,
    task: RecipientTask,
    state: DigestState,
    plan: DigestPlan,
    digest_preferences: DigestPreferences,
) -> bool:
    """Make and send the planned digest; return whether more may be due now.

    After a digest that was enqueued, a task at its end looks for what is due. Raises `Conflict` if another worker
    changed the recipient's digest state.
    """
    tenant, recipient = task.tenant, task.recipient
    await services.timers.put(plan.next_at or services.clock() + FALLBACK_DELAY, timers.DIGEST, tenant, recipient)
    groups = group_by_priority(entry for _, entry in plan.digest)
    count, _, data = _compose(services, task, digest_preferences, groups, plan.more)
    fitting = {entry.delivery for group in groups[:count] for entry in group}
    planned = [pair for pair in plan.digest if pair[1].delivery in fitting]
    more = None if plan.more is None else plan.more + len(plan.digest) - len(planned)
    number = state.number + 1
    found = await gather_limited(planned, lambda pair: _reserve(services, task, number, *pair))
    reserved = [entry for entry in found if entry]
    if not reserved:  # other workers took all of them: the next tick looks at what they left
        await services.timers.put(services.clock(), timers.DIGEST, tenant, recipient)
        return False
    groups = group_by_priority(reserved)
    if len(reserved) < len(planned):  # another entry of a thread may take more space: fewer groups may fit
        count, _, data = _compose(services, task, digest_preferences, groups, more)
        groups = groups[:count]
    included = [entry for group in groups for entry in group]
    new_state = replace(
        state,
        number=number,
        last_date=plan.digest_time.date if plan.digest_time else state.last_date,
        previous_date=state.last_date,
        included=[entry.delivery for entry in included],
    )
    purpose = Purpose.DIGEST_NOW if task.task is Task.DIGEST_NOW else Purpose.DIGEST
    if any(entry.category.mandatory or entry.category.bypasses_quiet_hours for entry in included):
        purpose = Purpose.EXEMPT_DIGEST
    digest, is_new = await publishing.store(
        services,
        tenant=tenant,
        source=SOURCE,
        identifier=digest_identity(recipient, new_state),
        data=data,
        purpose=purpose,
    )
    if digest.purpose is not purpose:  # the card of a worker that crashed, made under other conditions: leave it
        await services.held_deliveries.save_digest_state(tenant, recipient, replace(state, number=number))
        raise Conflict
    new_state = replace(new_state, etag=await services.held_deliveries.save_digest_state(tenant, recipient, new_state))
    # The delivery of a worker that crashed may have a row; `RECONSIDER` has changed the held rows since they were read.
    if not is_new or task.task is Task.RECONSIDER or _direct_limit.locked():
        await publishing.enqueue(services, digest, recipient, is_new=is_new)
        return False
    ended = await _send_directly(services, task, new_state, digest, plan, digest_preferences)
    is_held_again = ended is DeliveryState.CANCELLED  # and evaluated by a task of its own
    return ended is not None and not is_held_again and (more != 0 or len(reserved) < len(planned))


async def _send_directly(
    services: Services,
    task: RecipientTask,
    state: DigestState,
    digest: StoredNotification,
    plan: DigestPlan,
    digest_preferences: DigestPreferences,
) -> DeliveryState | None:
    """Send a digest that was just made, and settle it; return its final state, or None if it was enqueued."""
    async with _direct_limit:
        ended = await deliver_single(
            services, digest, task.recipient, longest_wait=LONGEST_WAIT_SECONDS, read=digest_preferences.read
        )
    if ended:
        sent = replace(task, sent_digest=digest.key if ended is DeliveryState.SENT else "")
        await settle_last_digest(services, sent, state, [item for item, _ in plan.digest])
    return ended


async def settle_last_digest(
    services: Services, task: RecipientTask, state: DigestState, items: Sequence[HeldDelivery]
) -> DigestState | None:
    """Settle the recipient's last digest if its delivery has ended, and return the new digest state.

    None if it has not ended: its end is the next occasion. Its message is enqueued if it may be lost. Raises `Conflict`
    if it has ended meanwhile.
    """
    key = digest_key(task.tenant, task.recipient, state)
    if task.sent_digest == key:
        return await settle_digest(services, task, state, items, DeliveryResult(DeliveryState.SENT))
    known = await services.deliveries.get(Delivery(key, FEW_SHARD, task.recipient, "", 0))
    if known and known.state.final:
        await finish(services, key)  # its worker may have died before that
        reason = Reason(known.reason) if known.reason else None
        return await settle_digest(services, task, state, items, DeliveryResult(known.state, reason, known.maybe_twice))
    until = known.not_before if known and known.state is DeliveryState.QUEUED else None
    if until and until > services.real_time():
        # It was requeued, but its worker may have died just before: then a later look finds it overdue.
        later = services.clock() + (until - services.real_time()) + LOST_MESSAGE_AFTER
        await services.timers.put(later, timers.DIGEST, task.tenant, task.recipient)
        return None
    digest = await services.notifications.get(key)
    if digest is None:
        return await settle_digest(services, task, state, items, DeliveryResult(DeliveryState.CANCELLED))
    if not await publishing.enqueue(services, digest, task.recipient):
        raise Conflict  # it has ended since its row was read
    return None


async def clear_rule(services: Services, delivery: Delivery, known: DeliveryRecord) -> str:
    """Clear the rule of a held delivery's row, so that no digest reserves it, and return the row's new ETag.

    Raises `Conflict` if it was reserved or sent since it was read.
    """
    if not known.rule:
        return known.etag
    reason, until = Reason.DIGEST if reserved_for(known) else Reason(known.reason), services.clock()
    if reason is Reason.LOCAL_TIME and known.not_before:
        until = known.not_before  # whether the delivery is missed is measured from this time
    return await _defer(services, delivery, known.etag, reason, until, "")


async def _reserve(
    services: Services, task: RecipientTask, number: int, item: HeldDelivery, entry: DigestEntry
) -> DigestEntry | None:
    """Reserve a delivery for digest `number` and return its entry with the new ETag, or None if it cannot be included.

    Raises `Conflict` if it is reserved for a later digest.
    """
    delivery, etag = entry.delivery, item.delivery_etag  # the row rarely changes while held: not read at first
    while True:
        with suppress(Conflict):
            if etag:
                # The empty reason makes a worker requeue a message of the delivery instead of sending it.
                etag = await _defer(services, delivery, etag, None, FOREVER, f"{RESERVED}{number}")
                break
        known = await services.deliveries.get(delivery)
        if known is None or known.state.final or not known.rule:
            if known and not known.state.final:  # the worker that released it may have crashed before it enqueued it
                await services.queues.enqueue_delivery(delivery, urgent=item.urgent)
            await services.held_deliveries.delete(task.tenant, task.recipient, [item])
            return None
        if known.state is DeliveryState.SENDING:
            return None
        if reserved_for(known) > number:
            raise Conflict
        etag = known.etag
        if reserved_for(known) == number:
            break
    return replace(entry, delivery=replace(delivery, etag=etag))


async def _defer(
    services: Services, delivery: Delivery, etag: str, reason: Reason | None, until: datetime, rule: str
) -> str:
    now = services.real_time()
    return await services.deliveries.defer(delivery, etag, reason, not_before=until, now=now, rule=rule)


def _compose(
    services: Services,
    task: RecipientTask,
    digest_preferences: DigestPreferences,
    groups: Sequence[ThreadGroup],
    more: int | None,
) -> tuple[int, int | None, bytes]:
    limit, has_schedule = services.settings.max_activity_bytes, bool(digest_preferences.schedule.days)
    zone, language = digest_preferences.zone, digest_preferences.language
    return compose(groups, task.recipient, zone, language, more, held=not has_schedule, limit=limit)
