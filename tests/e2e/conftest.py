"""The app as deployed: function hosts as separate processes, on Azurite, against a fake Teams that checks tokens."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from azure.data.tables.aio import TableServiceClient
from azure.storage.queue.aio import QueueServiceClient

from local.fake_teams.api import AppResponse, Growth, PersonView, Received, TeamsEvent
from local.fake_teams.client import FakeTeams
from local.processes import ROOT, FunctionHost
from shared import keys
from shared.queue_messages import NOTIFICATIONS
from shared.states import DeliveryState, ReferenceKind, ReferenceStatus
from shared.storage.clients import open_storage
from shared.storage.delivery_counts import FEW_SHARD
from shared.storage.table import MAX_TRANSACTION_ROWS
from shared.time.clock import real_time
from tests.support.herald import user

#: For a host that the test kills: the queue messages that it had received become visible again after 3 s.
SHORT_VISIBILITY = {"HERALD_LOCAL_VISIBILITY_SECONDS": "3"}
#: Real seconds before a moved clock starts to run: until then the hosts have started and handled timers already due.
CLOCK_DELAY_SECONDS = 8
POLL_SECONDS = 0.2
MAX_CONCURRENT_TRANSACTIONS = 8
#: The modules with several hosts or many messages: one group of tests. The others, with browser and chat, are another.
LOAD_TESTS = ("test_broadcast", "test_clock", "test_faults", "test_kills", "test_pacing", "test_reach")
#: Users that one notification can name: a queue message holds 64 KiB.
MAX_NAMED_USERS = 1000

Row = dict[str, Any]


@dataclass(frozen=True)
class MovedClock:
    """A clock that shows `start` until the real time `anchor` (both UTC), and then runs `speed` times as fast."""

    start: datetime
    anchor: datetime
    speed: int

    @classmethod
    def starting_at(cls, start: datetime, speed: int, delay: float = CLOCK_DELAY_SECONDS) -> Self:
        """Return a clock that shows `start` for `delay` real seconds from now."""
        return cls(start, real_time() + timedelta(seconds=delay), speed)

    @property
    def setting(self) -> str:
        """The value of HERALD_CLOCK."""
        return f"{self.start.isoformat()}@{self.anchor.isoformat()}*{self.speed}"

    def convert(self, real: datetime) -> datetime:
        """Return the time that the clock shows at a real time."""
        return self.start + max(timedelta(), real - self.anchor) * self.speed

    def now(self) -> datetime:
        return self.convert(real_time())

    def seconds_until(self, at: datetime) -> float:
        """Return the real seconds from now until the clock shows `at`."""
        return (self.anchor - real_time() + (at - self.start) / self.speed).total_seconds()

    async def wait_until(self, at: datetime) -> None:
        """Return when the clock shows `at`."""
        await asyncio.sleep(max(0.0, self.seconds_until(at)))

    def receipt_time(self, message: Received) -> datetime:
        """Return the time that the clock showed when Teams received the message."""
        return self.convert(datetime.fromisoformat(message.received_at))


@dataclass
class Deployment:
    """Function hosts on one storage account, and the fake Teams that they talk to."""

    connection: str
    teams: FakeTeams
    folder: Path
    queues: QueueServiceClient
    tables: TableServiceClient
    hosts: list[FunctionHost] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)

    def start_hosts(
        self, count: int = 1, app: Path = ROOT, packages: Path | None = None, /, **settings: str
    ) -> FunctionHost:
        """Start `count` more hosts, and return the last; the end of the test kills them, which waits for nothing.

        `app` and `packages` are those of `FunctionHost`. The hosts send no welcome messages, unless `settings` contain
        another HERALD_CATEGORIES_FILE.
        """
        categories = self.folder / "categories.json"
        categories.write_text('[{"name": "welcome", "default": "off"}]', encoding="utf-8")
        defaults = {"AzureWebJobsStorage": self.connection, "HERALD_CATEGORIES_FILE": str(categories)}
        environ = self.teams.settings | defaults | settings
        folders = [self.folder / f"host{len(self.hosts) + number}" for number in range(count)]
        started = [FunctionHost(folder, environ, app=app, packages=packages) for folder in folders]
        self.hosts += started
        for host in started:
            self.stack.callback(host.kill)
        for host in started:
            host.wait_until_healthy()
        return self.hosts[-1]

    @property
    def endpoint(self) -> str:
        return f"{self.hosts[-1].url}/api/messages"

    async def send_event(self, **event: Any) -> list[AppResponse]:
        """Let an event happen in Teams, which sends the app its activities; return the app's responses."""
        return await self.teams.send_event(TeamsEvent(endpoint=self.endpoint, **event))

    async def install(self, *people: PersonView) -> None:
        """Let these people install the bot."""
        events = [TeamsEvent(kind="install", person=person.object_id, endpoint=self.endpoint) for person in people]
        responses = await self.teams.send_events(events, concurrency=8)
        assert {response.status for response in responses} == {200}

    async def add_people(self, count: int, tenant: str | None = None, zone: str = "") -> Sequence[PersonView]:
        """Add people to the bot's own tenant or another, with the conversation references that installs store.

        The references are written directly into the table, since thousands of installs would take longer than the test
        itself. `zone` is the time zone that was observed in activities of these people, "" for none.
        """
        new = (await self.teams.grow(Growth(tenant=tenant or self.teams.tenant, people=count))).people
        by_partition: dict[str, list[Row]] = defaultdict(list)
        for person in new:
            partition = f"{person.tenant};{ReferenceKind.USER};{keys.shard(person.object_id)}"
            row = {
                "PartitionKey": partition,
                "RowKey": keys.key(person.object_id),
                "v": 1,
                "id": person.object_id,
                "conversation_id": person.conversation,
                "conversation_type": "personal",
                "service_url": self.teams.service_url,
                "user_id": person.id,
                "bot_id": f"28:{self.teams.app_id}",
                "status": str(ReferenceStatus.ACTIVE),
            } | ({"time_zone": zone} if zone else {})
            by_partition[partition].append(row)
        table = self.tables.get_table_client("HeraldConversations")
        gate = asyncio.Semaphore(MAX_CONCURRENT_TRANSACTIONS)

        async def write(rows: Sequence[Row]) -> None:
            async with gate:
                await table.submit_transaction([("create", row) for row in rows])

        parts = (
            rows[at : at + MAX_TRANSACTION_ROWS]
            for rows in by_partition.values()
            for at in range(0, len(rows), MAX_TRANSACTION_ROWS)
        )
        await asyncio.gather(*(write(part) for part in parts))
        return new

    async def put(self, body: bytes | str) -> None:
        """Put a message on the queue `notifications`, as an upstream system does."""
        text = body if isinstance(body, str) else body.decode()
        await self.queues.get_queue_client(NOTIFICATIONS).send_message(text)

    async def read_rows(self, table: str) -> list[Row]:
        """Return all rows of a table."""
        return [dict(row) async for row in self.tables.get_table_client(f"Herald{table}").list_entities()]

    async def read_deliveries(self) -> dict[str, Row]:
        """Return the delivery row of each recipient; there must be only one notification."""
        rows = [row for row in await self.read_rows("Deliveries") if row["RowKey"] != "~counts"]
        found = {row["RowKey"]: row for row in rows}
        assert len(found) == len(rows), "a recipient has two deliveries"
        return found

    async def wait_until_ended(self, within: float, count: int = 1) -> list[Row]:
        """Return all notifications once there are at least `count`, and each has its final counts.

        Raise `TimeoutError` after `within` seconds.
        """
        async with asyncio.timeout(within):
            while True:
                rows = await self.read_rows("Notifications")
                if len(rows) >= count and all(row.get("counts") for row in rows):
                    return rows
                await asyncio.sleep(POLL_SECONDS)

    async def wait_until_empty(self, *names: str, within: float) -> None:
        """Return once these queues have no messages, not even invisible ones; raise `TimeoutError` after `within` s."""
        clients = [self.queues.get_queue_client(name) for name in names]
        async with asyncio.timeout(within):
            while any([(await client.get_queue_properties()).approximate_message_count for client in clients]):
                await asyncio.sleep(POLL_SECONDS)

    async def check_counts(self) -> Counter[str]:
        """Assert that the counts of each delivery partition match the states of its rows; return the sum of all states.

        Each partition is read in one query, so that its rows and counts are consistent. Those of notifications to a few
        have no counts.
        """
        table = self.tables.get_table_client("HeraldDeliveries")
        counts = table.query_entities("RowKey eq '~counts'", select=["PartitionKey"])
        total: Counter[str] = Counter()
        partitions = [row["PartitionKey"] async for row in counts]
        of_few = self.tables.get_table_client("HeraldNotifications").query_entities("shards eq 0", select=["RowKey"])
        partitions += [f"{row['RowKey']};{FEW_SHARD}" async for row in of_few]
        for partition in partitions:
            states: Counter[str] = Counter()
            stored_counts: Counter[str] = Counter()
            parameters = {"partition": partition}
            async for row in table.query_entities("PartitionKey eq @partition", parameters=parameters):
                if row["RowKey"] == "~counts":
                    names = {"open", *DeliveryState} & set(row)
                    stored_counts = Counter({name: row[name] for name in names})
                else:
                    states[DeliveryState(row["state"]).count_name] += 1
            if not partition.endswith(FEW_SHARD):
                assert +stored_counts == +states, f"the counts of {partition}"
            total += states
        return total


@pytest.hookimpl(tryfirst=True)  # before the same hook of xdist, which reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of a group one after the other, since the hosts of several tests would slow each other down.

    The groups take about the same time.
    """
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.xdist_group("load" if item.path.stem in LOAD_TESTS else "chat"))


def build_audience(people: Sequence[PersonView]) -> Sequence[Row]:
    """Return the `recipients` of a notification for these people.

    More than `MAX_NAMED_USERS` must be all people whom the app knows in the tenant.
    """
    return [user(person) for person in people] if len(people) <= MAX_NAMED_USERS else [{"all": True}]


@pytest.fixture
async def teams(teams: FakeTeams) -> FakeTeams:
    """A fake Teams with five people, one team and one chat."""
    await teams.grow(Growth(tenant=teams.tenant, people=5, teams=1, chats=1))
    return teams


@pytest.fixture
async def deployment(connection: str, teams: FakeTeams, tmp_path: Path) -> AsyncIterator[Deployment]:
    queues, tables = open_storage({"AzureWebJobsStorage": connection})
    async with queues, tables:
        deployment = Deployment(connection, teams, tmp_path, queues, tables)
        with deployment.stack:
            yield deployment
