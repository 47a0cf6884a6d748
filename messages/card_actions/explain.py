"""Explain why a person received a message: as which recipient, and by which of their preferences."""

from __future__ import annotations

from collections.abc import Sequence

from messages.card_actions.binding import BoundAction
from shared.contract.models import (
    AllRecipient,
    ChannelRecipient,
    GroupRecipient,
    Recipient,
    TeamRecipient,
    TopicRecipient,
    UserRecipient,
)
from shared.preferences.categories import Category
from shared.preferences.preferences import Preferences
from shared.services import Services
from shared.states import Purpose, ReferenceKind
from shared.texts import language_of, text_of

#: The text for each type of recipient that needs no further values; "because.here" for all others.
_RECIPIENT_TEXTS: dict[type[Recipient], str] = {
    UserRecipient: "because.user",
    ChannelRecipient: "because.channel",
    GroupRecipient: "because.group",
    AllRecipient: "because.all",
}


async def explain(services: Services, bound: BoundAction, preferences: Preferences, language: str) -> Sequence[str]:
    """Return lines that say why the message was sent, and how to change that.

    `preferences` are those of the recipient: a person, or a group chat or channel.
    """
    category = services.categories.of(bound.notification.content.category)
    lines = [
        await _explain_recipient(services, bound, language),
        _explain_setting(category, preferences, language),
    ]
    if category.description:
        values = {"category": category.label, "description": category.description}
        lines.append(text_of(language, "because.description", **values))
    if category.mandatory:
        return lines
    manage = text_of(language_of(bound.notification.content.locale or ""), "manage")  # as the button says
    return [*lines, text_of(language, "because.change", manage=manage)]


async def load_recipient_preferences(
    services: Services, bound: BoundAction, person: str, person_preferences: Preferences
) -> Preferences:
    """Return the preferences of the recipient of a message; `person` is the person who clicked."""
    if bound.recipient == f"u:{person}":
        return person_preferences
    return (await services.conversations.get_recipient(bound.notification.tenant, bound.recipient)).preferences


async def _explain_recipient(services: Services, bound: BoundAction, language: str) -> str:
    notification, is_conversation = bound.notification, not bound.recipient.startswith("u:")
    if notification.purpose is Purpose.SNOOZE:
        return text_of(language, "because.asked")
    recipients = notification.content.recipients
    recipient = recipients[min(bound.delivery.recipient_index, len(recipients) - 1)]
    if isinstance(recipient, TeamRecipient):
        return await _explain_membership(services, notification.tenant, recipient, language)
    if isinstance(recipient, TopicRecipient):
        key = "because.topicHere" if is_conversation else "because.topic"
        return text_of(language, key, topic=recipient.topic)
    if isinstance(recipient, AllRecipient) and recipient.of == "tenant":
        return text_of(language, "because.tenant")
    return text_of(language, _RECIPIENT_TEXTS.get(type(recipient), "because.here"))


async def _explain_membership(services: Services, tenant: str, recipient: TeamRecipient, language: str) -> str:
    conversations = services.conversations
    team = await conversations.get(tenant, ReferenceKind.TEAM, recipient.team)
    if team and team.team:  # the row is an alias, by the Entra group id
        team = await conversations.get(tenant, ReferenceKind.TEAM, team.team)
    stored = team or await conversations.get(tenant, ReferenceKind.CONVERSATION, recipient.team)
    if stored and stored.name:
        return text_of(language, "because.team", team=stored.name)
    return text_of(language, "because.someTeam")


def _explain_setting(category: Category, preferences: Preferences, language: str) -> str:
    """Return the line with the delivery mode of a category, and which setting it comes from."""
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
