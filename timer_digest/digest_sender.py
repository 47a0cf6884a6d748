"""Send one card for many held deliveries; each delivery that it includes ends as the card's own delivery does.

Nothing is lost or sent twice, wherever a worker dies and however many workers serve the same recipient:

- A delivery is *reserved* for a digest before the digest includes it: its row is changed with If-Match and names the
  number of the digest; from then on no worker sends it alone. A worker that releases a held delivery changes its row
  first, too, so that one of the two meets a conflict.
- A digest is made by one write with If-Match, of the recipient's digest state (table HeldDeliveries): its number and
  what it includes. A worker that loses this write starts again. What was reserved for a digest that was made without
  it is free again.
- The card is published under an identity that follows from that row, and is therefore sent once.
- When the card's delivery has ended, the included deliveries end, their held rows are removed, the digest is settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from shared import publishing, telling
from shared.concurrency import gather_limited
from shared.preferences.preferences import FOREVER
from shared.queue_messages import Delivery, RecipientTask, Task
from shared.records import DeliveryRecord, DigestState, HeldDelivery
from shared.services import Services
from shared.states import DeliveryState, Purpose, Reason
from shared.storage import timers
from shared.storage.delivery_counts import SINGLE_SHARD
from shared.storage.table import Conflict
from shared.telling import RESERVED, reserved_for
from timer_digest.digest_plan import DigestPlan, DigestPreferences, digest_preferences_of
from timer_digest.thread_groups import DigestEntry, ThreadGroup, by_thread, compose, stories

#: When somebody without a next digest is looked at again, in case that nobody tells the end of this one.
RECHECK_DELAY = timedelta(days=1)
#: By how much the next try of a digest, or the end of one, may be late before its message is taken for lost.
LOST_MESSAGE_AFTER = timedelta(minutes=2)


async def send(
    services: Services,
    person: RecipientTask,
    state: DigestState,
    plan: DigestPlan,
    digest_preferences: DigestPreferences,
) -> None:
    """Make the planned digest, and post it; raises `Conflict` where another changed the recipient's state meanwhile."""
    number = state.number + 1
    # Before all else, so that who dies at this leaves nothing of which nobody thinks again.
    whose = (person.tenant, person.recipient)
    await services.timers.put(plan.next_at or services.clock() + RECHECK_DELAY, timers.DIGEST, *whose)
    planned = stories(case for _, case in plan.tell)
    count, left, data = _compose(services, person, digest_preferences, planned, plan.more)
    fit = {case.delivery for story in planned[:count] for case in story}
    keep = [pair for pair in plan.tell if pair[1].delivery in fit]
    found = [case for case in await gather_limited(keep, lambda pair: _keep(services, person, number, *pair)) if case]
    included = stories(found)
    if included and len(found) < len(keep):
        count, left, data = _compose(services, person, digest_preferences, included, left)
    if not included:  # another process took all of it: the next minute shows what it left
        await services.timers.put(services.clock(), timers.DIGEST, *whose)
        return
    made = replace(
        state,
        number=number,
        last=plan.slot.date if plan.slot else state.last,
        before=state.last,
        asked=person.task is Task.DIGEST_NOW,
        made=services.clock(),
        included=_deliveries(included[:count]),
        more=left,
    )
    await services.held_deliveries.move_digest(*whose, made)
    await _post(services, person, made, data)


async def settle(
    services: Services, person: RecipientTask, state: DigestState, items: Sequence[HeldDelivery]
) -> DigestState | None:
    """End what the last digest told, as that did, and forget those of `items`; returns the state after that.

    None where the digest has not ended: whoever was to post it may have died before.
    """
    key = telling.key_of(person.tenant, person.recipient, state)
    known = await services.deliveries.get(Delivery(key, SINGLE_SHARD, person.recipient, "", 0))
    if known is None or not known.state.final:
        if known is None or not _is_tried(known, services.real_time()):
            await _post_again(services, person, state)
        return None
    ended = telling.DeliveryResult(known.state, Reason(known.reason) if known.reason else None, known.maybe_twice)
    return await telling.settle(services, person.tenant, person.recipient, state, items, ended)


