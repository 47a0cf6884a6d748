"""The app without an app id sends its messages to the real Playground."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import aiohttp

from tests.e2e.conftest import MovedClock
from tests.e2e.playground import CHAT, PlaygroundChat, open_chat


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


@asynccontextmanager
async def open_listener(connection: str, folder: Path, **settings: str) -> AsyncIterator[ChatListener]:
    with open_chat(connection, folder, **settings) as chat:
        async with aiohttp.ClientSession(chat.url) as http:
            stream = await http.ws_connect("/_ws_conversation/v1/conversations/stream")
            async with http.post(f"/_debug/conversation/{quote(CHAT)}/installation", json={}) as answer:
                assert answer.status == 200
            listener = ChatListener(chat, stream)
            await listener.wait_for("Welcome to Herald")  # only then has the app handled the installation
            yield listener
            await stream.close()


async def test_notification_arrives_in_chat_immediately_or_at_its_scheduled_minute(
    connection: str, tmp_path: Path
) -> None:
    """The clock runs fast: the next full minute but one is 2 to 4 s away."""
    clock = MovedClock.starting_at(datetime(2027, 3, 1, 9, tzinfo=UTC), 30, delay=0)
    async with open_listener(connection, tmp_path, HERALD_CLOCK=clock.setting) as listener:
        listener.chat.send({"title": "Build 42 failed", "text": "Stage test failed"})
        event = await listener.wait_for("Build 42 failed")
        assert "Stage test failed" in event
        assert CHAT in event
        at = clock.now().replace(second=0, microsecond=0) + timedelta(minutes=2)
        local_time = at.replace(tzinfo=None).isoformat(timespec="minutes")
        listener.chat.send({"title": "Good morning"}, schedule={"at": local_time, "timeZone": "UTC"})
        await listener.wait_for("Good morning")
        assert clock.now() >= at
