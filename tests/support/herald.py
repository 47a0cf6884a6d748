"""The app in the test's own event loop, with a fake Teams that requires tokens, and without a function host."""

from __future__ import annotations

import asyncio
import json
import math
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.data.tables.aio import TableServiceClient
from azure.storage.queue.aio import QueueServiceClient

from local.fake_teams.api import Growth, PersonView, Received, WorldView
from local.fake_teams.client import FakeTeams
from notify.delivery.deliver import deliver
from notify.expansion import EXPANDABLE, expand
from notify.ingest import ingest
from notify.sweep import sweep_page
from shared.contract.parsing import Request, parse_message
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
)
from shared.queues import Queues
from shared.rate_windows import SECOND
from shared.records import DeliveryRecord, StoredNotification, notification_key
from shared.services import Services, open_services
from shared.settings import load_settings
from shared.states import DeliveryState, ReferenceKind, ReferenceStatus
from shared.storage.deliveries import shard_of
from shared.time.clock import real_time
from tests.support.storage import Storage
from timer_digest.release_held import release
from timer_digest.tick import tick

#: Requests a second to a tenant at which hardly any waits for its slot, for tests that are not about the rate.
HIGH_RATE = 1000


@dataclass
class Clock:
    """The time in UTC, `offset` ahead of the real time."""

    offset: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset


class TimedQueues(Queues):
    """Queues whose delays follow the test's clock: delayed messages are kept in a list until they are due."""

    clock: Clock
    delayed: list[tuple[datetime, str, str]]

    async def put(self, name: str, text: str, delay: float = 0) -> None:
        if delay > 0:
            self.delayed.append((self.clock() + timedelta(seconds=delay), name, text))
        else:
            await super().put(name, text)


