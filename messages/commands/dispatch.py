"""Run the command in a message, and answer it through the queues.

In a personal chat a command is about the person. From a group chat or channel Teams forwards only messages that mention
the bot: such a command is about that chat or channel, no matter who writes it, and is answered in its thread.

A repeated activity finds the stored answer, so that its command is not run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import ValidationError

from messages.activity.references import client_settings_of
from messages.activity.verified import VerifiedActivity
from messages.commands.handlers import answer_command
from messages.subject import PreferenceSubject
from shared import publishing
from shared.contract.models import ConversationRecipient, UserRecipient
from shared.conversation_ids import channel_of
from shared.records import notification_key
from shared.services import Services
from shared.states import Purpose, ReferenceKind

#: The source of answers. The id of an answer names the activity, so that each activity has one answer.
ANSWER_SOURCE = "/herald/commands"


async def dispatch_command(services: Services, verified: VerifiedActivity) -> None:
    """Run the command in a message, and post the answer."""
    activity = verified.activity
    if activity.value is not None and (activity.reply_to_id or not activity.text.strip()):
        return  # an `Action.Submit`, which no card of Herald has: its title may come as the text
    recipient = f"u:{verified.person_id}" if verified.is_personal else f"c:{activity.conversation.id}"
    contract_recipient = _to_contract_recipient(recipient)
    if contract_recipient is None:
        return
    identifier = f"{activity.conversation.id};{activity.id or verified.occurred_at.isoformat()}"
    answer = await services.notifications.get(notification_key(verified.tenant, ANSWER_SOURCE, identifier))
    if answer:
        data = answer.data
    else:
        subject = (_person_subject if verified.is_personal else _conversation_subject)(services, verified)
        card = await answer_command(subject, activity.text)
        data = orjson.dumps(
            {"recipients": [contract_recipient], "category": publishing.CATEGORY, "card": card},
            option=orjson.OPT_SORT_KEYS,
        )
    # Also for a stored answer: the worker may have stopped before it was sent.
    await publishing.post(
        services,
        tenant=verified.tenant,
        recipient=recipient,
        source=ANSWER_SOURCE,
        identifier=identifier,
        data=data,
        purpose=Purpose.REPLY,
    )


def _to_contract_recipient(recipient: str) -> Mapping[str, Any] | None:
    """Return a recipient as notifications name it, or None if its id is not one of Teams."""
    kind, identifier = recipient[0], recipient[2:]
    try:
        model = UserRecipient(user=identifier) if kind == "u" else ConversationRecipient(conversation=identifier)
    except ValidationError:
        return None
    return model.model_dump()


def _person_subject(services: Services, verified: VerifiedActivity) -> PreferenceSubject:
    settings, sender = client_settings_of(verified.activity), verified.sender
    return PreferenceSubject(
        services=services,
        tenant=verified.tenant,
        kind=ReferenceKind.USER,
        id=verified.person_id,
        teams_zone=settings["time_zone"] or (sender.time_zone if sender else ""),
        locale=settings["locale"],
        known=sender.preferences if sender else None,
    )


def _conversation_subject(services: Services, verified: VerifiedActivity) -> PreferenceSubject:
    # Without zone and language: those of the sender are not those of the other members.
    conversation = channel_of(verified.activity.conversation.id)
    return PreferenceSubject(
        services=services, tenant=verified.tenant, kind=ReferenceKind.CONVERSATION, id=conversation
    )
