"""The functions of the app as the Functions host calls them, and a host that hands them the messages of its queues."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import azure.functions as func
import pytest
from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError

from notify import functions as notify_functions
from shared.queues import Queues
from shared.services import Services
from tests.support.memory import MemoryAccount, MemoryQueueClient, Message
from timer_digest import functions as timer_functions
from timer_digest.functions import MAX_CONCURRENT_RELEASES, tick_each_minute

#: Messages that the host takes from a queue at a time, and until how many are in work it takes more (host.json).
BATCH_SIZE = NEW_BATCH_THRESHOLD = 32
#: Until when a message is invisible whose function runs; no function runs longer (host.json: functionTimeout).
LEASE_SECONDS = 600
#: After how long a message comes again whose function failed, and after how many tries it is poison (host.json).
VISIBILITY_SECONDS, MAX_DEQUEUE_COUNT = 30, 5
#: Seconds over which the host tries to delete a message, or to make it visible again, and the interval of its tries.
COMPLETION_SECONDS, RETRY_SECONDS = 12, 2
TICK_SECONDS = 60


def _queue_functions() -> Iterator[tuple[str, Callable[[func.QueueMessage], Awaitable[None]]]]:
    for module in (notify_functions, timer_functions):
        for builder in module.blueprint._function_builders:
            function = builder.build()
            if queue := getattr(function.get_trigger(), "queue_name", ""):
                yield queue, function.get_user_function()


#: The function of each queue, also of the poison queues.
FUNCTIONS: dict[str, Callable[[func.QueueMessage], Awaitable[None]]] = dict(_queue_functions())
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

    patch.setattr("timer_digest.functions._release_limit", asyncio.Semaphore(MAX_CONCURRENT_RELEASES))  # of this loop
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

    A message whose function raises comes again, and after five tries it is moved to the poison queue. `errors` has each
    exception that left a function, with the queue and body of its message; `poison` has the messages that were moved.
    `delays` has the longest delay in seconds that a message of each queue got, `received` the number of its messages.
    """

    account: MemoryAccount
    errors: list[tuple[str, bytes, Exception]] = field(default_factory=list)
    poison: list[tuple[str, str]] = field(default_factory=list)
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
        for queue in FUNCTIONS:
            with suppress(ResourceExistsError):
                await self.account.get_queue_client(queue).create_queue()
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
                try:
                    received = [
                        each
                        async for each in queue.receive_messages(
                            max_messages=BATCH_SIZE, visibility_timeout=LEASE_SECONDS
                        )
                    ]
                except AzureError:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                for each in received:
                    task = asyncio.create_task(self._call(name, queue, each))
                    in_work.add(task)
                    task.add_done_callback(in_work.discard)
                    task.add_done_callback(lambda _: changed.set())
                if received:
                    continue
            try:
                wait = queue.next_visible_at() - asyncio.get_running_loop().time()
            except AzureError:
                wait = RETRY_SECONDS
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
            if message.dequeue_count < MAX_DEQUEUE_COUNT:
                await _complete(lambda: queue.hide_message(message, VISIBILITY_SECONDS))
                self._changed[name].set()
                return
            poison = f"{name}-poison"
            assert poison in FUNCTIONS, f"the function of {name} failed"
            self.poison.append((name, message.content))
            if not await _complete(lambda: self.account.get_queue_client(poison).send_message(message.content)):
                return
            self._changed[poison].set()
        await _complete(lambda: queue.delete_message(message))

    async def _tick(self) -> None:
        while True:
            await TICK(None)
            await asyncio.sleep(TICK_SECONDS)


async def _complete(operation: Callable[[], Awaitable[None]]) -> bool:
    """Do an operation on a message whose function has ended, with retries; return whether it succeeded.

    Otherwise the message comes again at the end of its lease.
    """
    for _ in range(COMPLETION_SECONDS // RETRY_SECONDS):
        try:
            await operation()
        except ResourceNotFoundError:
            return False
        except AzureError:
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return True
    return False
