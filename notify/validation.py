"""Validate the appearance of a message at ingestion: what Teams would refuse, or silently not show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shared.cards.action_verbs import RESERVED_PREFIX
from shared.cards.footer import Footer
from shared.cards.notification import render_activity
from shared.cards.schema import json_pointer
from shared.cards.size import TooLarge
from shared.cards.texts import language_of
from shared.contract.faults import Fault, MessageRefused
from shared.contract.models import Notification

#: Longest name of a category, in units of UTF-16. What people see of it may change until the message is sent, and
#: with that the size of its controls.
MAX_LABEL_UNITS = 512


def check_form(notification: Notification, limit: int, data: str) -> None:
    """Raises `MessageRefused` for a card that Teams would not show, or a message over `limit` bytes of UTF-16.

    The size counts the controls that each message gets. `data` is the JSON pointer to the notification in its message.
    """
    field = data + ("/content" if notification.card is None else "/card")
    if found := list(_faults(notification)):
        raise MessageRefused("invalid", [Fault(field + fault.pointer, fault.message) for fault in found])
    spoken = language_of(notification.locale or "")
    largest = Footer("0" * 64, "W" * MAX_LABEL_UNITS, mandatory=False, has_thread=True, language=spoken)
    try:
        render_activity(notification, limit, largest)
    except TooLarge as large:
        raise MessageRefused("invalid", [Fault(field, f"is too large for Teams: {large}")]) from None


def _faults(notification: Notification) -> Iterator[Fault]:
    if notification.content is not None:
        ids = (action.id for action in notification.content.actions)
        reserved = (at for at, each in enumerate(ids) if each.startswith(RESERVED_PREFIX))
        yield from (Fault(f"/actions/{at}/id", _RESERVED) for at in reserved)
    if notification.card is not None:
        from shared.cards.validation import find_faults  # costly, and only for cards of one's own

        if found := find_faults(notification.card):
            yield from found  # maybe nested so deep that nothing else can go through it
        else:
            yield from _reserved("", notification.card)


_RESERVED = f"must not begin with {RESERVED_PREFIX}, as our own do"


def _reserved(where: str, part: Any) -> Iterator[Fault]:
    """The ids and verbs of a card that only ours may have."""
    if isinstance(part, list):
        for at, each in enumerate(part):
            yield from _reserved(where + json_pointer(at), each)
    elif isinstance(part, dict):
        for name, value in part.items():
            if name in ("id", "verb") and isinstance(value, str) and value.startswith(RESERVED_PREFIX):
                yield Fault(where + json_pointer(name), _RESERVED)
            elif name != "data":
                yield from _reserved(where + json_pointer(name), value)
