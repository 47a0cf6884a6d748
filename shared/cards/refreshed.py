"""The cards that answer a click: the refreshed card, or the explanation of why it came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.cards import elements
from shared.cards.action_verbs import SHOW, execute
from shared.cards.actions import without
from shared.cards.elements import card, heading, line
from shared.cards.footer import FOOTER
from shared.cards.texts import text_of


def refreshed(shown: Mapping[str, Any], done: Sequence[str], gone: frozenset[str]) -> dict[str, Any]:
    """A card with what was done on it as lines above its footer, and without the buttons `gone`, given by verb."""
    left: dict[str, Any] = without(dict(shown), gone)
    body: list[dict[str, Any]] = left.get("body", [])
    at = len(body) - (bool(body) and body[-1].get("id") == FOOTER)
    return left | {"body": [*body[:at], *([elements.done(done)] if done else []), *body[at:]]}


def only(text: str) -> dict[str, Any]:
    """A card of one line."""
    return card([line(text)])


def reasons(language: str, lines: Sequence[str], key: str) -> dict[str, Any]:
    """A card that says why a message came, and leads back to that of the notification of this key."""
    body = [heading(text_of(language, "because.title")), *(line(each, spacing="Small") for each in lines)]
    return card(body, [execute(text_of(language, "back"), SHOW, {"n": key})])
