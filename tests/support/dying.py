"""Processes that die, or stand still, at a chosen write to the storage, and what brings their work to others.

A process works through what is on the queues. What it had taken from a queue when it died comes again when the lease
ends, to another process.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from shared.queue_messages import NOTIFICATIONS
from shared.services import open_services
from shared.settings import load_settings
from shared.states import DeliveryState
from shared.storage.delivery_counts import SINGLE_SHARD
from shared.storage.timers import WATCH
from tests.support.herald import Herald, attune, give_token
from tests.support.tapped import TAP, Tap

S = TypeVar("S")

#: Nobody is to wait for a slot: it is not the pace that is tried.
FAST = {"HERALD_TENANT_RATE": "1000"}

#: More points than any of what is tried has.
MANY = 400
#: Seconds after which a message comes again that a dead process had taken: at once, while its claims hold, or after
#: the lease of the Functions host, when they have ended. They take turns from write to write.
LEASES = (0.0, 600.0)


class Life(Tap):
    """A process, which stops at `point`: 1 is before its first write, 2 after that, 3 before the second; 0 is never.

    From then on none of its tasks gets any further, unless it is to `go_on`. After each write to a partition of
    Deliveries, what is counted there is compared with the rows; `wrong` tells where they differ.
    """

    def __init__(self, rows: Callable[[str], Awaitable[str]], point: int) -> None:
        self._rows, self._point = rows, point
        self._begun = self._done = self._under_way = self.read = 0
        self.stopped, self._goes_on = asyncio.Event(), asyncio.Event()
        self.wrong: list[str] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    async def before(self, written: str) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._begun += bool(written)
        self.read += not written
        if written and self._point == 2 * self._begun - 1:
            self.stopped.set()
        await self._stand_still()
        self._under_way += 1

    async def after(self, written: str) -> None:
        self._done += bool(written)
        if written and self._point == 2 * self._done:
            self.stopped.set()
        table, _, partition = written.partition("/")
        if table == "HeraldDeliveries" and (wrong := await self._rows(partition)):
            self.wrong.append(f"{wrong}, after write {self._done}")
        self._under_way -= 1
        await self._stand_still()

    def failed(self) -> None:
        self._under_way -= 1

    async def _stand_still(self) -> None:
        if self.stopped.is_set():
            await self._goes_on.wait()

    async def lead(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do the work; whether it was done before the process stopped."""
        token = TAP.set(self)
        self._work = asyncio.ensure_future(work())
        TAP.reset(token)
        stop = asyncio.create_task(self.stopped.wait())
        await asyncio.wait((self._work, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not self.stopped.is_set():
            await self._work
            return True
        while self._under_way:  # what left is written, although nobody is there any more to be told
            await asyncio.sleep(0.001)
        return False

    async def go_on(self) -> None:
        """Go on where it stopped, to the end of the work."""
        self._goes_on.set()
        await self._work

    async def die(self) -> None:
        ending = {self._work, *self._tasks}
        for each in ending:
            each.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


@dataclass
class Host(Herald):
    """What brings the messages to a process, and, after it died, to the next one."""

    #: Recipients of whom a process died while their row was claimed, and how often.
    doubtful: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    #: Whether the watch is let in, which heals what nobody brings again.
    watched: bool = False
    #: Where the messages begin, in Teams, that belong to this story.
    since: int = 0
    #: Requests to Teams and reads of the storage of the process that stopped last.
    asked: int = 0
    read: int = 0
    _taken: dict[str, tuple[str, Any]] = field(default_factory=dict)

    async def put(self, body: bytes) -> None:
        await self.outside_queues.get_queue_client(NOTIFICATIONS).send_message(body.decode())

    async def live(self, point: int = 0, work: Callable[[], Awaitable[None]] | None = None) -> bool:
        """Let a process, which dies at `point`, do this work, or all there is; whether it lived to its end."""
        life = Life(self._miscounted, point)
        lived = await self._lead(life, work or self.run)
        if not lived:
            await life.die()
            await self.services.close()
            await self._replace(point)
        self.wrong += life.wrong
        return lived

    async def sleep(self, point: int) -> bool:
        """Let a process stop at `point`, and go on when another has done all; whether it got that far."""
        life = Life(self._miscounted, point)
        stopped, asleep = not await self._lead(life, self.run), self.services
        if stopped:
            await self._replace(point)
            assert await self.live()
            await life.go_on()
            await asleep.close()
        self.wrong += life.wrong
        return stopped

    async def _lead(self, life: Life, work: Callable[[], Awaitable[None]]) -> bool:
        before = await self._requests()
        lived = await life.lead(work)
        if not lived:
            self.asked, self.read = await self._requests() - before, life.read
        return lived

    async def _requests(self) -> int:
        return sum(sum(found.values()) for found in (await self.teams.stats()).requests.values())

    async def wait(self, seconds: float) -> None:
        self.clock.moved += timedelta(seconds=seconds)
        now = self.clock()
        for each in [each for each in self.kept if each[0] <= now]:
            # By the queue itself, and not by a process, which could die of it.
            await self.outside_queues.get_queue_client(each[1]).send_message(each[2])
            self.kept.remove(each)
        await self.tick()
        await self.send()

    async def _drain(self, name: str, work: Callable[[bytes], Awaitable[None]]) -> bool:
        queue = self.outside_queues.get_queue_client(name)

        async def one(message: Any) -> None:
            self._taken[message.id] = name, message
            await work(message.content.encode())
            if self._taken.pop(message.id, None):
                await queue.delete_message(message)

        found = [each async for each in queue.receive_messages(max_messages=32, visibility_timeout=600)]
        await asyncio.gather(*map(one, found))
        return bool(found)

    async def _due(self) -> AsyncIterator[datetime]:
        """When something is due, a watch only when it is let in."""
        async for row in self.outside_tables.get_table_client("HeraldTimers").list_entities():
            if self.watched or not row["RowKey"].startswith(WATCH):
                yield datetime.fromisoformat(row["PartitionKey"].split(";")[0] + "+00:00")

    async def _replace(self, point: int) -> None:
        """Note what a process leaves behind that stopped at `point`, and let another take its place."""
        claimed = self.outside_tables.get_table_client("HeraldDeliveries").query_entities("state eq 'sending'")
        self.doubtful.update([row["RowKey"] async for row in claimed])
        for name, message in self._taken.values():
            await self.outside_queues.get_queue_client(name).delete_message(message)
            lease = timedelta(seconds=LEASES[point // 2 % len(LEASES)])
            self.kept.append((self.clock() + lease, name, message.content))
        self._taken.clear()
        await self.start()

    async def start(self) -> None:
        """Start a process."""
        token = TAP.set(Tap())
        self.services = await open_services(load_settings(self.environ | FAST), self.storage.open(), self.clock)
        TAP.reset(token)
        give_token(self.services, self.token)
        object.__setattr__(self.services.settings, "tenant_rate", 1)  # pages of two
        attune(self)

    async def rows(self, partition: str) -> list[dict[str, Any]]:
        """The rows of the partitions of Deliveries whose key begins so, also those that count."""
        table = self.outside_tables.get_table_client("HeraldDeliveries")
        found = table.query_entities(
            "PartitionKey ge @first and PartitionKey lt @last", parameters={"first": partition, "last": partition + "~"}
        )
        return [dict(row) async for row in found]

    async def _miscounted(self, partition: str) -> str:
        """How a partition of Deliveries is counted where it is otherwise than that, or ""."""
        if partition.endswith(f";{SINGLE_SHARD}"):
            return ""  # nothing is counted there
        table = self.outside_tables.get_table_client("HeraldDeliveries")
        found = table.query_entities("PartitionKey eq @partition", parameters={"partition": partition})
        rows = [dict(row) async for row in found]
        counted = next((row for row in rows if row["RowKey"] == "~counts"), {})
        told = +Counter({name: counted.get(name, 0) for name in ("open", *DeliveryState)})
        there = Counter(DeliveryState(row["state"]).count_name for row in rows if "state" in row)
        return "" if told == there else f"{dict(told)} is told of {dict(there)}"


async def die_at_each(host: Host, begin: Callable[[], Awaitable[S]], check: Callable[[S], Awaitable[None]]) -> None:
    """Begin again and again, with somebody who dies at each point, as long as somebody does.

    Who dies before a write leaves what is left by who died after the one before it, unless Teams was asked meanwhile.
    """

    async def stops(point: int) -> bool:
        begun = await begin()
        host.doubtful.clear()
        lived = await host.live(point)
        if not lived:
            assert await host.live()
        await check(begun)
        return not lived

    await _at_each(stops, lambda: host.asked)


async def sleep_at_each(host: Host, begin: Callable[[], Awaitable[S]], check: Callable[[S], Awaitable[None]]) -> None:
    """The same with somebody who goes on, after another did what there was to do: with what was read before that."""

    async def stops(point: int) -> bool:
        begun = await begin()
        host.doubtful.clear()
        slept = await host.sleep(point)
        assert await host.live()
        await check(begun)
        return slept

    await _at_each(stops, lambda: host.asked + host.read)


async def _at_each(stops: Callable[[int], Awaitable[bool]], learnt: Callable[[], int]) -> None:
    """Each point after a write, and that before it where something was `learnt` since the write before."""
    before = 0
    for point in range(2, MANY, 2):
        stopped = await stops(point)
        now = learnt()
        if not stopped:
            assert point > 2
            return
        if now != before:
            await stops(point - 1)  # which may not be reached: how many writes there are goes by who is first
        before = now
    raise AssertionError("there are more writes than thought")
