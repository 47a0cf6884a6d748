"""Many messages to one conversation at once: each goes back to its queue once, and the windows are kept.

Answers of Teams: more messages to one conversation than Teams allows.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.rate_windows import SECOND, SEND_WINDOWS
from shared.storage.rate_lanes import RateLanes
from shared.teams.rate_limiter import RateLimiter, RetryLater
from tests.shared.test_rate_windows import most_within
from tests.support.memory import MemoryAccount, MemoryTable
from tests.support.virtual_time import run_virtual, virtual_now

RATE = 45
#: The range of a queue's delay beyond the one that was asked for, which is rounded up to whole seconds.
LATE_SECONDS = (0.0, 1.0)


class SlowTable(MemoryTable):
    """Each operation takes `seconds`, and is counted."""

    seconds = 0.0

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self.operations = 0

    async def _delay(self) -> None:
        self.operations += 1
        await asyncio.sleep(self.seconds * random.uniform(0.5, 2))

    async def get(self, *arguments: Any) -> Any:
        await self._delay()
        return await super().get(*arguments)

    async def insert(self, *arguments: Any) -> Any:
        await self._delay()
        return await super().insert(*arguments)

    async def merge(self, *arguments: Any) -> Any:
        await self._delay()
        return await super().merge(*arguments)


@dataclass
class Flood:
    """Messages to conversations, by `hosts` processes on one table."""

    table: SlowTable
    limiters: list[RateLimiter]
    #: The times of the requests to each conversation, in microseconds since the start.
    sent: dict[str, list[int]] = field(default_factory=dict)
    #: How often each message was received from its queue.
    received: Counter[str] = field(default_factory=Counter)
    #: The requests that had to be given up with their delivery claimed.
    given_up: int = 0

    async def send(self, message: str, conversation: str, *, urgent: bool = False) -> None:
        """Send a message as `notify.delivery` does: wait for its turn on the queue, and then for its slot."""
        reserved_turn, sent = 0.0, self.sent.setdefault(conversation, [])
        while True:
            self.received[message] += 1
            limiter = random.choice(self.limiters)
            reserved_turn = await limiter.reserve_turn("t", conversation, reserved_turn, urgent=urgent)
            if not reserved_turn:
                await asyncio.sleep(self.table.seconds)  # the claim
                try:
                    await limiter.wait_for_slot("t", conversation, urgent=urgent)
                except RetryLater as later:
                    self.given_up += 1
                    await asyncio.sleep(math.ceil(later.seconds))
                    continue
                sent.append(round(virtual_now().timestamp() * SECOND))
                return
            delay = reserved_turn - virtual_now().timestamp()
            await asyncio.sleep(math.ceil(delay) + random.uniform(*LATE_SECONDS))


async def open_flood(hosts: int, seconds: float) -> Flood:
    random.seed(7)
    table = SlowTable(MemoryAccount().get_table_client("HeraldRateLanes"))
    await table.create()
    table.seconds = seconds
    return Flood(table, [RateLimiter(RateLanes(table), RATE, virtual_now) for _ in range(hosts)])


@pytest.mark.parametrize(
    ("hosts", "seconds", "most"),
    [
        (1, 0.01, {"received": 2.0, "operations": 2.5, "given up": 0}),
        (1, 0.05, {"received": 2.0, "operations": 2.5, "given up": 0}),
        (3, 0.01, {"received": 2.2, "operations": 7, "given up": 8}),
    ],
)
def test_each_of_110_messages_at_once_is_put_back_once(hosts: int, seconds: float, most: Mapping[str, float]) -> None:
    async def run() -> Flood:
        flood = await open_flood(hosts, seconds)
        await asyncio.gather(*(flood.send(f"m{number}", "c") for number in range(110)))
        return flood

    flood = run_virtual(run)
    times = sorted(flood.sent["c"])
    assert len(times) == 110
    for limit, length in SEND_WINDOWS:
        assert most_within(times, length) <= limit
    assert times[-1] - times[0] <= 66 * SECOND  # 110 messages take 43 s at best
    found = {
        "received": flood.received.total() / 110,
        "operations": flood.table.operations / 110,
        "given up": flood.given_up,
    }
    assert all(found[name] <= most[name] for name in most), found


def test_messages_to_other_conversations_do_not_wait_meanwhile() -> None:
    async def run() -> float:
        flood = await open_flood(1, 0.01)
        tasks = [asyncio.create_task(flood.send(f"m{number}", "c")) for number in range(110)]
        longest = 0.0
        for number in range(40):
            before = virtual_now().timestamp()
            await flood.send(f"other{number}", f"d{number}")
            longest = max(longest, virtual_now().timestamp() - before)
            await asyncio.sleep(1)
        await asyncio.gather(*tasks)
        return longest

    assert run_virtual(run) < 1


def test_urgent_message_does_not_wait_for_reserved_turns() -> None:
    async def run() -> Flood:
        flood = await open_flood(1, 0.01)
        tasks = [asyncio.create_task(flood.send(f"m{number}", "c")) for number in range(110)]
        await asyncio.sleep(5)
        await flood.send("urgent", "c", urgent=True)
        flood.sent["before"] = list(flood.sent["c"])
        await asyncio.gather(*tasks)
        return flood

    flood = run_virtual(run)
    assert len(flood.sent["before"]) < 40


def test_pause_of_a_conversation_is_ended_by_one_request() -> None:
    """Answers of Teams: 429 to a message."""

    async def run() -> tuple[int, Flood]:
        flood = await open_flood(2, 0.01)
        tasks = [asyncio.create_task(flood.send(f"m{number}", "c")) for number in range(30)]
        await asyncio.sleep(1)
        await flood.limiters[0].pause_conversation("t", "c", 40)
        paused_until = round((virtual_now().timestamp() + 40) * SECOND)
        await flood.send("other", "d")
        await asyncio.gather(*tasks)
        return paused_until, flood

    paused_until, flood = run_virtual(run)
    later = [at for at in sorted(flood.sent["c"]) if at >= paused_until]
    assert flood.sent["d"][0] < paused_until
    assert len(later) >= 20
    assert not [at for at in flood.sent["c"] if paused_until - 38 * SECOND < at < paused_until - SECOND]
    assert later[1] - later[0] >= 2 * SECOND


@pytest.mark.parametrize(("hosts", "seconds"), [(1, 0.3), (5, 0.3), (5, 1.0)])
def test_no_request_waits_long_for_a_slot_while_storage_is_slow(hosts: int, seconds: float) -> None:
    """The platform: the tables or the storage are away."""

    async def run() -> tuple[float, int]:
        flood, waits, sent = await open_flood(hosts, seconds), list[float](), 0

        async def wait(number: int) -> int:
            before = virtual_now().timestamp()
            try:
                async with asyncio.timeout(60):
                    await flood.limiters[number % hosts].wait_for_slot("t", f"c{number}")
            except RetryLater:
                return 0
            finally:
                waits.append(virtual_now().timestamp() - before)
            return 1

        for number in range(0, 40, 5):
            sent += sum(await asyncio.gather(*map(wait, range(number, number + 5))))
        return max(waits), sent

    longest, sent = run_virtual(run)
    assert longest < 5 + 2 + 4 * seconds
    assert seconds == 1 or sent > 20
