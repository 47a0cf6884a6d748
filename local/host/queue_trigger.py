"""Queue triggers: poll, lease, call, delete or give back, and put aside what cannot be processed.

The rules are those of the Functions storage queue extension: "Azure Queue storage trigger", Microsoft Learn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueServiceClient

from local.host.backoff import backoff
from local.host.config import ONCE, QueueOptions
from local.host.functions import Function
from local.host.invoke import Invoker
from local.host.lease import Lease, is_gone
from local.host.queue_message import decode_body, trigger_data

#: The shortest wait between two polls of a queue that had nothing, in seconds.
MIN_POLL = 0.1
#: How often a delete, a release or a move to the poison queue is tried, and the longest wait in between, in
#: seconds; after that the message comes back by itself at the end of its lease.
SETTLE_TRIES = 6
SETTLE_WAIT = 5.0

log = logging.getLogger("Host")


@dataclass(frozen=True)
class Polling:
    """How a queue is read: the options of host.json, the longest wait between polls and the lease, in seconds."""

    options: QueueOptions
    limit: float
    lease: int


class QueueListener:
    """Feeds one function from its queue until `stop`."""

    def __init__(self, function: Function, service: QueueServiceClient, polling: Polling, invoker: Invoker) -> None:
        self.queue: str = function.binding["queueName"]
        self._function = function
        self._polling = polling
        self._invoker = invoker
        self._client = service.get_queue_client(self.queue)
        poison = poison_name(self.queue)
        self._poison = service.get_queue_client(poison) if poison else None
        self._running: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._stopping = asyncio.Event()
        self._reachable = True

    def stop(self) -> None:
        """Ends polling; `run` returns once the messages in flight are settled."""
        self._stopping.set()
        self._room.set()

    async def run(self) -> None:
        """Polls and processes until `stop`, whatever the storage does meanwhile."""
        options = self._polling.options
        idle = 0
        try:
            while not self._stopping.is_set():
                messages = await self._receive()
                for message in messages:
                    task = asyncio.create_task(self._process(message))
                    self._running.add(task)
                    task.add_done_callback(self._finished)
                if messages:
                    idle = 0
                    while len(self._running) > options.threshold and not self._stopping.is_set():
                        self._room.clear()
                        await self._room.wait()
                else:
                    await _wait(self._stopping, backoff(idle, MIN_POLL, self._polling.limit))
                    idle += 1
            await asyncio.gather(*self._running, return_exceptions=True)  # logged as each ends
        finally:
            left = list(self._running)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if len(self._running) <= self._polling.options.threshold:
            self._room.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("queue %s: a message was left to the end of its lease", self.queue, exc_info=error)

    async def _receive(self) -> list[QueueMessage]:
        size = self._polling.options.batch_size
        try:
            pages = self._client.receive_messages(
                messages_per_page=size, max_messages=size, visibility_timeout=self._polling.lease, **ONCE
            ).by_page()
            messages = [message async for page in pages async for message in page]
        except ResourceNotFoundError:
            messages = []  # the queue of a trigger is created by those who send to it
        except AzureError as error:
            if self._reachable:
                log.warning("queue %s cannot be read, trying on: %s", self.queue, type(error).__name__)
            self._reachable = False
            return []
        if not self._reachable:
            log.info("queue %s can be read again", self.queue)
        self._reachable = True
        return messages

    async def _process(self, message: QueueMessage) -> None:
        options = self._polling.options
        tries = message.dequeue_count or 1
        lease = Lease(self._client, message, self._polling.lease)
        try:
            body = decode_body(message.content or "", options.message_encoding)
            if body is None or (self._poison and tries > options.max_dequeue_count):
                succeeded = False
            else:
                datum, metadata = trigger_data(message, body, self._function.binding.get("dataType") == "BINARY")
                succeeded = (await self._invoker.call(self._function, datum, metadata)).succeeded
        finally:
            await lease.end()
        if succeeded:
            await self._settle(lambda: self._client.delete_message(message.id, lease.receipt, **ONCE))
        elif self._poison and (body is None or tries >= options.max_dequeue_count):
            log.warning("queue %s: a message goes to %s after %d tries", self.queue, self._poison.queue_name, tries)
            if await self._settle(lambda: self._put_aside(message)):
                await self._settle(lambda: self._client.delete_message(message.id, lease.receipt, **ONCE))
        elif self._poison or tries < options.max_dequeue_count:
            # What has no poison queue stays invisible at the count, as in Functions: it would come again at once.
            pause = int(options.visibility_timeout.total_seconds())
            await self._settle(
                lambda: self._client.update_message(message.id, lease.receipt, visibility_timeout=pause, **ONCE)
            )

    async def _put_aside(self, message: QueueMessage) -> None:
        assert self._poison is not None
        try:
            await self._poison.send_message(message.content or "", time_to_live=-1, **ONCE)
        except ResourceNotFoundError:
            await self._poison.create_queue()
            await self._poison.send_message(message.content or "", time_to_live=-1, **ONCE)

    async def _settle(self, operation: Callable[[], Awaitable[object]]) -> bool:
        for failures in range(SETTLE_TRIES):
            try:
                await operation()
            except AzureError as error:
                if is_gone(error):
                    log.warning("queue %s: a message outlived its lease and may be processed again", self.queue)
                    return False
                await asyncio.sleep(backoff(failures, MIN_POLL, SETTLE_WAIT))
            else:
                return True
        log.warning("queue %s: a message could not be settled and comes back after its lease", self.queue)
        return False


def poison_name(queue: str) -> str | None:
    """The queue for what `queue` could not process; None for a poison queue, or a name of more than 63 characters."""
    name = f"{queue}-poison"
    return None if queue.endswith("-poison") or len(name) > 63 else name


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
