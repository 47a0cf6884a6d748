"""List the items of `digest now`: what waits for the digest, or would wait for it without pause and quiet hours."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from shared.preferences.preferences import Preferences
from shared.states import Rule

if TYPE_CHECKING:
    from shared.services import Services
    from shared.storage.notifications import StoredNotification

from dataclasses import replace

from shared.concurrency import gather_limited
from shared.preferences.delivery_rules import evaluate
from shared.records import HeldDelivery
from shared.services import Services
from shared.states import Reason

#: Why a delivery waits that it may bring.
REASONS = (Reason.DIGEST, Reason.PAUSED, Reason.QUIET_HOURS)
#: Items that are looked at in one go, and at most.
PAGE_ITEMS, MAX_ITEMS = 25, 1000


def without_holds(preferences: Preferences) -> Preferences:
    """The wishes without pause and quiet hours."""
    return replace(preferences, quiet="", paused_until=None)


async def digest_now_items(
    services: Services, tenant: str, recipient: str, preferences: Preferences, zone: ZoneInfo, most: int, *, over: bool
) -> list[HeldDelivery]:
    """The oldest that it brings to a recipient with these wishes, on the clocks of `zone`: up to about `most`, among
    the first `MAX_ITEMS` that wait; with `over`, also what has expired or was called off.
    """
    now, free = services.clock(), without_holds(preferences)
    found: list[HeldDelivery] = []
    looked_at = 0

    async def meant(item: HeldDelivery) -> bool:
        notification = await services.notifications.recent(item.delivery.notification)
        if notification is None or not notification.is_current(now):
            return over
        return rule_of(services, free, zone, now, notification) is Rule.DIGEST

    async for items in services.held_deliveries.held(tenant, recipient, REASONS, PAGE_ITEMS):
        found += [item for item, is_meant in zip(items, await gather_limited(items, meant), strict=True) if is_meant]
        looked_at += len(items)
        if len(found) >= most or looked_at >= MAX_ITEMS:
            break
    return found


def rule_of(
    services: Services, preferences: Preferences, zone: ZoneInfo, now: datetime, notification: StoredNotification
) -> Rule:
    """Return the rule by which a recipient's preferences decide on a notification; `zone` is the recipient's zone."""
    category, digest = services.categories.of(notification.content.category), services.settings.default_digest
    return evaluate(preferences, category, notification.thread, now=now, zone=zone, digest=digest)[0]
