"""Faults of the storage do not count as tries of a message."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ServiceResponseError

from local.processes import ROOT
from notify.delivery.deliver import deliver
from shared.contract.faults import MessageRefused
from shared.queue_messages import DELIVERIES, EXPANSIONS, NOTIFICATIONS, SWEEPS, Delivery, Expansion, Sweep, Task
from shared.storage.deliveries import CLAIM_SECONDS
from shared.storage.outages import OUTAGE_SECONDS
from shared.storage.requests import StorageRefusal
from shared.time.longer_waits import LongerWaits
from shared.triggers import MAX_STORAGE_TRIES
from tests.support.herald import Clock, Herald, notification, user
from tests.support.tapped import TAP, Tap
from tests.support.triggers import FUNCTIONS, queue_message, use_services

pytestmark = pytest.mark.usefixtures("queued")


@pytest.fixture
def triggers(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    use_services(monkeypatch, timed.services)


async def fail(*_: object, **__: object) -> Any:
    raise HttpResponseError("the tables are away")


async def test_message_outlasts_an_outage_of_the_tables_with_its_identity(
    timed: Herald, triggers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await timed.grow(people=1)
    [ada] = await timed.store_people(1)
    text = notification(user(ada), id="m1")
    with monkeypatch.context() as outage:
        outage.setattr(timed.services.notifications, "insert", fail)
        for _ in range(9):  # each is more than a minute
            for tries in range(1, MAX_STORAGE_TRIES):
                with pytest.raises(HttpResponseError):
                    await FUNCTIONS[NOTIFICATIONS](queue_message(text, tries))
            await FUNCTIONS[NOTIFICATIONS](queue_message(text, MAX_STORAGE_TRIES))
            at, queue, copy = timed.delayed.pop()
            assert (queue, round(abs((at - timed.clock()).total_seconds()))) == (NOTIFICATIONS, 60)
            text = copy.encode()
            assert json.loads(text)["id"] == "m1"
    await FUNCTIONS[NOTIFICATIONS](queue_message(text, 1))
    await timed.handle_messages()
    assert len(await timed.received()) == 1
    assert await timed.dead_letters() == []


async def test_request_that_the_storage_refuses_is_no_outage(
    timed: Herald, triggers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be refused for ever: the message becomes poison."""
    text = notification({"all": True})

    async def refuse(*_: object) -> str:
        raise StorageRefusal(400, b'{"code": "PropertyValueTooLarge"}')

    monkeypatch.setattr(timed.services.notifications, "insert", refuse)
    with pytest.raises(StorageRefusal):
        await FUNCTIONS[NOTIFICATIONS](queue_message(text, MAX_STORAGE_TRIES))
    assert timed.delayed == []


def test_waits_grow_with_the_time_of_an_outage_and_not_with_its_messages() -> None:
    times = [0.0, 1.0, 100.0, 600.0, 600.0, 5000.0, 5000.0, 5000.0]
    waits = LongerWaits(60, 900, lambda: times.pop(0))
    assert [waits.failed("a") for _ in range(6)] == [60, 60, 60, 300, 300, 900]
    assert waits.failed("b") == 60
    waits.succeeded("a")
    assert waits.failed("a") == 60


async def test_delivery_outlasts_an_outage_and_is_sent_once(
    timed: Herald, triggers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await timed.grow(people=1)
    [ada] = await timed.store_people(1)
    submitted = await timed.submit(user(ada))
    text = (await timed.message(submitted, f"u:{ada.object_id}")).encode().encode()
    await timed.clear_queue(DELIVERIES)
    with monkeypatch.context() as outage:
        outage.setattr(timed.services.deliveries, "claim", fail)
        with pytest.raises(HttpResponseError):
            await FUNCTIONS[DELIVERIES](queue_message(text, 1))
        await FUNCTIONS[DELIVERIES](queue_message(text, MAX_STORAGE_TRIES))
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 1}
    assert len(await timed.received()) == 1


