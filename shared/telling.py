"""What becomes of the deliveries that a digest tells: each ends as the digest's own delivery does.

The digest is the notification that `key_of` names: its identity follows from the recipient's row in table Waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from zoneinfo import ZoneInfo

from shared import early
from shared.preferences import Preferences
from shared.queues import Delivery, Person, Task
from shared.services import Services
from shared.states import DeliveryState, Reason, Rule
from shared.store.deliveries import State
from shared.store.notifications import Notification, notification_key
from shared.store.table import Conflict
from shared.store.waiting import DigestState, Item
from shared.together import together
from shared.wishes import quiet_until, rule_of

#: The source of digests.
SOURCE = "/herald/digests"
#: Items that are looked at in one go.
MOST = 1000

#: When a digest that is not sent yet is looked at again: whether its reader still wants what it tells.
LATE = timedelta(seconds=15)

#: With its number this is the rule of a delivery that is kept for a digest.
KEPT = f"{Rule.DIGEST} "


def identity(recipient: str, state: DigestState) -> str:
    """The id of the last digest as a notification.

    Numbers begin anew where the recipient's row was removed: so the id also names the first that it tells.
    """
    return f"{recipient};{state.number};{state.told[0].notification}"


def key_of(tenant: str, recipient: str, state: DigestState) -> str:
    """The key of the last digest as a notification."""
    return notification_key(tenant, SOURCE, identity(recipient, state))


def kept_for(known: State) -> int:
    """The number of the digest for which a delivery is kept, or was; 0 for none."""
    kept = known.state is DeliveryState.QUEUED and known.rule.startswith(KEPT)
    return int(known.rule.removeprefix(KEPT)) if kept else 0


async def is_unwanted(
    services: Services, tenant: str, recipient: str, digest: Notification, wants: Preferences, place: ZoneInfo
) -> bool:
    """Whether a digest that could not be sent at once tells what its reader does not want now, or what is over."""
    now = services.clock()
    if now - digest.created < LATE:
        return False
    digests = await services.waiting.digest(tenant, recipient)
    if not digests.told or key_of(tenant, recipient, digests) != digest.key:
        return False
    wants = early.unheld(wants) if digests.asked else wants
    good = {Rule.SEND} if quiet_until(wants, now, place) else {Rule.SEND, Rule.DIGEST}
    found = await together(digests.told, lambda delivery: services.notifications.recent(delivery.notification))
    return not all(each and each.stands(now) and rule_of(services, wants, place, now, each) in good for each in found)


async def over(
    services: Services, tenant: str, recipient: str, key: str, state: DeliveryState, reason: Reason | None
) -> None:
    """See to what follows from the end of the digest with this key; to do that again changes nothing."""
    items, digests = await services.waiting.ready(tenant, recipient, services.clock(), MOST)
    if digests.told and key_of(tenant, recipient, digests) == key:
        with suppress(Conflict):  # somebody else sees to it
            await settle(services, tenant, recipient, digests, items, state, reason)
        told = {delivery.identity for delivery in digests.told}
        items = [item for item in items if item.delivery.identity not in told]
    if items:  # they may have been put off until this end
        await services.queues.wake(Person(tenant, recipient, Task.RELEASE))


async def settle(
    services: Services,
    tenant: str,
    recipient: str,
    digests: DigestState,
    items: Sequence[Item],
    state: DeliveryState,
    reason: Reason | None,
) -> DigestState:
    """End what the last digest told, as that ended in `state`, and forget those of `items`; returns the state of
    digests after that, or raises `Conflict` where another changed it meanwhile.

    Of one that was `CANCELLED` nothing ends: all goes on waiting, also for a digest of the same date.
    """
    if state is DeliveryState.CANCELLED:
        freed = replace(digests, told=(), last=digests.before)
        freed = replace(freed, etag=await services.waiting.move_digest(tenant, recipient, freed))
        await services.queues.wake(Person(tenant, recipient, Task.RELEASE))
        return freed
    arrived = state in (DeliveryState.SENT, DeliveryState.SIMULATED)
    ended, why = (DeliveryState.DIGESTED, None) if arrived else (state, reason)
    are_over = await together(digests.told, lambda delivery: end(services, delivery, ended, why, digests.number))
    # One that was tried again since, by hand, waits anew.
    over = {each.identity for each, is_over in zip(digests.told, are_over, strict=True) if is_over}
    gone = {item.key: item for item in items if item.delivery.identity in over}
    if len(gone) < len(over):  # `digest now` also told what is paused, of which `items` has nothing
        async for held in services.waiting.held(tenant, recipient, early.REASONS, MOST):
            gone |= {item.key: item for item in held if item.delivery.identity in over}
    settled = replace(digests, told=())
    return replace(settled, etag=await services.waiting.move_digest(tenant, recipient, settled, list(gone.values())))


async def end(
    services: Services, delivery: Delivery, state: DeliveryState, reason: Reason | None = None, number: int = 0
) -> bool:
    """Write the final state of a delivery whose row still is that of its ETag, or kept for the digest of `number`.

    Returns whether it has ended, by whomever.
    """
    etag, plain = delivery.etag, replace(delivery, etag="")
    while True:
        try:
            last = await services.deliveries.settle(
                plain,
                etag,
                state,
                was=DeliveryState.QUEUED,
                now=services.real_time(),
                reason=reason,
                rule=str(Rule.DIGEST),
                patient=True,  # much is told to many at one time
            )
        except Conflict:
            known = await services.deliveries.get(plain)
            if known and number and kept_for(known) == number:
                etag = known.etag
                continue
            if known is None or not known.state.final:
                return known is None
            last = True
        break
    if last:  # maybe of its notification, which is finished by the message of any delivery that has ended
        await services.queues.deliver(plain)
    return True
