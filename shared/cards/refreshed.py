"""Draw the cards that answer a click: the refreshed card, a card of one line, or the explanation of a notification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared.cards.action_verbs import SHOW, action_button
from shared.cards.actions import remove_actions
from shared.cards.elements import adaptive_card, confirmation, heading, plain_text
from shared.cards.footer import FOOTER_ID
from shared.texts import text_of


def refresh_card(card: Mapping[str, Any], done: Sequence[str], removed_verbs: frozenset[str]) -> dict[str, Any]:
    """Return the card with the lines `done` above its footer, and without the actions of `removed_verbs`."""
    remaining: dict[str, Any] = remove_actions(dict(card), removed_verbs)
    body: list[dict[str, Any]] = remaining.get("body", [])
    at = len(body) - (bool(body) and body[-1].get("id") == FOOTER_ID)
    return remaining | {"body": [*body[:at], *([confirmation(done)] if done else []), *body[at:]]}


def draw_line_card(text: str) -> dict[str, Any]:
    return adaptive_card([plain_text(text)])


def draw_explanation_card(language: str, lines: Sequence[str], key: str) -> dict[str, Any]:
    """Return the card that says why a person got the notification of this key, with a button back to it."""
    body = [heading(text_of(language, "because.title")), *(plain_text(each, spacing="Small") for each in lines)]
    return adaptive_card(body, [action_button(text_of(language, "back"), SHOW, {"n": key})])
