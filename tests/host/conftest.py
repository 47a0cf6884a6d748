"""Fixtures: a host on the loop of the test, and its queue."""

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
from local.host.functions import index_functions
from local.host.host import Host, bind_port
from shared.storage.clients import open_storage


@dataclass
class HostQueue:
    """A queue with its poison queue."""

    name: str
    client: QueueClient
    poison: QueueClient

    async def create(self) -> None:
        await self.client.create_queue()

    async def send(self, *texts: str) -> None:
        for text in texts:
            await self.client.send_message(text)

    async def count(self) -> int:
        """Return the number of messages, including invisible ones."""
        return (await self.client.get_queue_properties()).approximate_message_count or 0

    async def poison_messages(self) -> list[str]:
        try:
            return [str(message.content) for message in await self.poison.peek_messages(32)]
        except ResourceNotFoundError:
            return []


@dataclass
class RunningHost:
    """A running host and its URL."""

    host: Host
    url: str


RunHost = Callable[..., AbstractAsyncContextManager[RunningHost]]


@pytest.fixture
def environ(connection: str) -> dict[str, str]:
    """The settings of an app with its own storage account."""
    return {"AzureWebJobsStorage": connection, "AZURE_FUNCTIONS_ENVIRONMENT": "Development"}


@pytest.fixture
async def queue(environ: dict[str, str]) -> AsyncIterator[HostQueue]:
    """An existing queue."""
    queues, tables = open_storage(environ)
    async with queues, tables:
        created = HostQueue("work", queues.get_queue_client("work"), queues.get_queue_client("work-poison"))
        await created.create()
        yield created


@pytest.fixture
def run_host(environ: dict[str, str]) -> RunHost:
    """Run an app on a host: `async with run_host(app, queues={...}) as running`."""

    @asynccontextmanager
    async def running(
        app: func.FunctionApp, *, key: str | None = None, settings: dict[str, str] | None = None, **host_json: Any
    ) -> AsyncIterator[RunningHost]:
        queues = {"messageEncoding": "none", "maxPollingInterval": "00:00:00.1", **host_json.pop("queues", {})}
        config = HostConfig.model_validate({"extensions": {"queues": queues}, **host_json})
        values = {**environ, **(settings or {})}
        with bind_port(0) as listener:
            host = Host(index_functions(app, values), config, values, key)
            try:
                await host.start(listener)
                yield RunningHost(host, f"http://127.0.0.1:{listener.getsockname()[1]}")
            finally:
                await host.stop()

    return running


async def eventually(condition: Callable[[], Any], seconds: float = 15) -> None:
    """Wait until `condition` (sync or async) is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return
        assert time.monotonic() < deadline, "the condition did not become true in time"
        await asyncio.sleep(0.02)


async def never(condition: Callable[[], Any], seconds: float = 0.3) -> None:
    """Fail if `condition` becomes true within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert not condition(), "the condition became true"
        await asyncio.sleep(0.02)
