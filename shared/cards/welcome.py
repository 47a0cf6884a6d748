"""Render the welcome card: why it came, what Herald offers, and what to do next."""

from __future__ import annotations

from typing import Any

from shared.cards.action_verbs import PAUSE, PREFERENCES, SAMPLE, execute
from shared.cards.elements import block, card, heading, line
from shared.cards.texts import text_of


def welcome_card(language: str, key: str, *, place: str = "", adder: str = "") -> dict[str, Any]:
    """The welcome that the notification of this key brings, in a language.

    `place` is the team or chat to which it was added, in words, and `adder` who did that; without a place it came
    with an install for the person alone.
    """
    why = "welcome.personal" if not place else "welcome.placeBy" if adder else "welcome.place"
    body = [
        heading(text_of(language, "welcome.title")),
        line(text_of(language, why, place=place, adder=adder)),
        block(text_of(language, "welcome.offer")),
        block(text_of(language, "welcome.offers"), spacing="Small"),
        line(text_of(language, "welcome.next"), isSubtle=True),
    ]
    buttons = {
        PREFERENCES: text_of(language, "preferences"),
        SAMPLE: text_of(language, "welcome.sample"),
        PAUSE: text_of(language, "welcome.pause"),
    }
    actions = [execute(title, verb, {"n": key}) for verb, title in buttons.items()]
    return card(body, actions) | {"fallbackText": text_of(language, "welcome.title")}
