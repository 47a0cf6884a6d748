"""Explain why a person received a message: which recipient led to them, and what their preferences say."""

from __future__ import annotations

from collections.abc import Sequence

from messages.card_actions.binding import BoundAction
from shared.cards.texts import say
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


async def why(services: Services, bound: BoundAction, preferences: Preferences, tongue: str) -> Sequence[str]:
    """Lines that say why a message came, and what changes that.

    `preferences` are the wishes of whoever it was delivered to: a person, or a group chat or channel.
    """
    category = services.categories.of(bound.notification.content.category)
    lines = [await _led(services, bound, tongue), _setting(category, preferences, tongue)]
    if category.description:
        lines.append(say(tongue, "because.description", category=category.label, description=category.description))
    return [*lines, say(tongue, "because.change")]


async def wishes_of(services: Services, bound: BoundAction, person: str, own: Preferences) -> Preferences:
    """The wishes of whoever the message was delivered to, where `own` are those of the person who asks."""
    if bound.recipient == f"u:{person}":
        return own
    return (await services.conversations.of(bound.notification.tenant, bound.recipient)).preferences


async def _led(services: Services, bound: BoundAction, tongue: str) -> str:
    """What led to this recipient."""
    notification, here = bound.notification, not bound.recipient.startswith("u:")
    if notification.purpose is Purpose.SNOOZE:
        return say(tongue, "because.asked")
    recipients = notification.content.recipients
    by = recipients[min(bound.known.recipient_index, len(recipients) - 1)]
    if isinstance(by, TeamRecipient):
        return await _member(services, notification.tenant, by, tongue)
    if isinstance(by, TopicRecipient):
        return say(tongue, "because.topicHere" if here else "because.topic", topic=by.topic)
    return say(tongue, _PLAIN.get(type(by), "because.here"))


_PLAIN: dict[type[Recipient], str] = {
    UserRecipient: "because.user",
    ChannelRecipient: "because.channel",
    AllRecipient: "because.all",
}


async def _member(services: Services, tenant: str, by: TeamRecipient, tongue: str) -> str:
    conversations = services.conversations
    team = await conversations.get(tenant, ReferenceKind.TEAM, by.team)
    if team and team.team:  # the alias of its group id
        team = await conversations.get(tenant, ReferenceKind.TEAM, team.team)
    known = team or await conversations.get(tenant, ReferenceKind.CONVERSATION, by.team)
    if known and known.name:
        return say(tongue, "because.team", team=known.name)
    return say(tongue, "because.someTeam")


def _setting(category: Category, preferences: Preferences, tongue: str) -> str:
    """How somebody is told of a category, and where that comes from."""
    mode = say(tongue, f"preferences.mode.{preferences.mode(category)}")
    if category.mandatory:
        return say(tongue, "because.mandatory", category=category.label, mode=mode)
    if preferences.stopped:
        source = "because.byStop"
    elif category.name in preferences.categories:
        source = "because.byCategory"
    else:
        source = "because.byDefault" if preferences.default else "because.declared"
    return say(tongue, "because.category", category=category.label, mode=mode, source=say(tongue, source))
