"""The activity of a notification, drawn once and kept."""

from __future__ import annotations

from functools import lru_cache

from shared.cards.notification import activity
from shared.contract import stored

#: Notifications whose activity is kept ready in memory.
RENDERED = 128


@lru_cache(maxsize=RENDERED)
def rendered(data: bytes, limit: int) -> bytes:
    """The JSON of the activity for the canonical `data` of a notification; raises `TooLarge` over `limit` bytes."""
    return activity(stored(data), limit)
