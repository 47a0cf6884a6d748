"""Elements of which Herald's own cards are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: The version of our cards; Teams renders none above it from a bot ("Types of cards", Microsoft Learn).
VERSION = "1.5"
#: Most buttons side by side: of more, Teams shows no others (`actions.maxActions` of its host configuration).
MAX_BUTTONS = 6


def card(body: Sequence[Mapping[str, Any]], actions: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """An Adaptive Card with these elements and buttons."""
    whole: dict[str, Any] = {
        "type": "AdaptiveCard",
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": VERSION,
        "body": list(body),
    }
    return whole | ({"actions": list(actions)} if actions else {})


def block(text: str, **style: object) -> dict[str, Any]:
    """A text that is read as Markdown."""
    return {"type": "TextBlock", "text": text, "wrap": True, **style}


def heading(text: str) -> dict[str, Any]:
    return block(text, size="Large", weight="Bolder", style="heading")


def line(text: str, *, spacing: str = "Default", **style: object) -> dict[str, Any]:
    """A text that is shown as it is: no client reads a text run as Markdown, or finds a mention in it."""
    run = {"type": "TextRun", "text": text, **style}
    return {"type": "RichTextBlock", "spacing": spacing, "inlines": [run]}


def buttons(actions: Sequence[Mapping[str, Any]], **style: object) -> list[dict[str, Any]]:
    """Elements with these buttons, as many as it takes to show them all."""
    sets = (list(actions[at : at + MAX_BUTTONS]) for at in range(0, len(actions), MAX_BUTTONS))
    return [{"type": "ActionSet", "actions": each, **style} for each in sets]


def done(lines: Sequence[str]) -> dict[str, Any]:
    """What came of a click; on a green ground, as text in Teams' green is too pale to read."""
    items = [line(f"✓ {each}", spacing="Small") for each in lines]
    return {"type": "Container", "style": "good", "spacing": "Medium", "items": items}
