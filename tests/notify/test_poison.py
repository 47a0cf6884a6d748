"""Messages on which the code failed each time: a chance by themselves, twice, then a dead letter to be redriven."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

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
from shared.states import DeliveryState, NotificationState, Purpose, ReferenceKind
from shared.storage.delivery_counts import SINGLE_SHARD
from shared.storage.markers import welcomed
from shared.storage.notifications import StoredNotification
from tests.support.herald import Herald, notification, user


async def one(herald: Herald) -> tuple[PersonView, StoredNotification, Delivery]:
    """A person, a notification to them, and the message of its delivery, which is not on the queue any more."""
    await herald.grow(people=1)
    [ada] = await herald.people(1)
    asked = await herald.ask(user(ada))
    message = await herald.message(asked, f"u:{ada.object_id}")
    await herald.lose(DELIVERIES)
    return ada, asked, message


async def scheduled(herald: Herald) -> StoredNotification:
    """A notification to one person that waits for its time."""
    await herald.grow(people=1)
    [ada] = await herald.people(1)
    return await herald.ask(user(ada), schedule={"at": "2099-01-01T09:00", "timeZone": "UTC"})


async def poison(herald: Herald, queue: str, message: Delivery | Expansion | Sweep) -> None:
    await retry_poison(herald.services, queue, message.encode().encode(), "m1")


@pytest.mark.parametrize("queue", [DELIVERIES, DELIVERIES_URGENT])
async def test_a_delivery_gets_two_more_chances_by_itself_and_is_sent_if_it_can_be(timed: Herald, queue: str) -> None:
    _, asked, message = await one(timed)
    await poison(timed, queue, message)
    [(at, on, text)] = timed.kept
    assert on == queue
    assert RETRY_DELAY_SECONDS - 1 < (at - timed.clock()).total_seconds() <= RETRY_DELAY_SECONDS
    assert Delivery.decode(text.encode()) == replace(message, poison_retries=1)
    await timed.run()
    assert await timed.counts(asked) == {"sent": 1}
    assert await timed.dead_letters() == []


async def test_after_its_chances_it_is_failed_with_a_dead_letter_and_the_notification_finishes(timed: Herald) -> None:
    ada, asked, message = await one(timed)
    await poison(timed, DELIVERIES, replace(message, poison_retries=MAX_POISON_RETRIES))
    row = await timed.row(asked, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("failed", "poison")
    [letter] = await timed.dead_letters()
    assert (letter["queue"], letter["reason"]) == (DELIVERIES, "poison")
    assert (await timed.now(asked)).counts == '{"failed":1}'
    await poison(timed, DELIVERIES, replace(message, poison_retries=MAX_POISON_RETRIES))  # the same again
    assert len(await timed.dead_letters()) == 1
    assert await timed.counts(asked) == {"failed": 1}


async def test_its_dead_letter_can_be_redriven_and_is_sent_then(timed: Herald) -> None:
    _, asked, message = await one(timed)
    await poison(timed, DELIVERIES, replace(message, poison_retries=MAX_POISON_RETRIES))
    command = {"command": "redrive", "target": {"deadLetters": {"queue": DELIVERIES, "reason": "poison"}}}
    await ingest(timed.services, json.dumps(command).encode(), "m2")
    await timed.run()
    assert (await timed.now(asked)).counts == '{"sent":1}'
    assert await timed.dead_letters() == []


async def test_one_that_fails_with_its_request_under_way_says_that_it_may_have_arrived(timed: Herald) -> None:
    ada, asked, message = await one(timed)
    known = await timed.state(message)
    await timed.services.deliveries.claim(message, known, timed.clock())
    await poison(timed, DELIVERIES, replace(message, poison_retries=MAX_POISON_RETRIES))
    row = await timed.row(asked, f"u:{ada.object_id}")
    assert (row["state"], row["reason"], row["maybe_twice"]) == ("failed", "poison", True)


async def of_our_own(herald: Herald, purpose: Purpose) -> tuple[str, Delivery]:
    """A message of Herald's own to one person, whose delivery is not tried yet; returns the recipient too."""
    ada, _, _ = await one(herald)
    await herald.lose(DELIVERIES)
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
    await herald.lose(DELIVERIES)
    return recipient, Delivery(key, SINGLE_SHARD, recipient, "", 0, poison_retries=MAX_POISON_RETRIES)