@dataclass
class Herald:
    """The app, driven by a test: messages on its queues are handled when the test says so."""

    services: Services
    teams: FakeTeams
    clock: Clock
    environ: dict[str, str]
    storage: Storage
    #: The storage, seen from outside the app.
    outside_queues: QueueServiceClient
    outside_tables: TableServiceClient
    #: The access token that a worker has from its start, "" if it fetches one, which takes longer than most tests.
    token: str = ""
    #: Delayed messages, if delays follow the test's clock (fixture `timed`): due time, queue, text.
    delayed: list[tuple[datetime, str, str]] = field(default_factory=list)

    @property
    def tenant(self) -> str:
        return self.teams.tenant

    async def store_reference(self, person: PersonView, **observed: str) -> None:
        """Store the conversation reference of a person, as the install event does."""
        known = {
            "conversation_id": person.conversation,
            "conversation_type": "personal",
            "service_url": self.teams.service_url,
            "user_id": person.id,
            "bot_id": f"28:{self.teams.app_id}",
        }
        now = self.clock()
        conversations = self.services.conversations
        await conversations.save(
            self.tenant, ReferenceKind.USER, person.object_id, known | observed, at=now, status=ReferenceStatus.ACTIVE
        )
        alias = {"user": person.object_id}
        await conversations.save(self.tenant, ReferenceKind.CONVERSATION, person.conversation, alias, at=now)

    async def grow(self, **growth: Any) -> WorldView:
        """Add people, teams or chats to the bot's tenant in the fake Teams; return what is new."""
        return await self.teams.grow(Growth(tenant=self.tenant, **growth))

    async def expand(self, of: StoredNotification) -> StoredNotification:
        """Expand all remaining pages at once, and return the notification."""
        while of.state in EXPANDABLE:
            await expand(self.services, Expansion(of.key, of.page))
            found = await self.services.notifications.get(of.key)
            assert found
            assert found.page > of.page
            of = found
        return of

    async def store_people(self, count: int) -> list[PersonView]:
        """Store the references of the first `count` people of the fake Teams, and return these people."""
        people = (await self.teams.world()).people[:count]
        await asyncio.gather(*(self.store_reference(person) for person in people))
        return people

    async def store_tenant(self) -> None:
        """Store the serviceUrl of the tenant, as every activity does."""
        observed = {"service_url": self.teams.service_url}
        now = self.clock()
        await self.services.conversations.save(self.tenant, ReferenceKind.TENANT, self.tenant, observed, at=now)

    async def submit(self, *recipients: dict[str, Any], **data: Any) -> StoredNotification:
        """Ingest a notification, and return it as stored."""
        body = notification(*recipients, **data)
        await ingest(self.services, body, uuid.uuid4().hex)
        return await self.stored(body)

    async def stored(self, body: bytes) -> StoredNotification:
        """Return the stored notification of a message."""
        request = parse_message(body)
        assert isinstance(request, Request)
        assert request.id
        found = await self.services.notifications.get(notification_key(self.tenant, request.source, request.id))
        assert found
        return found

    async def row(self, of: StoredNotification, recipient: str) -> dict[str, Any]:
        """Return a row of table Deliveries, as an operator sees it."""
        table = self.outside_tables.get_table_client("HeraldDeliveries")
        return dict(await table.get_entity(f"{of.key};{shard_of(recipient, of.shards)}", recipient))

    async def message(self, of: StoredNotification, recipient: str) -> Delivery:
        """Return the queue message for a delivery in its current state."""
        shard = shard_of(recipient, of.shards)
        known = await self.delivery_record(Delivery(of.key, shard, recipient, "", 0))
        untried = known.state is DeliveryState.QUEUED and not known.attempts and not known.not_before
        return Delivery(of.key, shard, recipient, known.etag if untried else "", known.attempts)

    async def delivery_record(self, message: Delivery) -> DeliveryRecord:
        found = await self.services.deliveries.get(message)
        assert found
        return found

    async def counts(self, of: StoredNotification) -> Counter[str]:
        return +await self.services.deliveries.counts(of.key, of.shards)

    async def handle_messages(self, *queues: str) -> None:
        """Handle all visible messages on these queues or all, as the triggers do, until there are none."""
        work: dict[str, Callable[[bytes], Awaitable[None]]] = {
            NOTIFICATIONS: lambda b: ingest(self.services, b, uuid.uuid4().hex),
            EXPANSIONS: lambda b: expand(self.services, Expansion.decode(b)),
            DELIVERIES: lambda b: deliver(self.services, Delivery.decode(b)),
            DELIVERIES_URGENT: lambda b: deliver(self.services, Delivery.decode(b)),
            SWEEPS: lambda b: sweep_page(self.services, Sweep.decode(b)),
            RECIPIENTS: lambda b: release(self.services, RecipientTask.decode(b)),
        }
        while any([await self.handle_batch(name, work[name]) for name in queues or WORK_QUEUES]):
            continue

    async def command(self, command: str, of: StoredNotification, **more: Any) -> None:
        """Ingest a command about a notification, and handle all visible messages."""
        target = {"source": of.source, "id": of.id}
        body = json.dumps({"command": command, "target": target, **more}).encode()
        await ingest(self.services, body, uuid.uuid4().hex)
        await self.handle_messages()

    async def advance_clock(self, seconds: float) -> None:
        """Move the clock forward, fire the timers that are due, and handle all visible messages."""
        self.clock.offset += timedelta(seconds=seconds)
        now = self.clock()
        due = [message for message in self.delayed if message[0] <= now]
        self.delayed[:] = [message for message in self.delayed if message[0] > now]
        for _, name, text in due:
            await self.services.queues.put(name, text)
        await self.tick()
        await self.handle_messages()

    async def run_until_idle(self, max_steps: int = 400) -> None:
        """Move the clock from one due time to the next until no delayed message and no timer is left."""
        await self.handle_messages()
        for _ in range(max_steps):
            due_times = [at for at, _, _ in self.delayed] + [at async for at in self.due_times()]
            if not due_times:
                return
            await self.advance_clock(max(0.0, (min(due_times) - self.clock()).total_seconds()) + 0.01)
        raise AssertionError(f"work is left after {max_steps} steps")

    async def due_times(self) -> AsyncIterator[datetime]:
        """Yield the due times of all timers."""
        async for row in self.outside_tables.get_table_client("HeraldTimers").list_entities():
            yield datetime.fromisoformat(row["PartitionKey"].split(";")[0]).replace(tzinfo=UTC)

    async def newest(self) -> list[StoredNotification]:
        """Return the ten notifications that were accepted last, the newest first."""
        keys = await self.services.notification_index.list_newest(10)
        return [each for key in keys if (each := await self.services.notifications.get(key))]

    async def reload(self, of: StoredNotification) -> StoredNotification:
        """Return the notification as it is stored now."""
        found = await self.services.notifications.get(of.key)
        assert found
        return found

    async def clear_queue(self, name: str) -> int:
        """Delete all messages on a queue, also delayed ones, and return their number."""
        visible = await self.message_count(name)
        await self.outside_queues.get_queue_client(name).clear_messages()
        before = len(self.delayed)
        self.delayed[:] = [message for message in self.delayed if message[1] != name]
        return visible + before - len(self.delayed)

    async def handle_batch(self, name: str, work: Callable[[bytes], Awaitable[None]]) -> bool:
        """Handle one batch of visible messages on a queue at once; return whether there were any."""
        queue = self.outside_queues.get_queue_client(name)

        async def handle(message: Any) -> None:
            await work(message.content.encode())
            await queue.delete_message(message)

        found = [each async for each in queue.receive_messages(max_messages=32, visibility_timeout=60)]
        await asyncio.gather(*map(handle, found))
        return bool(found)

    async def message_count(self, name: str) -> int:
        """Return the number of messages on a queue, also invisible ones."""
        properties = await self.outside_queues.get_queue_client(name).get_queue_properties()
        return properties.approximate_message_count or 0

    async def tick(self) -> int:
        return await tick(self.services)

    async def dead_letters(self) -> list[dict[str, Any]]:
        table = self.outside_tables.get_table_client("HeraldDeadLetters")
        return [dict(row) async for row in table.list_entities()]

    async def received(self) -> list[Received]:
        return await self.teams.received()


