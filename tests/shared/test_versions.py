"""Versions that meet during a rolling update, when old and new instances share the queues and tables.

`old_storage.json` is what the app of commit c1c7a16 had written, the earliest one with today's names of tables, queues
and timers: each row with its ETag, and each message with its queue and its delay in seconds. Its people are those that
the fake Teams always creates.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.data.tables import TableEntity

from local.fake_teams.api import PersonView
from local.fake_teams.client import FakeTeams
from notify.audience import MIN_PAGE_MEMBERS, list_page
from notify.command_dispatch import SWEEP_DELAY_SECONDS
from notify.ingest import ingest
from shared.contract.models import TeamRecipient
from shared.queue_messages import (
    DELIVERIES,
    DELIVERIES_URGENT,
    EXPANSIONS,
    MESSAGES,
    NOTIFICATIONS,
    RECIPIENTS,
    SWEEPS,
    Delivery,
    Expansion,
    RecipientTask,
    Sweep,
    Task,
)
from shared.rate_windows import RequestHistory, TenantLane
from shared.records import DigestState, notification_key
from shared.states import Mode, ReferenceKind, ReferenceStatus
from shared.storage.entity_writes import Operation
from shared.storage.markers import welcomed
from shared.storage.rate_lanes import RateLanes
from tests.support.digests import add_person, advance_to, card_texts, send_to
from tests.support.herald import Herald, TimedQueues, follow_clock, open_herald, user
from tests.support.memory import MemoryTable
from tests.support.storage import Storage
from tests.timer_digest.test_announcements import set_schedule

OLD: Mapping[str, Any] = json.loads((Path(__file__).parent / "old_storage.json").read_text(encoding="utf-8"))
#: Members of a team that Teams lists in three pages.
MEMBERS = 2 * MIN_PAGE_MEMBERS + 1
#: The fields that every message had at c1c7a16, by queue, and what they are today.
OLD_MESSAGES: Mapping[str, tuple[dict[str, Any], Expansion | Delivery | Sweep | RecipientTask]] = {
    EXPANSIONS: (
        {"v": 1, "notification": "0a", "page": 2, "poison_retries": 1, "expected_start": 1795420830.5},
        Expansion("0a", 2, 1),
    ),
    DELIVERIES: (
        {
            "v": 1, "notification": "0a", "shard": "7", "recipient": "u:1", "etag": 'W/"1"', "attempts": 2,
            "task": "edit", "poison_retries": 1, "due_called_at": 1.5,
        },
        Delivery("0a", "7", "u:1", 'W/"1"', 2, Task.EDIT, 1, 1.5),
    ),
    DELIVERIES_URGENT: (
        {
            "v": 1, "notification": "0a", "shard": "x", "recipient": "c:19:a@thread.tacv2", "etag": "", "attempts": 0,
            "task": "send", "poison_retries": 0, "due_called_at": 0.0,
        },
        Delivery("0a", "x", "c:19:a@thread.tacv2", "", 0),
    ),
    SWEEPS: (
        {"v": 1, "notification": "0a", "task": "watchdog", "shard": "0", "after": "u:1", "poison_retries": 1},
        Sweep("0a", Task.WATCHDOG, "0", "u:1", 1),
    ),
    RECIPIENTS: (
        {
            "v": 1, "tenant": "t", "recipient": "u:1", "task": "digestNow", "after": "", "poison_retries": 0,
            "due_called_at": 2.5,
        },
        RecipientTask("t", "u:1", Task.DIGEST_NOW, "", 0, 2.5),
    ),
}  # fmt: skip


@pytest.fixture
async def people(timed: Herald) -> Sequence[PersonView]:
    """Herald on the storage that the old instance left, at the time at which it left it."""
    people = (await timed.grow(people=len(OLD["people"]))).people
    assert [person.object_id for person in people] == OLD["people"]
    timed.clock.offset += datetime.fromisoformat(OLD["at"]) - timed.clock()
    for table, rows in OLD["tables"].items():
        client: Any = timed.outside_tables.get_table_client(f"Herald{table}")
        for row in rows:
            columns = {name: _stored_value(value, timed) for name, value in row.items() if name != "etag"}
            entity: Any = TableEntity(columns)
            entity._metadata = {"etag": row["etag"]}
            client._rows.setdefault(row["PartitionKey"], {})[row["RowKey"]] = entity
    for queue, delay, text in OLD["messages"]:
        await timed.services.queues.put(queue, text, delay)
    return people


def _stored_value(value: Any, herald: Herald) -> Any:
    if isinstance(value, dict):
        [(kind, text)] = value.items()
        return datetime.fromisoformat(text) if kind == "time" else text.encode()
    return value.replace("{service_url}", herald.teams.service_url) if isinstance(value, str) else value


async def _received(herald: Herald) -> Counter[tuple[str, str]]:
    return Counter((str(each.person), each.activity["summary"]) for each in await herald.received())


async def test_what_an_old_instance_left_goes_on_as_it_should(timed: Herald, people: Sequence[PersonView]) -> None:
    """Rows and messages of commit c1c7a16 (docs/odd-inputs.md, The platform).

    Queued, urgent and claimed deliveries, an audience that is half expanded, a digest that is being sent, deliveries
    held for a pause and a digest, a sweep, a schedule, and a dead letter.
    """
    ada, bob, cleo, dan, eve, fay, gus, hal, ida, jon, kim, _ = (person.object_id for person in people)
    services = timed.services

    async def state(identifier: str, person: str) -> dict[str, Any]:
        stored = await services.notifications.get(notification_key(timed.tenant, "/ci", identifier))
        assert stored
        return await timed.row(stored, f"u:{person}")

    await timed.handle_messages()
    expected = Counter(
        [(person, "Half") for person in (ada, ida, jon, kim)]
        + [(ida, "Urgent"), (bob, "Digest: 2 notifications: Digest 2, Digest 1")]
    )
    assert await _received(timed) == expected
    assert [(await state(f"digest-{number}", bob))["state"] for number in (1, 2)] == ["digested", "digested"]

    await advance_to(timed, "2026-11-23T08:02:05")  # the claim has ended
    assert await _received(timed) == (expected := expected + Counter([(hal, "Claimed")]))
    claimed = await state("claimed", hal)
    assert (claimed["state"], claimed["maybe_twice"], claimed["unknown_outcomes"]) == ("sent", True, 1)
    assert (await state("cancelled", kim))["state"] == "cancelled"

    await advance_to(timed, "2026-11-23T08:15")  # the watchdogs
    assert await _received(timed) == expected
    await advance_to(timed, "2026-11-23T11:01")
    assert await _received(timed) == (expected := expected + Counter([(eve, "Local")]))
    await advance_to(timed, "2026-11-23T12:01")
    assert await _received(timed) == (expected := expected + Counter([(dan, "Held"), (fay, "Scheduled")]))
    await advance_to(timed, "2026-11-24T08:01")
    assert await _received(timed) == (
        expected := expected + Counter([(cleo, "Digest: 1 notification: Digest 3"), (gus, "Good morning")])
    )

    assert (await state("dead", kim))["state"] == "failed"
    redrive = {"command": "redrive", "target": {"deadLetters": {"queue": DELIVERIES, "reason": "poison"}}}
    await ingest(services, json.dumps(redrive).encode(), "m1")
    await timed.handle_messages()
    assert await _received(timed) == expected + Counter([(kim, "Dead")])
    assert await timed.dead_letters() == []
    rows = timed.outside_tables.get_table_client("HeraldNotifications").list_entities()
    assert {row["state"] async for row in rows} == {"finished", "cancelled"}


async def test_small_rows_of_an_old_instance_are_read(timed: Herald, people: Sequence[PersonView]) -> None:
    """Markers, responses, threads, topics, lanes, references and digest states (docs/odd-inputs.md, The platform)."""
    services, jon, bob = timed.services, people[9], people[1]
    key, now = notification_key(timed.tenant, "/ci", "thread-1"), timed.clock()
    assert await services.markers.has(welcomed(timed.tenant), jon.object_id)
    assert await services.markers.claim("cancellation;x", key, key)
    assert not await services.markers.claim("cancellation;x", key, "another")
    response = await services.responses.record(key, jon.object_id, "ack", jon.conversation, now)
    assert response.reported
    assert response.at < now - timedelta(minutes=20)
    thread = await services.threads.get(timed.tenant, f"u:{jon.object_id}", "build/42")
    assert thread
    assert (thread.notification, thread.conversation_id) == (key, jon.conversation)
    assert thread.activity_id
    subscribers = [f"u:{people[index].object_id}" for index in (0, 8, 9)]
    assert await services.topics.subscribers(timed.tenant, "releases", "", 9) == (sorted(subscribers), "")
    lanes = RateLanes(MemoryTable(timed.outside_tables.get_table_client("HeraldRateLanes")))
    lane, _ = await lanes.conversation(timed.tenant, jon.conversation, 1700000000000000)
    assert lane.sent == RequestHistory((1700000000000000,), {1699999980000000: 1}, 0)
    assert (await lanes.tenant(timed.tenant, 1700000000000000))[0] == TenantLane(next_slot=1700000000000000)
    reference = await services.conversations.get_recipient(timed.tenant, f"u:{bob.object_id}")
    assert (reference.status, reference.time_zone) == (ReferenceStatus.ACTIVE, "Europe/Berlin")
    assert reference.preferences.categories == {"builds": Mode.DIGEST}
    digest = await services.held_deliveries.digest_state(timed.tenant, f"u:{bob.object_id}")
    assert (digest.number, str(digest.last_date), len(digest.included)) == (1, "2026-11-23", 2)


@pytest.mark.parametrize("is_paused", [True, False])
async def test_lane_of_another_instance_delays_the_next_request(timed: Herald, is_paused: bool) -> None:
    """A conversation at its limit of 1,800 an hour, or paused by Teams (docs/odd-inputs.md, The platform)."""
    now = int(time.time()) * 1_000_000
    requests = f"[[],[],{now + 60_000_000}]" if is_paused else f"[[{now}],[[{now - 3_500_000_000},1800]],0]"
    [ada] = (await timed.grow(people=1)).people
    await timed.store_reference(ada)
    person = f"u:{ada.object_id}"
    stored = (await timed.services.conversations.get_recipient(timed.tenant, person)).lane
    await timed.services.conversations.save_lane(timed.tenant, person, dataclasses.replace(stored, requests=requests))
    await send_to(timed, ada)
    assert await timed.received() == []
    [(due, queue, _)] = timed.delayed
    assert queue == DELIVERIES
    assert timedelta(seconds=30) < due - timed.clock() < timedelta(minutes=3)


@pytest.mark.parametrize("queue", MESSAGES)
def test_message_of_an_old_instance_is_read(queue: str) -> None:
    """Each type of message of commit c1c7a16 (docs/odd-inputs.md, The platform)."""
    fields, message = OLD_MESSAGES[queue]
    assert MESSAGES[queue].decode(json.dumps(fields).encode()) == message


@pytest.mark.parametrize("queue", MESSAGES)
def test_old_instance_reads_a_message_or_puts_it_back(queue: str) -> None:
    """It reads only fields that it knows, but leaves a newer version alone (docs/odd-inputs.md, The platform)."""
    old_fields, message = OLD_MESSAGES[queue]
    written = json.loads(message.encode())
    assert written["v"] == 1
    assert written.keys() <= old_fields.keys()
    for name in {"next_page", "reserved_turn", "tries", "since"} & {each.name for each in dataclasses.fields(message)}:
        newer: dict[str, Any] = {name: 1.5 if name in ("reserved_turn", "since") else 1}
        with_field = dataclasses.replace(message, **newer)
        assert json.loads(with_field.encode())["v"] == 2
        assert MESSAGES[queue].decode(with_field.encode().encode()) == with_field


async def test_list_of_a_team_goes_on_from_the_cursor_of_an_old_instance(
    timed: Herald,
) -> None:
    """A cursor of commit c1c7a16 is the position and Teams' token alone (docs/odd-inputs.md, The platform)."""
    world = await timed.grow(people=MEMBERS, teams=1, members=MEMBERS)
    [team] = world.teams
    observed = {"service_url": timed.teams.service_url}
    await timed.services.conversations.save(
        timed.tenant, ReferenceKind.TEAM, team.id, observed, at=timed.clock(), status=ReferenceStatus.ACTIVE
    )
    recipients = [TeamRecipient(team=team.id)]
    first = await list_page(timed.services, timed.tenant, recipients, "", MIN_PAGE_MEMBERS)
    position, after, _ = json.loads(first.cursor)
    _, token = json.loads(after)
    found, cursor = dict(first.recipients), json.dumps([position, token])
    assert token
    while cursor:
        page = await list_page(timed.services, timed.tenant, recipients, cursor, MIN_PAGE_MEMBERS)
        assert not set(page.recipients) & set(found)
        assert not page.empty
        found, cursor = found | dict(page.recipients), page.cursor
    assert set(found) == {f"u:{person.object_id}" for person in world.people}


