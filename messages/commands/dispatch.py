"""Run what a person writes to the bot as a command, and answer through the queues.

In a personal chat a command concerns the person. From a group chat or channel Teams forwards only messages that mention
the bot: such a command concerns that chat or channel, whoever writes it, and is answered in its thread.

A repeated activity finds its answer stored, so that nothing is done twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import ValidationError

from messages.activity.references import client
from messages.activity.verified import Event
from messages.commands.handlers import PreferenceSubject, do
from shared import publishing
from shared.contract.models import ConversationRecipient, UserRecipient
from shared.conversation_ids import channel_of
from shared.services import Services
from shared.states import Purpose, ReferenceKind
from shared.storage.notifications import notification_key

#: The source of the answers: with the activity that it answers each is one notification.
SOURCE = "/herald/commands"


async def dispatch_command(services: Services, event: Event) -> None:
    """Do the command in a message."""
    incoming = event.incoming
    if incoming.value is not None and not incoming.text.strip():
        return  # an `Action.Submit`, which none of our cards has
    recipient = f"u:{event.person}" if event.personal else f"c:{incoming.conversation.id}"
    named = _named(recipient)
    if named is None:
        return
    identifier = f"{incoming.conversation.id};{incoming.id or event.at.isoformat()}"
    told = await services.notifications.get(notification_key(event.tenant, SOURCE, identifier))
    if told is None:
        subject = await _of_person(services, event) if event.personal else _of_conversation(services, event)
        whole = {"recipients": [named], "category": publishing.CATEGORY, "card": await do(subject, incoming.text)}
    await publishing.post(
        services,
        tenant=event.tenant,
        recipient=recipient,
        source=SOURCE,
        identifier=identifier,
        data=told.data if told else orjson.dumps(whole, option=orjson.OPT_SORT_KEYS),
        purpose=Purpose.REPLY,
    )


def _named(recipient: str) -> Mapping[str, Any] | None:
    """A recipient as a notification names it, or None where its id is none of Teams'."""
    kind, identifier = recipient[0], recipient[2:]
    try:
        named = UserRecipient(user=identifier) if kind == "u" else ConversationRecipient(conversation=identifier)
    except ValidationError:
        return None
    return named.model_dump()


async def _of_person(services: Services, event: Event) -> PreferenceSubject:
    seen = client(event.incoming)
    if not seen["time_zone"] and (
        known := await services.conversations.get(event.tenant, ReferenceKind.USER, event.person)
    ):
        seen["time_zone"] = known.time_zone
    return PreferenceSubject(
        services=services,
        tenant=event.tenant,
        kind=ReferenceKind.USER,
        id=event.person,
        seen_zone=seen["time_zone"],
        locale=seen["locale"],
    )


def _of_conversation(services: Services, event: Event) -> PreferenceSubject:
    # The zone and the language of who wrote are not those of the others there.
    place = channel_of(event.incoming.conversation.id)
    return PreferenceSubject(services=services, tenant=event.tenant, kind=ReferenceKind.CONVERSATION, id=place)
