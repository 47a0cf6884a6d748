"""The triggers of the queues: what upstream asks for, pages of recipients, single deliveries, sweeps, and poison.

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
from notify.poison import rescue
from notify.sweeping import go_through
from shared import queues
from shared.contract import Fault, Refused
from shared.services import Services, services
from shared.storage import CONNECTION

blueprint = func.Blueprint()
log = logging.getLogger(__name__)

M = TypeVar("M", queues.Expansion, queues.Delivery, queues.Sweep)
Trigger = Callable[[func.QueueMessage], Awaitable[None]]


def _on(queue: str) -> Callable[[Trigger], object]:
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


@_on(queues.DELIVERIES_URGENT)
async def send_one_urgent(message: func.QueueMessage) -> None:
    await _internal(message, queues.DELIVERIES_URGENT, queues.Delivery, deliver)


@_on(queues.SWEEPS)
async def sweep_page(message: func.QueueMessage) -> None:
    await _internal(message, queues.SWEEPS, queues.Sweep, go_through)


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


def _rescue_from(queue: str) -> None:
    async def rescue_poison(message: func.QueueMessage) -> None:
        await rescue(await services(), queue, message.get_body(), str(message.id))

    rescue_poison.__name__ = f"rescue_{queue.replace('-', '_')}"
    _on(f"{queue}-poison")(rescue_poison)


for _queue in queues.ALL:
    _rescue_from(_queue)
