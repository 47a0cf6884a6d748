"""Apply a digest's final state to every delivery that it includes.

The digest is the notification that `key_of` names. Its identity follows from the recipient's digest state (table
HeldDeliveries).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from zoneinfo import ZoneInfo

from shared import early
from shared.concurrency import gather_limited
from shared.early import rule_of
from shared.preferences.delivery_rules import quiet_until
from shared.preferences.preferences import Preferences
from shared.queue_messages import Delivery, RecipientTask, Task
from shared.records import DeliveryRecord, DigestState, HeldDelivery
from shared.services import Services
from shared.states import DeliveryState, Reason, Rule
from shared.storage.notifications import StoredNotification, notification_key
from shared.storage.table import Conflict

#: The source of digests.
SOURCE = "/herald/digests"
#: Items that are looked at in one go.
MAX_ITEMS = 1000

#: When a digest that is not sent yet is looked at again: whether its reader still wants what it tells.
LATE_AFTER = timedelta(seconds=15)
#: Seconds after which what a digest was to tell is decided anew.
RECHECK_DELAY_SECONDS = 5

#: With its number this is the rule of a delivery that is kept for a digest.
RESERVED = f"{Rule.DIGEST} "


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """How the digest's own delivery ended; `maybe_twice` says that one more request of it may have arrived."""

    state: DeliveryState
    reason: Reason | None = None
    maybe_twice: bool = False


def identity(recipient: str, state: DigestState) -> str:
    """The id of the last digest as a notification.

    Numbers begin anew where the recipient's row was removed: so the id also names the first that it tells, and how many
    that are, as they may become fewer before it is posted.
    """
    first, many = state.included[0].notification, f"{len(state.included)};" if state.made else ""
    return f"{recipient};{state.number};{many}{first}"


def key_of(tenant: str, recipient: str, state: DigestState) -> str:
    """The key of the last digest as a notification."""
    return notification_key(tenant, SOURCE, identity(recipient, state))


def reserved_for(known: DeliveryRecord) -> int:
    """The number of the digest for which a delivery is kept, or was; 0 for none."""
    kept = known.state is DeliveryState.QUEUED and known.rule.startswith(RESERVED)
    return int(known.rule.removeprefix(RESERVED)) if kept else 0


async def is_unwanted(
    services: Services,
    tenant: str,
    recipient: str,
    digest: StoredNotification,
    digest_preferences: Preferences,
    zone: ZoneInfo,
) -> bool:
    """Whether a digest that could not be sent at once tells what its reader does not want now, or what is over.

    Also where it is not the last one any more, or is settled: what it tells is told elsewhere, or has ended.
    """
    digests, now = await services.held_deliveries.digest(tenant, recipient), services.clock()
    if not digests.included or key_of(tenant, recipient, digests) != digest.key:
        return True
    if now - (digests.made or digest.created) < LATE_AFTER:
        return False
    digest_preferences = early.without_holds(digest_preferences) if digests.asked else digest_preferences
    good = {Rule.SEND} if quiet_until(digest_preferences, now, zone) else {Rule.SEND, Rule.DIGEST}
    found = await gather_limited(
        digests.included, lambda delivery: services.notifications.recent(delivery.notification)
    )
    return not all(
        each and each.is_current(now) and rule_of(services, digest_preferences, zone, now, each) in good
        for each in found
    )


async def over(services: Services, tenant: str, recipient: str, key: str, ended: DeliveryResult) -> None:
    """See to what follows from the end of the digest with this key; to do that again changes nothing."""
    items, digests = await services.held_deliveries.ready(tenant, recipient, services.clock(), MAX_ITEMS)
    more = bool(items)
    if digests.included and key_of(tenant, recipient, digests) == key:
        included = {delivery.identity for delivery in digests.included}
        more = any(item.delivery.identity not in included for item in items)
        try:
            await settle(services, tenant, recipient, digests, items, ended)
        except Conflict:  # somebody else sees to it, or it was we, and the answer was lost
            more = True
    if more:  # it may have been put off until this end
        await services.queues.enqueue_recipient(RecipientTask(tenant, recipient, Task.RELEASE))