class FutureTable(MemoryTable):
    """The table of an instance that has one more column in each row, and one more field in preferences and content."""

    async def _write(self, operations: Sequence[Operation]) -> list[str]:
        return await super()._write([self._extend(*operation) for operation in operations])

    def _extend(self, kind: str, row: Mapping[str, Any], *etag: str) -> Any:
        if kind in ("create", "put"):
            row = {**row, "future": 1}
        if row.get("preferences"):
            row = {**row, "preferences": json.dumps({**json.loads(row["preferences"]), "future": 1})}
        if row.get("data") and b'"rule"' not in row["data"]:  # a schedule with an unknown field is paused
            data = json.loads(row["data"])
            for part in (data, data.get("content") or {}):
                part["future"] = 1
            row = {**row, "data": json.dumps(data).encode()}
        return kind, row, *etag


class FutureQueues(TimedQueues):
    """The queues of an instance that has one more field in each message."""

    async def put(self, name: str, text: str, delay: float = 0) -> None:
        if name in MESSAGES:
            text = json.dumps({**json.loads(text), "future": 1})
        await super().put(name, text, delay)


@pytest.fixture
async def future(
    storage: Storage, teams: FakeTeams, monkeypatch: pytest.MonkeyPatch, token: str
) -> AsyncIterator[Herald]:
    """The same as `timed`, but every row and message has a field that this version does not know."""
    storage.table, storage.queues = FutureTable, FutureQueues
    async with open_herald(storage, teams, monkeypatch, token) as herald:
        follow_clock(herald)
        yield herald


