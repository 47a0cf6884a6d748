"""Welcome each person once: after an install of their own, or as a member of a team or group chat.

Teams reports an install several times. All reports within a minute make the same notification. Of the notifications
that welcome a person only one is sent, whatever they are a member of (`welcomed` in `shared.storage.markers`).
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from messages.activity.references import is_install, person_of, scope
from messages.activity.verified import Event
from shared import publishing
from shared.cards.texts import language_of, text_of
from shared.cards.welcome import draw_welcome_card
from shared.contract.parsing import parse_stored
from shared.publishing import accept, shard_count
from shared.queue_messages import Expansion
from shared.services import Services
from shared.states import Mode, NotificationState, Purpose, ReferenceKind
from shared.storage.notifications import StoredNotification, notification_key

#: The source of welcomes, and their category: declared with `off` it switches them off, and only where it is declared
#: otherwise are the members of teams and group chats welcomed.
SOURCE, CATEGORY = "/herald/welcomes", "welcome"


async def welcome_people(services: Services, event: Event) -> None:
    """Welcome those to whom an install brought the bot, where it is one and the settings want it."""
    if not is_install(event.incoming):
        return
    declared = services.categories.is_declared(CATEGORY)
    if declared and services.categories.of(CATEGORY).default is Mode.OFF:
        return
    if event.personal:
        await _welcome_person(services, event)
    elif declared:
        await _welcome_members(services, event)


async def _welcome_person(services: Services, event: Event) -> None:
    account = person_of(event.incoming)
    if account is None:
        return
    person = account.aad_object_id.lower()
    known = await services.conversations.get(event.tenant, ReferenceKind.USER, person)
    language = language_of(known.preferences.locale, known.locale) if known else language_of(event.incoming.locale)
    identifier = _identifier(event, person)
    card = draw_welcome_card(language, notification_key(event.tenant, SOURCE, identifier))
    await publishing.post(
        services,
        tenant=event.tenant,
        recipient=f"u:{person}",
        source=SOURCE,
        identifier=identifier,
        data=_data({"user": person}, card, language),
        purpose=Purpose.WELCOME,
    )


async def _welcome_members(services: Services, event: Event) -> None:
    """Have the members of the team or group chat welcomed one by one, each in their own chat."""
    incoming = event.incoming
    there = incoming.channel_data.team.id if scope(incoming) == "channel" else incoming.conversation.id
    adder = await services.conversations.get(event.tenant, ReferenceKind.USER, event.person) if event.person else None
    language = language_of(incoming.locale, adder.locale if adder else "")
    identifier = _identifier(event, there)
    key = notification_key(event.tenant, SOURCE, identifier)
    name = incoming.sender.name or (adder.name if adder else "")
    card = draw_welcome_card(language, key, added_to=await _place(services, event, language), adder=name)
    data = _data({"team": there}, card, language)
    await accept(
        services,
        StoredNotification(
            key=key,
            tenant=event.tenant,
            source=SOURCE,
            id=identifier,
            content_hash=hashlib.sha256(data).hexdigest(),
            data=data,
            state=NotificationState.ACCEPTED,
            created=services.clock(),
            shards=shard_count(parse_stored(data).recipients),
            purpose=Purpose.WELCOME,
        ),
    )
    # Also where it was accepted before: who did that may have died before its members were listed.
    await services.queues.enqueue_expansion(Expansion(key, 0))


async def _place(services: Services, event: Event, language: str) -> str:
    """What the members know the team, channel or group chat as."""
    data, conversation = event.incoming.channel_data, event.incoming.conversation
    if scope(event.incoming) == "groupChat":
        return (
            text_of(language, "welcome.chat", name=conversation.name)
            if conversation.name
            else text_of(language, "welcome.someChat")
        )
    known = await services.conversations.get(event.tenant, ReferenceKind.TEAM, data.team.id)
    team = data.team.name or (known.name if known else "")
    channel = data.settings.selected_channel.name
    if team and channel:
        return text_of(language, "welcome.channel", channel=channel, name=team)
    return text_of(language, "welcome.team", name=team) if team else text_of(language, "welcome.someTeam")


def _identifier(event: Event, whom: str) -> str:
    return f"{whom};{event.at:%Y-%m-%dT%H:%M}"


def _data(recipient: dict[str, str], card: dict[str, Any], language: str) -> bytes:
    data = {"recipients": [recipient], "category": CATEGORY, "card": card, "locale": language}
    return orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
