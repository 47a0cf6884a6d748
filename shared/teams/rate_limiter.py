"""Delay every request to Teams until its slot in the rate lane of its tenant and its turn in that of its conversation.

The lanes are rows that all workers share. In each process, one task per tenant takes slots for all waiting requests,
urgent ones first. A slot that is not used in time lapses.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import count

from shared import keys
from shared.rate_windows import (
    MAX_AHEAD,
    MAX_LATENESS,
    MAX_LEAD,
    MAX_PAUSE,
    MAX_TURN_LEAD,
    MAX_TURN_WAIT,
    SECOND,
    ConversationLane,
    TenantLane,
)
from shared.records import StoredLane
from shared.storage.rate_lanes import LaneKind, RateLanes, decode_lane
from shared.storage.table import Conflict

#: Longest time that a request waits for its slot in the process. One that would wait longer goes back to its queue.
MAX_WAIT_SECONDS = 5.0
#: Requests wait in the process only while a lane is paused for at most this long. Otherwise they would fill the process
#: and delay other tenants.
MAX_PAUSE_MICROSECONDS = SECOND
#: How far ahead slots are taken at least, so that the request history of the conversation is stored before the slot: a
#: slot that is missed is lost. While storage is slower than that, they are taken up to `MAX_LEAD` ahead.
LEAD_MICROSECONDS = SECOND // 5
#: Storage counts as slow for this long after slots were taken as far ahead as `MAX_LEAD`.
SLOW_MICROSECONDS = 10 * SECOND
#: Conversations whose lane is kept in memory, which saves a read if no other process wrote to it.
MAX_CACHED_CONVERSATIONS = 4096

#: Returns the lane after a change, and a time.
LaneChange = Callable[[ConversationLane], tuple[ConversationLane, int]]


class RetryLater(Exception):
    """The next slot is too far away to wait for it in the process; try again after `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class RateLimiter:
    """Slots at `rate` requests a second for each tenant, over all processes; `lanes` has the kind of the requests."""

    def __init__(self, lanes: RateLanes, rate: int, real_time: Callable[[], datetime]) -> None:
        self._lanes, self._rate, self._real_time = lanes, rate, real_time
        self._tenants: dict[str, _TenantQueue] = {}
        self._conversations: dict[tuple[str, str, LaneKind], _Conversation] = {}

    def learn(self, tenant: str, recipient: str, stored: StoredLane, at: datetime) -> None:
        """Use the lane of a recipient, read from storage at `at` or later: it need not be read again."""
        lane = self._conversation(tenant, recipient, LaneKind.CONVERSATION)
        lane.learn(stored, round(at.timestamp() * SECOND))

    async def reserve_turn(
        self, tenant: str, conversation: str, reserved_turn: float = 0.0, *, urgent: bool = False
    ) -> float:
        """Return 0 if a message to `conversation` may be sent now, or else the time of the turn reserved for it.

        Its queue message then has to come back at that time, with the time as its `reserved_turn`. Times are in seconds
        since 1970. Urgent messages do not wait for the turns of others. Raises `RetryLater` if no turn can be reserved.
        """

        def take_turn(lane: ConversationLane) -> tuple[ConversationLane, int]:
            return lane.take_turn(self._clock(), has_turn=reserved_turn > 0, urgent=urgent)

        at = await self._conversation(tenant, conversation, LaneKind.CONVERSATION).change(take_turn)
        wait = at - self._clock()
        if wait > MAX_TURN_LEAD:
            raise RetryLater(MAX_TURN_LEAD / SECOND)
        return at / SECOND if wait > MAX_TURN_WAIT else 0.0

    async def wait_for_slot(
        self, tenant: str, conversation: str | None, *, urgent: bool = False, kind: LaneKind = LaneKind.CONVERSATION
    ) -> None:
        """Return when a request to `conversation`, None if it has no windows, may be sent; raise `RetryLater`."""
        queue, deadline = self._queue(tenant), self._clock() + int(MAX_WAIT_SECONDS * SECOND)
        lane, lapsed = None if conversation is None else self._conversation(tenant, conversation, kind), 0
        if lane:
            await self._sleep_until(lane.earliest(self._clock()), deadline)
        while True:
            slot = await queue.slot(deadline, urgent=urgent)
            if lane and (later := await lane.change(partial(ConversationLane.with_request, at=slot, lapsed=lapsed))):
                await self._sleep_until(later, deadline)
                continue
            lapsed = slot
            queue.adapt_lead(slot - self._clock())
            await asyncio.sleep((slot - self._clock()) / SECOND)
            paused_until = max(queue.lane.paused_until, lane.paused_until if lane else 0)
            if paused_until <= slot and self._clock() <= slot + MAX_LATENESS:
                return

    def seconds_until_free(self, tenant: str, conversation: str, *, urgent: bool) -> float:
        """Return how long a request would wait for others, in seconds, as far as this process knows."""
        now, queue = self._clock(), self._queue(tenant)
        lane = self._conversation(tenant, conversation, LaneKind.CONVERSATION)
        return max(queue.wait_for_others(now, urgent=urgent), lane.earliest(now) - now) / SECOND

    def seconds_until(self, at: float) -> float:
        """Return the time from now until `at`, in seconds since 1970."""
        return at - self._clock() / SECOND

    def paused_seconds(self, tenant: str) -> float:
        """Return for how long the tenant's lane is paused, or 0 if requests wait for that in the process."""
        wait = self._queue(tenant).lane.paused_until - self._clock()
        return wait / SECOND if wait > MAX_PAUSE_MICROSECONDS else 0.0

    async def pause_tenant(self, tenant: str, seconds: float) -> None:
        """Pause the tenant's lane for all processes."""
        until = self._pause_end(seconds)
        await self._queue(tenant).change(lambda lane: lane.with_pause(until))

    async def pause_conversation(self, tenant: str, conversation: str, seconds: float) -> None:
        """Pause the conversation's lane for all processes, and that of its tenant if Teams refuses several."""
        until, now, name = self._pause_end(seconds), self._clock(), keys.hash_of(conversation)
        lane = self._conversation(tenant, conversation, LaneKind.CONVERSATION)
        await lane.change(lambda known: (known.with_pause(until), 0))
        await self._queue(tenant).change(lambda known: known.with_refusal(name, now, until))

    def _clock(self) -> int:
        return round(self._real_time().timestamp() * SECOND)

    def _pause_end(self, seconds: float) -> int:
        return self._clock() + min(int(seconds * SECOND), MAX_PAUSE)

    async def _sleep_until(self, at: int, deadline: int) -> None:
        wait = (at - self._clock()) / SECOND
        if at > deadline:
            raise RetryLater(wait)
        if wait > 0:
            await asyncio.sleep(wait)

    def _conversation(self, tenant: str, conversation: str, kind: LaneKind) -> _Conversation:
        key = (tenant, conversation, kind)
        known = self._conversations.pop(key, None)
        self._conversations[key] = known or _Conversation(self._lanes, *key, self._clock)
        if len(self._conversations) > MAX_CACHED_CONVERSATIONS:
            self._conversations.pop(next(iter(self._conversations)))
        return self._conversations[key]

    def _queue(self, tenant: str) -> _TenantQueue:
        if tenant not in self._tenants:
            self._tenants[tenant] = _TenantQueue(self._lanes, tenant, self._rate, self._clock)
        return self._tenants[tenant]


class _Conversation:
    """A conversation's lane as this process knows it. Changes that come while it is stored share the next write."""

    def __init__(
        self, lanes: RateLanes, tenant: str, conversation: str, kind: LaneKind, clock: Callable[[], int]
    ) -> None:
        self._lanes, self._tenant, self._conversation, self._kind = lanes, tenant, conversation, kind
        self._clock, self._lane = clock, ConversationLane()
        #: The ETag of the row, None if the row has to be read, and the time at which it was the current one.
        self._etag: str | None = None
        self._known_at = 0
        self._waiting: list[tuple[LaneChange, asyncio.Future[int]]] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def paused_until(self) -> int:
        """The time until which the lane is or was paused, as far as it is known."""
        return self._lane.sent.paused_until

    def learn(self, stored: StoredLane, at: int) -> None:
        """Use the lane as it was read at `at` or later, unless a newer one is known or being stored."""
        is_storing = self._task is not None and not self._task.done()
        if not is_storing and at > self._known_at and stored.etag != self._etag:
            self._lane = replace(decode_lane(stored, self._clock()), expected=self._lane.expected)
            self._etag, self._known_at = stored.etag, at

    def earliest(self, now: int) -> int:
        """Return the first time from `now` on that keeps all windows, as far as it is known."""
        return self._lane.sent.earliest(now)

    async def change(self, change: LaneChange) -> int:
        """Change the lane, store it, and return the time that `change` returns; it may be called several times."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._apply_waiting())
        return await done

    async def _apply_waiting(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                answers = await self._apply([change for change, _ in waiting])
            except Exception as error:  # noqa: BLE001 (passed on to each request that waits)
                for _, done in waiting:
                    if not done.done():
                        done.set_exception(error)
                continue
            for (_, done), answer in zip(waiting, answers, strict=True):
                if not done.done():
                    done.set_result(answer)

    async def _apply(self, changes: Sequence[LaneChange]) -> Sequence[int]:
        while True:
            if self._etag is None:
                expected = self._lane.expected
                stored, self._etag = await self._lanes.conversation(
                    self._tenant, self._conversation, self._clock(), self._kind
                )
                self._lane, self._known_at = replace(stored, expected=expected), self._clock()
            lane, answers = self._lane, list[int]()
            for change in changes:
                lane, answer = change(lane)
                answers.append(answer)
            now = self._clock()
            if lane.sent != self._lane.sent or (lane.turns != self._lane.turns and lane.is_reserved(now)):
                etag, self._etag = self._etag, None
                try:
                    self._etag = await self._lanes.save_conversation(
                        self._tenant, self._conversation, lane, etag, now, self._kind
                    )
                except Conflict:  # another process has changed it
                    continue
                self._known_at = self._clock()
            self._lane = lane
            return answers


@dataclass(order=True, slots=True)
class _SlotRequest:
    """A request that waits for a slot: urgent ones first, then in the order in which they came."""

    is_bulk: bool
    number: int
    deadline: int = field(compare=False)
    granted: asyncio.Future[int] = field(compare=False)


class _TenantQueue:
    """A tenant's lane as this process knows it, and the requests that wait for a slot in it."""

    def __init__(self, lanes: RateLanes, tenant: str, rate: int, clock: Callable[[], int]) -> None:
        self._lanes, self._tenant, self._rate, self._clock = lanes, tenant, rate, clock
        #: Slots before its `paused_until` are void, including those already granted.
        self.lane, self._etag = TenantLane(), ""
        self._lead, self._slow_at = LEAD_MICROSECONDS, 0
        self._waiting: list[_SlotRequest] = []
        self._order = count()
        self._task: asyncio.Task[None] | None = None

    async def slot(self, deadline: int, *, urgent: bool) -> int:
        """Take the next slot and return its time; raise `RetryLater` if there is none before `deadline`."""
        granted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, _SlotRequest(not urgent, next(self._order), deadline, granted))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._take_slots())
        return await granted

    def wait_for_others(self, now: int, *, urgent: bool) -> int:
        """Return how much later than in an idle lane a request would get its slot, as far as it is known."""
        ahead = sum(not (urgent and each.is_bulk) for each in self._waiting)
        next_slot = max(now, self.lane.next_slot - self._lead, self.lane.paused_until)
        return next_slot - now + ahead * SECOND // self._rate

    def adapt_lead(self, spare: int) -> None:
        """Take slots further ahead if one was stored too late, or less far if there were `spare` microseconds."""
        if spare < -MAX_LATENESS:
            self._lead = min(2 * self._lead, MAX_LEAD)
            if self._lead == MAX_LEAD:
                self._slow_at = self._clock()
        elif spare > self._lead // 2:
            self._lead = max(self._lead * 3 // 4, LEAD_MICROSECONDS)

    @property
    def _max_ahead(self) -> int:
        """How far ahead slots are taken: further for a time after the longest lead, which slow storage causes."""
        return MAX_LEAD if self._clock() < self._slow_at + SLOW_MICROSECONDS else MAX_AHEAD

    async def change(self, change: Callable[[TenantLane], TenantLane]) -> None:
        """Read the lane, and store what `change` makes of it."""
        while True:
            await self._read()
            new = change(self.lane)
            try:
                if new != self.lane:
                    self._etag = await self._lanes.save_tenant(self._tenant, new, self._etag)
            except Conflict:
                continue
            self.lane = new
            return

    async def _read(self) -> None:
        self.lane, self._etag = await self._lanes.tenant(self._tenant, self._clock())

    async def _take_slots(self) -> None:
        try:
            while self._waiting:
                await self._take_block()
        except Exception as error:  # noqa: BLE001 (passed on to each request that waits)
            for each in self._waiting:
                if not each.granted.done():
                    each.granted.set_exception(error)
            self._waiting.clear()

    async def _take_block(self) -> None:
        now = self._clock()
        self._refuse(now - MAX_LEAD, SECOND)  # storage is slow, or other processes were faster each time
        slots, lane = self.lane.take(now + self._lead, self._rate, len(self._waiting), self._max_ahead)
        if not slots:
            await self._wait(now)
            return
        try:
            self._etag = await self._lanes.save_tenant(self._tenant, lane, self._etag)
        except Conflict:
            await self._read()  # another process took slots, or paused the lane
            return
        self.lane = lane
        for slot in slots:
            if self._waiting:
                granted = heapq.heappop(self._waiting).granted
                if not granted.done():
                    granted.set_result(slot)

    async def _wait(self, now: int) -> None:
        """Wait until slots are granted again; raise `RetryLater` in the requests that would wait too long."""
        resumes = max(self.lane.next_slot, self.lane.paused_until) - self._max_ahead
        is_brief = resumes <= now + MAX_PAUSE_MICROSECONDS
        self._refuse(resumes if is_brief else sys.maxsize, resumes - now)
        if self._waiting:
            await asyncio.sleep(max(resumes - now, SECOND // 100) / SECOND)

    def _refuse(self, until: int, wait: int) -> None:
        """Raise `RetryLater`, with `wait` in microseconds, in the requests whose deadline is before `until`."""
        for each in self._waiting:
            if each.deadline < until and not each.granted.done():
                each.granted.set_exception(RetryLater(wait / SECOND))
        self._waiting = [each for each in self._waiting if each.deadline >= until]
        heapq.heapify(self._waiting)
