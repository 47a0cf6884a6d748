"""A digest that Teams delays: its reader's stop, pause and quiet hours apply when it is sent."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest

from local.fake_teams.api import PersonView, TeamsFault
from notify.ingest import ingest
from notify.poison import MAX_POISON_RETRIES, retry_poison
from shared.preferences.preferences import FOREVER
from shared.queue_messages import DELIVERIES, DELIVERIES_URGENT, Delivery, RecipientTask, Task
from shared.states import Mode
from tests.support.digests import (
    add_person,
    advance_to,
    received_by,
    run_recipient_tasks,
    run_task,
    send_to,
    set_preferences,
    slots_taken,
)
from tests.support.herald import Herald
from timer_digest.release_held import release

#: Half a minute after the digest is due (09:00 in Berlin), when Teams delays it by a minute; when it can be sent.
DELAYED_AT, SENT_AT = "2026-11-24T08:00:30", "2026-11-24T08:02:00"


async def delay_next_message(timed: Herald, person: PersonView) -> None:
    """Let Teams answer the next message to a person with Retry-After: 60 seconds."""
    fault = TeamsFault(
        operation="send", person=person.object_id, status=412, code="PreconditionFailed", retry_after=60, count=1
    )
    await timed.teams.inject(fault)


@pytest.mark.parametrize(
    ("digest_preferences", "counts"),
    [
        pytest.param({}, {"digested": 1}, id="unchanged"),
        pytest.param({"categories": {}}, {"digested": 1}, id="category immediate"),
        pytest.param({"stopped": True}, {"suppressed": 1}, id="stop"),
        pytest.param({"categories": {"builds": Mode.OFF}}, {"digested": 1}, id="category off"),
        pytest.param({"paused_until": FOREVER}, {"open": 1}, id="pause"),
        pytest.param({"quiet": "09:01-11:00"}, {"open": 1}, id="quiet hours"),
    ],
)
async def test_stop_pause_and_quiet_hours_apply_to_a_late_digest(
    timed: Herald, digest_preferences: dict[str, Any], counts: dict[str, int]
) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notification = await send_to(timed, ada)
    await delay_next_message(timed, ada)
    await advance_to(timed, DELAYED_AT)
    await set_preferences(timed, ada, **digest_preferences)
    await advance_to(timed, SENT_AT)
    await timed.advance_clock(11)
    assert await timed.counts(notification) == counts
    assert len(await received_by(timed, ada)) == counts.get("digested", 0)


async def test_late_digest_is_held_until_quiet_hours_end_and_counts_for_its_date(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00", quiet="09:01-11:00")
    first = await send_to(timed, ada, "First")
    await delay_next_message(timed, ada)
    await advance_to(timed, DELAYED_AT)
    await advance_to(timed, SENT_AT)
    assert await received_by(timed, ada) == []
    await timed.advance_clock(11)
    await advance_to(timed, "2026-11-24T10:01")
    assert await timed.counts(first) == {"digested": 1}
    second = await send_to(timed, ada, "Second")
    await advance_to(timed, "2026-11-24T22:00")
    assert await timed.counts(second) == {"open": 1}
    await advance_to(timed, "2026-11-25T08:00:30")
    assert await timed.counts(second) == {"digested": 1}
    assert len(await received_by(timed, ada)) == 2


async def test_items_of_a_cancelled_digest_can_be_cancelled_at_once(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00", quiet="09:01-11:00")
    notification = await send_to(timed, ada)
    await delay_next_message(timed, ada)
    await advance_to(timed, DELAYED_AT)
    await advance_to(timed, SENT_AT)
    await timed.command("cancel", notification)
    await timed.advance_clock(4)
    assert await timed.counts(notification) == {"cancelled": 1}


async def test_late_digest_now_is_sent_in_a_pause(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00", paused_until=FOREVER)
    notification = await send_to(timed, ada)
    await delay_next_message(timed, ada)
    await run_task(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    await timed.advance_clock(61)
    assert await timed.counts(notification) == {"digested": 1}


async def test_items_of_a_digest_that_may_have_arrived_say_so(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notification = await send_to(timed, ada)
    await timed.teams.inject(TeamsFault(operation="send", person=ada.object_id, drop=True, accept=True, count=1))
    await advance_to(timed, DELAYED_AT)
    await advance_to(timed, SENT_AT)
    assert len(await received_by(timed, ada)) == 2
    row = await timed.row(notification, f"u:{ada.object_id}")
    assert (row["state"], row["maybe_twice"]) == ("digested", True)


async def test_stop_applies_to_the_second_try_of_a_digest(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notification = await send_to(timed, ada)
    await timed.teams.inject(TeamsFault(operation="send", person=ada.object_id, status=503, count=1))
    await advance_to(timed, DELAYED_AT)
    await set_preferences(timed, ada, stopped=True)
    await advance_to(timed, SENT_AT)
    await timed.advance_clock(11)
    assert await received_by(timed, ada) == []
    row = await timed.row(notification, f"u:{ada.object_id}")
    assert (row["state"], row["maybe_twice"]) == ("unknown", True)


async def test_redrive_does_not_send_a_settled_digest(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notification = await send_to(timed, ada)
    timed.clock.offset += datetime(2026, 11, 24, 8, 0, 30, tzinfo=UTC) - timed.clock()
    await timed.tick()
    with slots_taken():
        await run_recipient_tasks(timed)
    [message] = await timed.outside_queues.get_queue_client(DELIVERIES).peek_messages()
    await timed.clear_queue(DELIVERIES)
    poisoned = replace(Delivery.decode(message.content.encode()), poison_retries=MAX_POISON_RETRIES)
    await retry_poison(timed.services, DELIVERIES, poisoned.encode().encode(), "m1")
    await timed.handle_messages()
    assert await timed.counts(notification) == {"failed": 1}
    command = {"command": "redrive", "target": {"deadLetters": {"queue": DELIVERIES, "reason": "poison"}}}
    await ingest(timed.services, json.dumps(command).encode(), "m2")
    await timed.handle_messages()
    assert await received_by(timed, ada) == []


async def test_stop_applies_to_the_digest_of_a_crashed_worker(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    notification, task = await send_to(timed, ada), RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.RELEASE)
    timed.clock.offset += datetime(2026, 11, 24, 8, 0, 30, tzinfo=UTC) - timed.clock()
    with monkeypatch.context() as crash:
        crash.setattr("timer_digest.digest_sender.deliver_single", AsyncMock(side_effect=RuntimeError))
        with pytest.raises(RuntimeError):
            await release(timed.services, task)
    await set_preferences(timed, ada, stopped=True)
    await timed.advance_clock(30)
    await release(timed.services, task)
    await timed.handle_messages()
    await timed.advance_clock(11)
    assert await received_by(timed, ada) == []
    assert await timed.counts(notification) == {"suppressed": 1}


async def test_repeated_tasks_add_no_messages_while_a_digest_is_sent(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-23T10:00")
    await send_to(timed, ada)
    await delay_next_message(timed, ada)
    await advance_to(timed, DELAYED_AT)
    delayed = len(timed.delayed)
    for _ in range(5):
        await run_task(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    assert len(timed.delayed) == delayed


async def test_urgent_delivery_is_released_while_a_digest_is_sent(timed: Herald) -> None:
    ada = await add_person(timed, "2026-11-24T07:00", quiet="07:00-08:59")
    await send_to(timed, ada, "News", category="news", priority="urgent")
    await send_to(timed, ada, "Build")
    await timed.services.queues.enqueue_recipient(RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW))
    with slots_taken():
        await run_recipient_tasks(timed)
    assert (await timed.message_count(DELIVERIES), await timed.message_count(DELIVERIES_URGENT)) == (1, 0)
    timed.clock.offset += timedelta(minutes=59, seconds=30)
    await timed.tick()
    await run_recipient_tasks(timed)
    assert await timed.message_count(DELIVERIES_URGENT) == 1
