"""Poison messages: two retries, then a dead letter that can be redriven."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from azure.core.exceptions import ServiceRequestError

from local.fake_teams.api import PersonView
from notify.delivery.deliver import deliver
from notify.ingest import ingest
from notify.poison import MAX_POISON_RETRIES, RETRY_DELAY_SECONDS, retry_poison
from shared import publishing
from shared.preferences.preferences import FOREVER
from shared.queue_messages import (
    DELIVERIES,
    DELIVERIES_URGENT,
    EXPANSIONS,
    NO_ROW,
    NOTIFICATIONS,
    RECIPIENTS,
    SWEEPS,
    WORK_QUEUES,
    Delivery,
    Expansion,
    RecipientTask,
    Sweep,
    Task,
)
from shared.records import StoredNotification
from shared.states import DeliveryState, NotificationState, Purpose, ReferenceKind
from shared.storage.delivery_counts import FEW_SHARD
from shared.storage.markers import welcomed
from tests.support.herald import Herald, notification, user

pytestmark = pytest.mark.usefixtures("queued")


async def submit_to_one_person(herald: Herald) -> tuple[PersonView, StoredNotification, Delivery]:
    """Submit a notification to a new person, and take the message of its delivery from the queue."""
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    submitted = await herald.submit(user(ada))
    message = await herald.message(submitted, f"u:{ada.object_id}")
    await herald.clear_queue(DELIVERIES)
    return ada, submitted, message


async def submit_scheduled(herald: Herald) -> StoredNotification:
    """Submit a scheduled notification to a new person."""
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    return await herald.submit(user(ada), schedule={"at": "2099-01-01T09:00", "timeZone": "UTC"})


async def handle_poison(herald: Herald, queue: str, message: Delivery | Expansion | Sweep) -> None:
    await retry_poison(herald.services, queue, message.encode().encode(), "m1")


@pytest.mark.parametrize("queue", [DELIVERIES, DELIVERIES_URGENT])
async def test_poison_delivery_is_retried_and_sent(timed: Herald, queue: str) -> None:
    _, submitted, message = await submit_to_one_person(timed)
    await handle_poison(timed, queue, message)
    [(at, on, text)] = timed.delayed
    assert on == queue
    assert RETRY_DELAY_SECONDS - 1 < (at - timed.clock()).total_seconds() <= RETRY_DELAY_SECONDS
    assert Delivery.decode(text.encode()) == replace(message, poison_retries=1)
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 1}
    assert await timed.dead_letters() == []


async def test_delivery_fails_with_a_dead_letter_after_its_last_retry(timed: Herald) -> None:
    ada, submitted, message = await submit_to_one_person(timed)
    await handle_poison(timed, DELIVERIES, replace(message, poison_retries=MAX_POISON_RETRIES))
    row = await timed.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("failed", "poison")
    [letter] = await timed.dead_letters()
    assert (letter["queue"], letter["reason"]) == (DELIVERIES, "poison")
    assert (await timed.reload(submitted)).counts == '{"failed":1}'
    await handle_poison(timed, DELIVERIES, replace(message, poison_retries=MAX_POISON_RETRIES))  # a duplicate
    assert len(await timed.dead_letters()) == 1
    assert await timed.counts(submitted) == {"failed": 1}


async def test_dead_letter_of_a_delivery_can_be_redriven(timed: Herald) -> None:
    _, submitted, message = await submit_to_one_person(timed)
    await handle_poison(timed, DELIVERIES, replace(message, poison_retries=MAX_POISON_RETRIES))
    command = {"command": "redrive", "target": {"deadLetters": {"queue": DELIVERIES, "reason": "poison"}}}
    await ingest(timed.services, json.dumps(command).encode(), "m2")
    await timed.run_until_idle()
    assert (await timed.reload(submitted)).counts == '{"sent":1}'
    assert await timed.dead_letters() == []


async def test_claimed_delivery_that_fails_is_marked_maybe_twice(timed: Herald) -> None:
    ada, submitted, message = await submit_to_one_person(timed)
    known = await timed.delivery_record(message)
    await timed.services.deliveries.claim(message, known, timed.clock())
    await handle_poison(timed, DELIVERIES, replace(message, poison_retries=MAX_POISON_RETRIES))
    row = await timed.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row["reason"], row["maybe_twice"]) == ("failed", "poison", True)


async def publish_own_message(herald: Herald, purpose: Purpose) -> tuple[str, Delivery]:
    """Publish one of Herald's own messages to a new person; return the recipient, and the message of its delivery."""
    ada, _, _ = await submit_to_one_person(herald)
    await herald.clear_queue(DELIVERIES)
    recipient = f"u:{ada.object_id}"
    data = json.dumps({"recipients": [user(ada)], "category": "x", "content": {"title": "Own"}}).encode()
    key = await publishing.post(
        herald.services,
        tenant=herald.tenant,
        recipient=recipient,
        source="/own",
        identifier=str(purpose),
        data=data,
        purpose=purpose,
    )
    await herald.clear_queue(DELIVERIES)
    return recipient, Delivery(key, FEW_SHARD, recipient, NO_ROW, 0, poison_retries=MAX_POISON_RETRIES)


