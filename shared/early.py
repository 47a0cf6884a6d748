"""List the items of `digest now`: what waits for the digest, or would wait for it without pause and quiet hours."""

from __future__ import annotations

from dataclasses import replace
from zoneinfo import ZoneInfo

from shared.concurrency import gather_limited
from shared.preferences.delivery_rules import rule_of
from shared.preferences.preferences import Preferences
from shared.services import Services
from shared.states import Reason, Rule
from shared.storage.held_deliveries import HeldDelivery

#: Why a delivery waits that it may bring.
REASONS = (Reason.DIGEST, Reason.PAUSED, Reason.QUIET_HOURS)
#: Items that are looked at in one go, and at most.
PAGE_ITEMS, MAX_ITEMS = 25, 1000


def without_holds(preferences: Preferences) -> Preferences:
    """The wishes without pause and quiet hours."""
    return replace(preferences, quiet="", paused_until=None)


async def digest_now_items(
    services: Services, tenant: str, recipient: str, preferences: Preferences, place: ZoneInfo, most: int, *, over: bool
) -> list[HeldDelivery]:
    """The oldest that it brings to a recipient with these wishes, on the clocks of `place`: up to about `most`, among
    the first `MAX_ITEMS` that wait; with `over`, also what has expired or was called off.
    """
    now, free = services.clock(), without_holds(preferences)
    found: list[HeldDelivery] = []
    looked_at = 0

    async def meant(item: HeldDelivery) -> bool:
        notification = await services.notifications.recent(item.delivery.notification)
        if notification is None or not notification.is_current(now):
            return over
        return rule_of(services, free, place, now, notification) is Rule.DIGEST

    async for items in services.held_deliveries.held(tenant, recipient, REASONS, PAGE_ITEMS):
        found += [item for item, is_meant in zip(items, await gather_limited(items, meant), strict=True) if is_meant]
        looked_at += len(items)
        if len(found) >= most or looked_at >= MAX_ITEMS:
            break
    return found
