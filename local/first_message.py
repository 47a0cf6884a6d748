"""The first message of `dev.py up`: install the bot in the Playground, and deliver a notification from the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp

from local.processes import Program, ProgramError
from local.send import PLAYGROUND, QUEUE, build_event, put_event
from shared import settings
from shared.queue_messages import Delivery
from shared.records import DeliveryRecord, notification_key
from shared.services import Services, open_services
from shared.states import DeliveryState, Reason, ReferenceKind
from shared.storage.clients import CONNECTION, open_storage
from shared.storage.delivery_counts import FEW_SHARD
from shared.texts import FALLBACK_LANGUAGE

#: The time limit of the delivery.
DELIVERY_TIMEOUT_SECONDS = 60.0
#: How often the tables and the programs are checked.
TABLE_CHECK_SECONDS, PROGRAM_CHECK_SECONDS = 0.05, 0.5
#: The link of the card.
MANUAL_URL = "https://learn.microsoft.com/microsoftteams/platform/bots/how-to/conversations/send-proactive-messages"

#: Reasons why the message is not shown at once: preferences of the person from an earlier run are still stored.
PREFERENCE_REASONS = (Reason.OPTED_OUT, Reason.PAUSED, Reason.MUTED, Reason.QUIET_HOURS, Reason.DIGEST)

TENANT: str = PLAYGROUND["tenantId"]
PERSON: str = PLAYGROUND["currentUser"]["aadObjectId"]
CHAT: str = PLAYGROUND["personalChat"]["id"]
#: The other places of the Playground: the group chat, the team (its General channel has the team's id), its channels.
OTHER_PLACES: Sequence[str] = (
    PLAYGROUND["groupChat"]["id"],
    PLAYGROUND["team"]["id"],
    *(channel["id"] for channel in PLAYGROUND["team"]["channels"]),
)

_FIRST_CONTENT: Mapping[str, dict[str, Any]] = {
    "en": {
        "title": "Herald reaches you",
        "text": "A moment ago, this card was a message on a storage queue. Any system that can write one can notify "
        "people in Teams. Open **Manage** below: you decide what you get, and when.",
        "result": "Delivery from the queue to this chat works",
        "actor": {"name": "dev.py up"},
    },
    "de": {
        "title": "Herald erreicht Sie",
        "text": "Eben war diese Karte noch eine Nachricht in einer Warteschlange. Jedes System, das eine schreiben "
        "kann, kann Menschen in Teams benachrichtigen. Öffnen Sie **Verwalten**: Sie entscheiden, was Sie bekommen "
        "und wann.",
        "result": "Die Zustellung aus der Warteschlange in diesen Chat funktioniert",
        "actor": {"name": "dev.py up"},
    },
}
_QUEUE_TITLE = {"en": "Queue", "de": "Warteschlange"}
_LINK_TITLE = {"en": "How proactive messages work", "de": "Wie proaktive Nachrichten funktionieren"}

T = TypeVar("T")
Progress = Callable[[str], None]


async def send_first_message(
    playground_url: str, app_settings: Mapping[str, str], programs: Sequence[Program], progress: Progress
) -> None:
    """Install the bot, send a message and wait for its delivery; raises `ProgramError` with the reason of a failure.

    `app_settings` are those of the function host, which is the last of `programs`; `progress` receives one line for
    each step.
    """
    services = await open_services(settings.load_settings(app_settings), open_storage(app_settings))
    delivery = asyncio.create_task(_deliver(playground_url, app_settings[CONNECTION], services, progress))
    watchdog = asyncio.create_task(check_programs(programs))
    try:
        done, _ = await asyncio.wait(
            {delivery, watchdog}, timeout=DELIVERY_TIMEOUT_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            raise ProgramError(f"it was not delivered within {DELIVERY_TIMEOUT_SECONDS:.0f} s")
        for task in done:
            task.result()
    except ProgramError as error:
        output = programs[-1].summarize_output()
        raise ProgramError(f"The first message failed: {error}; last output of the function host: {output}") from None
    finally:
        delivery.cancel()
        watchdog.cancel()
        await asyncio.gather(delivery, watchdog, return_exceptions=True)
        await services.close()


async def _deliver(playground_url: str, connection_string: str, services: Services, progress: Progress) -> None:
    # The log, because the stream of the chat delivers each message only to its first listener, which must be the page.
    async with aiohttp.ClientSession(playground_url) as http, http.ws_connect("/_ws/log/stream") as log:
        await _install(http, CHAT)
        exchange = await next_exchange(log, "installationUpdate")
        if (status := exchange["response"]["statusCode"]) != 200:
            raise ProgramError(f"the app answered the installation of the bot with {status}")
        reference = await poll_until(lambda: services.conversations.get(TENANT, ReferenceKind.USER, PERSON), bool)
        progress(f"Bot installed, reference stored      conversation {reference.conversation_id}")

        for place in OTHER_PLACES:
            await _install(http, place)
        event = build_first_event(FALLBACK_LANGUAGE)
        await asyncio.to_thread(put_event, event, connection_string)
        progress(f"Put on the queue {QUEUE}       id {event['id']}")

        key = notification_key(TENANT, event["source"], event["id"])
        await poll_until(lambda: services.notifications.get(key), bool)
        progress(f"Accepted                             notification {key}")

        delivery = Delivery(key, FEW_SHARD, f"u:{PERSON}", "", 0)
        record = await poll_until(lambda: services.deliveries.get(delivery), _is_decided)
        if record.reason in PREFERENCE_REASONS:
            name = PLAYGROUND["currentUser"]["name"]
            state = f"{record.state} ({record.reason})"
            progress(
                f"Not shown to {name}: {state} because of stored preferences (write `start`, or delete .local/azurite)"
            )
            return
        if record.state is not DeliveryState.SENT:
            raise ProgramError(f"the delivery is {record.state}{f' ({record.reason})' if record.reason else ''}")
        exchange = await next_exchange(log, "message", containing=event["id"])
        progress(f"Delivered to the Playground          message {exchange['messageId']}")


async def _install(http: aiohttp.ClientSession, conversation: str) -> None:
    """Install the bot in a chat or channel, as its page does when it opens."""
    async with http.post(f"/_debug/conversation/{quote(conversation)}/installation", json={}) as response:
        response.raise_for_status()


async def check_programs(programs: Sequence[Program]) -> None:
    while True:
        for program in programs:
            program.check()
        await asyncio.sleep(PROGRAM_CHECK_SECONDS)


async def next_exchange(log: aiohttp.ClientWebSocketResponse, activity: str, containing: str = "") -> dict[str, Any]:
    """Return the next exchange of this activity in the log of the Playground, with its request and response."""
    async for frame in log:
        item = frame.json()["log"]
        if item.get("activityName") == activity and containing in frame.data:
            return dict(item)
    raise ProgramError("the Playground has closed its log")


async def poll_until(read: Callable[[], Awaitable[T | None]], condition: Callable[[T | None], bool]) -> T:
    while True:
        value = await read()
        if value is not None and condition(value):
            return value
        await asyncio.sleep(TABLE_CHECK_SECONDS)


def _is_decided(delivery: DeliveryRecord | None) -> bool:
    return delivery is not None and (delivery.state.final or delivery.reason in PREFERENCE_REASONS)


def build_first_event(language: str) -> dict[str, Any]:
    """Return a CloudEvent with the first notification in a language, which shows its own id."""
    event = build_event(_FIRST_CONTENT[language] | {"link": {"title": _LINK_TITLE[language], "url": MANUAL_URL}})
    event["data"] |= {"locale": language}
    facts = {_QUEUE_TITLE[language]: QUEUE, "Id": event["id"]}
    event["data"]["content"]["facts"] = [{"title": title, "value": value} for title, value in facts.items()]
    return event
