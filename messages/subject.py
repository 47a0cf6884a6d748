"""The person, group chat or channel whose preferences a command or a card action reads and changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from shared.cards.preferences import draw_preferences_card
from shared.preferences.categories import Categories
from shared.preferences.preferences import Preferences
from shared.queue_messages import RecipientTask, Task
from shared.services import Services
from shared.states import ReferenceKind
from shared.storage.markers import used_categories
from shared.texts import language_of, text_of
from shared.time.localtime import load_zone


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceSubject:
    """`id` is a person's Entra object id or a conversation id, by `kind`.

    `teams_zone` and `locale` are those of the person's Teams client, "" if unknown, and for a conversation. `known` has
    the preferences if they were read with the activity.
    """

    services: Services
    tenant: str
    kind: ReferenceKind
    id: str
    teams_zone: str = ""
    locale: str = ""
    known: Preferences | None = None

    @property
    def recipient(self) -> str:
        """The recipient as in deliveries and subscriptions: `u:` or `c:`, and the id."""
        return f"{'u' if self.kind is ReferenceKind.USER else 'c'}:{self.id}"

    @property
    def is_shared(self) -> bool:
        """Whether several people share the preferences, and see the cards about them."""
        return self.kind is not ReferenceKind.USER

    def zone_of(self, preferences: Preferences) -> ZoneInfo:
        return load_zone(preferences.time_zone or self.teams_zone or self.services.settings.default_time_zone)

    def language_of(self, preferences: Preferences) -> str:
        return language_of(preferences.locale, self.locale)

    def describe_zone_source(self, preferences: Preferences) -> str:
        source = "zone.chosen" if preferences.time_zone else "zone.teams" if self.teams_zone else "zone.default"
        return text_of(self.language_of(preferences), source)

    async def preferences(self) -> Preferences:
        if self.known:
            return self.known
        reference = await self.services.conversations.get(self.tenant, self.kind, self.id)
        return reference.preferences if reference else Preferences()

    async def update(self, change: Callable[[Preferences], Preferences], *, reevaluate: bool = True) -> Preferences:
        """Store the preferences that `change` returns for the stored ones, and return them.

        Then have held deliveries re-evaluated, unless `reevaluate` is False. `change` may be called several times.
        Raises `Conflict` if other writers changed the row at every attempt.
        """
        preferences = await self.services.conversations.change_preferences(self.tenant, self.kind, self.id, change)
        if reevaluate:
            await self.services.queues.enqueue_recipient(RecipientTask(self.tenant, self.recipient, Task.RECONSIDER))
        return preferences

    async def categories(self) -> Categories:
        """Return the declared categories, and those that notifications to the tenant have used."""
        used = await self.services.markers.list(used_categories(self.tenant))
        return self.services.categories.including(used)

    async def draw_card(self, preferences: Preferences, **options: Any) -> dict[str, Any]:
        """Return the preferences card; `options` are further arguments of `draw_preferences_card`."""
        return await asyncio.to_thread(  # the first card of a day lists all time zones
            draw_preferences_card,
            preferences,
            await self.categories(),
            zone=self.zone_of(preferences).key,
            zone_source=self.describe_zone_source(preferences),
            default_digest=self.services.settings.default_digest,
            now=self.services.clock(),
            locale=self.locale,
            is_shared=self.is_shared,
            **options,
        )
