"""The app without an app id, on a developer's machine: the real Playground takes the place of Teams."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from playwright.async_api import FloatRect, async_playwright

from local.processes import FunctionHost, Playground, free_port
from local.send import PLAYGROUND, event, put

CHAT = PLAYGROUND["personalChat"]["id"]
CHROMIUM = shutil.which("chromium")


@dataclass
class Chat:
    """The Playground with the bot installed in its chat, and what the page would be told."""

    url: str
    connection: str
    stream: aiohttp.ClientWebSocketResponse

    def send(self, content: dict[str, Any], **data: Any) -> None:
        message = event(content)
        message["data"] |= data
        put(message, self.connection)

    async def arrives(self, text: str) -> str:
        """The next thing told to the page that contains `text`."""
        async for frame in self.stream:
            if text in str(frame.data):
                return str(frame.data)
        raise AssertionError("the Playground has closed its stream")


@pytest.fixture
async def chat(connection: str, tmp_path: Path) -> AsyncIterator[Chat]:
    port = free_port()
    with ExitStack() as stack:
        playground = stack.enter_context(Playground(tmp_path, f"http://127.0.0.1:{port}/api/messages"))
        settings = {
            "AzureWebJobsStorage": connection,
            "AZURE_FUNCTIONS_ENVIRONMENT": "Development",
            "HERALD_ALLOWED_TENANTS": PLAYGROUND["tenantId"],
            "HERALD_SERVICE_HOSTS": f"127.0.0.1:{playground.port}",
        }
        stack.enter_context(FunctionHost(tmp_path, settings, port=port))
        async with aiohttp.ClientSession(playground.url) as http:
            stream = await http.ws_connect("/_ws_conversation/v1/conversations/stream")
            async with http.post(f"/_debug/conversation/{quote(CHAT)}/installation", json={}) as answer:
                assert answer.status == 200
            yield Chat(playground.url, connection, stream)
            await stream.close()


async def test_what_is_put_on_the_queue_is_seen_arriving_in_the_chat(chat: Chat) -> None:
    chat.send({"title": "Build 42 failed", "text": "Stage test failed"})
    told = await chat.arrives("Build 42 failed")
    assert "Stage test failed" in told
    assert CHAT in told


async def test_a_one_off_schedule_is_seen_arriving_at_its_minute(chat: Chat) -> None:
    at = (datetime.now(UTC) + timedelta(seconds=61)).replace(second=0, microsecond=0)
    wall = at.replace(tzinfo=None).isoformat(timespec="minutes")
    chat.send({"title": "Good morning"}, schedule={"at": wall, "timeZone": "UTC"})
    await chat.arrives("Good morning")
    assert datetime.now(UTC) >= at


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed (apt-get install chromium)")
async def test_the_card_is_seen_in_the_browser(chat: Chat, tmp_path: Path) -> None:
    await chat.stream.close()  # the page is to be the listener
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = await browser.new_page(viewport={"width": 1180, "height": 560}, device_scale_factor=2)
        await page.goto(chat.url)
        await page.get_by_text("Type a message").first.wait_for()
        chat.send(
            {
                "title": "Build 42 failed",
                "text": "Stage **test** failed: 3 of 412 tests.",
                "facts": [{"title": "Branch", "value": "main"}, {"title": "Commit", "value": "9f2c1e7"}],
                "result": "Not deployed; production still runs build 41",
                "actor": {"name": "the nightly schedule"},
                "link": {"title": "Open the build", "url": "https://ci.example/builds/42"},
            }
        )
        for text in ("Build 42 failed", "Not deployed", "Triggered by the nightly schedule", "Open the build"):
            await page.get_by_text(text).first.wait_for()
        # HERALD_IMAGES=docs/images makes the README's picture anew.
        images = Path(os.environ.get("HERALD_IMAGES") or tmp_path)
        chat_alone: FloatRect = {"x": 0, "y": 50, "width": 700, "height": 400}
        await page.screenshot(path=images / "chat.png", clip=chat_alone)
        await browser.close()
    assert (images / "chat.png").stat().st_size > 10_000
