"""The functions of the app as the Functions host calls them, and a host that hands them the messages of its queues."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import azure.functions as func
import pytest

from notify.functions import expand_audience, ingest_message, send_delivery, send_urgent_delivery, sweep_deliveries
from shared.queue_messages import DELIVERIES, DELIVERIES_URGENT, EXPANSIONS, NOTIFICATIONS, RECIPIENTS, SWEEPS
from shared.queues import Queues
from shared.services import Services
from tests.support.memory import MemoryAccount, MemoryQueueClient, Message
from timer_digest.functions import release_held_deliveries, tick_each_minute

#: Messages that the host takes from a queue at a time, and until how many are in work it takes more (host.json).
BATCH_SIZE = NEW_BATCH_THRESHOLD = 32
#: The host renews the lease of a message for as long as its function runs.
LEASE_SECONDS = 3600
TICK_SECONDS = 60

_BUILDERS: dict[str, Any] = {
    NOTIFICATIONS: ingest_message,
    EXPANSIONS: expand_audience,
    DELIVERIES: send_delivery,
    DELIVERIES_URGENT: send_urgent_delivery,
    SWEEPS: sweep_deliveries,
    RECIPIENTS: release_held_deliveries,
}
#: The function of each queue.
FUNCTIONS: dict[str, Callable[[func.QueueMessage], Awaitable[None]]] = {
    queue: each.build().get_user_function() for queue, each in _BUILDERS.items()
}
_tick: Any = tick_each_minute
TICK: Callable[[Any], Awaitable[None]] = _tick.build().get_user_function()

#: The queue and body of the message whose function runs in this task.
IN_WORK: ContextVar[tuple[str, bytes]] = ContextVar("in_work")


def queue_message(body: bytes, tries: int = 1, identifier: str = "m1") -> func.QueueMessage:
    """Return a message that the queue delivers for this try."""

    class Delivered(func.QueueMessage):
        dequeue_count = tries

    return Delivered(id=identifier, body=body)


def use_services(patch: pytest.MonkeyPatch, *services: Services) -> None:
    """Let the functions use these services; if several, in turn, as if a load balancer chose a process."""
    turns = cycle(services)

    async def get_services() -> Services:
        return next(turns)

    for module in ("shared.triggers", "notify.functions", "timer_digest.functions"):
        patch.setattr(f"{module}.get_services", get_services)


class ObservedQueues(Queues):
    """Queues that report each message that is put on them: its queue, text, and delay in seconds."""

    observe: Callable[[str, str, float], None]

    async def put(self, name: str, text: str, delay: float = 0) -> None:
        await super().put(name, text, delay)
        self.observe(name, text, delay)


@dataclass
class QueueHost:
    """Calls the function of each message that is visible, many at a time, and the tick each minute.

    `errors` has each exception that left a function, with the queue and body of its message; that message is dropped.
    `delays` has the longest delay in seconds that a message of each queue got, `received` the number of its messages.
    """

    account: MemoryAccount
    errors: list[tuple[str, bytes, Exception]] = field(default_factory=list)
    delays: dict[str, float] = field(default_factory=dict)
    received: Counter[str] = field(default_factory=Counter)
    _changed: dict[str, asyncio.Event] = field(default_factory=dict)

    def observe(self, queue: str, text: str, delay: float) -> None:
        """Learn of a message that was put on a queue."""
        self.delays[queue] = max(delay, self.delays.get(queue, 0.0))
        if queue in self._changed:
            self._changed[queue].set()

    async def run(self, seconds: float) -> None:
        """Serve all queues for so many seconds."""
        self._changed = {queue: asyncio.Event() for queue in FUNCTIONS}
        servers = [asyncio.create_task(self._serve(queue)) for queue in FUNCTIONS]
        servers.append(asyncio.create_task(self._tick()))
        ended, _ = await asyncio.wait(servers, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for server in servers:
            server.cancel()
        await asyncio.gather(*servers, return_exceptions=True)
        for server in ended:
            server.result()

    async def _serve(self, name: str) -> None:
        queue, changed = self.account.get_queue_client(name), self._changed[name]
        in_work: set[asyncio.Task[None]] = set()
        while True:
            changed.clear()
            if len(in_work) <= NEW_BATCH_THRESHOLD:
                received = [
                    each
                    async for each in queue.receive_messages(max_messages=BATCH_SIZE, visibility_timeout=LEASE_SECONDS)
                ]
                for each in received:
                    task = asyncio.create_task(self._call(name, queue, each))
                    in_work.add(task)
                    task.add_done_callback(in_work.discard)
                    task.add_done_callback(lambda _: changed.set())
                if received:
                    continue
            wait = queue.next_visible_at() - asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(max(wait, 0.01) if len(in_work) <= NEW_BATCH_THRESHOLD else None):
                    await changed.wait()
            except TimeoutError:
                continue

    async def _call(self, name: str, queue: MemoryQueueClient, message: Message) -> None:
        body = message.content.encode()
        IN_WORK.set((name, body))
        self.received[name] += 1
        try:
            await FUNCTIONS[name](queue_message(body, message.dequeue_count, message.id))
        except Exception as error:  # noqa: BLE001 (the test looks at it)
            self.errors.append((name, body, error))
        await queue.delete_message(message)

    async def _tick(self) -> None:
        while True:
            await TICK(None)
            await asyncio.sleep(TICK_SECONDS)
