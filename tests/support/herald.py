"""The app in the test's own loop: a fake Teams with tokens on, and no function host."""

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
    ALL,
    DELIVERIES,
    DELIVERIES_URGENT,
    EXPANSIONS,
    NOTIFICATIONS,
    RECIPIENTS,
    SWEEPS,
    Delivery,
    Expansion,
    RecipientTask,
    Sweep,
)
from shared.queues import Queues
from shared.rate_windows import SECOND
from shared.records import DeliveryRecord
from shared.services import Services, open_services
from shared.settings import load_settings
from shared.states import DeliveryState, ReferenceKind, ReferenceStatus
from shared.storage.deliveries import shard_of
from shared.storage.notifications import StoredNotification, notification_key
from tests.support.storage import Storage
from timer_digest.release_held import release
from timer_digest.tick import tick


@dataclass
class Clock:
    """The time, in UTC, as the test moves it."""

    moved: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.moved


class TimedQueues(Queues):
    """Queues whose delays go by the test's clock: what is put with a delay is kept back until that gets there."""

    clock: Clock
    kept: list[tuple[datetime, str, str]]

    async def put(self, name: str, text: str, delay: float = 0) -> None:
        if delay > 0:
            self.kept.append((self.clock() + timedelta(seconds=delay), name, text))
        else:
            await super().put(name, text)


@dataclass
class Herald:
    """The app, as a test drives it: what comes to its queues is done when the test says so."""

    services: Services
    teams: FakeTeams
    clock: Clock
    environ: dict[str, str]
    storage: Storage
    #: The storage, as somebody outside sees it.
    outside_queues: QueueServiceClient
    outside_tables: TableServiceClient
    #: The access token that a process has from its start, "" where it fetches one: that costs more than most tests.
    token: str = ""
    #: Messages with a delay, where that goes by the test's clock (fixture `timed`): when, on which queue, what.
    kept: list[tuple[datetime, str, str]] = field(default_factory=list)

    @property
    def tenant(self) -> str:
        return self.teams.tenant

    async def know(self, person: PersonView, **seen: str) -> None:
        """Store the reference of a person, as the install event does."""
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
            self.tenant, ReferenceKind.USER, person.object_id, known | seen, at=now, status=ReferenceStatus.ACTIVE
        )
        alias = {"user": person.object_id}
        await conversations.save(self.tenant, ReferenceKind.CONVERSATION, person.conversation, alias, at=now)

    async def grow(self, **growth: Any) -> WorldView:
        """Add to the world of the bot's own tenant; returns what is new."""
        return await self.teams.grow(Growth(tenant=self.tenant, **growth))

    async def expand(self, of: StoredNotification) -> StoredNotification:
        """List all pages of recipients now, not each at its turn; returns the notification as it is then."""
        while of.state in EXPANDABLE:
            await expand(self.services, Expansion(of.key, of.page))
            found = await self.services.notifications.get(of.key)
            assert found
            assert found.page > of.page
            of = found
        return of

    async def people(self, count: int) -> list[PersonView]:
        """So many people whose references are stored."""
        people = (await self.teams.world()).people[:count]
        await asyncio.gather(*(self.know(person) for person in people))
        return people

    async def know_tenant(self) -> None:
        """Store the serviceUrl of the tenant, as every activity does."""
        seen = {"service_url": self.teams.service_url}
        await self.services.conversations.save(self.tenant, ReferenceKind.TENANT, self.tenant, seen, at=self.clock())

    async def ask(self, *recipients: dict[str, Any], **data: Any) -> StoredNotification:
        """Send a notification through the intake; returns it as it is stored then."""
        body = notification(*recipients, **data)
        await ingest(self.services, body, uuid.uuid4().hex)
        return await self.stored(body)

    async def stored(self, body: bytes) -> StoredNotification:
        request = parse_message(body)
        assert isinstance(request, Request)
        assert request.id
        found = await self.services.notifications.get(notification_key(self.tenant, request.source, request.id))
        assert found
        return found

    async def row(self, of: StoredNotification, recipient: str) -> dict[str, Any]:
        """A row of table Deliveries, as an operator sees it."""
        table = self.outside_tables.get_table_client("HeraldDeliveries")
        return dict(await table.get_entity(f"{of.key};{shard_of(recipient, of.shards)}", recipient))

    async def message(self, of: StoredNotification, recipient: str) -> Delivery:
        """The message for a delivery, as it would be written now."""
        shard = shard_of(recipient, of.shards)
        known = await self.state(Delivery(of.key, shard, recipient, "", 0))
        untried = known.state is DeliveryState.QUEUED and not known.attempts and not known.not_before
        return Delivery(of.key, shard, recipient, known.etag if untried else "", known.attempts)

    async def state(self, message: Delivery) -> DeliveryRecord:
        found = await self.services.deliveries.get(message)
        assert found
        return found

    async def counts(self, of: StoredNotification) -> Counter[str]:
        return +await self.services.deliveries.counts(of.key, of.shards)

    async def send(self) -> None:
        """Do all that is on the queues and visible, as the triggers do, until nothing is."""
        work: dict[str, Callable[[bytes], Awaitable[None]]] = {
            NOTIFICATIONS: lambda b: ingest(self.services, b, uuid.uuid4().hex),
            EXPANSIONS: lambda b: expand(self.services, Expansion.decode(b)),
            DELIVERIES: lambda b: deliver(self.services, Delivery.decode(b)),
            DELIVERIES_URGENT: lambda b: deliver(self.services, Delivery.decode(b)),
            SWEEPS: lambda b: sweep_page(self.services, Sweep.decode(b)),
            RECIPIENTS: lambda b: release(self.services, RecipientTask.decode(b)),
        }
        while any([await self._drain(name, work[name]) for name in ALL]):
            continue

    async def command(self, command: str, of: StoredNotification, **more: Any) -> None:
        """Give a command about a notification, and let it be done as far as it can at once."""
        target = {"source": of.source, "id": of.id}
        body = json.dumps({"command": command, "target": target, **more}).encode()
        await ingest(self.services, body, uuid.uuid4().hex)
        await self.send()

    async def wait(self, seconds: float) -> None:
        """Let the time pass that long: messages that were put with a delay come, and what is due wakes."""
        self.clock.moved += timedelta(seconds=seconds)
        now = self.clock()
        come = [each for each in self.kept if each[0] <= now]
        self.kept[:] = [each for each in self.kept if each[0] > now]
        for _, name, text in come:
            await self.services.queues.put(name, text)
        await self.tick()
        await self.send()

    async def run(self, most: int = 200) -> None:
        """Let the time pass until nothing is left to be done, in at most so many leaps."""
        await self.send()
        for _ in range(most):
            soonest = [at for at, _, _ in self.kept] + [at async for at in self._due()]
            if not soonest:
                return
            await self.wait(max(0.0, (min(soonest) - self.clock()).total_seconds()) + 0.01)
        raise AssertionError("it does not come to rest")

    async def _due(self) -> AsyncIterator[datetime]:
        async for row in self.outside_tables.get_table_client("HeraldTimers").list_entities():
            yield datetime.fromisoformat(row["PartitionKey"].split(";")[0]).replace(tzinfo=UTC)

    async def now(self, of: StoredNotification) -> StoredNotification:
        """The notification as it is now."""
        found = await self.services.notifications.get(of.key)
        assert found
        return found

    async def lose(self, name: str) -> int:
        """Take all that is on a queue away, as if it had never been put there; returns how many."""
        lost = await self.waiting(name)
        await self.outside_queues.get_queue_client(name).clear_messages()
        kept = len(self.kept)
        self.kept[:] = [each for each in self.kept if each[1] != name]
        return lost + kept - len(self.kept)

    async def _drain(self, name: str, work: Callable[[bytes], Awaitable[None]]) -> bool:
        queue = self.outside_queues.get_queue_client(name)

        async def one(message: Any) -> None:
            await work(message.content.encode())
            await queue.delete_message(message)

        found = [each async for each in queue.receive_messages(max_messages=32, visibility_timeout=60)]
        await asyncio.gather(*map(one, found))
        return bool(found)

    async def waiting(self, name: str) -> int:
        """How many messages are on a queue, invisible ones too."""
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
    """The bytes of a bare notification with an id of its own."""
    whole = {"id": uuid.uuid4().hex, "recipients": recipients, "category": "builds", "content": {"title": "Done"}}
    return json.dumps(whole | data).encode()


