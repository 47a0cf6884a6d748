"""Make every request to Teams wait for its slot: in the rate lane of its tenant, and in that of its conversation.

The lanes are rows that all workers share. In a process, one task a tenant takes slots for all waiting requests, urgent
ones first; a slot that is not used in time lapses.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from itertools import count

from shared.rate_windows import MAX_LATENESS, MAX_LEAD, SECOND, Sends, grant
from shared.storage.rate_lanes import RateLanes
from shared.storage.table import Conflict

#: Seconds for which a request waits for its turn in the process; what would wait longer goes back to its queue.
MAX_WAIT_SECONDS = 5.0
#: A lane that is held for longer than these microseconds keeps nobody waiting: they would fill the process, and
#: other tenants with them.
MAX_PAUSE_MICROSECONDS = SECOND
#: Slots are taken this many microseconds ahead, so that what must be stored before the request is stored by then, also
#: where the storage is slow: a slot that is missed is lost to all.
LEAD_MICROSECONDS = SECOND // 5
#: Conversations whose record is kept in memory, which saves a read where nobody else wrote to it.
MAX_CACHED_CONVERSATIONS = 4096


class RetryLater(Exception):
    """Teams must not be asked now, and a function should not wait that long; try again after `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def _now() -> int:
    return time.time_ns() // 1000


class RateLimiter:
    """Turns at `rate` requests a second for each tenant, over all processes."""

    def __init__(self, lanes: RateLanes, rate: int, clock: Callable[[], int] = _now) -> None:
        self._lanes, self._rate, self._clock = lanes, rate, clock
        self._tenants: dict[str, _TenantLane] = {}
        self._known: dict[tuple[str, str], tuple[Sends, str]] = {}

    async def turn(self, tenant: str, conversation: str, *, urgent: bool = False) -> None:
        """Return at the moment when a request to `conversation` ("" for none) may leave; raises `RetryLater`."""
        lane, deadline = self._lane(tenant), self._clock() + int(MAX_WAIT_SECONDS * SECOND)
        if conversation:
            sends, _ = await self._sends(tenant, conversation)
            await self._sleep_until(sends.earliest(self._clock()), deadline)
        while True:
            slot = await lane.slot(deadline, urgent=urgent)
            if conversation and (later := await self._record(tenant, conversation, slot)):
                await self._sleep_until(later, deadline)
                continue
            await asyncio.sleep((slot - self._clock()) / SECOND)
            if lane.held_until <= slot and self._clock() <= slot + MAX_LATENESS:
                return

    def paused_seconds(self, tenant: str) -> float:
        """For how many seconds the tenant is known to be held, where that is longer than one waits; else 0."""
        wait = self._lane(tenant).held_until - self._clock()
        return wait / SECOND if wait > MAX_PAUSE_MICROSECONDS else 0.0

    async def hold_tenant(self, tenant: str, seconds: float) -> None:
        """Let no request to this tenant leave for so long, from any process."""
        await self._lane(tenant).hold(self._clock() + int(seconds * SECOND))

    async def hold_conversation(self, tenant: str, conversation: str, seconds: float) -> None:
        """Let no request to this conversation leave for so long, from any process."""
        until = self._clock() + int(seconds * SECOND)
        while True:
            sends, etag = await self._lanes.conversation(tenant, conversation)
            try:
                await self._keep(tenant, conversation, sends.hold(until), etag)
            except Conflict:
                continue
            return

    async def _record(self, tenant: str, conversation: str, at: int) -> int:
        """Record a request at `at` and return 0; or, where a window forbids it, the moment when it may go."""
        sends, etag = await self._sends(tenant, conversation)
        while True:
            earliest = sends.earliest(at)
            if earliest > at:
                return earliest
            try:
                await self._keep(tenant, conversation, sends.sent(at), etag)
            except Conflict:
                sends, etag = await self._lanes.conversation(tenant, conversation)
                continue
            return 0

    async def _sends(self, tenant: str, conversation: str) -> tuple[Sends, str]:
        known = self._known.get((tenant, conversation))
        if known is None:
            known = await self._lanes.conversation(tenant, conversation)
            self._remember(tenant, conversation, known)
        return known

    async def _keep(self, tenant: str, conversation: str, sends: Sends, etag: str) -> None:
        written = await self._lanes.move_conversation(tenant, conversation, sends, etag)
        self._remember(tenant, conversation, (sends, written))

    def _remember(self, tenant: str, conversation: str, known: tuple[Sends, str]) -> None:
        self._known.pop((tenant, conversation), None)
        self._known[tenant, conversation] = known
        if len(self._known) > MAX_CACHED_CONVERSATIONS:
            self._known.pop(next(iter(self._known)))

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
    """What this process knows of a tenant's lane, and who waits for a slot in it."""

    def __init__(self, lanes: RateLanes, tenant: str, rate: int, clock: Callable[[], int]) -> None:
        self._lanes, self._tenant, self._rate, self._clock = lanes, tenant, rate, clock
        self._following, self._etag = 0, ""
        #: Until when the lane is known to be held: slots before it are void, those already granted too.
        self.held_until = 0
        self._waiting: list[tuple[bool, int, int, asyncio.Future[int]]] = []
        self._turns = count()
        self._taking: asyncio.Task[None] | None = None

    async def slot(self, deadline: int, *, urgent: bool) -> int:
        """The moment of the next slot that is ours; raises `RetryLater` where none is before `deadline`."""
        granted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (not urgent, next(self._turns), deadline, granted))
        if self._taking is None or self._taking.done():
            self._taking = asyncio.create_task(self._take())
        return await granted

    async def hold(self, until: int) -> None:
        """Give out no slot before `until`."""
        while True:
            await self._read()
            if self._following < until:
                try:
                    self._etag = await self._lanes.move_tenant(self._tenant, until, self._etag)
                except Conflict:
                    continue
                self._following = until
            self.held_until = max(self.held_until, until)
            return

    async def _read(self) -> None:
        self._following, self._etag = await self._lanes.tenant(self._tenant)
        # Slots are never taken so far ahead: somebody was told to wait.
        if self._following > self._clock() + LEAD_MICROSECONDS + 2 * MAX_LEAD:
            self.held_until = self._following

    async def _take(self) -> None:
        try:
            while self._waiting:
                await self._take_block()
        except Exception as error:  # noqa: BLE001 (each of the waiting is told, and fails with it)
            for *_, granted in self._waiting:
                if not granted.done():
                    granted.set_exception(error)
            self._waiting.clear()

    async def _take_block(self) -> None:
        now = self._clock()
        slots, following = grant(self._following, now + LEAD_MICROSECONDS, self._rate, len(self._waiting))
        if not slots:
            await self._wait(now)
            return
        try:
            self._etag = await self._lanes.move_tenant(self._tenant, following, self._etag)
        except Conflict:
            await self._read()  # another process took some, or was told to wait
            return
        self._following = following
        for slot in slots:
            if self._waiting:
                *_, granted = heapq.heappop(self._waiting)
                if not granted.done():
                    granted.set_result(slot)

    async def _wait(self, now: int) -> None:
        """Until slots are given out again; those who would wait too long are sent away."""
        opens = self._following - MAX_LEAD
        is_brief = opens <= now + MAX_PAUSE_MICROSECONDS
        staying = [entry for entry in self._waiting if is_brief and entry[2] >= opens]
        for _, _, deadline, granted in self._waiting:
            if not (is_brief and deadline >= opens) and not granted.done():
                granted.set_exception(RetryLater((opens - now) / SECOND))
        heapq.heapify(staying)
        self._waiting = staying
        if staying:
            await asyncio.sleep(max(opens - now, SECOND // 100) / SECOND)
