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
from local.host.timer_store import NEVER, TABLE, Taken, TimerRecord, TimerStore, host_id
from local.host.timer_trigger import start_status, timer_info, wake_time
from shared.storage.clients import open_storage
from tests.host.conftest import Run, eventually, never

HOURLY = "0 0 * * * *"
#: Never while a test runs.
YEARLY = "0 0 0 1 1 *"
NOW = datetime(2026, 11, 22, 8, 30, 0, tzinfo=UTC)
AT_8, AT_9 = NOW.replace(minute=0), NOW.replace(hour=9, minute=0)
AT_7 = AT_8 - timedelta(hours=1)


@pytest.mark.parametrize(
    ("stored", "monitored", "expected"),
    [
        (None, True, TimerRecord(NEVER, AT_9, NOW)),
        (TimerRecord(AT_8, AT_9, AT_8, etag="e"), True, TimerRecord(AT_8, AT_9, AT_8, etag="e")),
        # 8:00 was missed: it stays the next one, and is in the past
        (TimerRecord(AT_7, AT_8, AT_7), True, TimerRecord(AT_7, AT_8, AT_7)),
        (TimerRecord(NEVER, AT_8, AT_7), True, TimerRecord(NEVER, AT_8, AT_7)),
        # another schedule than the stored one: counted anew, and nothing of it was missed
        (TimerRecord(AT_7, NOW, AT_7), True, TimerRecord(NEVER, AT_9, NOW)),
        (TimerRecord(AT_8, NOW, AT_8), True, TimerRecord(NEVER, AT_9, AT_8)),
        # not monitored: what was missed is gone
        (TimerRecord(AT_7, AT_8, AT_7), False, TimerRecord(AT_7, AT_9, AT_7)),
    ],
)
def test_a_start_keeps_what_was_missed_but_not_under_another_schedule(
    stored: TimerRecord | None, monitored: bool, expected: TimerRecord
) -> None:
    assert start_status(stored, parse_schedule(HOURLY), NOW, monitored) == expected


def test_a_timer_is_looked_at_when_it_is_due_but_not_while_a_host_runs_it() -> None:
    assert wake_time(TimerRecord(AT_7, AT_8, AT_7)) == AT_8
    assert wake_time(TimerRecord(AT_7, AT_8, AT_7, "host", AT_9)) == AT_9


def test_a_function_is_told_its_status_and_nothing_where_none_is_kept() -> None:
    status = {"Last": AT_7.isoformat(), "Next": AT_8.isoformat(), "LastUpdated": AT_7.isoformat()}
    assert timer_info(TimerRecord(AT_7, AT_8, AT_7), True)["ScheduleStatus"] == status
    assert timer_info(None, False)["ScheduleStatus"] is None


class Calls:
    """A timer app, and what its function was told."""

    def __init__(self, schedule: str, *, name: str = "tick", **trigger: Any) -> None:
        self.told: list[func.TimerRequest] = []
        self.times: list[datetime] = []
        self.hold: asyncio.Event | None = None
        self.running = self.peak = 0
        self.app = func.FunctionApp()

        @self.app.function_name(name)
        @self.app.timer_trigger(arg_name="timer", schedule=schedule, **trigger)
        async def tick(timer: func.TimerRequest) -> None:
            self.times.append(datetime.now(UTC))
            self.told.append(timer)
            self.running += 1
            self.peak = max(self.peak, self.running)
            if self.hold:
                await self.hold.wait()
            self.running -= 1


@pytest.fixture
async def store(environ: dict[str, str]) -> AsyncIterator[TimerStore]:
    queues, tables = open_storage(environ)
    async with queues, tables:
        await tables.create_table_if_not_exists(TABLE)
        yield TimerStore(tables.get_table_client(TABLE), host_id(environ))


def missed() -> TimerRecord:
    """A yearly timer that was due at the turn of this year, and was not called."""
    year = datetime.now(UTC).year
    last = datetime(year - 1, 1, 1, tzinfo=UTC)
    return TimerRecord(last, datetime(year, 1, 1, tzinfo=UTC), last)


