"""Herald's send step without storage: render the card, get a token, POST, and classify the answer."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import aiohttp
import orjson

from benchmarks.contenders.workload import Chat, Send, Workload
from shared.preferences.categories import Category
from shared.rendering import render_data
from shared.services import MAX_CONNECTIONS
from shared.settings import load_settings
from shared.teams.connector import Connector, Route
from shared.teams.hosts import allowed_service_url
from shared.teams.outcome import Verdict
from shared.teams.tokens import Tokens

#: The notification's key and category.
KEY = "0" * 64
CATEGORY = Category(name="benchmark")


@asynccontextmanager
async def open_sender(workload: Workload) -> AsyncIterator[Send]:
    settings, route = load_settings(), Route(workload.tenant, workload.service_url)
    data = orjson.dumps({"recipients": [{"all": True}], "category": "benchmark", "card": workload.card})

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
