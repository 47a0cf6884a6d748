"""The tick: what was to wake by now is put on its queue, and forgotten only then.

A tick that dies between the two, or two ticks at once, put the same on its queue twice, which changes nothing there.
"""

from __future__ import annotations

import asyncio
import logging

from shared.queues import Expansion, Sweep, Task
from shared.services import Services
from shared.store.due import Waking

#: Wakings that are read, and seen to at the same time, in one go.
BATCH = 100

log = logging.getLogger(__name__)


async def tick(services: Services) -> int:
    """Wake all that is due, oldest minute first; returns how many."""
    woken = 0
    while True:
        due = await services.due.until(services.clock(), BATCH)
        done = sum(await asyncio.gather(*(_wake(services, waking) for waking in due)))
        woken += done
        if len(due) < BATCH or not done:
            return woken


async def _wake(services: Services, waking: Waking) -> bool:
    if waking.kind == "notification":
        await services.queues.expand(Expansion(waking.key, 0))
    elif waking.kind == "watch":
        await services.queues.sweep(Sweep(waking.key, Task.WATCH, ""))
    else:
        log.warning("Nothing here wakes a %s: it waits for a newer version", waking.kind)
        return False
    await services.due.done(waking)
    return True
