"""Turns over several processes on one storage: no lane gives more than it may, whoever asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from itertools import chain

import pytest

from shared.rate_windows import SECOND
from shared.storage.clients import open_storage
from shared.storage.rate_lanes import RateLanes
from shared.storage.table import Table
from shared.teams.rate_limiter import RateLimiter, RetryLater
from tests.shared.test_pacing import most_within


@pytest.fixture
async def pacer(connection: str) -> AsyncIterator[Callable[[int], RateLimiter]]:
    """Makes pacers that share nothing but the table, as processes do."""
    queues, tables = open_storage({"AzureWebJobsStorage": connection})
    async with queues, tables:
        table = Table(tables.get_table_client("HeraldRateLanes"))
        await table.create()
        yield lambda rate: RateLimiter(RateLanes(table), rate)


async def turns(
    pacer: RateLimiter, count: int, tenant: str = "t", conversation: str = "", *, urgent: bool = False
) -> list[int]:
    """The moments of so many turns, asked for all at once and again where it was too far away."""

    async def one() -> int:
        while True:
            try:
                await pacer.turn(tenant, conversation, urgent=urgent)
            except RetryLater as later:
                await asyncio.sleep(later.seconds)
            else:
                return time.time_ns() // 1000

    return sorted(await asyncio.gather(*(one() for _ in range(count))))


async def test_three_processes_together_keep_the_rate_and_use_it(pacer: Callable[[int], RateLimiter]) -> None:
    took = sorted(chain(*await asyncio.gather(*(turns(pacer(45), 45) for _ in range(3)))))
    assert most_within(took, SECOND) <= 50


async def test_a_conversation_keeps_its_windows_over_processes(pacer: Callable[[int], RateLimiter]) -> None:
    took = sorted(chain(*await asyncio.gather(*(turns(pacer(1000), 5, conversation="c") for _ in range(3)))))
    assert most_within(took, SECOND) <= 7
    assert most_within(took, 2 * SECOND) <= 8


async def test_other_conversations_do_not_wait_for_a_busy_one(pacer: Callable[[int], RateLimiter]) -> None:
    one = pacer(1000)
    busy = asyncio.create_task(turns(one, 12, conversation="busy"))
    took = await turns(one, 3, conversation="other")
    assert took[-1] < (await busy)[-1]


async def test_an_urgent_one_passes_those_that_wait(pacer: Callable[[int], RateLimiter]) -> None:
    one = pacer(20)
    bulk = asyncio.create_task(turns(one, 80))
    while not one._lane("t")._waiting:
        await asyncio.sleep(0.01)
    [urgent] = await turns(one, 1, urgent=True)
    after = [turn for turn in await bulk if turn > urgent]
    assert len(after) >= 20


async def test_a_tenant_that_is_held_gets_nothing_from_any_process_and_others_are_not_slowed(
    pacer: Callable[[int], RateLimiter],
) -> None:
    one, other = pacer(45), pacer(45)
    await one.turn("t", "")
    await one.hold_tenant("t", 20)
    for each in (one, other):
        with pytest.raises(RetryLater) as later:
            await each.turn("t", "")
        assert 18 < later.value.seconds <= 20
        assert each.paused_seconds("t") > 18
    await other.turn("another", "")


async def test_turns_that_were_given_out_before_the_hold_are_void_in_the_same_process(
    pacer: Callable[[int], RateLimiter],
) -> None:
    one = pacer(10)
    waiting = [asyncio.create_task(one.turn("t", "")) for _ in range(8)]
    await waiting[0]
    await one.hold_tenant("t", 20)
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(each, RetryLater) for each in done) >= 5


async def test_a_conversation_that_is_held_is_held_for_every_process(pacer: Callable[[int], RateLimiter]) -> None:
    one, other = pacer(45), pacer(45)
    await one.hold_conversation("t", "c", 30)
    for each in (one, other):
        with pytest.raises(RetryLater):
            await each.turn("t", "c")
        await each.turn("t", "d")


async def test_storage_that_fails_fails_those_who_wait_and_no_one_after_them(
    pacer: Callable[[int], RateLimiter],
) -> None:
    class Broken(RateLanes):
        down = True

        async def move_tenant(self, tenant: str, following: int, etag: str) -> str:
            if self.down:
                raise OSError("down")
            return await super().move_tenant(tenant, following, etag)

    lanes = Broken(pacer(1)._lanes._table)
    one = RateLimiter(lanes, 45)
    with pytest.raises(OSError, match="down"):
        await one.turn("t", "")
    lanes.down = False
    await one.turn("t", "")
