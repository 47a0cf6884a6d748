"""Timer triggers: sleep until the next occurrence, claim it, call, and store when the one after it is due.

The rules are those of the Functions timer extension: runs never overlap, what was missed while no host was
up is called once with `past_due`, and schedules of less than a minute are not caught up.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from azure.core.exceptions import AzureError
from azure.functions import meta

from local.host.backoff import backoff
from local.host.context import Attempt, Failure
from local.host.functions import Function
from local.host.invoke import Invoker
from local.host.ncrontab import Schedule, is_frequent, parse_schedule
from local.host.timer_store import NEVER, Taken, TimerRecord, TimerStore

#: How long a run is another host's business after that host was last heard of, and how often a run says so.
LEASE = timedelta(seconds=15)
RENEWAL = timedelta(seconds=5)
#: The longest sleep at once: a jump of the wall clock is noticed within it.
NAP = timedelta(seconds=30)
#: The shortest and longest wait for a storage that does not answer, in seconds.
STORAGE_WAIT = 0.2, 10.0

log = logging.getLogger("Host")


class TimerListener:
    """Calls one function when its schedule says so, until `stop`."""

    def __init__(self, function: Function, store: TimerStore, invoker: Invoker) -> None:
        """Raises `ValueError` where the schedule is unreadable."""
        self.schedule: Schedule = parse_schedule(function.binding["schedule"])
        self._function = function
        self._store = store
        self._invoker = invoker
        self._owner = uuid.uuid4().hex
        self._monitored = function.binding.get("useMonitor", True) and not is_frequent(self.schedule, _now())
        self._record = TimerRecord(NEVER, NEVER, NEVER)
        self._missed = False
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends waiting; `run` returns once a call under way has ended."""
        self._stopping.set()

    async def start(self) -> None:
        """Reads the status, and calls the function where it is to run at each start; raises `AzureError`."""
        now = _now()
        stored = await self._store.read(self._function.name)
        self._record = start_status(stored, self.schedule, now, self._monitored)
        self._missed = self._monitored and self._record.next < now
        if self._monitored and self._record != stored:
            await self._save(self._record)
        if self._function.binding.get("runOnStartup") and self._record.until < now:
            await self._occur()

    async def run(self) -> None:
        """Waits and calls until `stop`, whatever the storage does meanwhile."""
        failures = 0
        while True:
            await self._sleep_until(wake_time(self._record))
            if self._stopping.is_set():
                return
            try:
                await self._occur()
                failures = 0
            except AzureError as error:
                if failures == 0:
                    log.warning("timer %s waits for the storage: %s", self._function.name, type(error).__name__)
                await self._pause(backoff(failures, *STORAGE_WAIT))
                failures += 1

    async def _occur(self) -> None:
        """Calls the function where this host gets to claim the occurrence; raises `AzureError` before the call."""
        called = _now()
        # an owner that still stands there died during its run
        past_due = self._missed or (self._monitored and self._record.owner != "")
        claimed = await self._save(replace(self._record, owner=self._owner, until=called + LEASE))
        self._missed = False  # by the one that claimed it, where that was another host
        if not claimed:
            return
        renewal = asyncio.create_task(self._keep())
        try:
            await self._call(past_due)
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
        await self._complete(TimerRecord(called, self.schedule.next(called), called))

    async def _call(self, past_due: bool) -> None:
        retry = self._function.retry
        datum = meta.Datum(json.dumps(timer_info(self._record if self._monitored else None, past_due)), "json")
        result = await self._invoker.call(self._function, datum)
        count = 0
        while retry and not result.succeeded and count != retry.limit:
            await self._pause(backoff(count, retry.low, retry.high))
            if self._stopping.is_set():
                return
            count += 1
            attempt = Attempt(count, retry.limit, Failure(result.error))
            result = await self._invoker.call(self._function, datum, attempt=attempt)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(RENEWAL.total_seconds())
            try:
                await self._save(replace(self._record, until=_now() + LEASE))
            except AzureError as error:
                log.debug("timer %s: its lease was not renewed: %s", self._function.name, type(error).__name__)

    async def _complete(self, done: TimerRecord) -> None:
        failures = 0
        while True:
            try:
                if await self._save(replace(done, etag=self._record.etag)):
                    return
                if self._record.owner != self._owner:
                    return  # another host has taken over
            except AzureError:
                if self._stopping.is_set():
                    return
            # the row is ours still: a renewal of it was answered too late, or the storage does not answer
            await self._pause(backoff(failures, *STORAGE_WAIT))
            failures += 1

    async def _save(self, record: TimerRecord) -> bool:
        """Stores `record`, or takes over what another host has stored instead."""
        try:
            etag = await self._store.write(self._function.name, record)
        except Taken:
            self._record = await self._store.read(self._function.name) or replace(self._record, etag="")
            return False
        self._record = replace(record, etag=etag)
        return True

    async def _sleep_until(self, wake: datetime) -> None:
        while not self._stopping.is_set() and (left := wake - _now()) > timedelta(0):
            await self._pause(min(left, NAP).total_seconds())

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


def start_status(stored: TimerRecord | None, schedule: Schedule, now: datetime, monitored: bool) -> TimerRecord:
    """The status to start with: what is stored where it still follows `schedule`, else one counted from `now`.

    A `next` before `now` was missed and is to be caught up; a timer that is not monitored misses nothing.
    """
    if stored is None:
        return TimerRecord(NEVER, schedule.next(now), now)
    if not monitored:
        return stored if stored.next > now else replace(stored, next=schedule.next(now))
    counted_from = stored.last if stored.last != NEVER else stored.updated
    expected = schedule.next(counted_from)
    if stored.next == expected:
        return stored
    if expected < now:
        counted_from, expected = now, schedule.next(now)
    return replace(stored, last=NEVER, next=expected, updated=counted_from)


def wake_time(record: TimerRecord) -> datetime:
    """When to look at `record` again: at its next occurrence, but not while a host is running it."""
    return max(record.next, record.until)


def timer_info(record: TimerRecord | None, past_due: bool) -> dict[str, object]:
    """What a timer function is told, as the Functions host writes it; `record` is None where nothing is kept."""
    status = record and {
        "Last": record.last.isoformat(),
        "Next": record.next.isoformat(),
        "LastUpdated": record.updated.isoformat(),
    }
    return {"Schedule": {"AdjustForDST": True}, "ScheduleStatus": status, "IsPastDue": past_due}


def _now() -> datetime:
    return datetime.now(UTC)
