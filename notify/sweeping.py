"""Going through the deliveries of a notification, a page at a time: to recall, edit, redrive or resume them."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import replace

from notify.progress import look_after
from shared.queues import Delivery, Sweep, Task
from shared.services import Services
from shared.states import DeliveryState
from shared.store import keys
from shared.store.deliveries import State
from shared.store.table import Conflict

#: Deliveries of one page.
PAGE = 200
#: Messages that are put on the queue at the same time.
AT_ONCE = 32

log = logging.getLogger(__name__)


async def go_through(services: Services, message: Sweep) -> None:
    """See to one page of deliveries, then put the next page on the queue."""
    if message.task is Task.WATCH and not message.shard:
        await look_after(services, message.notification)
        return
    notification = await services.notifications.get(message.notification)
    if notification is None:
        return
    found = await services.deliveries.page(message.notification, message.shard, message.after, PAGE)
    gate = asyncio.Semaphore(AT_ONCE)

    async def see_to(delivery: Delivery, state: State) -> None:
        async with gate:
            todo = await _todo(services, message.task, delivery, state)
            if todo:
                await services.queues.deliver(todo, urgent=notification.urgent)

    await asyncio.gather(*(see_to(*each) for each in found))
    if message.task is Task.WATCH and found:
        waiting = Counter(f"{state.state} {state.reason}".strip() for _, state in found if not state.state.final)
        log.info("Notification %s is under way in part %s: %s", message.notification, message.shard, dict(waiting))
    if len(found) == PAGE:
        await services.queues.sweep(replace(message, after=keys.key(found[-1][0].recipient)))


async def _todo(services: Services, task: Task, delivery: Delivery, state: State) -> Delivery | None:
    """The message that does `task` for one delivery, if there is anything to do."""
    if task is Task.WATCH:
        return None if state.state.final else delivery
    if task is Task.REDRIVE:
        if state.state not in (DeliveryState.FAILED, DeliveryState.UNKNOWN):
            return None
        try:
            await services.deliveries.reopen(delivery, state, services.clock())
        except Conflict:
            return None  # somebody else was faster
        return delivery
    # What is being sent at this moment may turn out to have been sent.
    return replace(delivery, task=task) if state.state in (DeliveryState.SENT, DeliveryState.SENDING) else None
