"""Welcome each person once: when they install the bot, or when it is added to a team or group chat of theirs.

Teams reports an install several times. All reports within the same minute make the same notification. Of all the
notifications that welcome a person only one is sent (`welcomed` in `shared.storage.markers`).
"""

from __future__ import annotations

import hashlib

from pydantic import ValidationError

from messages.activity.references import is_install, scope_of
from messages.activity.verified import VerifiedActivity
from shared import welcomes
from shared.cards.welcome import draw_welcome_card
from shared.contract.parsing import parse_stored
from shared.publishing import accept, shard_count
from shared.queue_messages import Expansion
from shared.records import ConversationReference, StoredNotification, notification_key
from shared.services import Services
from shared.states import NotificationState, Purpose, ReferenceKind, ReferenceStatus
from shared.texts import language_of, text_of
from shared.welcomes import WELCOME_CATEGORY, WELCOME_SOURCE, encode_welcome


async def welcome_person(
    services: Services, verified: VerifiedActivity, person: str, stored: ConversationReference | None, locale: str
) -> None:
    """If the activity is the install of a person, welcome them, unless an earlier one has.

    `stored` is their row before the activity. It must say that the bot is installed only after this has returned, so
    that a welcome is posted although a worker dies, and not again by each further report of the install.
    """
    if not verified.is_personal or not is_install(verified.activity) or welcomes.are_off(services):
        return
    if stored and stored.status is ReferenceStatus.ACTIVE and stored.status_at:
        return
    language = language_of(*((stored.preferences.locale, locale) if stored else (locale,)))
    await welcomes.post_welcome(services, verified.tenant, person, _build_identifier(verified, person), language)


async def welcome_members(services: Services, verified: VerifiedActivity) -> None:
    """If the activity is the install in a team or group chat, welcome each member in their own chat.

    Expansion lists the members.
    """
    if verified.is_personal or not is_install(verified.activity) or welcomes.are_off(services):
        return
    if not services.categories.is_declared(WELCOME_CATEGORY):
        return
    activity, tenant = verified.activity, verified.tenant
    team = activity.channel_data.team.id if scope_of(activity) == "channel" else activity.conversation.id
    adder = None
    if verified.person_id:
        adder = await services.conversations.get(tenant, ReferenceKind.USER, verified.person_id)
    language = language_of(activity.locale, adder.locale if adder else "")
    identifier = _build_identifier(verified, team)
    key = notification_key(tenant, WELCOME_SOURCE, identifier)
    adder_name = activity.sender.name or (adder.name if adder else "")
    card = draw_welcome_card(
        language, key, added_to=await _describe_place(services, verified, language), adder=adder_name
    )
    data = encode_welcome({"team": team}, card, language)
    try:
        recipients = parse_stored(data).recipients
    except ValidationError:  # the id of the team or chat is not one of Teams
        return
    await accept(
        services,
        StoredNotification(
            key=key,
            tenant=tenant,
            source=WELCOME_SOURCE,
            id=identifier,
            content_hash=hashlib.sha256(data).hexdigest(),
            data=data,
            state=NotificationState.ACCEPTED,
            created=services.clock(),
            shards=shard_count(recipients),
            purpose=Purpose.WELCOME,
        ),
    )
    # Also if it was accepted before: the worker may have stopped before the members were listed.
    await services.queues.enqueue_expansion(Expansion(key, 0))


async def _describe_place(services: Services, verified: VerifiedActivity, language: str) -> str:
    """Return the team, channel or group chat as its members know it, in words."""
    data, conversation = verified.activity.channel_data, verified.activity.conversation
    if scope_of(verified.activity) == "groupChat":
        if conversation.name:
            return text_of(language, "welcome.chat", name=conversation.name)
        return text_of(language, "welcome.someChat")
    stored = await services.conversations.get(verified.tenant, ReferenceKind.TEAM, data.team.id)
    team = data.team.name or (stored.name if stored else "")
    channel = data.settings.selected_channel.name
    if team and channel:
        return text_of(language, "welcome.channel", channel=channel, name=team)
    return text_of(language, "welcome.team", name=team) if team else text_of(language, "welcome.someTeam")


def _build_identifier(verified: VerifiedActivity, recipient_id: str) -> str:
    return f"{recipient_id};{verified.occurred_at:%Y-%m-%dT%H:%M}"