def notification(*recipients: dict[str, Any], **data: Any) -> bytes:
    """Return the body of a minimal notification with a new id."""
    minimal = {"id": uuid.uuid4().hex, "recipients": recipients, "category": "builds", "content": {"title": "Done"}}
    return json.dumps(minimal | data).encode()


def user(person: PersonView) -> dict[str, str]:
    return {"user": person.object_id}


@asynccontextmanager
async def open_herald(
    storage: Storage, teams: FakeTeams, monkeypatch: pytest.MonkeyPatch, token: str = ""
) -> AsyncIterator[Herald]:
    """Open the app on this storage and fake Teams, as one worker does."""
    environ = teams.settings | {"AzureWebJobsStorage": storage.connection}
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, environ[name])
    monkeypatch.setattr("shared.services.Table", storage.table)
    monkeypatch.setattr("shared.queues.Queues", storage.queues)
    if not storage.connection:  # slots are reserved ahead because storage is slow, which it is not in memory
        monkeypatch.setattr("shared.teams.rate_limiter.LEAD_MICROSECONDS", SECOND // 100)
    clock = Clock()
    services = await open_services(load_settings(environ), storage.open(), clock)
    services.rate_limiter._real_time = real_time  # the fake Teams follows it, and tests also move their clock back
    set_token(services, token)
    queues, tables = storage.open()
    async with queues, tables:
        yield Herald(services, teams, clock, environ, storage, queues, tables, token)
    await services.close()


def set_token(services: Services, token: str) -> None:
    """Give a worker this access token; with "" it fetches one."""
    tokens = services.connector._tokens
    tokens._token, tokens._refresh_at = token, math.inf if token else 0.0


def follow_clock(herald: Herald) -> None:
    """Let queue delays and caches of the app follow the test's clock."""
    queues, clock = herald.services.queues, herald.clock
    assert isinstance(queues, TimedQueues)
    queues.clock, queues.delayed = clock, herald.delayed
    herald.services.notifications._monotonic = lambda: time.monotonic() + clock.offset.total_seconds()
