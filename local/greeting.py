"""Greet whoever opens the chat of `dev.py up`: send a welcome and a first notification anew.

The Playground keeps no history: its page opens empty, whatever was sent before. It reports the installation of the bot
each time the page opens. The app welcomes nobody twice, so `up` itself sends its welcome card again, under a new id.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from contextlib import suppress

import aiohttp

from local.first_message import CHAT, PERSON, TENANT, build_first_event, next_exchange, poll_until
from local.send import put_event
from shared import publishing, settings
from shared.cards.welcome import draw_welcome_card
from shared.records import StoredNotification, notification_key
from shared.services import Services, open_services
from shared.states import NotificationState, Purpose, ReferenceKind
from shared.storage.clients import CONNECTION, open_storage
from shared.texts import FALLBACK_LANGUAGE, language_of
from shared.welcomes import encode_welcome

SOURCE = "/local/up"
#: How long the first notification waits for the welcome, so that it is below it.
WELCOME_SECONDS = 5.0
#: Messages that were sent before the chat is opened arrive within this time, one after the other.
DISCARD_SECONDS = 0.5


async def greet_visitors(playground_url: str, app_settings: Mapping[str, str]) -> None:
    """Send the welcome and the first notification each time the personal chat is opened, until the Playground ends.

    Raises `ProgramError` if the Playground closes its log, and `AzureError`.
    """
    queues, tables = open_storage(app_settings)
    async with queues, tables:
        services = await open_services(settings.load_settings(app_settings), (queues, tables))
        try:
            async with aiohttp.ClientSession(playground_url) as http, http.ws_connect("/_ws/log/stream") as log:
                await _discard_earlier_messages(http)
                while True:
                    exchange = await next_exchange(log, "installationUpdate")
                    if exchange["conversationId"] == CHAT:
                        await _greet(services, app_settings[CONNECTION])
        finally:
            await services.close()


async def _discard_earlier_messages(http: aiohttp.ClientSession) -> None:
    """Receive what the Playground keeps for the first page that opens: it would see each card twice."""
    async with http.ws_connect("/_ws_conversation/v1/conversations/stream") as stream:
        with suppress(TimeoutError):
            while (await stream.receive(timeout=DISCARD_SECONDS)).type is aiohttp.WSMsgType.TEXT:
                pass


async def _greet(services: Services, connection_string: str) -> None:
    person = await services.conversations.get(TENANT, ReferenceKind.USER, PERSON)
    language = language_of(person.preferences.locale, person.locale) if person else FALLBACK_LANGUAGE
    identifier = uuid.uuid4().hex
    key = notification_key(TENANT, SOURCE, identifier)
    await publishing.post(
        services,
        tenant=TENANT,
        recipient=f"u:{PERSON}",
        source=SOURCE,
        identifier=identifier,
        data=encode_welcome({"user": PERSON}, draw_welcome_card(language, key), language),
        purpose=Purpose.REPLY,
    )
    try:
        async with asyncio.timeout(WELCOME_SECONDS):
            await poll_until(lambda: services.notifications.get(key), _is_finished)
    except TimeoutError:
        pass
    await asyncio.to_thread(put_event, build_first_event(language), connection_string)


def _is_finished(notification: StoredNotification | None) -> bool:
    return notification is not None and notification.state is NotificationState.FINISHED
