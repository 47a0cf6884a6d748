"""The footer of every notification: the actions by which people respond, and change what they receive of its kind.

A card is the same for all recipients, so that it is rendered once. The data of an action names the notification under
`herald`, and no person: who clicked is known from the verified activity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from shared.cards.action_verbs import (
    ACKNOWLEDGE,
    MUTE,
    PREFERENCES,
    SNOOZE_HOUR,
    SNOOZE_TOMORROW,
    STOP,
    TO_DIGEST,
    WHY,
    execute,
)
from shared.cards.actions import bound
from shared.cards.elements import VERSION, buttons, line
from shared.cards.texts import language_of, text_of
from shared.contract.models import Notification
from shared.preferences.categories import Category
from shared.states import Purpose

#: What carries controls; an answer has none.
CONTROLLED = (Purpose.NOTIFICATION, Purpose.SNOOZE)

#: Ids of our elements, which no card of a caller has.
FOOTER, MANAGE = "herald.footer", "herald.manage"


@dataclass(frozen=True, slots=True)
class Controls:
    """The controls of the notification of this key: of its category, and of its thread where it has one.

    `language` is what they are written in, one of `shared.cards.texts.LANGUAGES`.
    """

    key: str
    category: str
    mandatory: bool
    thread: bool
    language: str

    @classmethod
    def of(cls, key: str, content: Notification, category: Category) -> Self:
        spoken = language_of(content.locale or "")
        return cls(key, category.label, category.mandatory, content.thread is not None, spoken)

    def button(self, verb: str, title: str) -> dict[str, Any]:
        return execute(title, verb, {"n": self.key})

    def acknowledge(self) -> dict[str, Any]:
        return self.button(ACKNOWLEDGE, text_of(self.language, "acknowledge"))

    def footer(self) -> dict[str, Any]:
        """The last element of a card: the category, why it came, and what hides behind Manage."""
        label = text_of(self.language, "mandatory", category=self.category) if self.mandatory else self.category
        toggle = {
            "type": "Action.ToggleVisibility",
            "title": text_of(self.language, "manage"),
            "targetElements": [MANAGE],
        }
        why = self.button(WHY, text_of(self.language, "why"))
        offered = {
            MUTE: text_of(self.language, "mute") if self.thread and not self.mandatory else "",
            TO_DIGEST: text_of(self.language, "toDigest", category=self.category),
            STOP: "" if self.mandatory else text_of(self.language, "stop", category=self.category),
            SNOOZE_HOUR: text_of(self.language, "snooze.hour"),
            SNOOZE_TOMORROW: text_of(self.language, "snooze.tomorrow"),
            PREFERENCES: text_of(self.language, "preferences"),
        }
        manage = [self.button(verb, title) for verb, title in offered.items() if title]
        return {
            "type": "Container",
            "id": FOOTER,
            "separator": True,
            "spacing": "Medium",
            "items": [
                line(label, isSubtle=True, size="Small"),
                {"type": "ActionSet", "spacing": "Small", "actions": [why, toggle]},
                {
                    "type": "Container",
                    "id": MANAGE,
                    "isVisible": False,
                    "style": "emphasis",
                    "spacing": "Small",
                    "items": buttons(manage),
                },
            ],
        }

    def onto(self, card: Mapping[str, Any]) -> dict[str, Any]:
        """A caller's own card with the footer, its actions bound to the notification."""
        whole: dict[str, Any] = bound(dict(card), self.key)
        return whole | {"version": VERSION, "body": [*whole.get("body", ()), self.footer()]}
