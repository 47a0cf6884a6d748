"""Render the welcome card: why it came, what Herald offers, and what to do next."""

from __future__ import annotations

from typing import Any

from shared.cards.action_verbs import PAUSE, PREFERENCES, SAMPLE, execute
from shared.cards.elements import block, card, heading, line
from shared.cards.texts import say


def welcome_card(tongue: str, key: str, *, place: str = "", adder: str = "") -> dict[str, Any]:
    """The welcome that the notification of this key brings, in a language.

    `place` is the team or chat to which it was added, in words, and `adder` who did that; without a place it came
    with an install for the person alone.
    """
    why = "welcome.personal" if not place else "welcome.placeBy" if adder else "welcome.place"
    body = [
        heading(say(tongue, "welcome.title")),
        line(say(tongue, why, place=place, adder=adder)),
        block(say(tongue, "welcome.offer")),
        block(say(tongue, "welcome.offers"), spacing="Small"),
        line(say(tongue, "welcome.next"), isSubtle=True),
    ]
    buttons = {
        PREFERENCES: say(tongue, "preferences"),
        SAMPLE: say(tongue, "welcome.sample"),
        PAUSE: say(tongue, "welcome.pause"),
    }
    actions = [execute(title, verb, {"n": key}) for verb, title in buttons.items()]
    return card(body, actions) | {"fallbackText": say(tongue, "welcome.title")}
