"""What a message looks like is judged before it is accepted: Teams would refuse it, or not show it, in silence."""

from __future__ import annotations

from shared.cards.notification import activity
from shared.cards.size import TooLarge
from shared.contract import Fault, Notification, Refused


def check_form(notification: Notification, limit: int, data: str) -> None:
    """Raises `Refused` for a card that Teams would not show, or a message over `limit` bytes of UTF-16.

    `data` is the JSON pointer to the notification in its message.
    """
    field = data + ("/content" if notification.card is None else "/card")
    try:
        activity(notification, limit)
    except TooLarge as large:
        raise Refused("invalid", [Fault(field, f"is too large for Teams: {large}")]) from None
    if notification.card is not None:
        from shared.cards.check import faults  # costly, and only for cards of one's own

        if found := faults(notification.card):
            raise Refused("invalid", [Fault(field + fault.pointer, fault.message) for fault in found])