async def test_a_timer_is_called_at_its_second(run: Run) -> None:
    calls = Calls("* * * * * *")
    async with run(calls.app):
        await eventually(lambda: len(calls.told) >= 3)
    assert all(time.microsecond < 500_000 for time in calls.times)
    assert len({time.replace(microsecond=0) for time in calls.times}) == len(calls.times)
    assert not any(timer.past_due for timer in calls.told)


async def test_runs_do_not_overlap_and_a_run_missed_meanwhile_follows_at_once(run: Run) -> None:
    calls = Calls("* * * * * *")
    calls.hold = asyncio.Event()
    async with run(calls.app):
        await eventually(lambda: calls.told)
        await never(lambda: len(calls.told) > 1, 2.1)  # two occurrences pass
        calls.hold.set()
        ended = datetime.now(UTC)
        await eventually(lambda: len(calls.told) >= 2)
    assert calls.peak == 1
    assert calls.times[1] - ended < timedelta(seconds=0.5)


async def test_run_on_startup_calls_once_before_the_port_opens(run: Run) -> None:
    calls = Calls(YEARLY, run_on_startup=True)
    async with run(calls.app):
        assert len(calls.told) == 1
        assert not calls.told[0].past_due


async def test_what_was_missed_is_called_once_with_past_due_and_not_at_the_next_start(
    run: Run, store: TimerStore
) -> None:
    await store.write("tick", missed())
    first, second = Calls(YEARLY), Calls(YEARLY)
    async with run(first.app):
        await eventually(lambda: _stored_next_is_ahead(store))
        await never(lambda: len(first.told) > 1)
    async with run(second.app):
        await never(lambda: second.told)
    assert [timer.past_due for timer in first.told] == [True]


async def test_a_missed_run_and_run_on_startup_are_one_call(run: Run, store: TimerStore) -> None:
    await store.write("tick", missed())
    calls = Calls(YEARLY, run_on_startup=True)
    async with run(calls.app):
        await never(lambda: len(calls.told) > 1)
    assert [timer.past_due for timer in calls.told] == [True]


async def test_without_use_monitor_nothing_is_caught_up(run: Run, store: TimerStore) -> None:
    await store.write("tick", missed())
    calls = Calls(YEARLY, use_monitor=False)
    async with run(calls.app):
        await never(lambda: calls.told)


async def test_a_first_start_records_the_next_occurrence_so_that_it_can_be_missed(run: Run, store: TimerStore) -> None:
    async with run(Calls(YEARLY).app):
        pass
    found = await store.read("tick")
    assert found is not None
    assert found.next == datetime(datetime.now(UTC).year + 1, 1, 1, tzinfo=UTC)


async def test_of_several_hosts_one_runs_each_occurrence(run: Run, store: TimerStore) -> None:
    await store.write("tick", missed())
    several = [Calls(YEARLY) for _ in range(3)]
    async with run(several[0].app), run(several[1].app), run(several[2].app):
        await eventually(lambda: _stored_next_is_ahead(store))
        await never(lambda: sum(len(calls.told) for calls in several) != 1)


async def test_of_several_hosts_one_runs_each_second(run: Run) -> None:
    several = [Calls("* * * * * *") for _ in range(2)]
    async with run(several[0].app), run(several[1].app):
        await eventually(lambda: sum(len(calls.told) for calls in several) >= 4)
    seconds = [time.replace(microsecond=0) for calls in several for time in calls.times]
    assert len(set(seconds)) == len(seconds)


async def test_a_run_of_another_host_is_left_alone_until_its_lease_ends_then_taken_over_as_past_due(
    run: Run, store: TimerStore
) -> None:
    until = datetime.now(UTC) + timedelta(seconds=1.5)
    await store.write("tick", replace(missed(), owner=uuid.uuid4().hex, until=until))
    calls = Calls(YEARLY)
    async with run(calls.app):
        await eventually(lambda: calls.told)
    assert calls.times[0] >= until
    assert [timer.past_due for timer in calls.told] == [True]


async def test_the_lease_of_a_long_run_is_renewed(run: Run, store: TimerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timer_trigger, "LEASE", timedelta(seconds=0.6))
    monkeypatch.setattr(timer_trigger, "RENEWAL", timedelta(seconds=0.1))
    await store.write("tick", missed())
    first, second = Calls(YEARLY), Calls(YEARLY)
    first.hold = asyncio.Event()
    async with run(first.app):
        await eventually(lambda: first.told)
        async with run(second.app):
            await never(lambda: second.told, 1.5)  # more than twice the lease
            first.hold.set()
            await eventually(lambda: _stored_next_is_ahead(store))
    assert (len(first.told), len(second.told)) == (1, 0)


