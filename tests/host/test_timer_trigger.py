from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import azure.functions as func
import pytest

from local.host import timer_trigger
from local.host.config import StartError
from local.host.ncrontab import parse_schedule
from local.host.timer_store import NEVER, TABLE, RecordChanged, TimerRecord, TimerStore, build_host_id
from local.host.timer_trigger import build_timer_info, compute_start_record, next_check_time
from shared.storage.clients import open_storage
from tests.host.conftest import RunHost, eventually, never

HOURLY = "0 0 * * * *"
#: Not due while a test runs.
YEARLY = "0 0 0 1 1 *"
NOW = datetime(2026, 11, 22, 8, 30, 0, tzinfo=UTC)
AT_8, AT_9 = NOW.replace(minute=0), NOW.replace(hour=9, minute=0)
AT_7 = AT_8 - timedelta(hours=1)


@pytest.mark.parametrize(
    ("stored", "monitored", "expected"),
    [
        (None, True, TimerRecord(NEVER, AT_9, NOW)),
        (TimerRecord(AT_8, AT_9, AT_8, etag="e"), True, TimerRecord(AT_8, AT_9, AT_8, etag="e")),
        # 8:00 was missed: it stays the next occurrence, in the past
        (TimerRecord(AT_7, AT_8, AT_7), True, TimerRecord(AT_7, AT_8, AT_7)),
        (TimerRecord(NEVER, AT_8, AT_7), True, TimerRecord(NEVER, AT_8, AT_7)),
        # the schedule has changed: computed from now, and nothing was missed
        (TimerRecord(AT_7, NOW, AT_7), True, TimerRecord(NEVER, AT_9, NOW)),
        (TimerRecord(AT_8, NOW, AT_8), True, TimerRecord(NEVER, AT_9, AT_8)),
        # not monitored: the missed occurrence is dropped
        (TimerRecord(AT_7, AT_8, AT_7), False, TimerRecord(AT_7, AT_9, AT_7)),
    ],
)
def test_start_keeps_a_missed_occurrence_unless_the_schedule_changed(
    stored: TimerRecord | None, monitored: bool, expected: TimerRecord
) -> None:
    assert compute_start_record(stored, parse_schedule(HOURLY), NOW, monitored) == expected


def test_timer_is_checked_when_due_but_not_while_a_host_runs_it() -> None:
    assert next_check_time(TimerRecord(AT_7, AT_8, AT_7)) == AT_8
    assert next_check_time(TimerRecord(AT_7, AT_8, AT_7, "host", AT_9)) == AT_9


def test_timer_info_holds_the_stored_status() -> None:
    status = {"Last": AT_7.isoformat(), "Next": AT_8.isoformat(), "LastUpdated": AT_7.isoformat()}
    assert build_timer_info(TimerRecord(AT_7, AT_8, AT_7), True)["ScheduleStatus"] == status
    assert build_timer_info(None, False)["ScheduleStatus"] is None


class TimerApp:
    """An app with one timer, and the requests that it received."""

    def __init__(self, schedule: str, *, name: str = "tick", **trigger: Any) -> None:
        self.requests: list[func.TimerRequest] = []
        self.times: list[datetime] = []
        self.gate: asyncio.Event | None = None
        self.running = self.peak = 0
        self.app = func.FunctionApp()

        @self.app.function_name(name)
        @self.app.timer_trigger(arg_name="timer", schedule=schedule, **trigger)
        async def tick(timer: func.TimerRequest) -> None:
            self.times.append(datetime.now(UTC))
            self.requests.append(timer)
            self.running += 1
            self.peak = max(self.peak, self.running)
            if self.gate:
                await self.gate.wait()
            self.running -= 1


@pytest.fixture
async def store(environ: dict[str, str]) -> AsyncIterator[TimerStore]:
    queues, tables = open_storage(environ)
    async with queues, tables:
        await tables.create_table_if_not_exists(TABLE)
        yield TimerStore(tables.get_table_client(TABLE), build_host_id(environ))


