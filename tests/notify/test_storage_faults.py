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
from shared.queue_messages import DELIVERIES, NOTIFICATIONS
from shared.storage.deliveries import CLAIM_SECONDS
from shared.storage.outages import OUTAGE_SECONDS
from shared.triggers import MAX_STORAGE_TRIES, STORAGE_RETRY_SECONDS
from tests.support.herald import Clock, Herald, notification, user
from tests.support.tapped import TAP, Tap
from tests.support.triggers import FUNCTIONS, queue_message, use_services


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
            assert (queue, round(abs((at - timed.clock()).total_seconds()))) == (NOTIFICATIONS, STORAGE_RETRY_SECONDS)
            text = copy.encode()
            assert json.loads(text)["id"] == "m1"
    await FUNCTIONS[NOTIFICATIONS](queue_message(text, 1))
    await timed.handle_messages()
    assert len(await timed.received()) == 1
    assert await timed.dead_letters() == []


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


def test_worker_stops_waiting_for_the_storage_before_its_function_times_out() -> None:
    """The storage client takes up to half a minute for the last of its own retries."""
    hours, minutes, seconds = map(int, json.loads((ROOT / "host.json").read_text())["functionTimeout"].split(":"))
    assert 3600 * hours + 60 * minutes + seconds >= OUTAGE_SECONDS + 30
