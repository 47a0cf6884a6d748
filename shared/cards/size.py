"""Fit a message into Teams' limit: the whole activity, as UTF-16, without the images that it carries as Base64.

Teams refuses more than 100 KB with 413 MessageSizeTooBig ("Format your bot messages", Microsoft Learn). In Herald's own
cards the text is shortened, at the end of a word. Nothing else is, since a shortened title, fact or link says something
else. A card of an upstream system is never changed.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable

import orjson

from shared.contract.models import Content

#: What follows a shortened text.
NOTE = "… (shortened)"
#: How far back the end of a word is sought, in characters; a longer word is cut, and so is text without spaces.
MAX_WORD_CHARS = 200

_IMAGE = re.compile(rb'("(?:url|iconUrl|poster|backgroundImage)":)"data:image/[\w.+-]+;base64,[\w+/=]*"')
_SPACE = re.compile(r"\s")
_LINK = re.compile(r"\[[^\[\]]*\]\([^()\s]*\)")
_ZERO_WIDTH_JOINER = "\u200d"


class TooLarge(Exception):
    """An activity over the limit that cannot be shortened enough; `size` and `limit` are bytes of UTF-16."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"{size} bytes of UTF-16, and {limit} is the limit")
        self.size, self.limit = size, limit


def fit(content: Content, limit: int, draw: Callable[[Content], bytes]) -> bytes:
    """The activity that `draw` makes of `content`, its text shortened where it is over `limit` bytes of UTF-16.

    `draw` writes the text once, as a JSON string. Raises `TooLarge` where the rest alone is over the limit.
    """
    activity = draw(content)
    if utf16_bytes(activity) <= limit:
        return activity
    least = within(draw(content.model_copy(update={"text": NOTE})), limit)
    text = shortened(content.text, limit - utf16_bytes(least))
    return within(draw(content.model_copy(update={"text": text + NOTE})), limit)


def within(activity: bytes, limit: int) -> bytes:
    """The same activity (JSON in UTF-8); raises `TooLarge` where it is over `limit` bytes of UTF-16."""
    size = utf16_bytes(activity)
    if size > limit:
        raise TooLarge(size, limit)
    return activity


def utf16_bytes(activity: bytes) -> int:
    """The size that Teams counts of an activity (JSON in UTF-8): bytes of UTF-16, without Base64 images."""
    if b";base64," in activity:
        activity = _IMAGE.sub(rb'\1""', activity)
    return 2 * len(activity) if activity.isascii() else len(activity.decode().encode("utf-16-le"))


def shortened(text: str, budget: int) -> str:
    """The longest beginning of `text` that takes at most `budget` bytes of UTF-16 in a JSON string and ends well.

    It ends with a word, or within one over `MAX_WORD_CHARS`; never within a Markdown link or a character of several
    code points (Unicode Standard Annex 29, as far as combining marks, joiners, emoji modifiers and flags).
    """
    end = bisect_right(range(len(text) + 1), budget, key=lambda end: _cost(text[:end])) - 1
    if end >= len(text):
        return text
    if not text[end].isspace():
        spaces = [space.start() for space in _SPACE.finditer(text, max(0, end - MAX_WORD_CHARS), end)]
        end = spaces[-1] if spaces else end
    for link in _LINK.finditer(text):
        if link.start() < end < link.end():
            end = link.start()
    while end and _joined(text[end - 1], text[end]):
        end -= 1
    return text[:end].rstrip()


def _cost(text: str) -> int:
    return utf16_bytes(orjson.dumps(text)) - 4  # its quotes


def _joined(before: str, after: str) -> bool:
    """Whether the two code points may belong to one character."""
    return (
        _ZERO_WIDTH_JOINER in (before, after)
        or unicodedata.category(after) in ("Mn", "Mc", "Me")
        or "\U0001f3fb" <= after <= "\U0001f3ff"  # skin tones
        or ("\U0001f1e6" <= before <= "\U0001f1ff" and "\U0001f1e6" <= after <= "\U0001f1ff")  # flags
    )
