"""The app without an app id sends its messages to the real Playground."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from local.first_message import send_first_message
from local.processes import Azurite, Playground, ProgramError
from shared.preferences.preferences import FOREVER, Preferences
from shared.services import open_services
from shared.settings import load_settings
from shared.states import Mode, ReferenceKind
from shared.storage.clients import open_storage
from tests.e2e.conftest import MovedClock
from tests.e2e.playground import CHAT, PERSON, TENANT, PlaygroundChat, open_chat


@dataclass(frozen=True)
class ChatListener:
    """A chat with the bot installed, and the stream of events that the chat's page would get."""

    chat: PlaygroundChat
    stream: aiohttp.ClientWebSocketResponse

    async def wait_for(self, text: str) -> str:
        """Return the next event that contains `text`."""
        async for frame in self.stream:
            if text in str(frame.data):
                return str(frame.data)
        raise AssertionError("the Playground closed its stream")


@pytest.fixture(scope="module")
def clock() -> MovedClock:
    """A fast clock: the next full minute but one is 2 to 4 s away."""
    return MovedClock.starting_at(datetime(2027, 3, 1, 9, tzinfo=UTC), 30, delay=0)


@pytest.fixture(scope="module")
def chat(azurite: Azurite, tmp_path_factory: pytest.TempPathFactory, clock: MovedClock) -> Iterator[PlaygroundChat]:
    folder = tmp_path_factory.mktemp("playground")
    with open_chat(azurite.connection_string("playground"), folder, HERALD_CLOCK=clock.setting) as chat:
        yield chat


@asynccontextmanager
async def open_listener(chat: PlaygroundChat) -> AsyncIterator[ChatListener]:
    async with aiohttp.ClientSession(chat.url) as http:
        stream = await http.ws_connect("/_ws_conversation/v1/conversations/stream")
        async with http.post(f"/_debug/conversation/{quote(CHAT)}/installation", json={}) as answer:
            assert answer.status == 200
        listener = ChatListener(chat, stream)
        await listener.wait_for("Welcome to Herald")  # only then has the app handled the installation
        yield listener
        await stream.close()


async def test_notification_arrives_in_chat_immediately_or_at_its_scheduled_minute(
    chat: PlaygroundChat, clock: MovedClock
) -> None:
    async with open_listener(chat) as listener:
        listener.chat.send({"title": "Build 42 failed", "text": "Stage test failed"})
        event = await listener.wait_for("Build 42 failed")
        assert "Stage test failed" in event
        assert CHAT in event
        at = clock.now().replace(second=0, microsecond=0) + timedelta(minutes=2)
        local_time = at.replace(tzinfo=None).isoformat(timespec="minutes")
        listener.chat.send({"title": "Good morning"}, schedule={"at": local_time, "timeZone": "UTC"})
        await listener.wait_for("Good morning")
        assert clock.now() >= at


async def test_first_message_that_preferences_hold_is_no_failure(chat: PlaygroundChat) -> None:
    cases: Sequence[tuple[Preferences, str]] = (
        (Preferences(categories={"builds": Mode.DIGEST}), "queued (digest)"),
        (Preferences(paused_until=FOREVER), "queued (paused)"),
        (Preferences(stopped=True), "suppressed (optedOut)"),
    )
    services = await open_services(load_settings(chat.settings), open_storage(chat.settings))
    for preferences, state in cases:
        output: list[str] = []
        await services.conversations.change_preferences(TENANT, ReferenceKind.USER, PERSON, replace_with(preferences))
        await send_first_message(chat.url, chat.settings, [], output.append)
        assert (
            output[-1]
            == f"Not shown to Ada: {state} because of stored preferences (write `start`, or delete .local/azurite)"
        )
    await services.close()


async def test_failed_first_message_has_a_reason(connection: str, tmp_path: Path) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=403)

    app = web.Application()
    app.router.add_post("/api/messages", refuse)
    settings = {"AzureWebJobsStorage": connection, "AZURE_FUNCTIONS_ENVIRONMENT": "Development"}
    async with TestServer(app) as server:
        with (
            Playground(tmp_path, str(server.make_url("/api/messages"))) as playground,
            pytest.raises(ProgramError, match=r"^The first message failed: the app answered .* with 403; .*"),
        ):
            await send_first_message(playground.url, settings, [playground], print)


def replace_with(preferences: Preferences) -> Callable[[Preferences], Preferences]:
    return lambda _: preferences