async def test_a_failing_timer_keeps_its_schedule(run: Run) -> None:
    app = func.FunctionApp()
    times: list[datetime] = []

    @app.timer_trigger(arg_name="timer", schedule="* * * * * *")
    async def tick(timer: func.TimerRequest) -> None:
        times.append(datetime.now(UTC))
        raise RuntimeError("told to fail")

    async with run(app):
        await eventually(lambda: len(times) >= 2)
    assert times[1] - times[0] > timedelta(seconds=0.4)


@pytest.mark.parametrize(
    "policy",
    [
        {"strategy": "fixed_delay", "delay_interval": "00:00:00.1"},
        {"strategy": "exponential_backoff", "minimum_interval": "00:00:00.05", "maximum_interval": "00:00:00.2"},
    ],
)
async def test_a_retry_policy_repeats_a_failed_call_up_to_its_count(run: Run, policy: dict[str, Any]) -> None:
    app = func.FunctionApp()
    attempts: list[tuple[int, int]] = []

    @app.timer_trigger(arg_name="timer", schedule=YEARLY, run_on_startup=True)
    @app.retry(max_retry_count="2", **policy)
    async def tick(timer: func.TimerRequest, context: func.Context) -> None:
        attempts.append((context.retry_context.retry_count, context.retry_context.max_retry_count))
        raise RuntimeError("told to fail")

    async with run(app):
        pass
    assert [count for count, _ in attempts] == [0, 1, 2]
    assert attempts[-1] == (2, 2)


async def test_a_stop_lets_a_run_finish_and_stores_that_it_ran(run: Run, store: TimerStore) -> None:
    await store.write("tick", missed())
    calls = Calls(YEARLY)
    calls.hold = asyncio.Event()
    async with run(calls.app) as running:
        await eventually(lambda: calls.told)
        stopping = asyncio.create_task(running.host.stop())
        await asyncio.sleep(0)
        calls.hold.set()
        assert await stopping
    assert await _stored_next_is_ahead(store)


async def test_a_run_that_was_cut_off_is_called_again(run: Run, store: TimerStore) -> None:
    await store.write("tick", missed())
    calls = Calls(YEARLY)
    calls.hold = asyncio.Event()
    async with run(calls.app) as running:
        await eventually(lambda: calls.told)
        assert not await running.host.stop(grace=0.1)
    left = await store.read("tick")
    assert left is not None
    assert left.next < datetime.now(UTC) < left.until


async def test_a_row_moves_only_from_what_was_read(store: TimerStore) -> None:
    first = TimerRecord(AT_7, AT_8, AT_7)
    etag = await store.write("t", first)
    with pytest.raises(Taken):
        await store.write("t", first)
    await store.write("t", replace(first, next=AT_9, etag=etag))
    with pytest.raises(Taken):
        await store.write("t", replace(first, etag=etag))
    found = await store.read("t")
    assert found is not None
    assert found.next == AT_9


async def test_a_timer_goes_on_after_the_storage_was_emptied(run: Run, environ: dict[str, str]) -> None:
    calls = Calls("* * * * * *")
    async with run(calls.app):
        await eventually(lambda: calls.told)
        queues, tables = open_storage(environ)
        async with queues, tables:
            await tables.delete_table(TABLE)
        called = len(calls.told)
        await eventually(lambda: len(calls.told) > called + 1, 25)


async def test_an_unreadable_schedule_stops_the_start_with_one_line(run: Run) -> None:
    with pytest.raises(StartError, match=r"^function tick: '61' is no second.*$"):
        async with run(Calls("61 * * * * *").app):
            pass


def test_timers_belong_to_the_app_and_its_folder_unless_it_has_an_id() -> None:
    assert host_id({"AzureFunctionsWebHost__hostid": "mine"}) == "mine"
    assert host_id({}) == host_id({})
    assert host_id({}) != "mine"


async def _stored_next_is_ahead(store: TimerStore) -> bool:
    found = await store.read("tick")
    return found is not None and found.next > datetime.now(UTC)
