"""110 notifications to one chat at once, from the queue to `sent`, in virtual time.

Answers of Teams: more messages to one conversation than Teams allows.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass

import pytest

from shared.queue_messages import NOTIFICATIONS
from shared.rate_windows import SECOND, SEND_WINDOWS
from tests.shared.test_rate_windows import most_within
from tests.support.herald import notification
from tests.support.memory import MemoryAccount
from tests.support.odd_teams import OddTeams
from tests.support.tapped import TAP, Tap, TappedMemory
from tests.support.triggers import IN_WORK, ObservedQueues, QueueHost
from tests.support.virtual_time import run_virtual
from tests.support.virtual_workers import open_workers, store_person

TENANT = "0000000c-0000-4000-8000-000000000000"
MESSAGES, OTHERS = 110, 30
#: The time that each storage operation takes.
STORAGE_SECONDS = 0.005


@dataclass
class DeliveryCounter(Tap):
    """Counts the operations of the functions that deliver, and lets each take some time."""

    operations: int = 0

    def count(self) -> None:
        self.operations += IN_WORK.get(("", b""))[0].startswith("deliveries")

    async def before(self, written: str) -> None:
        self.count()
        await asyncio.sleep(STORAGE_SECONDS)


def person(number: int) -> str:
    return f"{TENANT[:8]}-0000-4000-8000-{number:012x}"


async def run(patch: pytest.MonkeyPatch) -> tuple[OddTeams, QueueHost, DeliveryCounter, dict[str, float]]:
    account, teams = MemoryAccount(), OddTeams({}, 0.0, random.Random(1))
    host, counter, put_at = QueueHost(account), DeliveryCounter(), dict[str, float]()
    [services] = await open_workers(host, teams, patch, 1, [TENANT], 45, table=TappedMemory)

    def observe(queue: str, text: str, delay: float) -> None:
        counter.count()
        host.observe(queue, text, delay)

    assert isinstance(services.queues, ObservedQueues)
    services.queues.observe = observe
    for number in range(1 + OTHERS):
        await store_person(services, TENANT, person(number))

    async def put(number: int, title: str) -> None:
        body = notification({"user": person(number)}, id=title, tenant=TENANT, content={"title": title})
        put_at[title] = asyncio.get_running_loop().time()
        await account.get_queue_client(NOTIFICATIONS).send_message(body.decode())
        host.observe(NOTIFICATIONS, "", 0)

    async def put_all() -> None:
        for number in range(MESSAGES):
            await put(0, f"Notice a{number:03d}")
        for number in range(OTHERS):
            await put(number + 1, f"Notice b{number:03d}")
            await asyncio.sleep(1)

    TAP.set(counter)
    putting = asyncio.create_task(put_all())
    await host.run(120)
    await putting
    await services.close()
    return teams, host, counter, put_at


def test_each_message_is_put_back_once_and_others_do_not_wait() -> None:
    with pytest.MonkeyPatch.context() as patch:
        teams, host, counter, put_at = run_virtual(lambda: run(patch))
    assert host.errors == []
    assert Counter(each.title for each in teams.requests) == Counter(dict.fromkeys(put_at, 1))
    flood = sorted(round(each.at * SECOND) for each in teams.requests if each.title < "Notice b")
    for limit, length in SEND_WINDOWS:
        assert most_within(flood, length) <= limit
    waits = [each.at - put_at[each.title] for each in teams.requests if each.title > "Notice b"]
    assert max(waits) < 1
    received = sum(count for queue, count in host.received.items() if queue.startswith("deliveries"))
    assert received <= 2 * MESSAGES + OTHERS
    # Beside the operations of the function, each message is received and deleted.
    assert (counter.operations + 2 * received) / (MESSAGES + OTHERS) <= 15