async def test_failed_digest_is_settled(timed: Herald) -> None:
    recipient, delivery = await publish_own_message(timed, Purpose.DIGEST)
    await handle_poison(timed, DELIVERIES, delivery)
    [message] = [each async for each in timed.outside_queues.get_queue_client(RECIPIENTS).receive_messages()]
    assert RecipientTask.decode(message.content.encode()) == RecipientTask(timed.tenant, recipient, Task.RELEASE)


async def test_failed_welcome_releases_the_marker_for_another_welcome(timed: Herald) -> None:
    recipient, message = await publish_own_message(timed, Purpose.WELCOME)
    assert await timed.services.markers.claim(welcomed(timed.tenant), recipient, message.notification)
    await handle_poison(timed, DELIVERIES, message)
    assert await timed.services.markers.claim(welcomed(timed.tenant), recipient, "another")


async def test_poison_duplicate_of_a_sent_welcome_keeps_the_marker(timed: Herald) -> None:
    recipient, message = await publish_own_message(timed, Purpose.WELCOME)
    await deliver(timed.services, message)
    await handle_poison(timed, DELIVERIES, message)
    assert not await timed.services.markers.claim(welcomed(timed.tenant), recipient, "another")


async def test_delivery_without_a_row_fails_with_one(timed: Herald) -> None:
    _, message = await publish_own_message(timed, Purpose.REPLY)
    await handle_poison(timed, DELIVERIES, message)
    known = await timed.delivery_record(message)
    assert (known.state, known.reason) == ("failed", "poison")
    stored = await timed.services.notifications.get(message.notification)
    assert stored
    assert (stored.state, stored.counts) == (NotificationState.FINISHED, '{"failed":1}')
    await deliver(timed.services, message)
    assert await timed.received() == []


async def test_delivery_that_has_ended_keeps_its_state(timed: Herald) -> None:
    _, submitted, message = await submit_to_one_person(timed)
    await deliver(timed.services, message)
    await handle_poison(timed, DELIVERIES, replace(message, poison_retries=MAX_POISON_RETRIES))
    assert await timed.counts(submitted) == {"sent": 1}


@pytest.mark.parametrize("task", [Task.RECALL, Task.EDIT])
async def test_poison_edit_or_recall_does_not_fail_its_delivery(timed: Herald, task: Task) -> None:
    _, submitted, message = await submit_to_one_person(timed)
    await handle_poison(timed, DELIVERIES, replace(message, task=task, poison_retries=MAX_POISON_RETRIES))
    assert await timed.counts(submitted) == {"open": 1}
    await deliver(timed.services, message)
    assert await timed.counts(submitted) == {"sent": 1}


async def test_requeued_message_keeps_its_poison_retries(timed: Herald) -> None:
    _, _, message = await submit_to_one_person(timed)
    known = await timed.delivery_record(message)
    await timed.services.deliveries.claim(message, known, timed.clock())
    await deliver(timed.services, replace(message, poison_retries=1))
    [(_, _, text)] = timed.delayed
    assert Delivery.decode(text.encode()).poison_retries == 1


