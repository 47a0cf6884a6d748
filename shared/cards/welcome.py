"""Draw the welcome card: the reason for the welcome, what Herald offers, and what to do next."""

from __future__ import annotations

from typing import Any

from shared.cards.action_verbs import PAUSE, PREFERENCES, SAMPLE, action_button
from shared.cards.elements import adaptive_card, heading, markdown_text, plain_text
from shared.texts import text_of


def draw_welcome_card(language: str, key: str, *, added_to: str = "", adder: str = "") -> dict[str, Any]:
    """Return the card of the welcome with this notification key.

    `added_to` describes the team, channel or chat that the bot was added to, in the same language, and `adder` is the
    name of the person who added it. Without `added_to`, the bot was installed for the reader.
    """
    reason = "welcome.personal" if not added_to else "welcome.addedBy" if adder else "welcome.added"
    body = [
        heading(text_of(language, "welcome.title")),
        plain_text(text_of(language, reason, added_to=added_to, adder=adder)),
        markdown_text(text_of(language, "welcome.offer")),
        markdown_text(text_of(language, "welcome.offers"), spacing="Small"),
        plain_text(text_of(language, "welcome.next"), isSubtle=True),
    ]
    titles = {
        PREFERENCES: text_of(language, "preferences"),
        SAMPLE: text_of(language, "welcome.sample"),
        PAUSE: text_of(language, "welcome.pause"),
    }
    actions = [action_button(title, verb, {"n": key}) for verb, title in titles.items()]
    return adaptive_card(body, actions) | {"fallbackText": text_of(language, "welcome.title")}