async def test_fields_of_newer_instances_are_ignored_and_survive(
    future: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broadcast of two pages, a held delivery, a digest, an edit and a recall (docs/odd-inputs.md, The platform)."""
    monkeypatch.setattr("notify.expansion.MAX_PAGE_RECIPIENTS", 2)
    ada = await add_person(future, "2026-11-23T07:30")
    bob = await add_person(
        future, "2026-11-23T07:30", categories={}, paused_until=datetime(2026, 11, 23, 9, tzinfo=UTC)
    )
    cleo, dan = [await add_person(future, "2026-11-23T07:30", categories={}) for _ in range(2)]
    for person in (cleo, dan, bob):
        await future.services.topics.subscribe(future.tenant, "releases", f"u:{person.object_id}")
    await send_to(future, ada, "Digest 1")
    await send_to(future, ada, "Digest 2")
    thread = {"key": "release/7", "onRepeat": "update"}
    data = {"id": "release", "source": "/ci", "content": {"title": "Release"}, "thread": thread}
    release = await future.submit(user(ada), {"topic": "releases"}, **data)
    await future.handle_messages()
    assert await future.counts(release) == {"sent": 2, "open": 2}
    await future.command("edit", release, content={"title": "Release 7"})
    await future.advance_clock(SWEEP_DELAY_SECONDS)
    while future.delayed:  # the next shard of the sweep
        await future.advance_clock(1)
    titles = {str(each.person): each.activity["summary"] for each in await future.received()}
    assert titles == dict.fromkeys((cleo.object_id, dan.object_id), "Release 7")
    await advance_to(future, "2026-11-23T08:01")
    [digest] = [each for each in await future.received() if each.person == ada.object_id]
    assert {"Digest 1", "Digest 2", "Release 7"} <= set(card_texts(digest))
    assert await future.counts(release) == {"sent": 2, "digested": 1, "open": 1}
    await advance_to(future, "2026-11-23T09:01")
    assert await future.counts(release) == {"sent": 3, "digested": 1}
    await future.command("recall", release)
    await future.run_until_idle()
    assert await future.counts(release) == {"recalled": 3, "digested": 1}
    state = await future.services.held_deliveries.digest_state(future.tenant, f"u:{ada.object_id}")
    assert (state.number, state.included) == (1, [])
    assert state != DigestState()

    assert await future.dead_letters() == []
    for queue in MESSAGES:
        assert await future.message_count(queue) == 0
    tables = ("Conversations", "Deliveries", "HeldDeliveries", "Markers", "Notifications", "RateLanes", "Threads")
    for name in tables:
        rows = [dict(row) async for row in future.outside_tables.get_table_client(f"Herald{name}").list_entities()]
        assert rows, name
        assert {row.get("future") for row in rows} == {1}, name


async def test_rows_of_other_tables_with_fields_of_newer_instances_are_read(future: Herald) -> None:
    """Schedules, timers, responses and dead letters (docs/odd-inputs.md, The platform)."""
    ada = await add_person(future, "2026-11-23T07:30", categories={})
    await set_schedule(future, ada)
    await advance_to(future, "2026-11-23T08:01")
    await advance_to(future, "2026-11-24T08:01")
    assert await _received(future) == {(ada.object_id, "Good morning"): 2}

    responses = future.services.responses
    first = await responses.record("0a", ada.object_id, "ack", ada.conversation, future.clock())
    await responses.mark_reported("0a", ada.object_id, first)
    again = await responses.record("0a", ada.object_id, "ack", ada.conversation, future.clock())
    assert (again.at, again.reported) == (first.at, True)

    await ingest(future.services, b"{", "m1")
    redrive = {"command": "redrive", "target": {"deadLetters": {"queue": NOTIFICATIONS, "reason": "unreadable"}}}
    await ingest(future.services, json.dumps(redrive).encode(), "m2")
    assert await future.dead_letters() == []
    assert await future.message_count(NOTIFICATIONS) == 1
