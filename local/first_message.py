"""The first message of `dev.py up`: the bot is installed in the chat, and a notification goes the whole way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp

from local.processes import Failed, Program
from local.send import PLAYGROUND, QUEUE, event, put
from shared import settings
from shared.queue_messages import Delivery
from shared.records import DeliveryRecord
from shared.services import Services, open_services
from shared.states import DeliveryState, Reason, ReferenceKind
from shared.storage.clients import CONNECTION, open_storage
from shared.storage.notifications import notification_key

#: Seconds in which it must have been delivered.
DEADLINE = 60.0
#: Seconds between two looks at a table, and at the programs.
LOOK, WATCH = 0.05, 0.5
#: Where the card leads.
MANUAL = "https://learn.microsoft.com/microsoftteams/platform/bots/how-to/conversations/send-proactive-messages"

#: Why the person of the chat may not be told at once: what they chose before is still stored.
WISHES = (Reason.OPTED_OUT, Reason.PAUSED, Reason.MUTED, Reason.QUIET_HOURS, Reason.DIGEST)

TENANT: str = PLAYGROUND["tenantId"]
PERSON: str = PLAYGROUND["currentUser"]["aadObjectId"]
CHAT: str = PLAYGROUND["personalChat"]["id"]

T = TypeVar("T")
Progress = Callable[[str], None]


async def first_message(
    playground_url: str, app_settings: Mapping[str, str], programs: Sequence[Program], progress: Progress
) -> None:
    """Install, send, and see it arrive; raises `Failed` with the reason where that does not come about.

    `app_settings` are those of the function host, which is the last of `programs`; `progress` is told each thing
    when it is seen.
    """
    services = await open_services(settings.load_settings(app_settings), open_storage(app_settings))
    going = asyncio.create_task(_go(playground_url, app_settings[CONNECTION], services, progress))
    watching = asyncio.create_task(_watch(programs))
    try:
        done, _ = await asyncio.wait({going, watching}, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise Failed(f"it was not delivered within {DEADLINE:.0f} s")
        for task in done:
            task.result()
    except Failed as error:
        said = programs[-1].last_words()
        raise Failed(f"The first message failed: {error}; the last words of the function host: {said}") from None
    finally:
        going.cancel()
        watching.cancel()
        await asyncio.gather(going, watching, return_exceptions=True)
        await services.close()


async def _go(playground_url: str, connection_string: str, services: Services, progress: Progress) -> None:
    # Not the stream of the chat: what comes while nobody listens there is kept for the page, and given to the first
    # listener alone.
    async with aiohttp.ClientSession(playground_url) as http, http.ws_connect("/_ws/log/stream") as log:
        async with http.post(f"/_debug/conversation/{quote(CHAT)}/installation", json={}) as answer:
            answer.raise_for_status()
        if (status := (await _logged(log, "installationUpdate"))["response"]["statusCode"]) != 200:
            raise Failed(f"the app answered the installation of the bot with {status}")
        reference = await _until(lambda: services.conversations.get(TENANT, ReferenceKind.USER, PERSON), bool)
        progress(f"Bot installed, reference stored      conversation {reference.conversation_id}")

        message = event(_content())
        message["data"]["content"]["facts"].append({"title": "Id", "value": message["id"]})
        await asyncio.to_thread(put, message, connection_string)
        progress(f"Put on the queue {QUEUE}       id {message['id']}")

        key = notification_key(TENANT, message["source"], message["id"])
        await _until(lambda: services.notifications.get(key), bool)
        progress(f"Accepted                             notification {key}")

        delivery = Delivery(key, "0", f"u:{PERSON}", "", 0)
        found = await _until(lambda: services.deliveries.get(delivery), _is_decided)
        if found.reason in WISHES:
            what = f"it is {found.state} ({found.reason}), as what was stored says that she wants"
            progress(f"Not shown to {PLAYGROUND['currentUser']['name']}: {what}")
            return
        if found.state is not DeliveryState.SENT:
            raise Failed(f"the delivery is {found.state}{f' ({found.reason})' if found.reason else ''}")
        arrived = await _logged(log, "message", containing=message["id"])
        progress(f"Delivered, seen in the Playground    message {arrived['messageId']}")


async def _watch(programs: Sequence[Program]) -> None:
    while True:
        for program in programs:
            program.check()
        await asyncio.sleep(WATCH)


async def _logged(log: aiohttp.ClientWebSocketResponse, activity: str, containing: str = "") -> dict[str, Any]:
    """The next exchange of this activity that the Playground logs, with its request and response."""
    async for frame in log:
        item = frame.json()["log"]
        if item.get("activityName") == activity and containing in frame.data:
            return dict(item)
    raise Failed("the Playground has closed its log")


async def _until(look: Callable[[], Awaitable[T | None]], wanted: Callable[[T | None], bool]) -> T:
    while True:
        seen = await look()
        if seen is not None and wanted(seen):
            return seen
        await asyncio.sleep(LOOK)


def _is_decided(delivery: DeliveryRecord | None) -> bool:
    return delivery is not None and (delivery.state.final or delivery.reason in WISHES)


def _content() -> dict[str, Any]:
    return {
        "title": "Herald reaches you",
        "text": "This card was a message on a storage queue a moment ago. Any system that can write one can tell "
        "people something in Teams.",
        "facts": [{"title": "Queue", "value": QUEUE}, {"title": "From", "value": "python dev.py up"}],
        "result": "The way from the queue to this chat works",
        "actor": {"name": "dev.py up"},
        "link": {"title": "How proactive messages work", "url": MANUAL},
    }
