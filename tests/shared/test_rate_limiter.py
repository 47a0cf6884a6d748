"""Rate limiters of several processes on one storage: together, no lane exceeds its limits."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from itertools import chain
from typing import Any
from uuid import uuid4

import pytest

from shared.rate_windows import SECOND, TenantLane
from shared.storage.clients import open_storage
from shared.storage.entity_writes import Row
from shared.storage.rate_lanes import LaneKind, RateLanes, TenantLaneKind
from shared.storage.table import Table
from shared.teams.rate_limiter import RateLimiter, RetryLater
from shared.time.clock import real_time
from tests.shared.test_rate_windows import most_within
from tests.support.memory import MemoryAccount, MemoryTable
from tests.support.virtual_time import run_virtual, virtual_now

NewLimiter = Callable[[int], RateLimiter]


@pytest.fixture
async def new_azurite_limiter(connection: str) -> AsyncIterator[NewLimiter]:
    """Return a function that creates rate limiters that share only the table, like those of several processes."""
    queues, tables = open_storage({"AzureWebJobsStorage": connection})
    async with queues, tables:
        table = Table(tables.get_table_client("HeraldRateLanes"))
        await table.create()
        yield lambda rate: RateLimiter(RateLanes(table), rate, real_time)


@pytest.fixture
def new_limiter() -> NewLimiter:
    """The same in memory and in virtual time."""
    table = MemoryTable(MemoryAccount().get_table_client("HeraldRateLanes"))
    asyncio.run(table.create())
    return lambda rate: RateLimiter(RateLanes(table), rate, virtual_now)


def virtual(test: Callable[[NewLimiter], Coroutine[Any, Any, None]]) -> Callable[[NewLimiter], None]:
    """Run a test in virtual time."""

    @functools.wraps(test)
    def run(new_limiter: NewLimiter) -> None:
        run_virtual(lambda: test(new_limiter))

    return run


async def take_slots(
    limiter: RateLimiter, count: int, tenant: str = "t", conversation: str = "", *, urgent: bool = False
) -> list[int]:
    """Wait for `count` slots at the same time, with retries; return their times.

    Without a conversation, each slot is for another one, so that only the tenant's lane delays them.
    """

    async def take_slot() -> int:
        name = conversation or uuid4().hex
        while True:
            try:
                await limiter.wait_for_slot(tenant, name, urgent=urgent)
            except RetryLater as later:
                await asyncio.sleep(later.seconds)
            else:
                return time.time_ns() // 1000

    return sorted(await asyncio.gather(*(take_slot() for _ in range(count))))


async def test_three_processes_together_keep_the_rate(new_azurite_limiter: NewLimiter) -> None:
    times = sorted(chain(*await asyncio.gather(*(take_slots(new_azurite_limiter(45), 45) for _ in range(3)))))
    assert most_within(times, SECOND) <= 50


@virtual
async def test_conversation_keeps_its_windows_over_processes(new_limiter: NewLimiter) -> None:
    taken = await asyncio.gather(*(take_slots(new_limiter(1000), 5, conversation="c") for _ in range(3)))
    times = sorted(chain(*taken))
    assert most_within(times, SECOND) <= 7
    assert most_within(times, 2 * SECOND) <= 8


@virtual
async def test_busy_conversation_does_not_delay_another(new_limiter: NewLimiter) -> None:
    limiter = new_limiter(1000)
    busy = asyncio.create_task(take_slots(limiter, 12, conversation="busy"))
    times = await take_slots(limiter, 3, conversation="other")
    assert times[-1] < (await busy)[-1]


@virtual
async def test_urgent_request_goes_before_waiting_ones(new_limiter: NewLimiter) -> None:
    limiter = new_limiter(20)
    bulk = asyncio.create_task(take_slots(limiter, 80))
    while not limiter._queue("t")._waiting:
        await asyncio.sleep(0.01)
    [urgent] = await take_slots(limiter, 1, urgent=True)
    later = [at for at in await bulk if at > urgent]
    assert len(later) >= 20


@virtual
async def test_paused_tenant_gets_no_slot_in_any_process_and_others_are_not_delayed(
    new_limiter: NewLimiter,
) -> None:
    first, second = new_limiter(45), new_limiter(45)
    await first.wait_for_slot("t", "")
    await first.pause_tenant("t", 20)
    for limiter in (first, second):
        with pytest.raises(RetryLater) as later:
            await limiter.wait_for_slot("t", "")
        assert 18 < later.value.seconds <= 20
        assert limiter.paused_seconds("t") > 18
    await second.wait_for_slot("another", "")


@virtual
async def test_pause_voids_slots_that_were_granted_in_the_same_process(
    new_limiter: NewLimiter,
) -> None:
    limiter = new_limiter(10)
    waiting = [asyncio.create_task(limiter.wait_for_slot("t", "")) for _ in range(8)]
    await waiting[0]
    await limiter.pause_tenant("t", 20)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(result, RetryLater) for result in results) >= 5


@virtual
async def test_paused_conversation_is_paused_in_every_process(new_limiter: NewLimiter) -> None:
    first, second = new_limiter(45), new_limiter(45)
    await first.pause_conversation("t", "c", 30)
    for limiter in (first, second):
        with pytest.raises(RetryLater):
            await limiter.wait_for_slot("t", "c")
        await limiter.wait_for_slot("t", "d")


@virtual
async def test_lane_of_another_kind_is_neither_slowed_nor_paused(new_limiter: NewLimiter) -> None:
    sending = new_limiter(5)
    lanes = RateLanes(sending._lanes._table, TenantLaneKind.GRAPH_INSTALL)
    installs, others = (RateLimiter(lanes, 30, virtual_now) for _ in range(2))
    sent, first, second = await asyncio.gather(
        take_slots(sending, 20), take_slots(installs, 60), take_slots(others, 60)
    )
    assert most_within(sorted(first + second), SECOND) <= 32
    assert most_within(sent, SECOND) <= 6
    assert first[-1] < sent[-1] + SECOND  # two at 30 a second need four seconds, as 20 at 5 a second do
    await installs.pause_tenant("t", 20)
    with pytest.raises(RetryLater):
        await others.wait_for_slot("t", None)
    await sending.wait_for_slot("t", None)


@virtual
async def test_team_keeps_four_requests_a_second_to_graph_over_kinds_and_processes(new_limiter: NewLimiter) -> None:
    table = new_limiter(1)._lanes._table
    kinds = (TenantLaneKind.GRAPH_INSTALL, TenantLaneKind.GRAPH_CHECK, TenantLaneKind.GRAPH_CHECK)
    limiters = [RateLimiter(RateLanes(table, kind), 30, virtual_now) for kind in kinds]

    async def ask(limiter: RateLimiter) -> int:
        while True:
            try:
                await limiter.wait_for_slot("t", "team", kind=LaneKind.GRAPH_TEAM)
            except RetryLater as later:
                await asyncio.sleep(later.seconds)
            else:
                return time.time_ns() // 1000

    times = sorted(await asyncio.gather(*(ask(limiter) for limiter in limiters for _ in range(8))))
    assert most_within(times, SECOND) <= 4


@virtual
async def test_request_without_windows_stores_its_slot_alone(new_limiter: NewLimiter) -> None:
    limiter = new_limiter(45)
    await limiter.wait_for_slot("t", None)
    rows = [row async for row in limiter._lanes._table._client.list_entities()]
    assert [(row["PartitionKey"], row["RowKey"]) for row in rows] == [("t", "tenant")]


@virtual
async def test_storage_failure_fails_only_the_requests_that_wait(new_limiter: NewLimiter) -> None:
    class BrokenLanes(RateLanes):
        is_down = True

        async def save_tenant(self, tenant: str, lane: TenantLane, etag: str) -> str:
            if self.is_down:
                raise OSError("down")
            return await super().save_tenant(tenant, lane, etag)

    lanes = BrokenLanes(new_limiter(1)._lanes._table)
    limiter = RateLimiter(lanes, 45, real_time)
    with pytest.raises(OSError, match="down"):
        await limiter.wait_for_slot("t", "")
    lanes.is_down = False
    await limiter.wait_for_slot("t", "")


class SlowTable(MemoryTable):
    """Each write takes a quarter of a second."""

    async def merge(self, row: Row, etag: str) -> str:
        await asyncio.sleep(0.25)
        return await super().merge(row, etag)

    async def insert(self, row: Row) -> str:
        await asyncio.sleep(0.25)
        return await super().insert(row)


def test_slow_storage_lets_few_slots_lapse() -> None:
    """Slots are taken further ahead then: with half a second, a third of these would be sent."""

    async def count() -> int:
        table, sent = SlowTable(MemoryAccount().get_table_client("HeraldRateLanes")), 0
        await table.create()
        limiter = RateLimiter(RateLanes(table), 45, virtual_now)

        async def send(conversation: str) -> None:
            nonlocal sent
            while True:
                try:
                    await limiter.wait_for_slot("t", conversation)
                    sent += 1
                except RetryLater:
                    await asyncio.sleep(0.2)

        tasks = [asyncio.create_task(send(f"c:{number}")) for number in range(1000)]
        await asyncio.sleep(20)
        for task in tasks:
            task.cancel()
        return sent

    assert run_virtual(count) >= 20 * 25
