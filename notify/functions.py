"""The triggers of the queues: what upstream asks for, pages of recipients, single deliveries, sweeps, and poison."""

from __future__ import annotations

import azure.functions as func

from notify.delivery import deliver
from notify.expansion import expand
from notify.ingest import take_in
from notify.poison import rescue
from notify.sweep import go_through
from shared import queue_messages
from shared.services import services
from shared.triggers import internal, on

blueprint = func.Blueprint()


@on(blueprint, queue_messages.NOTIFICATIONS)
async def take_notification(message: func.QueueMessage) -> None:
    await take_in(await services(), message.get_body(), str(message.id))


@on(blueprint, queue_messages.EXPANSIONS)
async def expand_page(message: func.QueueMessage) -> None:
    await internal(message, queue_messages.EXPANSIONS, queue_messages.Expansion, expand)


@on(blueprint, queue_messages.DELIVERIES)
async def send_one(message: func.QueueMessage) -> None:
    await internal(message, queue_messages.DELIVERIES, queue_messages.Delivery, deliver)


@on(blueprint, queue_messages.DELIVERIES_URGENT)
async def send_one_urgent(message: func.QueueMessage) -> None:
    await internal(message, queue_messages.DELIVERIES_URGENT, queue_messages.Delivery, deliver)


@on(blueprint, queue_messages.SWEEPS)
async def sweep_page(message: func.QueueMessage) -> None:
    await internal(message, queue_messages.SWEEPS, queue_messages.Sweep, go_through)


def _rescue_from(queue: str) -> None:
    async def rescue_poison(message: func.QueueMessage) -> None:
        await rescue(await services(), queue, message.get_body(), str(message.id))

    rescue_poison.__name__ = f"rescue_{queue.replace('-', '_')}"
    on(blueprint, f"{queue}-poison")(rescue_poison)


for _queue in queue_messages.ALL:
    _rescue_from(_queue)