def missed_record() -> TimerRecord:
    """Return the record of a yearly timer that missed the first of January of this year."""
    year = datetime.now(UTC).year
    last = datetime(year - 1, 1, 1, tzinfo=UTC)
    return TimerRecord(last, datetime(year, 1, 1, tzinfo=UTC), last)


async def test_timer_runs_at_its_second(run_host: RunHost) -> None:
    calls = TimerApp("* * * * * *")
    async with run_host(calls.app):
        await eventually(lambda: len(calls.requests) >= 3)
    assert all(time.microsecond < 500_000 for time in calls.times)
    assert len({time.replace(microsecond=0) for time in calls.times}) == len(calls.times)
    assert not any(timer.past_due for timer in calls.requests)


async def test_runs_do_not_overlap_and_a_missed_run_follows_at_once(run_host: RunHost) -> None:
    calls = TimerApp("* * * * * *")
    calls.gate = asyncio.Event()
    async with run_host(calls.app):
        await eventually(lambda: calls.requests)
        await never(lambda: len(calls.requests) > 1, 2.1)  # two occurrences pass
        calls.gate.set()
        ended = datetime.now(UTC)
        await eventually(lambda: len(calls.requests) >= 2)
    assert calls.peak == 1
    assert calls.times[1] - ended < timedelta(seconds=0.5)


async def test_run_on_startup_runs_once_before_the_port_opens(run_host: RunHost) -> None:
    calls = TimerApp(YEARLY, run_on_startup=True)
    async with run_host(calls.app):
        assert len(calls.requests) == 1
        assert not calls.requests[0].past_due


async def test_missed_occurrence_runs_once_with_past_due(run_host: RunHost, store: TimerStore) -> None:
    await store.write("tick", missed_record())
    first, second = TimerApp(YEARLY), TimerApp(YEARLY)
    async with run_host(first.app):
        await eventually(lambda: _stored_next_is_ahead(store))
        await never(lambda: len(first.requests) > 1)
    async with run_host(second.app):
        await never(lambda: second.requests)
    assert [timer.past_due for timer in first.requests] == [True]


async def test_missed_occurrence_and_run_on_startup_are_one_run(run_host: RunHost, store: TimerStore) -> None:
    await store.write("tick", missed_record())
    calls = TimerApp(YEARLY, run_on_startup=True)
    async with run_host(calls.app):
        await never(lambda: len(calls.requests) > 1)
    assert [timer.past_due for timer in calls.requests] == [True]


async def test_unmonitored_timer_is_not_caught_up(run_host: RunHost, store: TimerStore) -> None:
    await store.write("tick", missed_record())
    calls = TimerApp(YEARLY, use_monitor=False)
    async with run_host(calls.app):
        await never(lambda: calls.requests)


async def test_first_start_stores_the_next_occurrence(run_host: RunHost, store: TimerStore) -> None:
    async with run_host(TimerApp(YEARLY).app):
        pass
    found = await store.read("tick")
    assert found is not None
    assert found.next == datetime(datetime.now(UTC).year + 1, 1, 1, tzinfo=UTC)


async def test_one_of_several_hosts_runs_a_missed_occurrence(run_host: RunHost, store: TimerStore) -> None:
    await store.write("tick", missed_record())
    several = [TimerApp(YEARLY) for _ in range(3)]
    async with run_host(several[0].app), run_host(several[1].app), run_host(several[2].app):
        await eventually(lambda: _stored_next_is_ahead(store))
        await never(lambda: sum(len(calls.requests) for calls in several) != 1)


async def test_one_of_several_hosts_runs_each_second(run_host: RunHost) -> None:
    several = [TimerApp("* * * * * *") for _ in range(2)]
    async with run_host(several[0].app), run_host(several[1].app):
        await eventually(lambda: sum(len(calls.requests) for calls in several) >= 4)
    seconds = [time.replace(microsecond=0) for calls in several for time in calls.times]
    assert len(set(seconds)) == len(seconds)


async def test_run_of_another_host_is_taken_over_after_its_lease_as_past_due(
    run_host: RunHost, store: TimerStore
) -> None:
    until = datetime.now(UTC) + timedelta(seconds=1.5)
    await store.write("tick", replace(missed_record(), owner=uuid.uuid4().hex, until=until))
    calls = TimerApp(YEARLY)
    async with run_host(calls.app):
        await eventually(lambda: calls.requests)
    assert calls.times[0] >= until
    assert [timer.past_due for timer in calls.requests] == [True]


