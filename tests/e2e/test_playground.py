"""What the real Playground is told by the app without an app id."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import aiohttp

from tests.e2e.conftest import Clock
from tests.e2e.playground import CHAT, Chat, open_chat


@dataclass(frozen=True)
class Listener:
    """The chat with the bot installed in it, and what its page would be told."""

    chat: Chat
    stream: aiohttp.ClientWebSocketResponse

    async def arrives(self, text: str) -> str:
        """The next thing told to the page that contains `text`."""
        async for frame in self.stream:
            if text in str(frame.data):
                return str(frame.data)
        raise AssertionError("the Playground has closed its stream")


@asynccontextmanager
async def listening(connection: str, folder: Path, **settings: str) -> AsyncIterator[Listener]:
    with open_chat(connection, folder, **settings) as chat:
        async with aiohttp.ClientSession(chat.url) as http:
            stream = await http.ws_connect("/_ws_conversation/v1/conversations/stream")
            async with http.post(f"/_debug/conversation/{quote(CHAT)}/installation", json={}) as answer:
                assert answer.status == 200
            found = Listener(chat, stream)
            await found.arrives("Welcome to Herald")  # only then has the app seen to the installation
            yield found
            await stream.close()


async def test_what_is_put_on_the_queue_is_seen_arriving_in_the_chat(connection: str, tmp_path: Path) -> None:
    """At once or, with a schedule, at its minute."""
    at = datetime(2027, 3, 1, 9, tzinfo=UTC)
    clock = Clock.begin(at - timedelta(seconds=3), 1)
    async with listening(connection, tmp_path, HERALD_CLOCK=clock.setting) as listener:
        listener.chat.send({"title": "Build 42 failed", "text": "Stage test failed"})
        told = await listener.arrives("Build 42 failed")
        assert "Stage test failed" in told
        assert CHAT in told
        wall = at.replace(tzinfo=None).isoformat(timespec="minutes")
        listener.chat.send({"title": "Good morning"}, schedule={"at": wall, "timeZone": "UTC"})
        await listener.arrives("Good morning")
        assert clock.now() >= at
