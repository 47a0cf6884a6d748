"""What `digest now` brings: what waits for the digest, and what would if no pause and no quiet hours held it."""

from __future__ import annotations

from dataclasses import replace
from zoneinfo import ZoneInfo

from shared.concurrency import together
from shared.preferences.delivery_rules import rule_of
from shared.preferences.preferences import Preferences
from shared.services import Services
from shared.states import Reason, Rule
from shared.storage.held_deliveries import Item

#: Why a delivery waits that it may bring.
REASONS = (Reason.DIGEST, Reason.PAUSED, Reason.QUIET_HOURS)
#: Items that are looked at in one go, and at most.
PAGE, MOST = 25, 1000


def unheld(wants: Preferences) -> Preferences:
    """The wishes without pause and quiet hours."""
    return replace(wants, quiet="", paused_until=None)


async def brought(
    services: Services, tenant: str, recipient: str, wants: Preferences, place: ZoneInfo, most: int, *, over: bool
) -> list[Item]:
    """The oldest that it brings to a recipient with these wishes, on the clocks of `place`: up to about `most`, among
    the first `MOST` that wait; with `over`, also what has expired or was called off.
    """
    now, free = services.clock(), unheld(wants)
    found: list[Item] = []
    looked_at = 0

    async def meant(item: Item) -> bool:
        notification = await services.notifications.recent(item.delivery.notification)
        if notification is None or not notification.stands(now):
            return over
        return rule_of(services, free, place, now, notification) is Rule.DIGEST

    async for items in services.waiting.held(tenant, recipient, REASONS, PAGE):
        found += [item for item, is_meant in zip(items, await together(items, meant), strict=True) if is_meant]
        looked_at += len(items)
        if len(found) >= most or looked_at >= MOST:
            break
    return found