async def test_poison_page_fails_the_notification_until_it_is_redriven(timed: Herald) -> None:
    submitted = await submit_scheduled(timed)
    await handle_poison(timed, EXPANSIONS, Expansion(submitted.key, 0))
    assert (await timed.reload(submitted)).state is NotificationState.SCHEDULED
    assert [Expansion.decode(text.encode()).poison_retries for _, _, text in timed.delayed] == [1]
    timed.delayed.clear()
    await handle_poison(timed, EXPANSIONS, Expansion(submitted.key, 0, poison_retries=MAX_POISON_RETRIES))
    assert (await timed.reload(submitted)).state is NotificationState.FAILED
    command = {"command": "redrive", "target": {"deadLetters": {"queue": EXPANSIONS, "reason": "poison"}}}
    await ingest(timed.services, json.dumps(command).encode(), "m2")
    await timed.run_until_idle()
    assert (await timed.reload(submitted)).counts == '{"sent":1}'


@pytest.mark.parametrize("state", [NotificationState.CANCELLED, NotificationState.FINISHED])
async def test_poison_page_does_not_fail_a_cancelled_or_finished_notification(
    timed: Herald, state: NotificationState
) -> None:
    submitted = await submit_scheduled(timed)
    await timed.services.notifications.advance(submitted, state=state)
    await handle_poison(timed, EXPANSIONS, Expansion(submitted.key, 0, poison_retries=MAX_POISON_RETRIES))
    assert (await timed.reload(submitted)).state is state


async def test_poison_duplicate_of_an_earlier_page_does_not_fail_the_notification(timed: Herald) -> None:
    _, submitted, _ = await submit_to_one_person(timed)
    await handle_poison(timed, EXPANSIONS, Expansion(submitted.key, 0, poison_retries=MAX_POISON_RETRIES))
    assert (await timed.reload(submitted)).state is NotificationState.EXPANDED


@pytest.mark.parametrize("queue", [queue for queue in WORK_QUEUES if queue != NOTIFICATIONS])
async def test_unreadable_poison_message_is_a_dead_letter_at_once(timed: Herald, queue: str) -> None:
    await retry_poison(timed.services, queue, b'{"v": 1, "mine": false}', "m1")
    [letter] = await timed.dead_letters()
    assert (letter["queue"], letter["reason"], letter["body"]) == (queue, "poison", b'{"v": 1, "mine": false}')


async def test_upstream_message_is_retried_then_a_dead_letter_that_can_be_redriven(timed: Herald) -> None:
    await timed.grow(people=1)
    [ada] = await timed.store_people(1)
    original = body = notification(user(ada))
    for dead_letters_before in range(2):
        for _ in range(MAX_POISON_RETRIES):
            await retry_poison(timed.services, NOTIFICATIONS, body, "m1")
            [(_, on, text)] = timed.delayed
            assert (on, len(await timed.dead_letters())) == (NOTIFICATIONS, dead_letters_before)
            body = text.encode()
            timed.delayed.clear()
        await retry_poison(timed.services, NOTIFICATIONS, body, "m1")
        [letter] = await timed.dead_letters()
        assert (letter["reason"], letter["body"]) == ("poison", original)
    command = {"command": "redrive", "target": {"deadLetters": {"queue": NOTIFICATIONS, "reason": "poison"}}}
    await ingest(timed.services, json.dumps(command).encode(), "m2")
    await timed.run_until_idle()
    assert len(await timed.received()) == 1


async def fail_first_page(herald: Herald, body: bytes, message_id: str, dequeue_count: int = 1) -> None:
    """Ingest a message while no delivery can be stored, as its function does in a fault of storage."""
    add = herald.services.deliveries.add

    async def fail(*_: Any, **__: Any) -> Any:
        raise ServiceRequestError("no connection")

    herald.services.deliveries.add = fail  # type: ignore[method-assign]
    try:
        with pytest.raises(ServiceRequestError):
            await ingest(herald.services, body, message_id, dequeue_count)
    finally:
        herald.services.deliveries.add = add  # type: ignore[method-assign]


