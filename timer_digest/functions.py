"""Triggers: the timer that ticks each minute, and the queue of recipients for whom held deliveries are released."""

from __future__ import annotations

import asyncio
import os

import azure.functions as func

from shared import queue_messages
from shared.services import Services, get_services
from shared.triggers import handle_internal, queue_trigger
from timer_digest.release_held import release
from timer_digest.tick import tick

#: When the timer ticks (NCRONTAB): each minute, or each second if a developer moves the clock.
TICK_SCHEDULE = "* * * * * *" if os.environ.get("HERALD_CLOCK") else "0 * * * * *"

#: Recipients that one process handles at a time. Making a digest costs as much as sending it, and the host takes as
#: many recipient tasks as deliveries. Without a limit, digests would be made faster than they can be sent.
MAX_CONCURRENT_RELEASES = 24

_release_limit = asyncio.Semaphore(MAX_CONCURRENT_RELEASES)

blueprint = func.Blueprint()


# It also runs when the host starts: it sends what became due while the app was down, and creates the queues and tables
# before a trigger needs them.
@blueprint.timer_trigger(arg_name="timer", schedule=TICK_SCHEDULE, run_on_startup=True)
async def tick_each_minute(timer: func.TimerRequest) -> None:
    await tick(await get_services())


@queue_trigger(blueprint, queue_messages.RECIPIENTS)
async def release_held_deliveries(message: func.QueueMessage) -> None:
    await handle_internal(message, queue_messages.RECIPIENTS, queue_messages.RecipientTask, _release)


async def _release(services: Services, task: queue_messages.RecipientTask) -> None:
    async with _release_limit:
        await release(services, task)
