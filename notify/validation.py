"""Validate the content of a notification at ingestion: Teams would refuse it, or would not show parts of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from shared.cards.action_verbs import RESERVED_PREFIX
from shared.cards.footer import Footer
from shared.cards.mentions import find_missing_mentions
from shared.cards.notification import render_activity
from shared.cards.schema import json_pointer
from shared.cards.size import TooLarge
from shared.contract.faults import Fault, MessageRefused
from shared.contract.models import Content, Notification
from shared.texts import language_of

#: Longest name of a category, in UTF-16 units. The name, and with it the size of the footer, may change until the
#: message is sent.
MAX_LABEL_UNITS = 512

_MISSING_MENTION = "must stand as <at>name</at> in title, text, result or facts"
_RESERVED = f"must not begin with {RESERVED_PREFIX}, which is reserved for Herald's own actions"


async def check_content_off_loop(notification: Notification, max_bytes: int, pointer: str) -> None:
    """Do what `check_content` does; a card is checked in a thread.

    The validator of cards is slow to import, and takes about 0.1 s for the largest card.
    """
    if notification.card is None:
        check_content(notification, max_bytes, pointer)
    else:
        await asyncio.to_thread(check_content, notification, max_bytes, pointer)


def check_content(notification: Notification, max_bytes: int, pointer: str) -> None:
    """Raise `MessageRefused` for a card that Teams would not show, or a message larger than `max_bytes` of UTF-16.

    The size includes the largest footer that Herald may add, and the entities of mentions. `pointer` is the JSON
    pointer to the notification in its message.
    """
    field = pointer + ("/content" if notification.card is None else "/card")
    if faults := list(_faults(notification)):
        raise MessageRefused("invalid", [Fault(field + fault.pointer, fault.message) for fault in faults])
    language = language_of(notification.locale or "")
    largest = Footer("0" * 64, "W" * MAX_LABEL_UNITS, mandatory=False, has_thread=True, language=language)
    try:
        render_activity(notification, max_bytes, largest, is_shared=True)
    except TooLarge as error:
        raise MessageRefused("invalid", [Fault(field, f"is too large for Teams: {error}")]) from None


def _faults(notification: Notification) -> Iterator[Fault]:
    if notification.content is not None:
        for index, action in enumerate(notification.content.actions):
            if action.id.startswith(RESERVED_PREFIX):
                yield Fault(f"/actions/{index}/id", _RESERVED)
        yield from _mention_faults(notification.content)
    if notification.card is not None:
        from shared.cards.validation import find_faults  # slow to import, and few upstream systems send their own cards

        if faults := find_faults(notification.card):
            yield from faults  # the card may be nested too deep for the recursion below
        else:
            yield from _reserved_faults("", notification.card)


def _mention_faults(content: Content) -> Iterator[Fault]:
    names = [each.name for each in content.mentions]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Fault(f"/mentions/{index}/name", "is the name of another mention: nobody could tell them apart")
    for index in find_missing_mentions(content):
        yield Fault(f"/mentions/{index}/name", _MISSING_MENTION)


def _reserved_faults(pointer: str, part: Any) -> Iterator[Fault]:
    """Yield a fault for each id and verb of a card that begins with the reserved prefix."""
    if isinstance(part, list):
        for index, value in enumerate(part):
            yield from _reserved_faults(pointer + json_pointer(index), value)
    elif isinstance(part, dict):
        for name, value in part.items():
            if name in ("id", "verb") and isinstance(value, str) and value.startswith(RESERVED_PREFIX):
                yield Fault(pointer + json_pointer(name), _RESERVED)
            elif name != "data":
                yield from _reserved_faults(pointer + json_pointer(name), value)
