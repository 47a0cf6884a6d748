"""What is urgent has a queue and a function of its own, and passes what waits, in the lane too; it passes no wish."""

from __future__ import annotations

import asyncio

import pytest

from local.fake_teams.api import Behaviour, TeamsFault
from notify.delivery.deliver import deliver
from notify.functions import send_delivery, send_urgent_delivery
from shared.queue_messages import DELIVERIES, DELIVERIES_URGENT, EXPANSIONS
from shared.states import NotificationState
from tests.support.herald import Herald, user

#: Seconds within which an urgent message passes bulk traffic.
WITHIN = 30.0


@pytest.mark.parametrize(("priority", "queue"), [("normal", DELIVERIES), ("urgent", DELIVERIES_URGENT)])
async def test_each_priority_has_its_own_queue_for_the_first_try_and_for_the_next_ones(
    timed: Herald, priority: str, queue: str
) -> None:
    await timed.grow(people=1)
    [ada] = await timed.people(1)
    await timed.teams.inject(TeamsFault(operation="send", status=412, code="PreconditionFailed", count=1))
    asked = await timed.ask(user(ada), priority=priority)
    other = DELIVERIES if queue == DELIVERIES_URGENT else DELIVERIES_URGENT
    assert (await timed.waiting(queue), await timed.waiting(other)) == (1, 0)
    await timed.send()
    assert [name for _, name, _ in timed.kept] == [queue]
    await timed.run()
    assert await timed.counts(asked) == {"sent": 1}


@pytest.mark.parametrize("command", ["recall", "redrive"])
async def test_what_a_command_asks_of_an_urgent_one_is_urgent_too(timed: Herald, command: str) -> None:
    await timed.grow(people=1)
    [ada] = await timed.people(1)
    if command == "redrive":
        await timed.teams.inject(TeamsFault(operation="send", status=400, code="Bad Argument", count=1))
    asked = await timed.ask(user(ada), priority="urgent")
    await timed.send()
    put: list[str] = []
    queues = timed.services.queues
    original = queues.put

    async def record(name: str, text: str, delay: float = 0) -> None:
        put.append(name)
        await original(name, text, delay)

    queues.put = record  # type: ignore[method-assign]
    await timed.command(command, asked)
    await timed.run()
    assert DELIVERIES_URGENT in put
    assert DELIVERIES not in put
    assert await timed.counts(asked) == {"recalled" if command == "recall" else "sent": 1}


async def test_the_pages_of_an_urgent_broadcast_do_not_wait_for_one_another(timed: Herald) -> None:
    await timed.grow(people=12)
    for each in await timed.people(12):
        await timed.services.topics.subscribe(timed.tenant, "t", f"u:{each.object_id}")
    object.__setattr__(timed.services.settings, "tenant_rate", 1)  # pages of five
    asked = await timed.ask({"topic": "t"}, priority="urgent")
    assert asked.state is NotificationState.EXPANDING
    assert (await timed.waiting(EXPANSIONS), timed.kept) == (1, [])


async def test_an_urgent_one_passes_those_that_wait_for_their_turn(herald: Herald) -> None:
    await herald.grow(people=61)
    *many, ada = await herald.people(61)
    await herald.teams.set_behaviour(Behaviour(enforce_limits=False))
    herald.services.rate_limiter._rate = 10
    bulk = await herald.ask(*map(user, many))
    messages = [await herald.message(bulk, f"u:{each.object_id}") for each in many]
    waiting = [asyncio.create_task(deliver(herald.services, each)) for each in messages]
    await herald.teams.wait(3, timeout=WITHIN)
    urgent = await herald.ask(user(ada), priority="urgent")
    async with asyncio.timeout(WITHIN):
        await deliver(herald.services, await herald.message(urgent, f"u:{ada.object_id}"))
    assert await herald.counts(urgent) == {"sent": 1}
    assert sum(not task.done() for task in waiting) > len(many) // 3
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


def test_each_queue_has_its_own_function() -> None:
    for function, queue in ((send_delivery, DELIVERIES), (send_urgent_delivery, DELIVERIES_URGENT)):
        trigger = function.build().get_trigger()  # type: ignore[attr-defined]
        assert trigger.queue_name == queue
