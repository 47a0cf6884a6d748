"""Delay every request to Teams until its slot in the rate lanes of its tenant and of its conversation.

The lanes are rows that all workers share. In each process, one task per tenant takes slots for all waiting requests,
urgent ones first. A slot that is not used in time lapses.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from itertools import count

from shared.rate_windows import MAX_LATENESS, MAX_LEAD, SECOND, RequestHistory, grant
from shared.storage.rate_lanes import RateLanes
from shared.storage.table import Conflict

#: Longest time that a request waits for its slot in the process. One that would wait longer goes back to its queue.
MAX_WAIT_SECONDS = 5.0
#: Requests wait in the process only while a lane is paused for at most this long. Otherwise they would fill the process
#: and delay other tenants.
MAX_PAUSE_MICROSECONDS = SECOND
#: How far ahead slots are taken, so that the request history of the conversation is stored before the slot even if
#: storage is slow: a slot that is missed is lost.
LEAD_MICROSECONDS = SECOND // 5
#: Conversations whose request history is kept in memory, which saves a read if no other process wrote to it.
MAX_CACHED_CONVERSATIONS = 4096


class RetryLater(Exception):
    """The next slot is too far away to wait for it in the process; try again after `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def _now() -> int:
    return time.time_ns() // 1000


class RateLimiter:
    """Slots at `rate` requests a second for each tenant, over all processes."""

    def __init__(self, lanes: RateLanes, rate: int, clock: Callable[[], int] = _now) -> None:
        self._lanes, self._rate, self._clock = lanes, rate, clock
        self._tenants: dict[str, _TenantLane] = {}
        self._histories: dict[tuple[str, str], tuple[RequestHistory, str]] = {}

    async def wait_for_slot(self, tenant: str, conversation: str, *, urgent: bool = False) -> None:
        """Return when a request to `conversation` ("" for none) may be sent; raise `RetryLater`."""
        lane, deadline = self._lane(tenant), self._clock() + int(MAX_WAIT_SECONDS * SECOND)
        if conversation:
            history, _ = await self._history(tenant, conversation)
            await self._sleep_until(history.earliest(self._clock()), deadline)
        while True:
            slot = await lane.slot(deadline, urgent=urgent)
            if conversation and (later := await self._record(tenant, conversation, slot)):
                await self._sleep_until(later, deadline)
                continue
            await asyncio.sleep((slot - self._clock()) / SECOND)
            if lane.paused_until <= slot and self._clock() <= slot + MAX_LATENESS:
                return

    def paused_seconds(self, tenant: str) -> float:
        """Return for how long the tenant's lane is paused, or 0 if requests wait for that in the process."""
        wait = self._lane(tenant).paused_until - self._clock()
        return wait / SECOND if wait > MAX_PAUSE_MICROSECONDS else 0.0

    async def pause_tenant(self, tenant: str, seconds: float) -> None:
        """Pause the tenant's lane for all processes."""
        await self._lane(tenant).pause(self._clock() + int(seconds * SECOND))

    async def pause_conversation(self, tenant: str, conversation: str, seconds: float) -> None:
        """Pause the conversation's lane for all processes."""
        until = self._clock() + int(seconds * SECOND)
        while True:
            history, etag = await self._lanes.conversation(tenant, conversation)
            try:
                await self._save(tenant, conversation, history.with_pause(until), etag)
            except Conflict:
                continue
            return

    async def _record(self, tenant: str, conversation: str, at: int) -> int:
        """Record a request at `at` and return 0; if a window forbids it, return the earliest possible time instead."""
        history, etag = await self._history(tenant, conversation)
        while True:
            earliest = history.earliest(at)
            if earliest > at:
                return earliest
            try:
                await self._save(tenant, conversation, history.with_request(at), etag)
            except Conflict:
                history, etag = await self._lanes.conversation(tenant, conversation)
                continue
            return 0

    async def _history(self, tenant: str, conversation: str) -> tuple[RequestHistory, str]:
        known = self._histories.get((tenant, conversation))
        if known is None:
            known = await self._lanes.conversation(tenant, conversation)
            self._remember(tenant, conversation, known)
        return known

    async def _save(self, tenant: str, conversation: str, history: RequestHistory, etag: str) -> None:
        new_etag = await self._lanes.save_conversation(tenant, conversation, history, etag)
        self._remember(tenant, conversation, (history, new_etag))

    def _remember(self, tenant: str, conversation: str, known: tuple[RequestHistory, str]) -> None:
        self._histories.pop((tenant, conversation), None)
        self._histories[tenant, conversation] = known
        if len(self._histories) > MAX_CACHED_CONVERSATIONS:
            self._histories.pop(next(iter(self._histories)))

    async def _sleep_until(self, at: int, deadline: int) -> None:
        wait = (at - self._clock()) / SECOND
        if at > deadline:
            raise RetryLater(wait)
        if wait > 0:
            await asyncio.sleep(wait)

    def _lane(self, tenant: str) -> _TenantLane:
        if tenant not in self._tenants:
            self._tenants[tenant] = _TenantLane(self._lanes, tenant, self._rate, self._clock)
        return self._tenants[tenant]


class _TenantLane:
    """A tenant's lane as this process knows it, and the requests that wait for a slot in it."""

    def __init__(self, lanes: RateLanes, tenant: str, rate: int, clock: Callable[[], int]) -> None:
        self._lanes, self._tenant, self._rate, self._clock = lanes, tenant, rate, clock
        self._next_slot, self._etag = 0, ""
        #: The time until which the lane is paused. Slots before it are void, including those already granted.
        self.paused_until = 0
        self._waiting: list[tuple[bool, int, int, asyncio.Future[int]]] = []
        self._order = count()
        self._task: asyncio.Task[None] | None = None

    async def slot(self, deadline: int, *, urgent: bool) -> int:
        """Take the next slot and return its time; raise `RetryLater` if there is none before `deadline`."""
        granted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (not urgent, next(self._order), deadline, granted))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._take_slots())
        return await granted

    async def pause(self, until: int) -> None:
        """Grant no slot before `until`."""
        while True:
            await self._read()
            if self._next_slot < until:
                try:
                    self._etag = await self._lanes.save_tenant(self._tenant, until, self._etag)
                except Conflict:
                    continue
                self._next_slot = until
            self.paused_until = max(self.paused_until, until)
            return

    async def _read(self) -> None:
        self._next_slot, self._etag = await self._lanes.tenant(self._tenant)
        # Slots are never taken so far ahead, so a process has paused the lane.
        if self._next_slot > self._clock() + LEAD_MICROSECONDS + 2 * MAX_LEAD:
            self.paused_until = self._next_slot

    async def _take_slots(self) -> None:
        try:
            while self._waiting:
                await self._take_block()
        except Exception as error:  # noqa: BLE001 (passed on to each request that waits)
            for *_, granted in self._waiting:
                if not granted.done():
                    granted.set_exception(error)
            self._waiting.clear()

    async def _take_block(self) -> None:
        now = self._clock()
        slots, next_slot = grant(self._next_slot, now + LEAD_MICROSECONDS, self._rate, len(self._waiting))
        if not slots:
            await self._wait(now)
            return
        try:
            self._etag = await self._lanes.save_tenant(self._tenant, next_slot, self._etag)
        except Conflict:
            await self._read()  # another process took slots, or paused the lane
            return
        self._next_slot = next_slot
        for slot in slots:
            if self._waiting:
                *_, granted = heapq.heappop(self._waiting)
                if not granted.done():
                    granted.set_result(slot)

    async def _wait(self, now: int) -> None:
        """Wait until slots are granted again; raise `RetryLater` in the requests that would wait too long."""
        resumes = self._next_slot - MAX_LEAD
        is_brief = resumes <= now + MAX_PAUSE_MICROSECONDS
        remaining = [entry for entry in self._waiting if is_brief and entry[2] >= resumes]
        for _, _, deadline, granted in self._waiting:
            if not (is_brief and deadline >= resumes) and not granted.done():
                granted.set_exception(RetryLater((resumes - now) / SECOND))
        heapq.heapify(remaining)
        self._waiting = remaining
        if remaining:
            await asyncio.sleep(max(resumes - now, SECOND // 100) / SECOND)
