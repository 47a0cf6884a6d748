"""Release a recipient's held deliveries when they are due: to be evaluated again and sent, or in a digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from shared.concurrency import gather_limited
from shared.queue_messages import RecipientTask, Task
from shared.records import DeliveryRecord, DigestState, HeldDelivery
from shared.services import Services
from shared.states import DeliveryState, Reason
from shared.storage import timers
from shared.storage.table import Conflict
from timer_digest.digest_plan import DigestPlan, DigestPreferences, ReleasedItem
from timer_digest.digest_sender import clear_rule, send_digest, settle_last_digest
from timer_digest.held_items import digest_preferences_of, make_plan
from timer_digest.settlement import MAX_ITEMS, DeliveryResult, end_delivery, reserved_for

#: Items due within this time count as due, since the clock of the instance that ran the tick may be ahead of ours.
CLOCK_SKEW = timedelta(seconds=5)
#: Reasons to hold a delivery to which digests do not apply: it is evaluated again by itself.
SENT_ALONE = (Reason.LOCAL_TIME, Reason.NOT_INSTALLED)
#: Tries per message while other workers change the recipient's digest state.
MAX_CONFLICTS = 8


async def release(services: Services, task: RecipientTask) -> None:
    """Do `task` for a recipient's held deliveries; raises `Conflict` if other workers interfere on every try."""
    for _ in range(MAX_CONFLICTS):
        try:
            await (_reconsider if task.task is Task.RECONSIDER else _release_due)(services, task)
        except Conflict:
            continue
        return
    raise Conflict


async def _reconsider(services: Services, task: RecipientTask) -> None:
    """Re-evaluate held deliveries against current preferences."""
    state = await services.held_deliveries.digest_state(task.tenant, task.recipient)
    items = await services.held_deliveries.list(task.tenant, task.recipient, MAX_ITEMS, task.after)
    if not items:
        return
    digest_preferences = await digest_preferences_of(services, task)
    # After an install, what has waited for it is planned like what a pause has held.
    reasons = (Reason.LOCAL_TIME,) if digest_preferences.is_installed else SENT_ALONE
    alone = [ReleasedItem(item) for item in items if item.reason in reasons]
    state = await release_items(services, task, state, alone)
    included = {delivery.identity for delivery in state.included}
    held = [item for item in items if item.reason not in reasons and item.delivery.identity not in included]
    if held:
        plan = await _plan(services, task, digest_preferences, state, held)
        state = await release_items(services, task, state, plan.release)
        past = services.clock() - CLOCK_SKEW  # due on every instance, whatever its clock
        planned = {item.key for item in plan.hold} | {released.item.key for released in plan.release}
        # Nothing holds the items of the digest any more. Those that do not fit are due now, as no timer releases them.
        due_now = [item for item in held if item.key not in planned and item.until > past]
        until = [(item, plan.next_at or past) for item in plan.hold] + [(item, past) for item in due_now]
        await gather_limited(until, lambda each: services.held_deliveries.hold_until(task.tenant, *each))
        if plan.digest and not included:
            await send_digest(services, task, state, plan, digest_preferences)
        # A digest that another worker made meanwhile may have ended: then nothing else releases what is due.
        if due_now or (plan.digest and included):
            await services.queues.enqueue_recipient(replace(task, task=Task.RELEASE, after="", poison_retries=0))
    if len(items) == MAX_ITEMS:
        await services.queues.enqueue_recipient(replace(task, after=items[-1].key, poison_retries=0))


async def _release_due(services: Services, task: RecipientTask) -> None:
    """Settle the last digest if it has ended, release the deliveries whose hold has ended, and send a due digest."""
    now, is_asked = services.clock() + CLOCK_SKEW, task.task is Task.DIGEST_NOW
    items, state = await services.held_deliveries.list_due(task.tenant, task.recipient, now, MAX_ITEMS)
    alone = [item for item in items if item.reason in SENT_ALONE]
    due_called_at = task.due_called_at or services.clock().timestamp()
    messages = [(replace(item.delivery, due_called_at=due_called_at), item.urgent) for item in alone]
    await gather_limited(messages, lambda each: services.queues.enqueue_delivery(each[0], urgent=each[1]))
    await services.held_deliveries.delete(task.tenant, task.recipient, alone)
    held = [item for item in items if item.reason not in SENT_ALONE]
    has_released, is_more_due, is_sending = bool(alone), False, False
    if state.included:
        included = {delivery.identity for delivery in state.included}
        settled = await settle_last_digest(services, task, state, held)
        is_sending = settled is None
        state, held = settled or state, [item for item in held if item.delivery.identity not in included]
    if is_asked:
        included = {delivery.identity for delivery in state.included}
        found = await services.held_deliveries.list_for_digest(task.tenant, task.recipient, MAX_ITEMS)
        held = [item for item in found if item.delivery.identity not in included]
    if held:
        digest_preferences = await digest_preferences_of(services, task)
        plan = await _plan(services, task, digest_preferences, state, held)
        has_released |= bool(plan.release)
        state = await release_items(services, task, state, plan.release)
        if plan.digest and not is_sending:  # else this is repeated when that digest has ended
            is_more_due = await send_digest(services, task, state, plan, digest_preferences)
            task = replace(task, task=Task.RELEASE)  # what `digest now` has left waits for the next digest
    if is_more_due or (has_released and len(items) >= MAX_ITEMS):
        await services.queues.enqueue_recipient(replace(task, poison_retries=0))


async def _plan(
    services: Services,
    task: RecipientTask,
    digest_preferences: DigestPreferences,
    state: DigestState,
    items: Sequence[HeldDelivery],
) -> DigestPlan:
    """Plan what to do with these items, and set a timer for those held until the next digest."""
    plan = await make_plan(services, task, digest_preferences, state, items)
    if plan.hold and plan.next_at:
        await services.timers.put(plan.next_at, timers.DIGEST, task.tenant, task.recipient)
    return plan


async def release_items(
    services: Services, task: RecipientTask, state: DigestState, items: Sequence[ReleasedItem]
) -> DigestState:
    """End or enqueue these deliveries, delete their held rows, and return the digest state after that.

    Deliveries in the last digest stay. Raises `Conflict` if another worker changed a row meanwhile.
    """
    rows = await gather_limited(items, lambda each: services.deliveries.get(each.item.delivery))
    if any(row and reserved_for(row) > state.number for row in rows):
        # A worker reserved them for the next digest and is about to make it, or has crashed: its write must fail.
        state = replace(state, number=state.number + 1)
        state = replace(
            state, etag=await services.held_deliveries.save_digest_state(task.tenant, task.recipient, state)
        )
    included = {delivery.identity for delivery in state.included}
    pairs = [pair for pair in zip(items, rows, strict=True) if pair[0].item.delivery.identity not in included]
    await gather_limited(pairs, lambda pair: _release_item(services, *pair))
    await services.held_deliveries.delete(task.tenant, task.recipient, [released.item for released, _ in pairs])
    return state


async def _release_item(services: Services, released: ReleasedItem, known: DeliveryRecord | None) -> None:
    delivery = released.item.delivery
    if known is None or known.state is not DeliveryState.QUEUED:
        return
    etag = await clear_rule(services, delivery, known)
    if released.state is None:
        await services.queues.enqueue_delivery(delivery, urgent=released.item.urgent)
    else:
        await end_delivery(services, replace(delivery, etag=etag), DeliveryResult(released.state))
