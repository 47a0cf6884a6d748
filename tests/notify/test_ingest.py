"""Ingestion: a notification is stored once under its identity, and a refused message becomes a dead letter."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from notify.expansion import expand
from notify.functions import ingest_message, send_delivery
from notify.ingest import allowed_tenant, ingest
from notify.scheduling import DueTime, compute_due
from shared.contract.faults import MessageRefused
from shared.contract.models import Content, Schedule
from shared.queue_messages import (
    DELIVERIES,
    DELIVERIES_URGENT,
    EXPANSIONS,
    NOTIFICATIONS,
    Delivery,
    Expansion,
    NewerVersion,
    Unreadable,
)
from shared.records import StoredNotification, notification_key
from shared.settings import load_settings
from shared.states import NotificationState
from shared.storage.dead_letters import DeadLetters
from tests.shared.test_settings import BOT, TENANT
from tests.support.herald import Herald, notification, user


async def test_duplicate_notification_is_sent_once(herald: Herald) -> None:
    await herald.grow(people=3)
    people = await herald.store_people(3)
    body = notification(*(user(each) for each in people))
    await asyncio.gather(*(ingest(herald.services, body, f"m{n}") for n in range(20)))
    await herald.handle_messages()
    await ingest(herald.services, body, "again")
    await herald.handle_messages()
    assert len(await herald.received()) == 3
    assert await herald.counts(await herald.stored(body)) == {"sent": 3}
    assert await herald.dead_letters() == []


async def test_queue_message_id_identifies_a_notification_without_id(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    body = json.dumps({"recipients": [user(ada)], "category": "c", "content": {"title": "t"}}).encode()
    for message_id in ("m1", "m1", "m2"):
        await ingest(herald.services, body, message_id)
    await herald.handle_messages()
    assert len(await herald.received()) == 2


async def test_redelivered_message_without_an_id_is_replaced_by_a_copy_with_its_id(
    herald: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    import azure.functions as func

    class Redelivered(func.QueueMessage):
        dequeue_count = 2

    async def get_services() -> object:
        return herald.services

    monkeypatch.setattr("notify.functions.get_services", get_services)
    trigger = ingest_message.build().get_user_function()  # type: ignore[attr-defined]
    value = {"recipients": [{"all": True}], "category": "c", "content": {"title": "t"}}
    await trigger(Redelivered(id="m1", body=json.dumps(value).encode()))
    assert await herald.services.notification_index.list_newest(10) == []
    [message] = await herald.outside_queues.get_queue_client(NOTIFICATIONS).peek_messages()
    assert json.loads(message.content) == value | {"id": "m1"}
    await trigger(Redelivered(id="m2", body=message.content.encode()))
    [stored] = await herald.newest()
    assert stored.id == "m1"


async def test_same_id_with_other_content_is_refused_as_reused(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    first = json.loads(notification(user(ada)))
    await ingest(herald.services, json.dumps(first).encode(), "m1")
    await ingest(herald.services, json.dumps(first | {"category": "other"}).encode(), "m2")
    await herald.handle_messages()
    [letter] = await herald.dead_letters()
    assert (letter["reason"], json.loads(letter["faults"])[0]["pointer"]) == ("reused", "/id")
    assert len(await herald.received()) == 1


async def test_conversation_id_with_any_characters_passes_through_the_queues(herald: Herald) -> None:
    submitted = await herald.submit({"conversation": '19:\uffff\ufffe\x01<&>"%25/\\#?@thread.v2'})
    await herald.handle_messages()
    assert await herald.counts(submitted) == {"suppressed": 1}


async def test_card_nested_too_deep_is_a_dead_letter(herald: Herald) -> None:
    for depth in (100, 300, 600, 900):
        card = '{"type":"AdaptiveCard","x":' + "[" * depth + "]" * depth + "}"
        body = '{"recipients":[{"all":true}],"category":"c","card":' + card + "}"
        await ingest(herald.services, body.encode(), f"m{depth}")
    assert {letter["reason"] for letter in await herald.dead_letters()} == {"invalid"}


async def test_another_source_may_use_the_same_id(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    first = json.loads(notification(user(ada), source="/a"))
    await ingest(herald.services, json.dumps(first).encode(), "m1")
    await ingest(herald.services, json.dumps(first | {"source": "/b"}).encode(), "m2")
    await herald.handle_messages()
    assert len(await herald.received()) == 2


async def test_refused_message_is_a_dead_letter_with_a_pointer_to_each_fault(
    herald: Herald, caplog: pytest.LogCaptureFixture
) -> None:
    body = notification({"user": "secret name"}, category="")
    await ingest(herald.services, body, "m1")
    [letter] = await herald.dead_letters()
    assert letter["body"] == body
    assert {fault["pointer"] for fault in json.loads(letter["faults"])} == {"/recipients/0/user", "/category"}
    assert "secret" not in caplog.text
    assert f"Message m1 was refused (invalid; source unknown, id {json.loads(body)['id']})" in caplog.text


@pytest.mark.parametrize("text", ["x" * 63_500, "ü" * 31_500, "\u20ac" * 21_000], ids=["ASCII", "2 bytes", "3 bytes"])
async def test_largest_notification_is_stored(herald: Herald, text: str) -> None:
    """See docs/odd-inputs.md, "Messages on the queue". The storage in memory refuses what the real one does."""
    value = {"id": "x", "recipients": [{"all": True}], "category": "c", "content": {"title": "t", "text": text}}
    body = json.dumps(value, ensure_ascii=False).encode()
    await ingest(herald.services, body, "m1")
    assert (await herald.stored(body)).content.content == Content(title="t", text=text)
    assert await herald.dead_letters() == []


@pytest.mark.parametrize("text", ["x" * 65_300, "ü" * 32_600, "\u20ac" * 21_700], ids=["ASCII", "2 bytes", "3 bytes"])
async def test_notification_that_no_column_can_hold_is_a_dead_letter(herald: Herald, text: str) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    value = {"recipients": [{"all": True}], "category": "c", "content": {"title": "t", "text": text}}
    for body in (json.dumps(value, ensure_ascii=False).encode(), b"[" + b" " * 64_998 + b"]"):
        await ingest(herald.services, body, "m1")
        [letter] = await herald.dead_letters()
        assert (letter["reason"], DeadLetters.body(letter)) == ("invalid", body)


@pytest.mark.parametrize("body", [b"", b"not json", b"\xff\xff", b"aGVsbG8=", b"[]", b"{}", b'{"a":' * 9999])
async def test_unreadable_body_is_a_dead_letter_and_does_not_raise(herald: Herald, body: bytes) -> None:
    await ingest(herald.services, body, "m1")
    [letter] = await herald.dead_letters()
    assert letter["body"] == body
    assert letter["queue"] == NOTIFICATIONS


async def test_repeated_message_expands_a_notification_whose_worker_died_before_expansion(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    submitted = await herald.submit(user(ada), schedule={"at": "2020-01-01T00:00", "timeZone": "UTC", "ifPast": "skip"})
    assert submitted.state is NotificationState.SKIPPED
    body = notification(user(ada))
    stored = await herald.services.notifications.insert(_new_notification(herald, body))
    await ingest(herald.services, body, "redelivered")
    await herald.handle_messages()
    assert await herald.counts(stored) == {"sent": 1}


def _new_notification(herald: Herald, body: bytes) -> StoredNotification:
    from shared.contract.parsing import Request, parse_message

    request = parse_message(body)
    assert isinstance(request, Request)
    assert request.id
    return StoredNotification(
        key=notification_key(herald.tenant, request.source, request.id),
        tenant=herald.tenant,
        source=request.source,
        id=request.id,
        content_hash=request.content_hash,
        data=request.data,
        state=NotificationState.ACCEPTED,
        created=herald.clock(),
        shards=1,
    )


async def test_repeated_page_adds_only_missing_deliveries(herald: Herald) -> None:
    await herald.grow(people=6)
    people = await herald.store_people(6)
    body = notification(*(user(each) for each in people))
    stored = await herald.services.notifications.insert(_new_notification(herald, body))
    # As if a worker had died after some of the rows, before their messages and the next page.
    await herald.services.deliveries.add(stored.key, "0", {f"u:{p.object_id}": 0 for p in people[:3]}, herald.clock())
    await asyncio.gather(*(expand(herald.services, Expansion(stored.key, 0)) for _ in range(3)))
    await herald.handle_messages()
    await expand(herald.services, Expansion(stored.key, 0))
    await herald.handle_messages()
    assert len(await herald.received()) == 6
    done = await herald.services.notifications.get(stored.key)
    assert done
    assert (done.state, done.total) == (NotificationState.FINISHED, 6)


async def submit_in_pages(timed: Herald, **data: Any) -> StoredNotification:
    """Submit a notification to 12 people in pages of five."""
    await timed.grow(people=12)
    for each in await timed.store_people(12):
        await timed.services.topics.subscribe(timed.tenant, "t", f"u:{each.object_id}")
    object.__setattr__(timed.services.settings, "tenant_rate", 1)
    return await timed.submit({"topic": "t"}, **data)


@pytest.mark.parametrize(("priority", "queue"), [("normal", DELIVERIES), ("urgent", DELIVERIES_URGENT)])
async def test_next_page_is_added_when_the_first_delivery_of_a_page_is_handled(
    timed: Herald, priority: str, queue: str
) -> None:
    submitted = await submit_in_pages(timed, priority=priority)
    for page, sizes in enumerate([(5, 0), (5, 0), (2, 0)], start=1):
        assert (await timed.message_count(queue), await timed.message_count(EXPANSIONS)) == sizes
        assert ((await timed.reload(submitted)).page, timed.delayed) == (page, [])
        await expand(timed.services, Expansion(submitted.key, page - 1))  # a duplicate adds nothing
        await timed.handle_messages(queue)
        await timed.handle_messages(EXPANSIONS)
    object.__setattr__(timed.services.settings, "tenant_rate", 45)
    await timed.run_until_idle()
    assert (await timed.reload(submitted)).counts == '{"sent":12}'


async def test_page_that_arrives_before_the_page_before_it_was_added_comes_again(timed: Herald) -> None:
    submitted = await submit_in_pages(timed)
    await expand(timed.services, Expansion(submitted.key, submitted.page + 1))
    [(_, queue, _)] = timed.delayed
    assert (queue, (await timed.reload(submitted)).page) == (EXPANSIONS, submitted.page)


def utc(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (None, DueTime()),
        ({"at": "2026-11-23T13:30", "timeZone": "Europe/Berlin"}, DueTime(utc(23, 12, 30))),
        ({"at": "2026-11-23T12:30"}, DueTime()),  # 03:30 UTC: the default zone is Asia/Tokyo
        ({"at": "2026-11-23T21:30"}, DueTime(utc(23, 12, 30))),
        ({"at": "2026-11-23T12:00", "timeZone": "UTC"}, DueTime(utc(23, 12))),
        ({"at": "2026-11-23T11:59", "timeZone": "UTC"}, DueTime()),
        ({"at": "2026-11-23T11:59", "timeZone": "UTC", "ifPast": "skip"}, DueTime(skip=True)),
        ({"at": "2020-01-01T09:00", "timeZone": "UTC", "ifPast": "nextDay"}, DueTime(utc(24, 9))),
        ({"at": "2020-01-01T13:00", "timeZone": "UTC", "ifPast": "nextDay"}, DueTime(utc(23, 13))),
        ({"at": "2026-11-23T13:30", "timeZone": "W. Europe Standard Time"}, DueTime(utc(23, 12, 30))),
        ({"at": "2026-11-24T03:00", "timeZone": "recipient"}, DueTime(utc(23, 13))),  # in Kiritimati
        (
            {"at": "2026-11-24T01:59", "timeZone": "recipient", "ifPast": "skip"},
            DueTime(),
        ),  # each delivery decides whether it is skipped
        ({"at": "2999-12-31T23:59", "timeZone": "UTC"}, DueTime(datetime(2999, 12, 31, 23, 59, tzinfo=UTC))),
    ],
)
def test_schedule_is_computed_in_its_zone_and_a_past_time_follows_if_past(
    schedule: dict[str, str] | None, expected: DueTime
) -> None:
    model = Schedule.model_validate(schedule) if schedule else None
    assert compute_due(model, "Asia/Tokyo", utc(23, 12)) == expected


def test_tenant_is_optional_if_only_one_is_allowed() -> None:
    single, several = load_settings(BOT), load_settings(BOT | {"HERALD_ALLOWED_TENANTS": "a,b"})
    assert allowed_tenant(None, single, "") == TENANT
    assert allowed_tenant("A", several, "") == "a"
    for named, settings in ((None, several), ("c", several), ("a", single)):
        with pytest.raises(MessageRefused) as refused:
            allowed_tenant(named, settings, "/data")
        assert refused.value.faults[0].pointer == "/data/tenant"


def test_internal_message_decodes_to_what_was_encoded() -> None:
    message = Delivery("n", "0", "u:x", 'W/"etag"', 3)
    assert Delivery.decode(message.encode().encode()) == message
    with pytest.raises(NewerVersion):
        Delivery.decode(b'{"v": 4, "other": 1}')
    for body in (b"{}", b"[]", b'{"v": 1}', b'{"v": "x"}', b'{"v": 1, "notification": 1}'):
        with pytest.raises(Unreadable):
            Delivery.decode(body)


def test_field_of_a_newer_instance_is_ignored() -> None:
    value = json.loads(Expansion("a" * 64, 3).encode()) | {"later": {"x": 1}}
    assert Expansion.decode(json.dumps(value).encode()) == Expansion("a" * 64, 3)


async def test_newer_internal_message_is_requeued_and_a_foreign_one_is_a_dead_letter(
    herald: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    import azure.functions as func

    async def get_services() -> object:
        return herald.services

    monkeypatch.setattr("shared.triggers.get_services", get_services)
    trigger = send_delivery.build().get_user_function()  # type: ignore[attr-defined]
    await trigger(func.QueueMessage(id=uuid.uuid4().hex, body=b'{"v": 4}'))
    assert await herald.message_count(DELIVERIES) == 1
    await trigger(func.QueueMessage(id=uuid.uuid4().hex, body=b'{"mine": false}'))
    [letter] = await herald.dead_letters()
    assert (letter["queue"], letter["reason"]) == (DELIVERIES, "unreadable")