async def settle(
    services: Services,
    tenant: str,
    recipient: str,
    digests: DigestState,
    items: Sequence[HeldDelivery],
    ended: DeliveryResult,
) -> DigestState:
    """End what the last digest told, as that did, and forget those of `items`; returns the state of digests after that,
    or raises `Conflict` where another changed it meanwhile.

    Of one that was `CANCELLED` nothing ends: all goes on waiting, also for a digest of the same date.
    """
    if ended.state is DeliveryState.CANCELLED:
        return await _call_off(services, tenant, recipient, digests, ended)
    arrived = ended.state in (DeliveryState.SENT, DeliveryState.SIMULATED)
    result = replace(ended, state=DeliveryState.DIGESTED, reason=None) if arrived else ended
    are_over = await gather_limited(digests.included, lambda delivery: end(services, delivery, result, digests.number))
    # One that was tried again since, by hand, waits anew.
    over = {each.identity for each, is_over in zip(digests.included, are_over, strict=True) if is_over}
    gone = {item.key: item for item in items if item.delivery.identity in over}
    if len(gone) < len(over):  # `digest now` also told what is paused, of which `items` has nothing
        async for held in services.held_deliveries.held(tenant, recipient, early.REASONS, MAX_ITEMS):
            gone |= {item.key: item for item in held if item.delivery.identity in over}
    settled = replace(digests, included=())
    return replace(
        settled, etag=await services.held_deliveries.move_digest(tenant, recipient, settled, list(gone.values()))
    )


async def _call_off(
    services: Services, tenant: str, recipient: str, digests: DigestState, ended: DeliveryResult
) -> DigestState:
    """Let all that a digest was to tell wait as before, and have it decided anew."""

    async def free(delivery: Delivery) -> None:
        plain, known = replace(delivery, etag=""), await services.deliveries.get(delivery)
        if known and reserved_for(known) == digests.number:
            await services.deliveries.defer(
                plain,
                known.etag,
                Reason.DIGEST,
                not_before=services.clock(),
                now=services.real_time(),
                maybe_twice=ended.maybe_twice,
                rule=str(Rule.DIGEST),
            )

    await gather_limited(digests.included, free)
    # Before the row is changed, in case that this ends here, and late enough for it. What was asked for comes early
    # again, as far as it still can; after that the rest is seen to.
    whose, again = RecipientTask(tenant, recipient, Task.RECONSIDER), RECHECK_DELAY_SECONDS
    if digests.asked:
        await services.queues.enqueue_recipient(replace(whose, task=Task.DIGEST_NOW), RECHECK_DELAY_SECONDS)
        again += RECHECK_DELAY_SECONDS
    await services.queues.enqueue_recipient(whose, again)
    freed = replace(digests, included=(), last=digests.before)
    return replace(freed, etag=await services.held_deliveries.move_digest(tenant, recipient, freed))


async def end(services: Services, delivery: Delivery, ended: DeliveryResult, number: int = 0) -> bool:
    """Write the final state of a delivery whose row still is that of its ETag, or kept for the digest of `number`.

    Returns whether it has ended, by whomever.
    """
    etag, plain = delivery.etag, replace(delivery, etag="")
    while True:
        try:
            last = await services.deliveries.settle(
                plain,
                etag,
                ended.state,
                previous=DeliveryState.QUEUED,
                now=services.real_time(),
                reason=ended.reason,
                maybe_twice=ended.maybe_twice,
                rule=str(Rule.DIGEST),
            )
        except Conflict:
            known = await services.deliveries.get(plain)
            if known and number and reserved_for(known) == number:
                etag = known.etag
                continue
            if known is None or not known.state.final:
                return known is None
            last = True
        break
    if last:  # maybe of its notification, which is finished by the message of any delivery that has ended
        await services.queues.enqueue_delivery(plain)
    return True