async def test_a_poisonous_digest_is_settled(timed: Herald) -> None:
    recipient, message = await of_our_own(timed, Purpose.DIGEST)
    await poison(timed, DELIVERIES, message)
    [told] = [each async for each in timed.outside_queues.get_queue_client(RECIPIENTS).receive_messages()]
    assert RecipientTask.decode(told.content.encode()) == RecipientTask(timed.tenant, recipient, Task.RELEASE)


async def test_whose_welcome_was_poisonous_can_be_welcomed_by_another(timed: Herald) -> None:
    recipient, message = await of_our_own(timed, Purpose.WELCOME)
    assert await timed.services.markers.claim(welcomed(timed.tenant), recipient, message.notification)
    await poison(timed, DELIVERIES, message)
    assert await timed.services.markers.claim(welcomed(timed.tenant), recipient, "another")


async def test_who_was_welcomed_stays_so_whatever_copy_is_poisonous(timed: Herald) -> None:
    recipient, message = await of_our_own(timed, Purpose.WELCOME)
    await deliver(timed.services, message)
    await poison(timed, DELIVERIES, message)
    assert not await timed.services.markers.claim(welcomed(timed.tenant), recipient, "another")


async def test_what_has_ended_meanwhile_stays_as_it_is(timed: Herald) -> None:
    _, asked, message = await one(timed)
    await deliver(timed.services, message)
    await poison(timed, DELIVERIES, replace(message, poison_retries=MAX_POISON_RETRIES))
    assert await timed.counts(asked) == {"sent": 1}


@pytest.mark.parametrize("task", [Task.RECALL, Task.EDIT])
async def test_a_poisonous_change_does_not_fail_the_delivery_that_it_would_change(timed: Herald, task: Task) -> None:
    _, asked, message = await one(timed)
    await poison(timed, DELIVERIES, replace(message, task=task, poison_retries=MAX_POISON_RETRIES))
    assert await timed.counts(asked) == {"open": 1}
    await deliver(timed.services, message)
    assert await timed.counts(asked) == {"sent": 1}


async def test_chances_are_kept_when_a_message_is_put_back_for_later(timed: Herald) -> None:
    _, _, message = await one(timed)
    known = await timed.state(message)
    await timed.services.deliveries.claim(message, known, timed.clock())
    await deliver(timed.services, replace(message, poison_retries=1))
    [(_, _, text)] = timed.kept
    assert Delivery.decode(text.encode()).poison_retries == 1


async def test_a_page_that_cannot_be_listed_fails_the_notification_until_it_is_redriven(timed: Herald) -> None:
    asked = await scheduled(timed)
    await poison(timed, EXPANSIONS, Expansion(asked.key, 0))
    assert (await timed.now(asked)).state is NotificationState.SCHEDULED
    assert [Expansion.decode(text.encode()).poison_retries for _, _, text in timed.kept] == [1]
    timed.kept.clear()
    await poison(timed, EXPANSIONS, Expansion(asked.key, 0, poison_retries=MAX_POISON_RETRIES))
    assert (await timed.now(asked)).state is NotificationState.FAILED
    command = {"command": "redrive", "target": {"deadLetters": {"queue": EXPANSIONS, "reason": "poison"}}}
    await ingest(timed.services, json.dumps(command).encode(), "m2")
    await timed.run()
    assert (await timed.now(asked)).counts == '{"sent":1}'


