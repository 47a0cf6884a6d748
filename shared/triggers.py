"""Register queue triggers, and decode the messages of internal queues.

Every trigger takes bytes: with a string body, the host copies top-level JSON properties over the metadata of the
message, so that an `id` in the body would replace the id of the message (`docs/decisions.md`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import azure.functions as func

from shared import queue_messages
from shared.contract.faults import Fault, MessageRefused
from shared.queues import to_text
from shared.services import Services, get_services
from shared.storage.clients import CONNECTION

log = logging.getLogger(__name__)

M = TypeVar("M", queue_messages.Expansion, queue_messages.Delivery, queue_messages.Sweep, queue_messages.RecipientTask)
Trigger = Callable[[func.QueueMessage], Awaitable[None]]


def queue_trigger(blueprint: func.Blueprint, queue: str) -> Callable[[Trigger], object]:
    """Return a decorator that registers a function for the messages of `queue`."""
    return blueprint.queue_trigger(
        arg_name="message", queue_name=queue, connection=CONNECTION, data_type=func.DataType.BINARY
    )


async def handle_internal(
    message: func.QueueMessage, queue: str, kind: type[M], work: Callable[[Services, M], Awaitable[None]]
) -> None:
    """Decode an internal message and do its work.

    A message of a newer version is put back; one that cannot be decoded becomes a dead letter.
    """
    services, body = await get_services(), message.get_body()
    try:
        decoded = kind.decode(body)
    except queue_messages.NewerVersion:
        await services.queues.put(queue, to_text(body), queue_messages.NEWER_VERSION_DELAY_SECONDS)
        return
    except (queue_messages.Unreadable, MessageRefused):
        fault = Fault("", f"is not a message of the queue {queue}")
        row = await services.dead_letters.put(queue, str(message.id), body, "unreadable", [fault], services.clock())
        log.warning("Message %s on %s was not written by the app: see DeadLetters row %s", message.id, queue, row)
        return
    await work(services, decoded)
