"""Queue triggers: ingest messages, expand audiences, send deliveries, sweep, and retry poison messages."""

from __future__ import annotations

import azure.functions as func

from notify.delivery.deliver import deliver
from notify.expansion import expand
from notify.ingest import ingest
from notify.poison import retry_poison
from notify.sweep import sweep_page
from shared import queue_messages
from shared.services import get_services
from shared.triggers import handle_internal, outlast_storage_faults, queue_trigger

blueprint = func.Blueprint()


@queue_trigger(blueprint, queue_messages.NOTIFICATIONS)
async def ingest_message(message: func.QueueMessage) -> None:
    async with outlast_storage_faults(message, queue_messages.NOTIFICATIONS):
        await ingest(await get_services(), message.get_body(), str(message.id), message.dequeue_count or 1)


@queue_trigger(blueprint, queue_messages.EXPANSIONS)
async def expand_audience(message: func.QueueMessage) -> None:
    await handle_internal(message, queue_messages.EXPANSIONS, queue_messages.Expansion, expand)


@queue_trigger(blueprint, queue_messages.DELIVERIES)
async def send_delivery(message: func.QueueMessage) -> None:
    await handle_internal(message, queue_messages.DELIVERIES, queue_messages.Delivery, deliver)


@queue_trigger(blueprint, queue_messages.DELIVERIES_URGENT)
async def send_urgent_delivery(message: func.QueueMessage) -> None:
    await handle_internal(message, queue_messages.DELIVERIES_URGENT, queue_messages.Delivery, deliver)


@queue_trigger(blueprint, queue_messages.SWEEPS)
async def sweep_deliveries(message: func.QueueMessage) -> None:
    await handle_internal(message, queue_messages.SWEEPS, queue_messages.Sweep, sweep_page)


def _register_poison_trigger(queue: str) -> None:
    async def trigger(message: func.QueueMessage) -> None:
        async with outlast_storage_faults(message, f"{queue}-poison"):
            await retry_poison(await get_services(), queue, message.get_body(), str(message.id))

    trigger.__name__ = f"retry_poison_{queue.replace('-', '_')}"
    queue_trigger(blueprint, f"{queue}-poison")(trigger)


for _queue in queue_messages.WORK_QUEUES:
    _register_poison_trigger(_queue)
