"""Render the activity of a notification once, and cache it."""

from __future__ import annotations

from functools import lru_cache

from shared.cards.footer import PURPOSES_WITH_FOOTER, Footer
from shared.cards.notification import render_activity
from shared.contract.parsing import parse_stored
from shared.preferences.categories import Category
from shared.records import StoredNotification
from shared.services import Services

#: Most activities in the cache.
MAX_CACHED_ACTIVITIES = 128


def render_notification(services: Services, notification: StoredNotification, recipient: str) -> bytes:
    """Return the JSON of the activity that a recipient gets (`u:...` or `c:...`); raise `TooLarge` if it is too large.

    The activity is the same for all people, and the same for all chats and channels.
    """
    category = services.categories.of(notification.content.category)
    key = notification.key if notification.purpose in PURPOSES_WITH_FOOTER else ""
    is_shared = not recipient.startswith("u:")
    return render_data(notification.data, key, category, services.settings.max_activity_bytes, is_shared=is_shared)


@lru_cache(maxsize=MAX_CACHED_ACTIVITIES)
def render_data(data: bytes, key: str, category: Category, limit: int, *, is_shared: bool = False) -> bytes:
    """Return the activity of stored `data`, of at most `limit` bytes of UTF-16; a `key` of "" means no footer.

    `is_shared`: several people see the card.
    """
    content = parse_stored(data)
    footer = Footer.of(key, content, category) if key else None
    return render_activity(content, limit, footer, is_shared=is_shared)
