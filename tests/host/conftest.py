"""The host run in the test's own loop, and the queue that it listens to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import azure.functions as func
import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.queue.aio import QueueClient

from local.host.config import HostConfig
from local.host.functions import index
from local.host.host import Host, reserve
from shared.storage.clients import open_storage


@dataclass
class Queue:
    """A queue of the test, as its senders and an operator see it."""

    name: str
    client: QueueClient
    poison: QueueClient

    async def create(self) -> None:
        await self.client.create_queue()

    async def send(self, *texts: str) -> None:
        for text in texts:
            await self.client.send_message(text)

    async def count(self) -> int:
        """The messages in the queue, invisible ones too."""
        return (await self.client.get_queue_properties()).approximate_message_count or 0

    async def poisoned(self) -> list[str]:
        try:
            return [str(message.content) for message in await self.poison.peek_messages(32)]
        except ResourceNotFoundError:
            return []


@dataclass
class Running:
    """A host that serves, and its address."""

    host: Host
    url: str


Run = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def environ(connection: str) -> dict[str, str]:
    """The settings of an app that has a storage account of its own."""
    return {"AzureWebJobsStorage": connection, "AZURE_FUNCTIONS_ENVIRONMENT": "Development"}


@pytest.fixture
async def queue(environ: dict[str, str]) -> AsyncIterator[Queue]:
    """A queue that exists."""
    queues, tables = open_storage(environ)
    async with queues, tables:
        found = Queue("work", queues.get_queue_client("work"), queues.get_queue_client("work-poison"))
        await found.create()
        yield found


@pytest.fixture
def run(environ: dict[str, str]) -> Run:
    """Runs an app on a host: `async with run(app, queues={...}) as running`."""

    @asynccontextmanager
    async def running(
        app: func.FunctionApp, *, key: str | None = None, settings: dict[str, str] | None = None, **host_json: Any
    ) -> AsyncIterator[Running]:
        queues = {"messageEncoding": "none", "maxPollingInterval": "00:00:00.1", **host_json.pop("queues", {})}
        config = HostConfig.model_validate({"extensions": {"queues": queues}, **host_json})
        values = {**environ, **(settings or {})}
        with reserve(0) as listener:
            host = Host(index(app, values), config, values, key)
            try:
                await host.start(listener)
                yield Running(host, f"http://127.0.0.1:{listener.getsockname()[1]}")
            finally:
                await host.stop()

    return running


async def eventually(condition: Callable[[], Any], seconds: float = 15) -> None:
    """Waits until `condition` (plain or async) is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)


async def never(condition: Callable[[], Any], seconds: float = 0.3) -> None:
    """Watches that `condition` does not come true for `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert not condition(), "it came true"
        await asyncio.sleep(0.02)
