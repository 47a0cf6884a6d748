"""Urgent notifications: a queue and a function of their own, and the next free slots of the rate lane."""

from __future__ import annotations

import asyncio

import pytest

from local.fake_teams.api import Behaviour, TeamsFault
from notify.delivery.deliver import deliver
from notify.functions import send_delivery, send_urgent_delivery
from shared.queue_messages import DELIVERIES, DELIVERIES_URGENT
from tests.support.herald import Herald, user

pytestmark = pytest.mark.usefixtures("queued")

#: Longest time in which an urgent delivery must pass bulk traffic.
MAX_WAIT_SECONDS = 30.0


@pytest.mark.parametrize(("priority", "queue"), [("normal", DELIVERIES), ("urgent", DELIVERIES_URGENT)])
async def test_each_priority_has_its_own_queue_for_first_and_later_tries(
    timed: Herald, priority: str, queue: str
) -> None:
    await timed.grow(people=1)
    [ada] = await timed.store_people(1)
    await timed.teams.inject(TeamsFault(operation="send", status=412, code="PreconditionFailed", count=1))
    submitted = await timed.submit(user(ada), priority=priority)
    other = DELIVERIES if queue == DELIVERIES_URGENT else DELIVERIES_URGENT
    assert (await timed.message_count(queue), await timed.message_count(other)) == (1, 0)
    await timed.handle_messages()
    assert [name for _, name, _ in timed.delayed] == [queue]
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 1}


@pytest.mark.parametrize("command", ["recall", "redrive"])
async def test_commands_about_an_urgent_notification_use_the_urgent_queue(timed: Herald, command: str) -> None:
    await timed.grow(people=1)
    [ada] = await timed.store_people(1)
    if command == "redrive":
        await timed.teams.inject(TeamsFault(operation="send", status=400, code="Bad Argument", count=1))
    submitted = await timed.submit(user(ada), priority="urgent")
    await timed.handle_messages()
    queue_names: list[str] = []
    queues = timed.services.queues
    enqueue = queues.put

    async def record(name: str, text: str, delay: float = 0) -> None:
        queue_names.append(name)
        await enqueue(name, text, delay)

    queues.put = record  # type: ignore[method-assign]
    await timed.command(command, submitted)
    await timed.run_until_idle()
    assert DELIVERIES_URGENT in queue_names
    assert DELIVERIES not in queue_names
    assert await timed.counts(submitted) == {"recalled" if command == "recall" else "sent": 1}


async def test_urgent_delivery_passes_deliveries_that_wait_for_a_slot(herald: Herald) -> None:
    await herald.grow(people=61)
    *others, ada = await herald.store_people(61)
    await herald.teams.set_behaviour(Behaviour(enforce_limits=False))
    herald.services.rate_limiter._rate = 10
    bulk = await herald.submit(*map(user, others))
    messages = [await herald.message(bulk, f"u:{each.object_id}") for each in others]
    waiting = [asyncio.create_task(deliver(herald.services, each)) for each in messages]
    await herald.teams.wait(3, timeout=MAX_WAIT_SECONDS)
    urgent = await herald.submit(user(ada), priority="urgent")
    async with asyncio.timeout(MAX_WAIT_SECONDS):
        await deliver(herald.services, await herald.message(urgent, f"u:{ada.object_id}"))
    assert await herald.counts(urgent) == {"sent": 1}
    assert sum(not task.done() for task in waiting) > len(others) // 3
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


def test_each_delivery_queue_has_its_own_function() -> None:
    for function, queue in ((send_delivery, DELIVERIES), (send_urgent_delivery, DELIVERIES_URGENT)):
        trigger = function.build().get_trigger()  # type: ignore[attr-defined]
        assert trigger.queue_name == queue