@pytest.mark.parametrize("state", [NotificationState.CANCELLED, NotificationState.FINISHED])
async def test_a_poisonous_page_does_not_fail_what_is_called_off_or_finished(
    timed: Herald, state: NotificationState
) -> None:
    asked = await scheduled(timed)
    await timed.services.notifications.advance(asked, state=state)
    await poison(timed, EXPANSIONS, Expansion(asked.key, 0, poison_retries=MAX_POISON_RETRIES))
    assert (await timed.now(asked)).state is state


async def test_a_page_that_was_passed_does_not_fail_the_notification(timed: Herald) -> None:
    _, asked, _ = await one(timed)
    await poison(timed, EXPANSIONS, Expansion(asked.key, 0, poison_retries=MAX_POISON_RETRIES))
    assert (await timed.now(asked)).state is NotificationState.EXPANDED


@pytest.mark.parametrize("queue", [queue for queue in WORK_QUEUES if queue != NOTIFICATIONS])
async def test_what_cannot_be_read_is_given_up_at_once_whatever_queue_it_comes_from(timed: Herald, queue: str) -> None:
    await retry_poison(timed.services, queue, b'{"v": 1, "mine": false}', "m1")
    [letter] = await timed.dead_letters()
    assert (letter["queue"], letter["reason"], letter["body"]) == (queue, "poison", b'{"v": 1, "mine": false}')


async def test_upstreams_own_message_has_its_chances_is_given_up_then_and_can_be_redriven(timed: Herald) -> None:
    await timed.grow(people=1)
    [ada] = await timed.people(1)
    given = body = notification(user(ada))
    for given_up_before in range(2):
        for _ in range(MAX_POISON_RETRIES):
            await retry_poison(timed.services, NOTIFICATIONS, body, "m1")
            [(_, on, text)] = timed.kept
            assert (on, len(await timed.dead_letters())) == (NOTIFICATIONS, given_up_before)
            body = text.encode()
            timed.kept.clear()
        await retry_poison(timed.services, NOTIFICATIONS, body, "m1")
        [letter] = await timed.dead_letters()
        assert (letter["reason"], letter["body"]) == ("poison", given)
    command = {"command": "redrive", "target": {"deadLetters": {"queue": NOTIFICATIONS, "reason": "poison"}}}
    await ingest(timed.services, json.dumps(command).encode(), "m2")
    await timed.run()
    assert len(await timed.received()) == 1


async def test_a_sweep_gets_its_chances_and_its_next_page_all_of_them(timed: Herald) -> None:
    _, asked, _ = await one(timed)
    await poison(timed, SWEEPS, Sweep(asked.key, Task.REDRIVE, "0"))
    assert [Sweep.decode(text.encode()).poison_retries for _, _, text in timed.kept] == [1]
    await timed.run()
    assert await timed.dead_letters() == []
    assert await timed.counts(asked) == {DeliveryState.SENT: 1}


async def test_somebody_whose_message_is_given_up_is_seen_to_again_the_next_day(timed: Herald) -> None:
    await timed.grow(people=1)
    [ada] = await timed.people(1)
    await timed.services.conversations.change_preferences(
        timed.tenant, ReferenceKind.USER, ada.object_id, lambda old: replace(old, paused_until=FOREVER)
    )
    asked = await timed.ask(user(ada))
    await timed.send()
    await timed.services.conversations.change_preferences(
        timed.tenant, ReferenceKind.USER, ada.object_id, lambda old: replace(old, paused_until=None)
    )
    resumed = RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.RECONSIDER, poison_retries=MAX_POISON_RETRIES)
    await retry_poison(timed.services, RECIPIENTS, resumed.encode().encode(), "m1")
    assert len(await timed.dead_letters()) == 1
    assert await timed.counts(asked) == {"open": 1}
    await timed.wait(24 * 3600 + 1)
    assert await timed.counts(asked) == {"sent": 1}
