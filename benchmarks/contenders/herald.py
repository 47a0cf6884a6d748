"""Herald: the step of its delivery that sends, without the tables: drawing, token, POST, and what the answer means."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import aiohttp
import orjson

from benchmarks.contenders.world import Chat, Send, World
from shared.preferences.categories import Category
from shared.rendering import render_data
from shared.services import MAX_CONNECTIONS
from shared.settings import load_settings
from shared.teams.connector import Connector, Route
from shared.teams.hosts import allowed_service_url
from shared.teams.outcome import Verdict
from shared.teams.tokens import Tokens

#: The key and the category of what is sent.
KEY = "0" * 64
CATEGORY = Category(name="benchmark")


@asynccontextmanager
async def sender(world: World) -> AsyncIterator[Send]:
    settings, route = load_settings(), Route(world.tenant, world.service_url)
    data = orjson.dumps({"recipients": [{"all": True}], "category": "benchmark", "card": world.card})

    def allowed(url: str) -> bool:
        return allowed_service_url(url, hosts=settings.service_hosts, loopback_only=False)

    trusted = ssl.create_default_context()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=trusted)) as session:
        tokens = Tokens(settings, time.monotonic)
        connector = Connector(session, tokens, allowed, lambda: datetime.now(UTC), None)

        async def send(chat: Chat) -> None:
            activity = render_data(data, KEY, CATEGORY, settings.max_activity_bytes)
            outcome = await connector.send(route, chat.conversation, activity)
            assert outcome.verdict is Verdict.DONE, outcome

        yield send