def user(person: PersonView) -> dict[str, str]:
    return {"user": person.object_id}


@asynccontextmanager
async def opened(
    storage: Storage, teams: FakeTeams, monkeypatch: pytest.MonkeyPatch, token: str = ""
) -> AsyncIterator[Herald]:
    """The app on this storage and this Teams, as one process has it."""
    environ = teams.settings | {"AzureWebJobsStorage": storage.connection}
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, environ[name])
    monkeypatch.setattr("shared.services.Table", storage.table)
    monkeypatch.setattr("shared.queues.Queues", storage.queues)
    if not storage.connection:  # slots are taken ahead for the sake of storage, which answers at once here
        monkeypatch.setattr("shared.teams.rate_limiter.LEAD_MICROSECONDS", SECOND // 100)
    clock = Clock()
    services = await open_services(load_settings(environ), storage.open(), clock)
    give_token(services, token)
    queues, tables = storage.open()
    async with queues, tables:
        yield Herald(services, teams, clock, environ, storage, queues, tables, token)
    await services.close()


def give_token(services: Services, token: str) -> None:
    """Let a process have this access token; with "" it fetches one."""
    tokens = services.connector._tokens
    tokens._token, tokens._until = token, math.inf if token else 0.0


def attune(herald: Herald) -> None:
    """Let the delays and the caches of the app go by the test's clock."""
    queues, clock = herald.services.queues, herald.clock
    assert isinstance(queues, TimedQueues)
    queues.clock, queues.kept = clock, herald.kept
    herald.services.notifications._monotonic = lambda: time.monotonic() + clock.moved.total_seconds()