async def test_lease_of_a_long_run_is_renewed(
    run_host: RunHost, store: TimerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timer_trigger, "LEASE", timedelta(seconds=0.6))
    monkeypatch.setattr(timer_trigger, "RENEWAL_INTERVAL", timedelta(seconds=0.1))
    await store.write("tick", missed_record())
    first, second = TimerApp(YEARLY), TimerApp(YEARLY)
    first.gate = asyncio.Event()
    async with run_host(first.app):
        await eventually(lambda: first.requests)
        async with run_host(second.app):
            await never(lambda: second.requests, 1.5)  # more than twice the lease
            first.gate.set()
            await eventually(lambda: _stored_next_is_ahead(store))
    assert (len(first.requests), len(second.requests)) == (1, 0)


async def test_failing_timer_keeps_its_schedule(run_host: RunHost) -> None:
    app = func.FunctionApp()
    times: list[datetime] = []

    @app.timer_trigger(arg_name="timer", schedule="* * * * * *")
    async def tick(timer: func.TimerRequest) -> None:
        times.append(datetime.now(UTC))
        raise RuntimeError("intended failure")

    async with run_host(app):
        await eventually(lambda: len(times) >= 2)
    assert times[1] - times[0] > timedelta(seconds=0.4)


async def test_stop_waits_for_a_run_and_stores_it(run_host: RunHost, store: TimerStore) -> None:
    await store.write("tick", missed_record())
    calls = TimerApp(YEARLY)
    calls.gate = asyncio.Event()
    async with run_host(calls.app) as running:
        await eventually(lambda: calls.requests)
        stopping = asyncio.create_task(running.host.stop())
        await asyncio.sleep(0)
        calls.gate.set()
        assert await stopping
    assert await _stored_next_is_ahead(store)


async def test_interrupted_run_remains_due(run_host: RunHost, store: TimerStore) -> None:
    await store.write("tick", missed_record())
    calls = TimerApp(YEARLY)
    calls.gate = asyncio.Event()
    async with run_host(calls.app) as running:
        await eventually(lambda: calls.requests)
        assert not await running.host.stop(grace=0.1)
    left = await store.read("tick")
    assert left is not None
    assert left.next < datetime.now(UTC) < left.until


async def test_row_is_written_only_with_the_etag_that_was_read(store: TimerStore) -> None:
    first = TimerRecord(AT_7, AT_8, AT_7)
    etag = await store.write("t", first)
    with pytest.raises(RecordChanged):
        await store.write("t", first)
    await store.write("t", replace(first, next=AT_9, etag=etag))
    with pytest.raises(RecordChanged):
        await store.write("t", replace(first, etag=etag))
    found = await store.read("t")
    assert found is not None
    assert found.next == AT_9


async def test_timer_continues_after_the_storage_was_emptied(run_host: RunHost, environ: dict[str, str]) -> None:
    calls = TimerApp("* * * * * *")
    async with run_host(calls.app):
        await eventually(lambda: calls.requests)
        queues, tables = open_storage(environ)
        async with queues, tables:
            await tables.delete_table(TABLE)
        called = len(calls.requests)
        await eventually(lambda: len(calls.requests) > called + 1, 25)


async def test_invalid_schedule_stops_the_start_with_one_line(run_host: RunHost) -> None:
    with pytest.raises(StartError, match=r"^function tick: '61' is not a valid second.*$"):
        async with run_host(TimerApp("61 * * * * *").app):
            pass


def test_host_id_is_the_setting_or_depends_on_machine_and_folder() -> None:
    assert build_host_id({"AzureFunctionsWebHost__hostid": "mine"}) == "mine"
    assert build_host_id({}) == build_host_id({})
    assert build_host_id({}) != "mine"


async def _stored_next_is_ahead(store: TimerStore) -> bool:
    found = await store.read("tick")
    return found is not None and found.next > datetime.now(UTC)
