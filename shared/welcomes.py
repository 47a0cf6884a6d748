"""Post the welcome of a person. Of all the welcomes of one person only one is sent (`storage.markers.welcomed`)."""

from __future__ import annotations

from typing import Any

import orjson

from shared import publishing
from shared.cards.welcome import draw_welcome_card
from shared.records import StoredNotification, notification_key
from shared.services import Services
from shared.states import Mode, Purpose

WELCOME_SOURCE = "/herald/welcomes"
#: If this category is declared with the default `off`, nobody is welcomed. The members of teams and group chats are
#: welcomed only if it is declared, with another default.
WELCOME_CATEGORY = "welcome"


def are_off(services: Services) -> bool:
    """Return whether nobody is welcomed."""
    categories = services.categories
    return categories.is_declared(WELCOME_CATEGORY) and categories.of(WELCOME_CATEGORY).default is Mode.OFF


async def post_welcome(services: Services, tenant: str, person: str, identifier: str, language: str) -> None:
    """Welcome a person, by object id, in their own chat. The same identifier sends nothing twice."""
    welcome, is_new = await store_welcome(services, tenant, person, identifier, language)
    await publishing.enqueue(services, welcome, f"u:{person}", is_new=is_new)


async def store_welcome(
    services: Services, tenant: str, person: str, identifier: str, language: str
) -> tuple[StoredNotification, bool]:
    """Store the welcome of a person without its delivery; return it, and whether it is new."""
    card = draw_welcome_card(language, notification_key(tenant, WELCOME_SOURCE, identifier))
    return await publishing.store(
        services,
        tenant=tenant,
        source=WELCOME_SOURCE,
        identifier=identifier,
        data=encode_welcome({"user": person}, card, language),
        purpose=Purpose.WELCOME,
    )


def encode_welcome(recipient: dict[str, str], card: dict[str, Any], language: str) -> bytes:
    """Return the `data` of the notification that shows a welcome card."""
    data = {"recipients": [recipient], "category": WELCOME_CATEGORY, "card": card, "locale": language}
    return orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
