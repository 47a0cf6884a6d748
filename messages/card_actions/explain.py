"""Explain why a person received a message: which recipient led to them, and what their preferences say."""

from __future__ import annotations

from collections.abc import Sequence

from messages.card_actions.binding import BoundAction
from shared.cards.texts import text_of
from shared.contract.models import (
    AllRecipient,
    ChannelRecipient,
    Recipient,
    TeamRecipient,
    TopicRecipient,
    UserRecipient,
)
from shared.preferences.categories import Category
from shared.preferences.preferences import Preferences
from shared.services import Services
from shared.states import Purpose, ReferenceKind


async def why(services: Services, bound: BoundAction, preferences: Preferences, language: str) -> Sequence[str]:
    """Lines that say why a message came, and what changes that.

    `preferences` are the wishes of whoever it was delivered to: a person, or a group chat or channel.
    """
    category = services.categories.of(bound.notification.content.category)
    lines = [await _led(services, bound, language), _setting(category, preferences, language)]
    if category.description:
        described = {"category": category.label, "description": category.description}
        lines.append(text_of(language, "because.description", **described))
    return [*lines, text_of(language, "because.change")]


async def wishes_of(services: Services, bound: BoundAction, person: str, own: Preferences) -> Preferences:
    """The wishes of whoever the message was delivered to, where `own` are those of the person who asks."""
    if bound.recipient == f"u:{person}":
        return own
    return (await services.conversations.get_recipient(bound.notification.tenant, bound.recipient)).preferences


async def _led(services: Services, bound: BoundAction, language: str) -> str:
    """What led to this recipient."""
    notification, here = bound.notification, not bound.recipient.startswith("u:")
    if notification.purpose is Purpose.SNOOZE:
        return text_of(language, "because.asked")
    recipients = notification.content.recipients
    by = recipients[min(bound.known.recipient_index, len(recipients) - 1)]
    if isinstance(by, TeamRecipient):
        return await _member(services, notification.tenant, by, language)
    if isinstance(by, TopicRecipient):
        return text_of(language, "because.topicHere" if here else "because.topic", topic=by.topic)
    return text_of(language, _PLAIN.get(type(by), "because.here"))


_PLAIN: dict[type[Recipient], str] = {
    UserRecipient: "because.user",
    ChannelRecipient: "because.channel",
    AllRecipient: "because.all",
}


async def _member(services: Services, tenant: str, by: TeamRecipient, language: str) -> str:
    conversations = services.conversations
    team = await conversations.get(tenant, ReferenceKind.TEAM, by.team)
    if team and team.team:  # the alias of its group id
        team = await conversations.get(tenant, ReferenceKind.TEAM, team.team)
    known = team or await conversations.get(tenant, ReferenceKind.CONVERSATION, by.team)
    if known and known.name:
        return text_of(language, "because.team", team=known.name)
    return text_of(language, "because.someTeam")


def _setting(category: Category, preferences: Preferences, language: str) -> str:
    """How somebody is told of a category, and where that comes from."""
    mode = text_of(language, f"preferences.mode.{preferences.mode(category)}")
    if category.mandatory:
        return text_of(language, "because.mandatory", category=category.label, mode=mode)
    if preferences.stopped:
        source = "because.byStop"
    elif category.name in preferences.categories:
        source = "because.byCategory"
    else:
        source = "because.byDefault" if preferences.default else "because.declared"
    return text_of(language, "because.category", category=category.label, mode=mode, source=text_of(language, source))
