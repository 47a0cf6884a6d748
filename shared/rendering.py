"""Render the activity of a notification once, and cache it."""

from __future__ import annotations

from functools import lru_cache

from shared.cards.footer import CONTROLLED, Controls
from shared.cards.notification import activity
from shared.contract.parsing import parse_stored
from shared.preferences.categories import Category
from shared.services import Services
from shared.storage.notifications import StoredNotification

#: Notifications whose activity is kept ready in memory.
RENDERED = 128


def rendered(services: Services, notification: StoredNotification) -> bytes:
    """The JSON of the notification's activity; raises `TooLarge` where Teams would not take it."""
    category = services.categories.of(notification.content.category)
    key = notification.key if notification.purpose in CONTROLLED else ""
    return drawn(notification.data, key, category, services.settings.max_activity_bytes)


@lru_cache(maxsize=RENDERED)
def drawn(data: bytes, key: str, category: Category, limit: int) -> bytes:
    """The same from plain values; a `key` of "" has no controls."""
    content = parse_stored(data)
    return activity(content, limit, Controls.of(key, content, category) if key else None)
