"""Workers that die or stop at each write: no delivery is lost, and none is repeated unless its row says so."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from local.fake_teams.api import Received
from notify.ingest import ingest
from notify.poison import MAX_POISON_RETRIES, retry_poison
from notify.policy import MAX_UNKNOWN_OUTCOMES
from shared.queue_messages import DELIVERIES, EXPANSIONS, Delivery, Expansion
from shared.states import DeliveryState, NotificationState
from tests.notify.scenarios import COUNTED, SCENARIOS, Scenario, ScenarioFactory, scheduled, single_recipient
from tests.support.crashes import MAX_POINTS, Host, crash_at_each_write, pause_at_each_write

ENDED = (NotificationState.FINISHED, NotificationState.CANCELLED)

all_scenarios = pytest.mark.parametrize("factory", SCENARIOS, ids=[factory.__name__ for factory in SCENARIOS])


async def begin(host: Host, factory: ScenarioFactory) -> Scenario:
    host.watchdog_enabled = False
    host.since = max((each.changed for each in await host.teams.received(since=host.since)), default=host.since)
    scenario = await factory(host)
    if scenario.body:
        await host.put(scenario.body)
    return scenario


async def check(host: Host, scenario: Scenario) -> None:
    """Check the result of redelivered messages alone, and that the watchdog then changes nothing."""
    await _check_notification(host, scenario)
    host.watchdog_enabled = True
    assert await host.run_worker()
    await _check_notification(host, scenario)


async def _check_notification(host: Host, scenario: Scenario) -> None:
    assert host.count_errors == []
    assert await host.dead_letters() == []
    rows = {row["RowKey"]: row for row in await host.rows(scenario.key) if "state" in row}
    recipients = {f"u:{person.object_id}" for person in scenario.recipients}
    assert rows.keys() <= recipients if scenario.may_be_partial else rows.keys() == recipients
    for name, row in rows.items():
        doubts = host.claims_lost[name] + scenario.may_be_twice
        unknown = ("unknown",) if doubts >= MAX_UNKNOWN_OUTCOMES else ()
        assert row["state"] in (*scenario.end_states, *unknown)
    found = await host.services.notifications.get(scenario.key)
    assert found
    assert found.state in ENDED
    counts = Counter(row["state"] for row in rows.values())
    assert not any(not DeliveryState(state).final for state in counts)
    # Only the watchdog counts again after a recall of finished deliveries.
    if host.watchdog_enabled or not counts["recalled"]:
        assert json.loads(found.counts) == counts
    assert found.total == len(rows)
    received = await host.teams.received(since=host.since)
    for name in recipients:
        of_recipient = [message for message in received if f"u:{message.person}" == name]
        _check_recipient(scenario, rows.get(name), of_recipient, host.claims_lost[name])


def _check_recipient(scenario: Scenario, row: dict[str, Any] | None, received: list[Received], crashes: int) -> None:
    """Check that the messages received match the row. `crashes` workers died while they had its claim."""
    doubts = crashes + scenario.may_be_twice
    if row is None or row["state"] not in ("sent", "recalled"):
        assert len(received) <= doubts
        return
    assert 1 <= len(received) <= 1 + doubts
    assert row.get("maybe_twice", False) == bool(doubts)
    [last] = [message for message in received if message.id == row["activity_id"]]
    if row["state"] == "recalled":
        assert last.deleted_at
    else:
        assert (last.activity["summary"], last.deleted_at) == (scenario.title, None)


@pytest.fixture(autouse=True)
def _queue_deliveries(request: pytest.FixtureRequest) -> None:
    """Expand the notifications of some scenarios as large ones."""
    if request.node.callspec.params.get("factory") in COUNTED:
        request.getfixturevalue("queued")


@all_scenarios
async def test_worker_dies_before_or_after_each_write(host: Host, factory: ScenarioFactory) -> None:
    await crash_at_each_write(host, lambda: begin(host, factory), lambda scenario: check(host, scenario))


@all_scenarios
async def test_workers_die_one_after_another(host: Host, factory: ScenarioFactory) -> None:
    """The scenario begins once; each worker that dies gets one write further than the one before."""
    scenario = await begin(host, factory)
    for point in range(1, MAX_POINTS):
        if await host.run_worker(point):
            await check(host, scenario)
            return
    raise AssertionError(f"the scenario has more than {MAX_POINTS} points at which a worker can die")


@all_scenarios
async def test_worker_stops_before_or_after_each_write_and_continues_later(
    host: Host, factory: ScenarioFactory
) -> None:
    await pause_at_each_write(host, lambda: begin(host, factory), lambda scenario: check(host, scenario))


@pytest.mark.usefixtures("queued")
@pytest.mark.parametrize("poison_retries", [0, MAX_POISON_RETRIES], ids=["retried", "stored_as_dead_letter"])
@pytest.mark.parametrize("page", [False, True], ids=["delivery", "page"])
async def test_worker_dies_while_it_handles_a_poison_message(host: Host, poison_retries: int, *, page: bool) -> None:
    for point in range(1, MAX_POINTS):
        scenario = await (scheduled if page else single_recipient)(host)
        [ada] = scenario.recipients
        await ingest(host.services, scenario.body, "m1")
        await host.clear_queue(DELIVERIES)
        submitted = await host.stored(scenario.body)
        delivery = Delivery(submitted.key, "0", f"u:{ada.object_id}", "", 0, poison_retries=poison_retries)
        message = Expansion(submitted.key, 0, poison_retries=poison_retries) if page else delivery
        queue = EXPANSIONS if page else DELIVERIES

        async def handle_poison(message: Delivery | Expansion = message, queue: str = queue) -> None:
            await retry_poison(host.services, queue, message.encode().encode(), "m1")

        has_finished = await host.run_worker(point, handle_poison)
        if not has_finished:
            await handle_poison()
        assert await host.run_worker()
        after, counts = await host.reload(submitted), await host.counts(submitted)
        assert len(await host.teams.received(person=ada.object_id)) == (0 if poison_retries else 1)
        assert (counts, after.state) == (
            ({}, NotificationState.FAILED) if page and poison_retries
            else ({"failed" if poison_retries else "sent": 1}, NotificationState.FINISHED)
        )  # fmt: skip
        # One row a day: two workers may store it before and after midnight.
        assert len({letter["RowKey"] for letter in await host.dead_letters()}) == (1 if poison_retries else 0)
        assert host.count_errors == []
        if has_finished:
            return
    raise AssertionError(f"the handler has more than {MAX_POINTS} points at which a worker can die")
