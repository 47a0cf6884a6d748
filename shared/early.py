"""What `digest now` brings: what waits for the digest, and what would if no pause and no quiet hours held it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

from shared.preferences import Preferences
from shared.services import Services
from shared.states import NotificationState, Reason, Rule
from shared.store.notifications import Notification
from shared.store.waiting import Item
from shared.together import together
from shared.wishes import wish

#: Why those wait among which it is looked.
REASONS = (Reason.DIGEST, Reason.PAUSED, Reason.QUIET_HOURS)
#: Items that are looked at in one go, and at most.
PAGE, MOST = 25, 1000


def unheld(wants: Preferences) -> Preferences:
    """The wishes without what keeps their owner waiting, who does not want to wait any more."""
    return replace(wants, quiet="", paused_until=None)


async def brought(
    services: Services, tenant: str, recipient: str, wants: Preferences, place: ZoneInfo, most: int, *, over: bool
) -> list[Item]:
    """The oldest that it brings to a recipient with these wishes, on the clocks of `place`: up to about `most`, of the
    first `MOST` that wait.

    With `over`, what has expired or was called off is among it.
    """
    now, free = services.clock(), unheld(wants)
    found: list[Item] = []
    looked_at = 0

    async def meant(item: Item) -> bool:
        notification = await services.notifications.recent(item.delivery.notification)
        if notification is None or not stands(notification, now):
            return over
        return rule_of(services, free, place, now, notification) is Rule.DIGEST

    async for items in services.waiting.held(tenant, recipient, REASONS, PAGE):
        found += [item for item, is_meant in zip(items, await together(items, meant), strict=True) if is_meant]
        looked_at += len(items)
        if len(found) >= most or looked_at >= MOST:
            break
    return found


def stands(notification: Notification, now: datetime) -> bool:
    """Whether there is still something to tell of a notification which waits."""
    called_off = notification.state is NotificationState.CANCELLED
    return not called_off and not (notification.expires and notification.expires <= now)


def rule_of(services: Services, wants: Preferences, place: ZoneInfo, now: datetime, notification: Notification) -> Rule:
    """The wish that decides about a notification which waits."""
    content = notification.content
    category, thread = services.categories.of(content.category), content.thread.key if content.thread else ""
    return wish(wants, category, thread, now=now, place=place, digest=services.settings.default_digest)[0]
