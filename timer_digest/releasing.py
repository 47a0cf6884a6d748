"""What waited for a person goes on its way: policy decides about each delivery again, at the moment of sending."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from shared.queues import Person, Task
from shared.services import Services
from shared.states import Reason
from shared.store.waiting import Item

#: Items that are read in one go, and messages that are put on the queue at the same time.
PAGE = 200
AT_ONCE = 32


async def release(services: Services, person: Person) -> None:
    """Put deliveries that wait for `person` back on their queue: those whose time has come, or all to reconsider."""
    items = await services.waiting.of(person.tenant, person.recipient, PAGE, person.after)
    chosen = [each for each in items if person.task is Task.RECONSIDER or _is_over(services, each)]
    await let_go(services, person, chosen)
    if len(items) == PAGE:
        await services.queues.wake(replace(person, after=items[-1].key, chances=0))


def _is_over(services: Services, item: Item) -> bool:
    return item.reason is not Reason.DIGEST and item.until <= services.clock()


async def let_go(services: Services, person: Person, items: list[Item]) -> None:
    """Put the deliveries of `items` back on their queue, and forget the items after that."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: Item) -> None:
        async with gate:
            await services.queues.deliver(item.delivery)
            await services.waiting.done(person.tenant, item)

    await asyncio.gather(*(one(each) for each in items))
