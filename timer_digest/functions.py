"""The triggers of the clock, and of the queue of those for whom something waits."""

from __future__ import annotations

import asyncio
import os

import azure.functions as func

from shared import queue_messages
from shared.services import Services, services
from shared.triggers import internal, on
from timer_digest.release_held import release
from timer_digest.tick import tick

#: When the tick comes, as Functions writes a timer: each minute, or each second where a developer moves the time.
TICKS = "* * * * * *" if os.environ.get("HERALD_CLOCK") else "0 * * * * *"

#: People whom a process sees to at the same time. A digest takes as much to make as to send, and the host takes as many
#: messages of the one queue as of the other: without this, much would be made, and would wait to be sent.
AT_ONCE = 8

_gate = asyncio.Semaphore(AT_ONCE)

blueprint = func.Blueprint()


# Also at the start of the host: what came due while the app was down goes out then, and the queues and tables are
# there before anyone looks for them.
@blueprint.timer_trigger(arg_name="timer", schedule=TICKS, run_on_startup=True)
async def tick_each_minute(timer: func.TimerRequest) -> None:
    await tick(await services())


@on(blueprint, queue_messages.PEOPLE)
async def see_to_person(message: func.QueueMessage) -> None:
    await internal(message, queue_messages.PEOPLE, queue_messages.Person, in_turn)


async def in_turn(stand: Services, person: queue_messages.Person) -> None:
    """Do what the message of a person asks for, when it is its turn in this process."""
    async with _gate:
        await release(stand, person)
