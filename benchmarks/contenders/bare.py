"""A bare POST by aiohttp of bytes that are ready, with a token that is: the least that a send can cost."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from benchmarks.contenders.world import CARD_TYPE, Chat, Send, World


@asynccontextmanager
async def sender(world: World) -> AsyncIterator[Send]:
    attachment = {"contentType": CARD_TYPE, "content": world.card}
    body = orjson.dumps({"type": "message", "summary": world.summary, "attachments": [attachment]})
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {world.token}"}
    trusted = ssl.create_default_context()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=100, ssl=trusted)) as session:

        async def send(chat: Chat) -> None:
            path = f"v3/conversations/{quote(chat.conversation, safe='')}/activities"
            async with session.post(URL(world.service_url + path, encoded=True), data=body, headers=headers) as answer:
                assert answer.status == 201, answer.status
                orjson.loads(await answer.read())

        yield send