def _is_tried(known: DeliveryRecord, now: datetime) -> bool:
    """Whether somebody is sending it, or it is soon tried again: its message is there, and needs no copy."""
    until = known.claimed_until if known.state is DeliveryState.SENDING else known.not_before
    return until is not None and until > now - LOST_MESSAGE_AFTER


async def free(services: Services, delivery: Delivery, known: DeliveryRecord) -> str:
    """Say in the row of a delivery that waits that nothing holds it, so that no digest keeps it; returns the ETag.

    Raises `Conflict` where it was kept, or sent, meanwhile.
    """
    if not known.rule:
        return known.etag
    reason, until = Reason.DIGEST if reserved_for(known) else Reason(known.reason), services.clock()
    if reason is Reason.LOCAL_TIME and known.not_before:
        until = known.not_before  # by which it is told whether it is missed
    return await _hold(services, delivery, known.etag, reason, until, "")


async def _keep(
    services: Services, person: RecipientTask, number: int, item: HeldDelivery, case: DigestEntry
) -> DigestEntry | None:
    """Keep a delivery for the digest of this number; None where that is not to tell it."""
    delivery, etag = case.delivery, item.delivery_etag  # the row has seldom changed since, and need not be read then
    while True:
        with suppress(Conflict):
            if etag:
                # Without a reason, whoever meets a message of it only puts that back.
                etag = await _hold(services, delivery, etag, None, FOREVER, f"{RESERVED}{number}")
                break
        known = await services.deliveries.get(delivery)
        if known is None or known.state.final or not known.rule:
            if known and not known.state.final:  # somebody lets it go, who may have died at that
                await services.queues.enqueue_delivery(delivery, urgent=item.urgent)
            await services.held_deliveries.done(person.tenant, person.recipient, [item])
            return None
        if known.state is DeliveryState.SENDING:
            return None
        if reserved_for(known) > number:
            raise Conflict  # others are at the digest after this one
        etag = known.etag
        if reserved_for(known) == number:
            break
    return replace(case, delivery=replace(delivery, etag=etag))


async def _hold(
    services: Services, delivery: Delivery, etag: str, reason: Reason | None, until: datetime, rule: str
) -> str:
    now = services.real_time()
    return await services.deliveries.defer(delivery, etag, reason, not_before=until, now=now, rule=rule)


def _compose(
    services: Services,
    person: RecipientTask,
    digest_preferences: DigestPreferences,
    included: Sequence[ThreadGroup],
    more: int | None,
) -> tuple[int, int | None, bytes]:
    limit, recipient = services.settings.max_activity_bytes, person.recipient
    zone, language, held = digest_preferences.zone, digest_preferences.language, not digest_preferences.rule.days
    return compose(included, recipient, zone, language, more, held=held, categories=services.categories, limit=limit)


async def _post_again(services: Services, person: RecipientTask, state: DigestState) -> None:
    key = telling.key_of(person.tenant, person.recipient, state)
    if stored := await services.notifications.get(key):  # only its delivery may be missing
        await _post(services, person, state, stored.data)
        return
    found = await gather_limited(state.included, lambda delivery: services.notifications.recent(delivery.notification))
    items = await services.held_deliveries.of(person.tenant, person.recipient, telling.MAX_ITEMS)
    since = {item.delivery.identity: item.eligible_since for item in items}
    included = by_thread(
        DigestEntry(delivery, notification, since.get(delivery.identity))
        for delivery, notification in zip(state.included, found, strict=True)
        if notification
    )
    digest_preferences = await digest_preferences_of(services, person)
    count, left, data = _compose(services, person, digest_preferences, included, state.more)
    if count < len(included):  # some were edited, and are longer now
        state = replace(state, included=_deliveries(included[:count]), more=left)
        await services.held_deliveries.move_digest(person.tenant, person.recipient, state)
    await _post(services, person, state, data)


def _deliveries(included: Sequence[ThreadGroup]) -> list[Delivery]:
    return [case.delivery for story in included for case in story]


async def _post(services: Services, person: RecipientTask, state: DigestState, data: bytes) -> None:
    await publishing.post(
        services,
        tenant=person.tenant,
        recipient=person.recipient,
        source=telling.SOURCE,
        identifier=telling.identity(person.recipient, state),
        data=data,
        purpose=Purpose.DIGEST,
    )
