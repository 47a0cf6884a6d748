"""What all queue triggers share: register, decode, and put back what a newer version wrote.

Every trigger takes bytes: of a string body, the host copies top-level JSON properties over the metadata of the message,
so that a body with an `id` would replace the message's own (`docs/decisions.md`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import azure.functions as func

from shared import queue_messages
from shared.contract.faults import Fault, MessageRefused
from shared.services import Services, get_services
from shared.storage.clients import CONNECTION

log = logging.getLogger(__name__)

M = TypeVar("M", queue_messages.Expansion, queue_messages.Delivery, queue_messages.Sweep, queue_messages.RecipientTask)
Trigger = Callable[[func.QueueMessage], Awaitable[None]]


def on(blueprint: func.Blueprint, queue: str) -> Callable[[Trigger], object]:
    """The decorator of a function that is called for each message of `queue`."""
    return blueprint.queue_trigger(
        arg_name="message", queue_name=queue, connection=CONNECTION, data_type=func.DataType.BINARY
    )


async def internal(
    message: func.QueueMessage, queue: str, kind: type[M], work: Callable[[Services, M], Awaitable[None]]
) -> None:
    """Do the work that one of our own messages asks for; one that is not ours becomes a dead letter."""
    services, body = await get_services(), message.get_body()
    try:
        decoded = kind.decode(body)
    except queue_messages.Newer:
        await services.queues.put(queue, body.decode(), queue_messages.NEWER_VERSION_DELAY)
        return
    except (queue_messages.Unreadable, MessageRefused):
        fault = Fault("", f"is no message of the queue {queue}")
        row = await services.dead_letters.put(queue, str(message.id), body, "unreadable", [fault], services.clock())
        log.warning("A message on %s is none of ours: see DeadLetters %s", queue, row)
        return
    await work(services, decoded)
