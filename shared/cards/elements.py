"""Build the elements of Herald's own cards: each function returns the JSON of the element that it is named after."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

#: Schema version of Herald's cards, the highest that Teams renders from a bot ("Types of cards", Microsoft Learn).
CARD_VERSION = "1.5"
#: Most buttons in one action set; Teams does not show more (`actions.maxActions` of its host configuration).
MAX_BUTTONS_PER_SET = 6

_LINE_END = re.compile(r"\r\n|[\r\x85\u2028\u2029]")
_BULLET = re.compile(r"[ \t]*[-*+][ \t]")
_NUMBER = re.compile(r"[ \t]*(\d{1,3})[.)][ \t]")


def adaptive_card(body: Sequence[Mapping[str, Any]], actions: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    card: dict[str, Any] = {
        "type": "AdaptiveCard",
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": CARD_VERSION,
        "body": list(body),
    }
    return card | ({"actions": list(actions)} if actions else {})


def markdown_text(text: str, **style: object) -> dict[str, Any]:
    """Return a text block, which clients render as Markdown, with each of its line breaks."""
    return {"type": "TextBlock", "text": with_line_breaks(text), "wrap": True, **style}


def with_line_breaks(text: str) -> str:
    """Return Markdown that shows each line of `text` on a line of its own, and its lists as lists.

    Markdown joins two lines with a space, unless an empty line is between them or the second begins an item of a list
    (CommonMark 0.31, "Paragraphs" and "List items": of a numbered list, only the first item can follow a paragraph).
    """
    lines = _LINE_END.sub("\n", text).split("\n")
    parts = [lines[0]]
    for before, line in pairwise(lines):
        parts += ["\n" if _breaks_already(before, line) else "\n\n", line]
    return "".join(parts)


def _breaks_already(before: str, line: str) -> bool:
    if not before.strip() or not line.strip() or _BULLET.match(line):
        return True
    number = _NUMBER.match(line)
    return number is not None and (int(number[1]) == 1 or _NUMBER.match(before) is not None)


def heading(text: str) -> dict[str, Any]:
    return markdown_text(text, size="Large", weight="Bolder", style="heading")


def plain_text(text: str, *, spacing: str = "Default", **style: object) -> dict[str, Any]:
    """Return a text that clients show as it is: they find no Markdown and no mentions in text runs."""
    run = {"type": "TextRun", "text": text, **style}
    return {"type": "RichTextBlock", "spacing": spacing, "inlines": [run]}


def action_sets(actions: Sequence[Mapping[str, Any]], **style: object) -> list[dict[str, Any]]:
    """Return as many action sets as Teams needs to show all of these actions."""
    groups = (list(actions[at : at + MAX_BUTTONS_PER_SET]) for at in range(0, len(actions), MAX_BUTTONS_PER_SET))
    return [{"type": "ActionSet", "actions": each, **style} for each in groups]


def confirmation(lines: Sequence[str]) -> dict[str, Any]:
    """Return the result of a click, one line each, on a green ground: Teams' green text is too pale to read."""
    items = [plain_text(f"✓ {each}", spacing="Small") for each in lines]
    return {"type": "Container", "style": "good", "spacing": "Medium", "items": items}
