"""The triggers of the clock, and of the queue of those for whom something waits."""

from __future__ import annotations

import azure.functions as func

from shared import queues
from shared.services import services
from shared.triggers import internal, on
from timer_digest.releasing import release
from timer_digest.tick import tick

blueprint = func.Blueprint()


# Also at the start of the host: what came due while the app was down goes out then, and the queues and tables are
# there before anyone looks for them.
@blueprint.timer_trigger(arg_name="timer", schedule="0 * * * * *", run_on_startup=True)
async def tick_each_minute(timer: func.TimerRequest) -> None:
    await tick(await services())


@on(blueprint, queues.PEOPLE)
async def see_to_person(message: func.QueueMessage) -> None:
    await internal(message, queues.PEOPLE, queues.Person, release)
