"""Timer triggers: sleep until the next occurrence, claim it, invoke the function, and store the next occurrence.

The rules are those of the timer extension of Azure Functions: runs never overlap, an occurrence that was missed while
no host ran is invoked once with `past_due`, and schedules of less than a minute are not caught up.
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

from local.host.backoff import backoff_seconds
from local.host.functions import Function
from local.host.invoker import Invoker
from local.host.ncrontab import TimerSchedule, is_frequent, parse_schedule
from local.host.timer_store import NEVER, RecordChanged, TimerRecord, TimerStore

#: How long a run belongs to its host after the last renewal, and how often the host renews it.
LEASE = timedelta(seconds=15)
RENEWAL_INTERVAL = timedelta(seconds=5)
#: The longest single sleep; a jump of the wall clock is noticed within it.
MAX_SLEEP = timedelta(seconds=30)
#: The shortest and longest delay before a failed storage request is repeated, in seconds.
STORAGE_RETRY_SECONDS = 0.2, 10.0

log = logging.getLogger("Host")


class TimerListener:
    """Invokes one function on its schedule, until `stop`."""

    def __init__(self, function: Function, store: TimerStore, invoker: Invoker) -> None:
        """Parse the schedule; raises `ValueError` if it is not valid."""
        self.schedule: TimerSchedule = parse_schedule(function.binding["schedule"])
        self._function = function
        self._store = store
        self._invoker = invoker
        self._owner = uuid.uuid4().hex
        self._monitored = function.binding.get("useMonitor", True) and not is_frequent(self.schedule, _now())
        self._record = TimerRecord(NEVER, NEVER, NEVER)
        self._missed = False
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Stop waiting for occurrences; `run` returns after an invocation in progress."""
        self._stopping.set()

    async def start(self) -> None:
        """Read the status, and invoke the function if it has `run_on_startup`; raises `AzureError`."""
        now = _now()
        stored = await self._store.read(self._function.name)
        self._record = compute_start_record(stored, self.schedule, now, self._monitored)
        self._missed = self._monitored and self._record.next < now
        if self._monitored and self._record != stored:
            await self._save(self._record)
        if self._function.binding.get("runOnStartup") and self._record.until < now:
            await self._run_occurrence()

    async def run(self) -> None:
        """Run each occurrence until `stop`; storage errors are retried."""
        failures = 0
        while True:
            await self._sleep_until(next_check_time(self._record))
            if self._stopping.is_set():
                return
            try:
                await self._run_occurrence()
                failures = 0
            except AzureError as error:
                if failures == 0:
                    log.warning(
                        "timer %s: the storage does not answer, retrying: %s", self._function.name, type(error).__name__
                    )
                await self._wait(backoff_seconds(failures, *STORAGE_RETRY_SECONDS))
                failures += 1

    async def _run_occurrence(self) -> None:
        """Invoke the function if this host can claim the occurrence; raises `AzureError` before the invocation."""
        called = _now()
        # A remaining owner died during its run.
        past_due = self._missed or (self._monitored and self._record.owner != "")
        claimed = await self._save(replace(self._record, owner=self._owner, until=called + LEASE))
        self._missed = False  # if the claim failed, the other host runs the missed occurrence
        if not claimed:
            return
        renewal = asyncio.create_task(self._renew_lease())
        try:
            status = build_timer_info(self._record if self._monitored else None, past_due)
            await self._invoker.invoke(self._function, meta.Datum(json.dumps(status), "json"))
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
        await self._complete(TimerRecord(called, self.schedule.next(called), called))

    async def _renew_lease(self) -> None:
        while True:
            await asyncio.sleep(RENEWAL_INTERVAL.total_seconds())
            try:
                await self._save(replace(self._record, until=_now() + LEASE))
            except AzureError as error:
                log.debug("timer %s: the lease was not renewed: %s", self._function.name, type(error).__name__)

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
            # This host still owns the row: a renewal was answered late, or the storage does not answer.
            await self._wait(backoff_seconds(failures, *STORAGE_RETRY_SECONDS))
            failures += 1

    async def _save(self, record: TimerRecord) -> bool:
        """Store `record` and return True, or load what another host has stored meanwhile and return False."""
        try:
            etag = await self._store.write(self._function.name, record)
        except RecordChanged:
            self._record = await self._store.read(self._function.name) or replace(self._record, etag="")
            return False
        self._record = replace(record, etag=etag)
        return True

    async def _sleep_until(self, until: datetime) -> None:
        while not self._stopping.is_set() and (left := until - _now()) > timedelta(0):
            await self._wait(min(left, MAX_SLEEP).total_seconds())

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


def compute_start_record(
    stored: TimerRecord | None, schedule: TimerSchedule, now: datetime, monitored: bool
) -> TimerRecord:
    """Return the record to start with: `stored` if it still follows `schedule`, else one computed from `now`.

    A `next` before `now` was missed and is caught up; a timer that is not monitored misses nothing.
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


def next_check_time(record: TimerRecord) -> datetime:
    """Return when to check `record` again: at its next occurrence, but not while a host runs it."""
    return max(record.next, record.until)


def build_timer_info(record: TimerRecord | None, past_due: bool) -> dict[str, object]:
    """Return the JSON that the Functions host sends to a timer function; `record` is None if no status is stored."""
    status = record and {
        "Last": record.last.isoformat(),
        "Next": record.next.isoformat(),
        "LastUpdated": record.updated.isoformat(),
    }
    return {"Schedule": {"AdjustForDST": True}, "ScheduleStatus": status, "IsPastDue": past_due}


def _now() -> datetime:
    return datetime.now(UTC)
