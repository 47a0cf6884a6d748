"""Workers that crash or pause at a chosen write to the storage, and the host that hands their work to the next one.

A worker handles what is on the queues. A message that it had received when it crashed becomes visible again when its
lease ends, for another worker.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import aiohttp

from shared.queue_messages import NOTIFICATIONS
from shared.services import open_services
from shared.settings import load_settings
from shared.states import DeliveryState
from shared.storage.delivery_counts import FEW_SHARD
from shared.storage.timers import WATCHDOG
from tests.support.herald import HIGH_RATE, Herald, follow_clock, set_token
from tests.support.tapped import TAP, Tap

S = TypeVar("S")

#: No scenario has this many points.
MAX_POINTS = 400
#: Seconds until the message of a crashed worker is visible again: at once, while its claims are valid, or after the
#: lease of the Functions host, when they have ended. They alternate from write to write.
LEASE_SECONDS = (0.0, 600.0)


class Worker(Tap):
    """A worker that stops at `point`: 1 is before its first write, 2 after it, 3 before the second; with 0 never.

    From then on none of its tasks continues until `resume`. After each write to a partition of Deliveries, its counts
    are compared with its rows; `count_errors` lists the differences.
    """

    def __init__(self, count_error: Callable[[str], Awaitable[str]], point: int) -> None:
        self._count_error, self._point = count_error, point
        self._begun = self._done = self._under_way = self.reads = 0
        self.stopped, self._resumed = asyncio.Event(), asyncio.Event()
        self.count_errors: list[str] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def never_stops(self) -> bool:
        return self._point == 0

    async def before(self, written: str) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._begun += bool(written)
        self.reads += not written
        if written and self._point == 2 * self._begun - 1:
            self.stopped.set()
        await self._wait_if_stopped()
        self._under_way += 1

    async def after(self, written: str) -> None:
        self._done += bool(written)
        if written and self._point == 2 * self._done:
            self.stopped.set()
        table, _, partition = written.partition("/")
        if table == "HeraldDeliveries" and (error := await self._count_error(partition)):
            self.count_errors.append(f"{error}, after write {self._done}")
        self._under_way -= 1
        await self._wait_if_stopped()

    def failed(self) -> None:
        self._under_way -= 1

    async def _wait_if_stopped(self) -> None:
        if self.stopped.is_set():
            await self._resumed.wait()

    async def run(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do the work, and return whether it was done before the worker stopped."""
        token = TAP.set(self)
        self._work = asyncio.ensure_future(work())
        TAP.reset(token)
        stop = asyncio.create_task(self.stopped.wait())
        await asyncio.wait((self._work, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not self.stopped.is_set():
            await self._work
            return True
        while self._under_way:  # the storage completes a request that was sent, also if nobody reads the answer
            await asyncio.sleep(0.001)
        return False

    async def resume(self) -> None:
        """Continue where it stopped, to the end of the work."""
        self._resumed.set()
        await self._work

    async def kill(self) -> None:
        ending = {self._work, *self._tasks}
        for each in ending:
            each.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


@dataclass
class Host(Herald):
    """A host that hands messages to one worker, and after a crash to the next one."""

    #: How many workers have crashed while they had a claim, by the row key of the claimed delivery.
    claims_lost: Counter[str] = field(default_factory=Counter)
    count_errors: list[str] = field(default_factory=list)
    #: Whether timers of the watchdog fire. It repairs what no queue message repairs.
    watchdog_enabled: bool = False
    #: Messages that Teams received before this number belong to earlier scenarios.
    since: int = 0
    #: Requests to Teams and storage reads of the worker that stopped last.
    requests: int = 0
    reads: int = 0
    #: Returns the number of requests to Teams so far.
    count_requests: Callable[[], int] = lambda: 0
    #: The connections of all workers to Teams: a TLS handshake for each would take as long as the rest of its work.
    connections: aiohttp.BaseConnector | None = None
    _leased: dict[str, tuple[str, Any]] = field(default_factory=dict)

    async def put(self, body: bytes) -> None:
        await self.outside_queues.get_queue_client(NOTIFICATIONS).send_message(body.decode())

    async def run_worker(self, point: int = 0, work: Callable[[], Awaitable[None]] | None = None) -> bool:
        """Let a worker that crashes at `point` do this work, or all there is; return whether it finished."""
        worker = Worker(self.count_error, point)
        has_finished = await self._run(worker, work or self.run_until_idle)
        if not has_finished:
            await worker.kill()
            await self.services.close()
            await self.replace_worker(point)
        self.count_errors += worker.count_errors
        return has_finished

    async def pause_worker(self, point: int, meanwhile: Callable[[], Awaitable[None]] | None = None) -> bool:
        """Pause a worker at `point` until another has done all work, after `meanwhile`; return if it got that far."""
        worker = Worker(self.count_error, point)
        is_paused, services = not await self._run(worker, self.run_until_idle), self.services
        if is_paused:
            await self.replace_worker(point)
            if meanwhile:
                await meanwhile()
            assert await self.run_worker()
            await worker.resume()
            await services.close()
        self.count_errors += worker.count_errors
        return is_paused

    async def _run(self, worker: Worker, work: Callable[[], Awaitable[None]]) -> bool:
        if worker.never_stops:
            return await worker.run(work)
        before = self.count_requests()
        has_finished = await worker.run(work)
        if not has_finished:
            self.requests, self.reads = self.count_requests() - before, worker.reads
        return has_finished

    async def advance_clock(self, seconds: float) -> None:
        self.clock.offset += timedelta(seconds=seconds)
        now = self.clock()
        for each in [each for each in self.delayed if each[0] <= now]:
            # By the client of the test: a write of the worker would be one more point.
            await self.outside_queues.get_queue_client(each[1]).send_message(each[2])
            self.delayed.remove(each)
        await self.tick()
        await self.handle_messages()

    async def handle_batch(self, name: str, work: Callable[[bytes], Awaitable[None]]) -> bool:
        queue = self.outside_queues.get_queue_client(name)

        async def handle(message: Any) -> None:
            self._leased[message.id] = name, message
            await work(message.content.encode())
            if self._leased.pop(message.id, None):
                await queue.delete_message(message)

        found = [each async for each in queue.receive_messages(max_messages=32, visibility_timeout=600)]
        await asyncio.gather(*map(handle, found))
        return bool(found)

    async def due_times(self) -> AsyncIterator[datetime]:
        """Yield the minutes of all timers; those of the watchdog only if it is enabled."""
        async for row in self.outside_tables.get_table_client("HeraldTimers").list_entities():
            if self.watchdog_enabled or not row["RowKey"].startswith(WATCHDOG):
                yield datetime.fromisoformat(row["PartitionKey"].split(";")[0] + "+00:00")

    async def replace_worker(self, point: int) -> None:
        """Record the claims and messages of a worker that stopped at `point`, and start the next one."""
        claimed = self.outside_tables.get_table_client("HeraldDeliveries").query_entities("state eq 'sending'")
        self.claims_lost.update([row["RowKey"] async for row in claimed])
        for name, message in self._leased.values():
            await self.outside_queues.get_queue_client(name).delete_message(message)
            lease = timedelta(seconds=LEASE_SECONDS[point // 2 % len(LEASE_SECONDS)])
            self.delayed.append((self.clock() + lease, name, message.content))
        self._leased.clear()
        await self.start()

    async def start(self) -> None:
        """Start a worker."""
        environ = self.environ | {"HERALD_TENANT_RATE": str(HIGH_RATE)}
        token = TAP.set(Tap())
        self.services = await open_services(load_settings(environ), self.storage.open(), self.clock)
        TAP.reset(token)
        http = self.services.http
        self.connections = self.connections or http.connector
        http._connector, http._connector_owner = self.connections, False
        set_token(self.services, self.token)
        object.__setattr__(self.services.settings, "tenant_rate", 1)  # pages of two
        follow_clock(self)

    async def rows(self, partition: str) -> list[dict[str, Any]]:
        """Return the rows of the partitions of Deliveries with this prefix, also the rows of their counts."""
        table = self.outside_tables.get_table_client("HeraldDeliveries")
        found = table.query_entities(
            "PartitionKey ge @first and PartitionKey lt @last", parameters={"first": partition, "last": partition + "~"}
        )
        return [dict(row) async for row in found]

    async def count_error(self, partition: str) -> str:
        """Return how the counts of a partition of Deliveries differ from its rows, or "" if they do not."""
        if partition.endswith(f";{FEW_SHARD}"):
            return ""  # it has no counts
        table = self.outside_tables.get_table_client("HeraldDeliveries")
        found = table.query_entities("PartitionKey eq @partition", parameters={"partition": partition})
        rows = [dict(row) async for row in found]
        counts_row = next((row for row in rows if row["RowKey"] == "~counts"), {})
        stored = +Counter({name: counts_row.get(name, 0) for name in ("open", *DeliveryState)})
        actual = Counter(DeliveryState(row["state"]).count_name for row in rows if "state" in row)
        stored["refused"] = counts_row.get("refused_changes", 0)
        actual["refused"] = sum(bool(row.get("refused_change")) for row in rows)
        return "" if stored == actual else f"the counts are {dict(stored)}, the rows {dict(actual)}"


async def crash_at_each_write(
    host: Host, begin: Callable[[], Awaitable[S]], check: Callable[[S], Awaitable[None]]
) -> None:
    """Repeat a scenario with a worker that crashes at each point in turn, until one finishes.

    A crash before a write leaves the same as one after the write before it, unless Teams got a request in between: only
    then both are tried.
    """

    async def stops(point: int) -> bool:
        scenario = await begin()
        host.claims_lost.clear()
        has_finished = await host.run_worker(point)
        if not has_finished:
            assert await host.run_worker()
        await check(scenario)
        return not has_finished

    await _at_each_write(stops, lambda: host.requests)


async def pause_at_each_write(
    host: Host,
    begin: Callable[[], Awaitable[S]],
    check: Callable[[S], Awaitable[None]],
    meanwhile: Callable[[S], Awaitable[None]] | None = None,
) -> None:
    """Repeat a scenario with a worker that pauses at each point in turn, while another does all work.

    It resumes with what it had read before. `meanwhile` happens before the other worker begins.
    """

    async def stops(point: int) -> bool:
        scenario = await begin()
        host.claims_lost.clear()
        is_paused = await host.pause_worker(point, partial(meanwhile, scenario) if meanwhile else None)
        assert await host.run_worker()
        await check(scenario)
        return is_paused

    await _at_each_write(stops, lambda: host.requests + host.reads)


async def _at_each_write(stops: Callable[[int], Awaitable[bool]], learned: Callable[[], int]) -> None:
    """Try each point after a write, and the one before it if `learned` has changed since the write before."""
    before = 0
    for point in range(2, MAX_POINTS, 2):
        has_stopped = await stops(point)
        now = learned()
        if not has_stopped:
            assert point > 2
            return
        if now != before:
            await stops(point - 1)  # may not be reached: the number of writes depends on which task is first
        before = now
    raise AssertionError(f"there are more than {MAX_POINTS} points")
