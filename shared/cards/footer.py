"""Build the footer of a notification's card: "Why did I get this?", and the actions behind "Manage".

The footer is the same for all recipients, so that a card is rendered once. The data of an action names the notification
under `herald`, and no person: the verified activity of a click says who clicked.
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
    action_button,
)
from shared.cards.actions import bind_actions
from shared.cards.elements import CARD_VERSION, action_sets, plain_text
from shared.contract.models import Notification
from shared.preferences.categories import Category
from shared.states import Purpose
from shared.texts import language_of, text_of

#: Purposes of the messages that have a footer; replies have none.
PURPOSES_WITH_FOOTER = (Purpose.NOTIFICATION, Purpose.SNOOZE)

FOOTER_ID, MANAGE_ID = "herald.footer", "herald.manage"


@dataclass(frozen=True, slots=True)
class Footer:
    """The footer of the notification with this key.

    `category` is the category's label, `has_thread` adds the action to mute the thread, and `language` is one of
    `shared.texts.LANGUAGES`.
    """

    key: str
    category: str
    mandatory: bool
    has_thread: bool
    language: str

    @classmethod
    def of(cls, key: str, content: Notification, category: Category) -> Self:
        language = language_of(content.locale or "")
        return cls(key, category.label, category.mandatory, content.thread is not None, language)

    def button(self, verb: str, title: str) -> dict[str, Any]:
        """Return a button that names the notification."""
        return action_button(title, verb, {"n": self.key})

    def acknowledge_button(self) -> dict[str, Any]:
        return self.button(ACKNOWLEDGE, text_of(self.language, "acknowledge"))

    def element(self) -> dict[str, Any]:
        """Return the last element of the card: the category, the two buttons, and the hidden actions of "Manage"."""
        label = text_of(self.language, "mandatory", category=self.category) if self.mandatory else self.category
        toggle = {
            "type": "Action.ToggleVisibility",
            "title": text_of(self.language, "manage"),
            "targetElements": [MANAGE_ID],
        }
        why = self.button(WHY, text_of(self.language, "why"))
        titles = {
            MUTE: text_of(self.language, "mute") if self.has_thread and not self.mandatory else "",
            TO_DIGEST: text_of(self.language, "toDigest", category=self.category),
            STOP: "" if self.mandatory else text_of(self.language, "stop", category=self.category),
            SNOOZE_HOUR: text_of(self.language, "snooze.hour"),
            SNOOZE_TOMORROW: text_of(self.language, "snooze.tomorrow"),
            PREFERENCES: text_of(self.language, "preferences"),
        }
        return {
            "type": "Container",
            "id": FOOTER_ID,
            "separator": True,
            "spacing": "Medium",
            "items": [
                plain_text(label, isSubtle=True, size="Small"),
                {"type": "ActionSet", "spacing": "Small", "actions": [why, toggle]},
                {
                    "type": "Container",
                    "id": MANAGE_ID,
                    "isVisible": False,
                    "style": "emphasis",
                    "spacing": "Small",
                    "items": action_sets([self.button(verb, title) for verb, title in titles.items() if title]),
                },
            ],
        }

    def append_to(self, card: Mapping[str, Any]) -> dict[str, Any]:
        """Return the card of an upstream system with the footer, its actions bound to the notification."""
        bound: dict[str, Any] = bind_actions(dict(card), self.key)
        return bound | {"version": CARD_VERSION, "body": [*bound.get("body", ()), self.element()]}
