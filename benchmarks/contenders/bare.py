"""A bare aiohttp POST of a prepared body with a constant token: the least that a send can cost."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from benchmarks.contenders.workload import CARD_TYPE, Chat, Send, Workload


@asynccontextmanager
async def open_sender(workload: Workload) -> AsyncIterator[Send]:
    attachment = {"contentType": CARD_TYPE, "content": workload.card}
    body = orjson.dumps({"type": "message", "summary": workload.summary, "attachments": [attachment]})
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {workload.token}"}
    trusted = ssl.create_default_context()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=100, ssl=trusted)) as session:

        async def send(chat: Chat) -> None:
            path = f"v3/conversations/{quote(chat.conversation, safe='')}/activities"
            url = URL(workload.service_url + path, encoded=True)
            async with session.post(url, data=body, headers=headers) as answer:
                assert answer.status == 201, answer.status
                orjson.loads(await answer.read())

        yield send
