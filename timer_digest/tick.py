"""The tick: what was to wake by now is put on its queue, and forgotten only then.

A tick that dies between the two, or two ticks at once, put the same on its queue twice, which changes nothing there.
"""

from __future__ import annotations

import asyncio
import logging

from shared.queues import Delivery, Expansion, Person, Sweep, Task
from shared.services import Services
from shared.store import due
from shared.store.due import Waking

#: Wakings that are read, and seen to at the same time, in one go.
BATCH = 100

log = logging.getLogger(__name__)


async def tick(services: Services) -> int:
    """Wake all that is due, oldest minute first; returns how many."""
    woken = 0
    while True:
        found = await services.due.until(services.clock(), BATCH)
        done = sum(await asyncio.gather(*(_wake(services, waking) for waking in found)))
        woken += done
        if len(found) < BATCH or not done:
            return woken


async def _wake(services: Services, waking: Waking) -> bool:
    queues, key = services.queues, waking.key
    if waking.kind == due.NOTIFICATION:
        await queues.expand(Expansion(key, 0))
    elif waking.kind == due.WATCH:
        await queues.sweep(Sweep(key, Task.WATCH, ""))
    elif waking.kind == due.DELIVERY:
        notification, shard, recipient = key.split(";", 2)
        await queues.deliver(Delivery(notification, shard, recipient, "", 0))
    elif waking.kind in _PEOPLE:
        tenant, recipient = key.split(";", 1)
        await queues.wake(Person(tenant, recipient, _PEOPLE[waking.kind]))
    else:
        log.warning("Nothing here wakes a %s: it waits for a newer version", waking.kind)
        return False
    await services.due.done(waking)
    return True


_PEOPLE = {due.RELEASE: Task.RELEASE, due.DIGEST: Task.DIGEST}
