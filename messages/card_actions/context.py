"""The context of one click: who clicked, their language, and the card as they see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from messages.activity.verified import Event
from messages.card_actions.binding import BoundAction, CardAction, sent_card
from messages.card_actions.snooze import origin
from messages.commands.handlers import PreferenceSubject
from shared.cards import refreshed
from shared.cards.action_verbs import ACKNOWLEDGE, verb_of
from shared.cards.actions import find_execute_actions
from shared.cards.texts import format_time, language_of, text_of
from shared.preferences.preferences import FOREVER, Preferences
from shared.services import Services
from shared.states import ReferenceKind
from shared.storage.notifications import StoredNotification
from shared.storage.responses import Response

Card = Mapping[str, Any]
#: The card that is to be shown, or a line.
Answer = Card | str


class ClickRefused(Exception):
    """It is not done, for a reason of this key of the texts."""

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(key)
        self.key, self.values = key, values


@dataclass(frozen=True, slots=True)
class ActionContext:
    """One click. `subject` and `preferences` are those of the person who clicked, `language` is their language."""

    services: Services
    event: Event
    click: CardAction
    subject: PreferenceSubject
    preferences: Preferences
    language: str

    @property
    def zone(self) -> ZoneInfo:
        return self.subject.zone_of(self.preferences)

    def text(self, key: str, **values: object) -> str:
        return text_of(self.language, key, **values)

    def moment(self, at: datetime) -> str:
        return self.text("preferences.forever") if at >= FOREVER else format_time(at, self.zone)

    async def shown(self, bound: BoundAction, note: str = "") -> Card:
        """The card as it is for the person now, with what they did on it, and maybe a note."""
        now = await _newest(self.services, bound)
        of = await origin(self.services, now)
        done = await self.services.responses.list(of.key, self.event.person)
        card = bound.card if now is bound.notification else sent_card(self.services, now)
        titles = {verb_of(button): str(button.get("title")) for button in find_execute_actions(card)}
        lines = [self.recorded(titles[each.action], each) for each in done if each.action in titles]
        clicked = frozenset(each.action for each in done)
        return refreshed.refresh_card(card, [*lines, *([note] if note else [])], clicked)

    def recorded(self, title: str, response: Response) -> str:
        at = self.moment(response.at)
        acknowledged = response.action == ACKNOWLEDGE
        return self.text("done.acknowledge", at=at) if acknowledged else self.text("done.action", action=title, at=at)

    async def told(self, bound: BoundAction, text: str) -> Answer:
        """The answer to what was done for the person alone."""
        if self.event.personal:
            return await self.shown(bound, text)
        return f"{text} {self.text('done.elsewhere')}"


async def _newest(services: Services, bound: BoundAction) -> StoredNotification:
    """What the card shows: the notification, or something newer of its thread that has taken its place since."""
    content, activity = bound.notification.content, bound.known.activity_id
    if content.thread is None or not activity:
        return bound.notification
    thread = await services.threads.get(bound.notification.tenant, bound.recipient, content.thread.key)
    if thread is None or thread.activity_id != activity or thread.notification == bound.notification.key:
        return bound.notification
    newer = await services.notifications.get(thread.notification)
    # A reply has a message of its own, below the one that shows the thread.
    is_update = newer and newer.content.thread and newer.content.thread.on_repeat == "update"
    return newer if newer and is_update else bound.notification


async def begin(services: Services, event: Event, click: CardAction) -> ActionContext:
    """A click as the start of what it leads to."""
    known = await services.conversations.get(event.tenant, ReferenceKind.USER, event.person) if event.person else None
    preferences = known.preferences if known else Preferences()
    seen = known.time_zone if known else ""
    spoken = event.incoming.locale or (known.locale if known else "")
    subject = PreferenceSubject(
        services=services, tenant=event.tenant, kind=ReferenceKind.USER, id=event.person, seen_zone=seen, locale=spoken
    )
    return ActionContext(services, event, click, subject, preferences, language_of(preferences.locale, spoken))
