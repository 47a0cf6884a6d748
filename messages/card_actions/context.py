"""The context of one card action: the person who clicked, their language, and the card as it is now for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from messages.activity.verified import VerifiedActivity
from messages.card_actions.binding import BoundAction, CardAction, render_card
from messages.card_actions.snooze import find_original
from messages.subject import PreferenceSubject
from shared.cards import refreshed
from shared.cards.action_verbs import ACKNOWLEDGE, verb_of
from shared.cards.actions import find_execute_actions
from shared.preferences.preferences import FOREVER, Preferences
from shared.records import StoredNotification
from shared.services import Services
from shared.states import ReferenceKind
from shared.storage.responses import Response
from shared.texts import format_time, language_of, text_of

Card = Mapping[str, Any]
#: A card, or one line of text.
ActionAnswer = Card | str


class ActionRefused(Exception):
    """The action changes nothing. `key` and `values` are those of the text that says why."""

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(key)
        self.key, self.values = key, values


@dataclass(frozen=True, slots=True)
class ActionContext:
    """`subject`, `preferences` and `language` are those of the person who clicked."""

    services: Services
    verified: VerifiedActivity
    action: CardAction
    subject: PreferenceSubject
    preferences: Preferences
    language: str

    @property
    def zone(self) -> ZoneInfo:
        return self.subject.zone_of(self.preferences)

    def text(self, key: str, **values: object) -> str:
        return text_of(self.language, key, **values)

    def format_time(self, time: datetime) -> str:
        return self.text("preferences.forever") if time >= FOREVER else format_time(self.language, time, self.zone)

    async def refresh_card(self, bound: BoundAction, note: str = "") -> Card:
        """Return the card as it is now: with the person's responses, without the buttons they used, and with `note`."""
        latest = await _latest_in_thread(self.services, bound)
        original = await find_original(self.services, latest)
        responses = await self.services.responses.list(original.key, self.verified.person_id)
        card = bound.card if latest is bound.notification else render_card(self.services, latest, bound.recipient)
        titles = {verb_of(button): str(button.get("title")) for button in find_execute_actions(card)}
        lines = [self.describe_response(titles[each.action], each) for each in responses if each.action in titles]
        used_verbs = frozenset(each.action for each in responses)
        return refreshed.refresh_card(card, [*lines, *([note] if note else [])], used_verbs)

    def describe_response(self, title: str, response: Response) -> str:
        time = self.format_time(response.at)
        if response.action == ACKNOWLEDGE:
            return self.text("done.acknowledge", at=time)
        return self.text("done.action", action=title, at=time)

    async def answer_privately(self, bound: BoundAction, text: str) -> ActionAnswer:
        """Return the answer to an action that affects only the person.

        In their own chat this is the card with `text`. Elsewhere the card is everyone's: only they see the line.
        """
        if self.verified.is_personal:
            return await self.refresh_card(bound, text)
        return f"{text} {self.text('done.elsewhere')}"


async def build_context(services: Services, verified: VerifiedActivity, action: CardAction) -> ActionContext:
    """Return the context of a card action; it reads the person's row, unless that was read with the activity."""
    tenant, person, stored = verified.tenant, verified.person_id, verified.sender
    if person and stored is None:
        stored = await services.conversations.get(tenant, ReferenceKind.USER, person)
    preferences = stored.preferences if stored else Preferences()
    locale = verified.activity.locale or (stored.locale if stored else "")
    subject = PreferenceSubject(
        services=services,
        tenant=tenant,
        kind=ReferenceKind.USER,
        id=person,
        teams_zone=stored.time_zone if stored else "",
        locale=locale,
    )
    language = language_of(preferences.locale, locale)
    return ActionContext(services, verified, action, subject, preferences, language)


async def _latest_in_thread(services: Services, bound: BoundAction) -> StoredNotification:
    """Return the notification that the card shows: the delivered one, or a newer one of its thread that updated it."""
    content, activity_id = bound.notification.content, bound.delivery.activity_id
    if content.thread is None or not activity_id:
        return bound.notification
    thread = await services.threads.get(bound.notification.tenant, bound.recipient, content.thread.key)
    if thread is None or thread.activity_id != activity_id or thread.notification == bound.notification.key:
        return bound.notification
    newer = await services.notifications.get(thread.notification)
    # A reply is a message of its own, below the one that shows the thread.
    is_update = newer and newer.content.thread and newer.content.thread.on_repeat == "update"
    return newer if newer and is_update else bound.notification
