"""Queue triggers: poll, lease, invoke, then delete the message, make it visible again, or move it to the poison queue.

The rules are those of the storage queue extension of Azure Functions: "Azure Queue storage trigger", Microsoft Learn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from azure.core.exceptions import AzureError, ResourceNotFoundError
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueServiceClient

from local.host.backoff import backoff_seconds
from local.host.config import SINGLE_ATTEMPT, QueueOptions
from local.host.functions import Function
from local.host.invoker import Invoker
from local.host.message_lease import MessageLease, is_lease_lost
from local.host.queue_message import build_trigger_data, decode_body

#: The shortest delay between two polls of an empty queue.
MIN_POLL_SECONDS = 0.1
#: Attempts to delete, release or move a message, and the longest delay between them; after the last one the message
#: becomes visible again at the end of its lease.
COMPLETION_ATTEMPTS = 6
MAX_COMPLETION_DELAY_SECONDS = 5.0

log = logging.getLogger("Host")


@dataclass(frozen=True)
class PollingOptions:
    """How to read a queue: the options of host.json, the longest delay between polls and the lease, in seconds."""

    options: QueueOptions
    max_interval: float
    lease: int


class QueueListener:
    """Invokes one function for the messages of its queue, until `stop`."""

    def __init__(
        self, function: Function, service: QueueServiceClient, polling: PollingOptions, invoker: Invoker
    ) -> None:
        self.queue: str = function.binding["queueName"]
        self._function = function
        self._polling = polling
        self._invoker = invoker
        self._client = service.get_queue_client(self.queue)
        poison = poison_queue_name(self.queue)
        self._poison = service.get_queue_client(poison) if poison else None
        self._running: set[asyncio.Task[None]] = set()
        self._can_fetch = asyncio.Event()
        self._stopping = asyncio.Event()
        self._reachable = True

    def stop(self) -> None:
        """Stop polling; `run` returns after the messages in flight."""
        self._stopping.set()
        self._can_fetch.set()

    async def run(self) -> None:
        """Poll the queue and process its messages until `stop`; storage errors are retried."""
        options = self._polling.options
        empty_polls = 0
        try:
            while not self._stopping.is_set():
                messages = await self._receive()
                for message in messages:
                    task = asyncio.create_task(self._process(message))
                    self._running.add(task)
                    task.add_done_callback(self._on_done)
                if messages:
                    empty_polls = 0
                    while len(self._running) > options.threshold and not self._stopping.is_set():
                        self._can_fetch.clear()
                        await self._can_fetch.wait()
                else:
                    delay = backoff_seconds(empty_polls, MIN_POLL_SECONDS, self._polling.max_interval)
                    await _wait(self._stopping, delay)
                    empty_polls += 1
            await asyncio.gather(*self._running, return_exceptions=True)  # _on_done logs their errors
        finally:
            remaining = list(self._running)
            for task in remaining:
                task.cancel()
            await asyncio.gather(*remaining, return_exceptions=True)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if len(self._running) <= self._polling.options.threshold:
            self._can_fetch.set()
        if not task.cancelled() and (error := task.exception()):
            log.error(
                "queue %s: a message could not be processed and returns at the end of its lease",
                self.queue,
                exc_info=error,
            )

    async def _receive(self) -> list[QueueMessage]:
        size = self._polling.options.batch_size
        try:
            pages = self._client.receive_messages(
                messages_per_page=size, max_messages=size, visibility_timeout=self._polling.lease, **SINGLE_ATTEMPT
            ).by_page()
            messages = [message async for page in pages async for message in page]
        except ResourceNotFoundError:
            messages = []  # the sender creates the queue
        except AzureError as error:
            if self._reachable:
                log.warning("queue %s cannot be read, retrying: %s", self.queue, type(error).__name__)
            self._reachable = False
            return []
        if not self._reachable:
            log.info("queue %s can be read again", self.queue)
        self._reachable = True
        return messages

    async def _process(self, message: QueueMessage) -> None:
        options = self._polling.options
        dequeue_count = message.dequeue_count or 1
        lease = MessageLease(self._client, message, self._polling.lease)
        try:
            body = decode_body(message.content or "", options.message_encoding)
            if body is None or (self._poison and dequeue_count > options.max_dequeue_count):
                succeeded = False
            else:
                datum, metadata = build_trigger_data(message, body, self._function.binding.get("dataType") == "BINARY")
                succeeded = (await self._invoker.invoke(self._function, datum, metadata)).succeeded
        finally:
            await lease.end()
        if succeeded:
            await self._complete(lambda: self._client.delete_message(message.id, lease.receipt, **SINGLE_ATTEMPT))
        elif self._poison and (body is None or dequeue_count >= options.max_dequeue_count):
            log.warning(
                "queue %s: a message is moved to %s after %d attempts",
                self.queue,
                self._poison.queue_name,
                dequeue_count,
            )
            if await self._complete(lambda: self._add_to_poison_queue(message)):
                await self._complete(lambda: self._client.delete_message(message.id, lease.receipt, **SINGLE_ATTEMPT))
        elif self._poison or dequeue_count < options.max_dequeue_count:
            # Without a poison queue, a message at the count keeps its lease, as in Functions: it would return at once.
            timeout = int(options.visibility_timeout.total_seconds())
            await self._complete(
                lambda: self._client.update_message(
                    message.id, lease.receipt, visibility_timeout=timeout, **SINGLE_ATTEMPT
                )
            )

    async def _add_to_poison_queue(self, message: QueueMessage) -> None:
        assert self._poison is not None
        try:
            await self._poison.send_message(message.content or "", time_to_live=-1, **SINGLE_ATTEMPT)
        except ResourceNotFoundError:
            await self._poison.create_queue()
            await self._poison.send_message(message.content or "", time_to_live=-1, **SINGLE_ATTEMPT)

    async def _complete(self, operation: Callable[[], Awaitable[object]]) -> bool:
        """Run a storage operation on a processed message, with retries; return whether it succeeded."""
        for failures in range(COMPLETION_ATTEMPTS):
            try:
                await operation()
            except AzureError as error:
                if is_lease_lost(error):
                    log.warning("queue %s: the lease of a message expired, it may be processed again", self.queue)
                    return False
                await asyncio.sleep(backoff_seconds(failures, MIN_POLL_SECONDS, MAX_COMPLETION_DELAY_SECONDS))
            else:
                return True
        log.warning("queue %s: the storage does not answer, a message returns at the end of its lease", self.queue)
        return False


def poison_queue_name(queue: str) -> str | None:
    """Return the poison queue of `queue`; None for a poison queue, or if the name exceeds 63 characters."""
    name = f"{queue}-poison"
    return None if queue.endswith("-poison") or len(name) > 63 else name


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
