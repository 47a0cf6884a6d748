"""Fit a message into Teams' limit: the size of the whole activity in UTF-16, without its Base64 images.

Teams rejects more than 100 KB with 413 MessageSizeTooBig ("Format your bot messages", Microsoft Learn). Herald shortens
the text of its own cards at the end of a word, and nothing else: a shortened title, fact or link would change the
meaning. It never shortens a card of an upstream system.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable

import orjson

from shared.cards.mentions import MENTION
from shared.contract.models import Content

#: Follows a shortened text.
SHORTENED_NOTE = "… (shortened)"
#: How far back to look for the end of a word, in characters. A longer word is cut, like text without spaces.
MAX_WORD_CHARS = 200

_IMAGE = re.compile(rb'("(?:url|iconUrl|poster|backgroundImage)":)"data:image/[\w.+-]+;base64,[\w+/=]*"')
_SPACE = re.compile(r"\s")
_WHOLE = re.compile(rf"\[[^\[\]]*\]\([^()\s]*\)|{MENTION.pattern}")
_ZERO_WIDTH_JOINER = "\u200d"


class TooLarge(Exception):
    """The activity is over the limit, and shortening is not enough; `size` and `limit` are bytes of UTF-16."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"{size} bytes in UTF-16, and the limit is {limit}")
        self.size, self.limit = size, limit


def fit_activity(content: Content, limit: int, render: Callable[[Content], bytes]) -> bytes:
    """Return the activity that `render` makes of `content`, with a shorter text if it is over `limit` bytes of UTF-16.

    `render` writes the text once, as a JSON string. Mentions that the shorter text lacks follow it. Raise `TooLarge` if
    the rest alone is over the limit.
    """
    activity = render(content)
    if count_utf16_bytes(activity) <= limit:
        return activity
    mentions = dict.fromkeys(MENTION.findall(content.text))

    def render_shortened(text: str) -> bytes:
        end = "".join(f" {each}" for each in mentions if each not in text)
        return require_size(render(content.model_copy(update={"text": text + SHORTENED_NOTE + end})), limit)

    return render_shortened(shorten_text(content.text, limit - count_utf16_bytes(render_shortened(""))))


def require_size(activity: bytes, limit: int) -> bytes:
    """Return the activity (JSON in UTF-8) unchanged; raise `TooLarge` if it is over `limit` bytes of UTF-16."""
    size = count_utf16_bytes(activity)
    if size > limit:
        raise TooLarge(size, limit)
    return activity


def count_utf16_bytes(activity: bytes) -> int:
    """Return the size of an activity (JSON in UTF-8) as Teams counts it: bytes of UTF-16, without Base64 images."""
    if b";base64," in activity:
        activity = _IMAGE.sub(rb'\1""', activity)
    return 2 * len(activity) if activity.isascii() else len(activity.decode().encode("utf-16-le"))


def shorten_text(text: str, max_bytes: int) -> str:
    """Return the longest prefix of `text` that takes at most `max_bytes` of UTF-16 in a JSON string and can end there.

    A prefix ends after a word, or inside a word over `MAX_WORD_CHARS`. It never ends inside a Markdown link, a mention
    or a character of several code points (Unicode Standard Annex 29: combining marks, joiners, emoji modifiers and
    flags).
    """
    end = bisect_right(range(len(text) + 1), max_bytes, key=lambda end: _json_bytes(text[:end])) - 1
    if end >= len(text):
        return text
    if not text[end].isspace():
        spaces = [space.start() for space in _SPACE.finditer(text, max(0, end - MAX_WORD_CHARS), end)]
        end = spaces[-1] if spaces else end
    for part in _WHOLE.finditer(text):
        if part.start() < end < part.end():
            end = part.start()
    while end and _may_combine(text[end - 1], text[end]):
        end -= 1
    return text[:end].rstrip()


def _json_bytes(text: str) -> int:
    return count_utf16_bytes(orjson.dumps(text)) - 4  # without its quotes


def _may_combine(before: str, after: str) -> bool:
    """Return whether two adjacent code points may belong to one character."""
    return (
        _ZERO_WIDTH_JOINER in (before, after)
        or unicodedata.category(after) in ("Mn", "Mc", "Me")
        or "\U0001f3fb" <= after <= "\U0001f3ff"  # skin tones
        or ("\U0001f1e6" <= before <= "\U0001f1ff" and "\U0001f1e6" <= after <= "\U0001f1ff")  # flags
    )