async def test_log_has_at_most_two_lines_a_delivery_and_no_id_of_a_person(
    timed: Herald, caplog: pytest.LogCaptureFixture
) -> None:
    """As under Python workers of Azure, the root logger is at INFO."""
    await timed.grow(people=20)
    people = await timed.store_people(20)
    with caplog.at_level(logging.INFO):
        await timed.submit(*map(user, people))
        await timed.run_until_idle()
    lines = [record.getMessage() for record in caplog.records if record.name.split(".")[0] != "aiohttp"]
    assert len(await timed.received()) == 20
    assert len(lines) <= 2 * 20
    for person in people:
        for identifier in (person.object_id, person.id, person.name, person.conversation):
            assert not [line for line in lines if identifier and identifier in line]


class LateAnswer(Tap):
    """Loses the answer to the claim; the storage works again when the claim has ended."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._has_failed = clock, False

    async def after(self, written: str) -> None:
        if written.startswith("HeraldDeliveries/") and not self._has_failed:
            self._has_failed = True
            self._clock.offset += timedelta(seconds=CLAIM_SECONDS + 1)
            raise ServiceResponseError("the answer was lost")


async def test_claim_that_is_known_too_late_is_released(tapped: Herald) -> None:
    """The platform: the tables or the storage are away."""
    [ada] = (await tapped.grow(people=1)).people
    await tapped.store_reference(ada)
    submitted = await tapped.submit(user(ada))
    message = await tapped.message(submitted, f"u:{ada.object_id}")
    await tapped.clear_queue(DELIVERIES)
    token = TAP.set(LateAnswer(tapped.clock))
    await deliver(tapped.services, message)
    TAP.reset(token)
    row = await tapped.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row["attempts"], await tapped.received()) == ("queued", 0, [])
    await tapped.run_until_idle()
    row = await tapped.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row.get("maybe_twice", False), len(await tapped.received())) == ("sent", False, 1)


@pytest.mark.parametrize(
    ("queue", "message"),
    [
        (EXPANSIONS, Expansion("0" * 64, 0)),
        (DELIVERIES, Delivery("0" * 64, "0", "u:1", "", 0)),
        (DELIVERIES, Delivery("0" * 64, "0", "u:1", "", 0, task=Task.EDIT)),
        (SWEEPS, Sweep("0" * 64, Task.CANCEL, "0")),
    ],
)
async def test_message_about_a_row_that_is_not_stored_is_a_dead_letter(
    timed: Herald, triggers: None, queue: str, message: Expansion | Delivery | Sweep
) -> None:
    """The platform."""
    await FUNCTIONS[queue](queue_message(message.encode().encode()))
    [letter] = await timed.dead_letters()
    assert (letter["queue"], letter["reason"]) == (queue, "unknown")
    assert "is not stored" in letter["faults"]
    await timed.services.queues.put(queue, message.encode())
    with pytest.raises(MessageRefused):
        await timed.handle_messages()


async def test_message_about_a_delivery_that_is_not_stored_names_its_notification(
    timed: Herald, triggers: None
) -> None:
    """The platform."""
    [ada] = (await timed.grow(people=1)).people
    submitted = await timed.submit(user(ada), id="n1")
    message = Delivery(submitted.key, "0", "u:nobody", "", 0)
    await FUNCTIONS[DELIVERIES](queue_message(message.encode().encode()))
    [letter] = await timed.dead_letters()
    assert "id n1" in letter["faults"]


def test_worker_stops_waiting_for_the_storage_before_its_function_times_out() -> None:
    """The storage client takes up to half a minute for the last of its own retries."""
    hours, minutes, seconds = map(int, json.loads((ROOT / "host.json").read_text())["functionTimeout"].split(":"))
    assert 3600 * hours + 60 * minutes + seconds >= OUTAGE_SECONDS + 30