async def take_message(herald: Herald) -> bytes:
    """Take the only message from the queue `notifications`, also if it is delayed."""
    bodies = [text.encode() for _, queue, text in herald.delayed if queue == NOTIFICATIONS]
    herald.delayed.clear()
    queue = herald.outside_queues.get_queue_client(NOTIFICATIONS)
    async for message in queue.receive_messages():
        bodies.append(message.content.encode())
        await queue.delete_message(message)
    [body] = bodies
    return body


REDRIVE_POISON = {"command": "redrive", "target": {"deadLetters": {"queue": NOTIFICATIONS, "reason": "poison"}}}


@pytest.mark.parametrize("encode", [bytes, base64.b64encode, lambda body: body.decode().encode("utf-16")])
async def test_message_without_an_id_keeps_its_identity_from_its_first_failure_to_its_redrive(
    timed: Herald, encode: Callable[[bytes], bytes]
) -> None:
    """See docs/odd-inputs.md, "Messages on the queue". The poison queue and each copy give the message a new id."""
    await timed.grow(people=3)
    people = await timed.store_people(3)
    value = {"recipients": [user(each) for each in people], "category": "builds", "content": {"title": "Done"}}
    body = encode(json.dumps(value).encode())
    await fail_first_page(timed, body, "m1")
    await ingest(timed.services, body, "m1", 2)
    body = await take_message(timed)
    for number in range(MAX_POISON_RETRIES):
        await fail_first_page(timed, body, f"copy{number}")
        await retry_poison(timed.services, NOTIFICATIONS, body, f"poison{number}")
        body = await take_message(timed)
    await retry_poison(timed.services, NOTIFICATIONS, body, "poison")
    [letter] = await timed.dead_letters()
    assert (letter["id"], letter["message_id"]) == ("m1", "poison")
    await ingest(timed.services, json.dumps(REDRIVE_POISON).encode(), "m2")
    await timed.run_until_idle()
    assert sorted(str(each.person) for each in await timed.received()) == sorted(each.object_id for each in people)
    [stored] = await timed.newest()
    assert (stored.id, stored.counts) == ("m1", '{"sent":3}')


async def test_poison_message_without_an_id_is_one_notification_in_all_its_retries(timed: Herald) -> None:
    await timed.grow(people=1)
    [ada] = await timed.store_people(1)
    value = {"recipients": [user(ada)], "category": "builds", "content": {"title": "Done"}}
    await retry_poison(timed.services, NOTIFICATIONS, json.dumps(value).encode(), "m1")
    body = await take_message(timed)
    await fail_first_page(timed, body, "m2")
    await retry_poison(timed.services, NOTIFICATIONS, body, "m3")
    await timed.run_until_idle()
    assert len(await timed.received()) == 1
    [stored] = await timed.newest()
    assert stored.id == "m1"


async def test_redriven_refused_message_without_an_id_keeps_the_one_of_its_message(timed: Herald) -> None:
    value = {"recipients": [{"all": True}], "category": "", "content": {"title": "Done"}}
    await ingest(timed.services, json.dumps(value).encode(), "m1")
    command = {"command": "redrive", "target": {"deadLetters": {"queue": NOTIFICATIONS, "reason": "invalid"}}}
    await ingest(timed.services, json.dumps(command).encode(), "m2")
    assert json.loads(await take_message(timed)) == value | {"id": "m1"}


@pytest.mark.parametrize("body", [b"\xff\xfe", b"\x00", b'["\xef\xbf\xbf"]', "{}".encode("utf-16")])
async def test_message_that_a_queue_takes_only_in_base64_is_put_back(timed: Herald, body: bytes) -> None:
    await retry_poison(timed.services, NOTIFICATIONS, body, "m1")
    assert base64.b64decode(await take_message(timed)) == body
    await ingest(timed.services, body, "m2")
    [letter] = await timed.dead_letters()
    target = {"deadLetters": {"queue": NOTIFICATIONS, "reason": letter["reason"]}}
    await ingest(timed.services, json.dumps({"command": "redrive", "target": target}).encode(), "m3")
    assert await timed.dead_letters() == []
    await take_message(timed)


