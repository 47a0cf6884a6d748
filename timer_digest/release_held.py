"""Release a recipient's held deliveries when they are due: to be evaluated and sent again, or in a digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from shared import early, telling
from shared.concurrency import gather_limited
from shared.queue_messages import RecipientTask, Task
from shared.records import DeliveryRecord, DigestState, HeldDelivery
from shared.services import Services
from shared.states import DeliveryState, Reason
from shared.storage import timers
from shared.storage.table import Conflict
from shared.telling import MAX_ITEMS
from timer_digest import digest_sender
from timer_digest.digest_plan import DigestPlan, DigestPreferences, ReleasedItem, choose, digest_preferences_of

#: By how much the clock of the instance that woke somebody may be ahead. What is not due yet by ours waits anew, until
#: the next tick.
CLOCK_SKEW = timedelta(seconds=5)
#: How often somebody is looked at anew to whom others see at the same moment.
MAX_CONFLICTS = 8


async def release(services: Services, person: RecipientTask) -> None:
    """Do with what waits for `person` what it is time for; raises `Conflict` where others do so each time."""
    for _ in range(MAX_CONFLICTS):
        try:
            await (_reconsider if person.task is Task.RECONSIDER else _see_to)(services, person)
        except Conflict:
            continue
        return
    raise Conflict


async def _reconsider(services: Services, person: RecipientTask) -> None:
    """Let all that waits go by the wishes as they are now; what something has held until now comes as at its end."""
    state = await services.held_deliveries.digest(person.tenant, person.recipient)
    items = await services.held_deliveries.of(person.tenant, person.recipient, MAX_ITEMS, person.after)
    timed = [ReleasedItem(item) for item in items if item.reason is Reason.LOCAL_TIME]
    state = await release_items(services, person, state, timed)
    included = {delivery.identity for delivery in state.included}
    held = [item for item in items if item.reason is not Reason.LOCAL_TIME and item.delivery.identity not in included]
    if held:
        digest_preferences = await digest_preferences_of(services, person)
        plan = await _planned(services, person, digest_preferences, state, held)
        state = await release_items(services, person, state, plan.go)
        now = services.clock() - CLOCK_SKEW
        seen_to = {item.key for item in plan.wait} | {parting.item.key for parting in plan.go}
        # What one digest cannot tell is found when that has ended, as nothing else wakes anybody for it any more.
        free = [item for item in held if item.key not in seen_to and item.until > now]
        anew = [(item, plan.next_at or now) for item in plan.wait] + [(item, now) for item in free]
        await gather_limited(anew, lambda each: services.held_deliveries.wait_until(person.tenant, *each))
        if plan.tell and not included:
            await digest_sender.send(services, person, state, plan, digest_preferences)
        if free:
            await services.queues.enqueue_recipient(replace(person, task=Task.RELEASE, after="", poison_retries=0))
    if len(items) == MAX_ITEMS:
        await services.queues.enqueue_recipient(replace(person, after=items[-1].key, poison_retries=0))


async def _see_to(services: Services, person: RecipientTask) -> None:
    now, asked = services.clock() + CLOCK_SKEW, person.task is Task.DIGEST_NOW
    items, state = await services.held_deliveries.ready(person.tenant, person.recipient, now, MAX_ITEMS)
    timed = [item for item in items if item.reason is Reason.LOCAL_TIME]  # their own, which no digest changes
    due_called_at = person.due_called_at or services.clock().timestamp()
    calls = [(replace(item.delivery, due_called_at=due_called_at), item.urgent) for item in timed]
    await gather_limited(calls, lambda call: services.queues.enqueue_delivery(call[0], urgent=call[1]))
    await services.held_deliveries.done(person.tenant, person.recipient, timed)
    held = [item for item in items if item.reason is not Reason.LOCAL_TIME]
    gone = len(timed)
    on_its_way = False
    if state.included:
        included = {delivery.identity for delivery in state.included}
        settled = await digest_sender.settle(services, person, state, held)
        on_its_way = settled is None
        state, held = settled or state, [item for item in held if item.delivery.identity not in included]
    if held or asked:
        digest_preferences = await digest_preferences_of(services, person)
        if asked:
            whose = (person.tenant, person.recipient, digest_preferences.preferences, digest_preferences.zone)
            held = await early.digest_now_items(services, *whose, MAX_ITEMS, over=True)
        plan = await _planned(services, person, digest_preferences, state, held)
        gone += len(plan.go)
        state = await release_items(services, person, state, plan.go)
        if plan.tell and not on_its_way:  # else it is seen to when that digest has ended
            await digest_sender.send(services, person, state, plan, digest_preferences)
            return
    if gone and len(items) >= MAX_ITEMS:  # there may be more
        await services.queues.enqueue_recipient(replace(person, poison_retries=0))


async def _planned(
    services: Services,
    person: RecipientTask,
    digest_preferences: DigestPreferences,
    state: DigestState,
    items: Sequence[HeldDelivery],
) -> DigestPlan:
    """What to do now with these items; what waits for a later digest is made due then."""
    plan = await choose(services, person, digest_preferences, state.last, items)
    if plan.wait and plan.next_at:
        await services.timers.put(plan.next_at, timers.DIGEST, person.tenant, person.recipient)
    return plan


async def release_items(
    services: Services, person: RecipientTask, state: DigestState, going: Sequence[ReleasedItem]
) -> DigestState:
    """Put deliveries back on their queue, where policy decides again, and forget their items after that.

    Those that the last digest tells stay. Returns the state of digests after that, or raises `Conflict`.
    """
    rows = await gather_limited(going, lambda each: services.deliveries.get(each.item.delivery))
    if any(row and telling.reserved_for(row) > state.number for row in rows):
        # Whoever keeps it is about to make the next digest, or died at that: its number is taken, so that it fails.
        state = replace(state, number=state.number + 1)
        state = replace(state, etag=await services.held_deliveries.move_digest(person.tenant, person.recipient, state))
    included = {delivery.identity for delivery in state.included}
    pairs = [pair for pair in zip(going, rows, strict=True) if pair[0].item.delivery.identity not in included]
    await gather_limited(pairs, lambda pair: _release_item(services, *pair))
    await services.held_deliveries.done(person.tenant, person.recipient, [parting.item for parting, _ in pairs])
    return state


async def _release_item(services: Services, parting: ReleasedItem, known: DeliveryRecord | None) -> None:
    delivery = parting.item.delivery
    if known is None or known.state is not DeliveryState.QUEUED:
        return
    etag = await digest_sender.free(services, delivery, known)
    if parting.state is None:
        await services.queues.enqueue_delivery(delivery, urgent=parting.item.urgent)
    else:
        await telling.end(services, replace(delivery, etag=etag), telling.DeliveryResult(parting.state))
