"""The triggers of the queues: what upstream asks for, pages of recipients, and single deliveries.

Every trigger takes bytes: of a string body, the host copies top-level JSON properties over the metadata of the
message, so that a body with an `id` would replace the message's own (`docs/decisions.md`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import azure.functions as func

from notify.delivery import deliver
from notify.expansion import expand
from notify.intake import take_in
from shared import queues
from shared.contract import Fault, Refused
from shared.services import Services, services
from shared.storage import CONNECTION

blueprint = func.Blueprint()
log = logging.getLogger(__name__)

M = TypeVar("M", queues.Expansion, queues.Delivery)


def _on(queue: str) -> Callable[[Callable[[func.QueueMessage], Awaitable[None]]], object]:
    return blueprint.queue_trigger(
        arg_name="message", queue_name=queue, connection=CONNECTION, data_type=func.DataType.BINARY
    )


@_on(queues.NOTIFICATIONS)
async def take_notification(message: func.QueueMessage) -> None:
    await take_in(await services(), message.get_body(), str(message.id))


@_on(queues.EXPANSIONS)
async def expand_page(message: func.QueueMessage) -> None:
    await _internal(message, queues.EXPANSIONS, queues.Expansion, expand)


@_on(queues.DELIVERIES)
async def send_one(message: func.QueueMessage) -> None:
    await _internal(message, queues.DELIVERIES, queues.Delivery, deliver)


async def _internal(
    message: func.QueueMessage, queue: str, kind: type[M], work: Callable[[Services, M], Awaitable[None]]
) -> None:
    """Do the work that one of our own messages asks for; one that is not ours becomes a dead letter."""
    stand, body = await services(), message.get_body()
    try:
        decoded = kind.decode(body)
    except queues.Newer:
        await stand.queues.put(queue, body.decode(), queues.NEWER_VERSION_DELAY)
        return
    except (queues.Unreadable, Refused):
        fault = Fault("", f"is no message of the queue {queue}")
        row = await stand.dead_letters.put(queue, str(message.id), body, "unreadable", [fault], stand.clock())
        log.warning("A message on %s is none of ours: see DeadLetters %s", queue, row)
        return
    await work(stand, decoded)