async def test_dead_letter_and_log_lines_name_source_id_and_queue_message(
    timed: Herald, caplog: pytest.LogCaptureFixture
) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    ada, submitted, message = await submit_to_one_person(timed)
    await handle_poison(timed, DELIVERIES, message)
    await handle_poison(timed, DELIVERIES, replace(message, poison_retries=MAX_POISON_RETRIES))
    upstream = notification(user(ada), source="/ci", id="build-42")
    for _ in range(MAX_POISON_RETRIES + 1):
        await retry_poison(timed.services, NOTIFICATIONS, upstream, "m1")
    await ingest(timed.services, notification(user(ada), source="/ci", id="build-43", category=""), "m3")
    target = {"source": "/ci", "id": "nobody"}
    await ingest(timed.services, json.dumps({"command": "cancel", "target": target}).encode(), "m4")
    found = [(each["source"], each["id"], each["message_id"]) for each in await timed.dead_letters()]
    expected = [
        (submitted.source, submitted.id, "m1"),
        ("/ci", "build-42", "m1"),
        ("/ci", "build-43", "m3"),
        ("/ci", "nobody", "m4"),
    ]
    assert sorted(found) == sorted(expected)
    for source, identifier, message_id in expected:
        lines = [line for line in caplog.messages if f"source {source}, id {identifier}" in line]
        assert lines
        assert all(line.startswith(f"Message {message_id} ") for line in lines)


async def test_poison_sweep_is_retried_and_completes(timed: Herald) -> None:
    _, submitted, _ = await submit_to_one_person(timed)
    await handle_poison(timed, SWEEPS, Sweep(submitted.key, Task.REDRIVE, "0"))
    assert [Sweep.decode(text.encode()).poison_retries for _, _, text in timed.delayed] == [1]
    await timed.run_until_idle()
    assert await timed.dead_letters() == []
    assert await timed.counts(submitted) == {DeliveryState.SENT: 1}


async def test_recipient_task_that_became_a_dead_letter_runs_again_the_next_day(timed: Herald) -> None:
    await timed.grow(people=1)
    [ada] = await timed.store_people(1)
    await timed.services.conversations.change_preferences(
        timed.tenant, ReferenceKind.USER, ada.object_id, lambda old: replace(old, paused_until=FOREVER)
    )
    submitted = await timed.submit(user(ada))
    await timed.handle_messages()
    await timed.services.conversations.change_preferences(
        timed.tenant, ReferenceKind.USER, ada.object_id, lambda old: replace(old, paused_until=None)
    )
    task = RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.RECONSIDER, poison_retries=MAX_POISON_RETRIES)
    await retry_poison(timed.services, RECIPIENTS, task.encode().encode(), "m1")
    assert len(await timed.dead_letters()) == 1
    assert await timed.counts(submitted) == {"open": 1}
    await timed.advance_clock(24 * 3600 + 1)
    assert await timed.counts(submitted) == {"sent": 1}


async def test_dead_letter_of_a_delivery_without_a_row_can_be_redriven_before_it_has_failed(timed: Herald) -> None:
    """The worker dies after it has stored the dead letter."""
    ada, submitted, _ = await submit_to_one_person(timed)
    new = replace(submitted, key=submitted.key[:-1] + ("0" if submitted.key[-1] != "0" else "1"), id="new", shards=0)
    new = await timed.services.notifications.insert(replace(new, total=1, state=NotificationState.EXPANDED))
    message = Delivery(new.key, FEW_SHARD, f"u:{ada.object_id}", NO_ROW, 0, poison_retries=MAX_POISON_RETRIES)
    body = message.encode().encode()
    await timed.services.dead_letters.put(DELIVERIES, "m1", body, "poison", [], timed.clock())
    command = {"command": "redrive", "target": {"deadLetters": {"queue": DELIVERIES, "reason": "poison"}}}
    await ingest(timed.services, json.dumps(command).encode(), "m2")
    await timed.handle_messages(DELIVERIES)
    assert await timed.dead_letters() == []
    assert await timed.counts(new) == {"sent": 1}
