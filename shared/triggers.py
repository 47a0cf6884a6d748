"""Register queue triggers, and decode the messages of internal queues.

Every trigger takes bytes: with a string body, the host copies top-level JSON properties over the metadata of the
message, so that an `id` in the body would replace the id of the message (`docs/decisions.md`).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import azure.functions as func
from azure.core.exceptions import AzureError

from shared import queue_messages
from shared.contract.faults import Fault, MessageRefused
from shared.contract.identity import with_id
from shared.queues import Queues, to_text
from shared.services import Services, get_services
from shared.storage.clients import CONNECTION, open_storage
from shared.storage.outages import is_outage
from shared.time.longer_waits import LongerWaits

#: Tries of a message after which a fault of the storage puts a copy in its place.
MAX_STORAGE_TRIES = 4
#: The delays of copies, by queue.
_waits = LongerWaits(60, 900)

log = logging.getLogger(__name__)

M = TypeVar("M", queue_messages.Expansion, queue_messages.Delivery, queue_messages.Sweep, queue_messages.RecipientTask)
Trigger = Callable[[func.QueueMessage], Awaitable[None]]


def queue_trigger(blueprint: func.Blueprint, queue: str) -> Callable[[Trigger], object]:
    """Return a decorator that registers a function for the messages of `queue`."""
    return blueprint.queue_trigger(
        arg_name="message", queue_name=queue, connection=CONNECTION, data_type=func.DataType.BINARY
    )


@asynccontextmanager
async def outlast_storage_faults(message: func.QueueMessage, queue: str) -> AsyncIterator[None]:
    """Replace a message by a copy if its work meets a fault of the storage for the fourth time.

    A queue gives a message five tries, and then it is poison; an outage of the tables may take longer than that.
    """
    try:
        yield
    except AzureError as error:
        if not is_outage(error) or (message.dequeue_count or 1) < MAX_STORAGE_TRIES:
            raise
        body = message.get_body()
        if queue.startswith(queue_messages.NOTIFICATIONS):
            body = with_id(body, str(message.id))
        wait = _waits.failed(queue)
        await _put_back(queue, to_text(body), wait)
        log.warning(
            "Message %s on %s waits for the storage: %s; it is tried again in %d s",
            message.id, queue, type(error).__name__, wait,
        )  # fmt: skip
    else:
        _waits.succeeded(queue)


async def _put_back(queue: str, text: str, wait: float) -> None:
    try:
        await (await get_services()).queues.put(queue, text, wait)
    except AzureError:  # a process that starts without the tables has no services
        queues, tables = open_storage()
        async with queues, tables:
            await Queues(queues).put(queue, text, wait)


async def handle_internal(
    message: func.QueueMessage, queue: str, kind: type[M], work: Callable[[Services, M], Awaitable[None]]
) -> None:
    """Decode an internal message and do its work.

    A message of a newer version is put back; one that cannot be decoded, or that names a row which does not exist,
    becomes a dead letter.
    """
    async with outlast_storage_faults(message, queue):
        await _handle(await get_services(), message, queue, kind, work)


async def _handle(
    services: Services,
    message: func.QueueMessage,
    queue: str,
    kind: type[M],
    work: Callable[[Services, M], Awaitable[None]],
) -> None:
    body = message.get_body()
    try:
        await work(services, kind.decode(body))
    except queue_messages.NewerVersion:
        await services.queues.put(queue, to_text(body), queue_messages.NEWER_VERSION_WAITS.failed())
    except queue_messages.Unreadable:
        await _refuse(services, message, queue, "unreadable", [Fault("", f"is not a message of the queue {queue}")])
    except MessageRefused as refused:
        await _refuse(services, message, queue, refused.reason, refused.faults)


async def _refuse(
    services: Services, message: func.QueueMessage, queue: str, reason: str, faults: Sequence[Fault]
) -> None:
    row = await services.dead_letters.put(queue, str(message.id), message.get_body(), reason, faults, services.clock())
    log.warning("Message %s on %s was refused (%s): see DeadLetters row %s", message.id, queue, reason, row)
