"""The tick: enqueue the work of all timers that are due, and remove each timer only after that.

A tick that dies in between, or two ticks at once, enqueue the same work twice, which is safe. Digests are enqueued at
the rate of their tenant, so that none is made long before it can be sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from itertools import groupby

from shared.announcements import announce
from shared.queue_messages import Expansion, RecipientTask, Sweep, Task
from shared.services import Services
from shared.storage import timers
from shared.storage.timers import DueTimer

#: Wakings that are read in one go; those of one minute are seen to at the same time.
PAGE_TIMERS = 100
#: Seconds by which a timer may come before its minute (azure-functions-host, issue 7398): the minute is waited for, or
#: all that is due in it would be a minute late.
EARLY_SECONDS = 1.0
#: Seconds after which the rest is left to the next tick: well below `functionTimeout` in host.json, which ends the
#: process, and all that it is sending.
MAX_TICK_SECONDS = 240.0

log = logging.getLogger(__name__)


async def tick(services: Services) -> int:
    """Wake all that is due, one minute after the other; returns how many.

    What fails stays for the next tick, and stands in nobody's way.
    """
    until_minute = -services.clock().timestamp() % 60
    if until_minute < EARLY_SECONDS:
        await asyncio.sleep(until_minute + 0.01)
    woken, turns, begun = 0, Counter[str](), time.monotonic()
    async for found in services.timers.read_due(services.clock(), PAGE_TIMERS):
        for minute, those in groupby(found, key=lambda waking: waking.minute):
            wakings = list(those)
            are_woken = await asyncio.gather(*(_try(services, each, turns) for each in wakings))
            done = [waking for waking, is_woken in zip(wakings, are_woken, strict=True) if is_woken]
            woken += len(done)
            try:
                await services.timers.delete(done)
            except Exception:
                log.exception("What woke of %s stays due", minute)
        if time.monotonic() - begun > MAX_TICK_SECONDS:
            log.warning("More is due than one tick wakes: the next one goes on")
            break
    return woken


async def _try(services: Services, waking: DueTimer, turns: Counter[str]) -> bool:
    try:
        return await _wake(services, waking, turns)
    except Exception:
        log.exception("A %s of %s does not wake", waking.kind, waking.minute)
        return False


async def _wake(services: Services, waking: DueTimer, turns: Counter[str]) -> bool:
    """Wake it, whether anything here can; `turns` counts the digests of each tenant that were woken before."""
    queues = services.queues
    if waking.kind == timers.NOTIFICATION:
        await queues.enqueue_expansion(Expansion(waking.subject[0], 0))
    elif waking.kind == timers.WATCH:
        await queues.enqueue_sweep(Sweep(waking.subject[0], Task.WATCH, ""))
    elif waking.kind == timers.OCCURRENCE:
        await announce(services, *waking.subject)
    elif waking.kind in (timers.RELEASE, timers.DIGEST):
        tenant, recipient = waking.subject
        delay = 0
        if waking.kind == timers.DIGEST:
            delay = turns[tenant] // services.settings.tenant_rate
            turns[tenant] += 1
        await queues.enqueue_recipient(
            RecipientTask(tenant, recipient, Task.RELEASE, due_called_at=services.clock().timestamp()), delay
        )
    else:
        log.warning("Nothing here wakes a %s: it waits for a newer version", waking.kind)
        return False
    return True
