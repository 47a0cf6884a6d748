"""The tick: enqueue the work of all timers that are due, and delete each timer only after that.

A tick that crashes in between, or two ticks at once, enqueue the same work twice, which is safe. Digests are enqueued
at the rate of their tenant, so that none is made long before it can be sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from itertools import groupby

from shared.announcements import announce_due
from shared.queue_messages import Expansion, RecipientTask, Sweep, Task
from shared.services import Services
from shared.storage import timers
from shared.storage.timers import DueTimer
from shared.storage.unreadable import TIMERS

#: Timers that are read in one query.
PAGE_TIMERS = 100
#: The Functions host may call a timer trigger this much before its minute (azure-functions-host, issue 7398). The tick
#: waits for the minute: otherwise all timers of that minute would be a minute late.
EARLY_SECONDS = 1.0
#: A tick leaves the rest to the next one after this time. Far below `functionTimeout` in host.json, which ends the
#: process and everything that it is sending.
MAX_TICK_SECONDS = 240.0

log = logging.getLogger(__name__)

#: The rows of newer versions (partition, row, ETag) of which this process has stored a dead letter.
_reported: deque[tuple[str, str, str]] = deque(maxlen=1000)


async def tick(services: Services) -> int:
    """Enqueue the work of all due timers, in the order of their minutes, and return their number.

    A timer that fails stays for the next tick and does not block others. One whose row cannot be read becomes a dead
    letter. If the table cannot be read, the next tick continues.
    """
    until_minute = -services.clock().timestamp() % 60
    if until_minute < EARLY_SECONDS:
        await asyncio.sleep(until_minute + 0.01)
    count, digests, started = 0, Counter[str](), time.monotonic()
    async for page in _read_due(services):
        await _set_aside_unreadable(services, [timer for timer in page if timer.unreadable])
        readable = [timer for timer in page if not timer.unreadable]
        for minute, group in groupby(readable, key=lambda timer: timer.minute):
            due = list(group)
            enqueued = await asyncio.gather(*(_try_enqueue(services, timer, digests) for timer in due))
            done = [timer for timer, is_enqueued in zip(due, enqueued, strict=True) if is_enqueued]
            count += len(done)
            try:
                await services.timers.delete(done)
            except Exception:
                log.exception("Timers of %s were not deleted and fire again", minute)
        if time.monotonic() - started > MAX_TICK_SECONDS:
            log.warning("More timers are due than one tick handles: the next tick continues")
            break
    return count


async def _read_due(services: Services) -> AsyncIterator[Sequence[DueTimer]]:
    try:
        async for page in services.timers.read_due(services.clock(), PAGE_TIMERS):
            yield page
    except Exception:
        log.exception("Timers cannot be read: the next tick continues")


async def _set_aside_unreadable(services: Services, timers: Sequence[DueTimer]) -> None:
    """Store a dead letter for each row that cannot be read, then delete the row, unless a newer version wrote it."""
    for timer in timers:
        row = timer.unreadable
        if row is None or (timer.partition, timer.row, timer.etag) in _reported:
            continue
        try:
            await services.dead_letters.put_row(TIMERS, row, services.clock())
            if row.is_newer:
                _reported.append((timer.partition, timer.row, timer.etag))
            else:
                await services.timers.delete([timer])
        except Exception:
            log.exception("A timer that cannot be read was not set aside: the next tick tries again")


async def _try_enqueue(services: Services, timer: DueTimer, digests: Counter[str]) -> bool:
    try:
        return await _enqueue(services, timer, digests)
    except Exception:
        log.exception("Timer %s of %s failed and stays due", timer.kind, timer.minute)
        return False


async def _enqueue(services: Services, timer: DueTimer, digests: Counter[str]) -> bool:
    """Enqueue the work of a timer, and return whether it is done.

    `digests` counts the digests of each tenant that this tick has enqueued.
    """
    queues = services.queues
    if timer.kind == timers.NOTIFICATION:
        await queues.enqueue_expansion(Expansion(timer.subject[0], 0))
    elif timer.kind == timers.WATCHDOG:
        await queues.enqueue_sweep(Sweep(timer.subject[0], Task.WATCHDOG, ""))
    elif timer.kind == timers.OCCURRENCE:
        return await announce_due(services, *timer.subject)
    else:  # a release or a digest
        tenant, recipient = timer.subject
        delay = 0
        if timer.kind == timers.DIGEST:
            delay = digests[tenant] // services.settings.tenant_rate
            digests[tenant] += 1
        await queues.enqueue_recipient(
            RecipientTask(tenant, recipient, Task.RELEASE, due_called_at=services.clock().timestamp()), delay
        )
    return True
