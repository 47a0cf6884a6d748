"""The app as it runs: the function host as a process of its own, on Azurite, against a fake Teams with tokens."""

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
from shared.storage.table import MAX_TRANSACTION_ROWS
from shared.time.clock import real_time
from tests.support.herald import user

#: For how many seconds a host that is to be killed keeps a message to itself: what it had is soon back.
SHORT_LEASE = {"HERALD_LOCAL_VISIBILITY_SECONDS": "3"}
#: Real seconds for which a clock stands still until the hosts are up, and have seen to what is due then.
STANDS = 8
#: Seconds between two looks at the storage.
LOOK = 0.2
#: Transactions that write references at the same time.
AT_ONCE = 8
#: Recipients that may be named one by one: a message on a queue holds 64 KiB.
NAMED = 1000

Row = dict[str, Any]


@dataclass(frozen=True)
class Clock:
    """It shows `begun` until the real time `anchor` (both UTC), and then goes `speed` times as fast."""

    begun: datetime
    anchor: datetime
    speed: int

    @classmethod
    def begin(cls, at: datetime, speed: int, is_current: float = STANDS) -> Self:
        """One that stands at `at` until the hosts are up."""
        return cls(at, real_time() + timedelta(seconds=is_current), speed)

    @property
    def setting(self) -> str:
        return f"{self.begun.isoformat()}@{self.anchor.isoformat()}*{self.speed}"

    def at(self, real: datetime) -> datetime:
        """What it shows at a real time."""
        return self.begun + max(timedelta(), real - self.anchor) * self.speed

    def now(self) -> datetime:
        return self.at(real_time())

    def seconds(self, until: datetime) -> float:
        """Real seconds from now on until it shows `until`."""
        return (self.anchor - real_time() + (until - self.begun) / self.speed).total_seconds()

    async def until(self, at: datetime) -> None:
        """Returns when it shows `at`."""
        await asyncio.sleep(max(0.0, self.seconds(at)))

    def received(self, message: Received) -> datetime:
        """What it showed when Teams received a message."""
        return self.at(datetime.fromisoformat(message.received_at))


@dataclass
class Deployment:
    """One or more function hosts on one storage account, and the Teams that they talk to."""

    connection: str
    teams: FakeTeams
    folder: Path
    queues: QueueServiceClient
    tables: TableServiceClient
    hosts: list[FunctionHost] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)

    def start(self, count: int = 1, app: Path = ROOT, /, **settings: str) -> FunctionHost:
        """Start further hosts, and return the last; they are stopped at the end of the test.

        They welcome nobody, where `settings` name no other HERALD_CATEGORIES_FILE.
        """
        categories = self.folder / "categories.json"
        categories.write_text('[{"name": "welcome", "default": "off"}]', encoding="utf-8")
        own = {"AzureWebJobsStorage": self.connection, "HERALD_CATEGORIES_FILE": str(categories)}
        environ = self.teams.settings | own | settings
        folders = [self.folder / f"host{len(self.hosts) + each}" for each in range(count)]
        started = [FunctionHost(folder, environ, app=app) for folder in folders]
        self.hosts += started
        for host in started:
            self.stack.push(host)
        for host in started:
            host.wait_until_healthy()
        return self.hosts[-1]

    @property
    def endpoint(self) -> str:
        return f"{self.hosts[-1].url}/api/messages"

    async def tell(self, **event: Any) -> list[AppResponse]:
        """Let something happen in Teams that the app is told."""
        return await self.teams.send_event(TeamsEvent(endpoint=self.endpoint, **event))

    async def install(self, *people: PersonView) -> None:
        """Let these people install the bot."""
        events = [TeamsEvent(kind="install", person=each.object_id, endpoint=self.endpoint) for each in people]
        answers = await self.teams.send_events(events, concurrency=8)
        assert {answer.status for answer in answers} == {200}

    async def people(self, count: int, tenant: str | None = None, zone: str = "") -> Sequence[PersonView]:
        """So many new people, of the bot's own tenant or another, whose references are stored as installs store them.

        They are written straight into the table: thousands of installs would take longer than what they are for.
        `zone` is what their Teams clients have told since, "" for nothing yet.
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
        table, gate = self.tables.get_table_client("HeraldConversations"), asyncio.Semaphore(AT_ONCE)

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
        """Put a message on the queue, as upstream does."""
        text = body if isinstance(body, str) else body.decode()
        await self.queues.get_queue_client(NOTIFICATIONS).send_message(text)

    async def rows(self, table: str) -> list[Row]:
        """All rows of a table, as an operator sees them."""
        return [dict(row) async for row in self.tables.get_table_client(f"Herald{table}").list_entities()]

    async def deliveries(self) -> dict[str, Row]:
        """The delivery of each recipient, where there is but one notification."""
        rows = [row for row in await self.rows("Deliveries") if row["RowKey"] != "~counts"]
        found = {row["RowKey"]: row for row in rows}
        assert len(found) == len(rows), "a recipient has two deliveries"
        return found

    async def ended(self, within: float, count: int = 1) -> list[Row]:
        """The notifications, once there are `count` and each has stored how its deliveries ended."""
        async with asyncio.timeout(within):
            while True:
                rows = await self.rows("Notifications")
                if len(rows) >= count and all(row.get("counts") for row in rows):
                    return rows
                await asyncio.sleep(LOOK)

    async def emptied(self, *names: str, within: float) -> None:
        """Returns once these queues hold no message, not even one that waits for its time."""
        clients = [self.queues.get_queue_client(name) for name in names]
        async with asyncio.timeout(within):
            while any([(await each.get_queue_properties()).approximate_message_count for each in clients]):
                await asyncio.sleep(LOOK)

    async def check_counts(self) -> Counter[str]:
        """Assert that the states of each part of the deliveries are what it has counted; returns the sum.

        Part by part, since only one part is read in one moment.
        """
        table = self.tables.get_table_client("HeraldDeliveries")
        counts = table.query_entities("RowKey eq '~counts'", select=["PartitionKey"])
        total: Counter[str] = Counter()
        for part in [row["PartitionKey"] async for row in counts]:
            states: Counter[str] = Counter()
            counted: Counter[str] = Counter()
            async for row in table.query_entities("PartitionKey eq @part", parameters={"part": part}):
                if row["RowKey"] == "~counts":
                    names = {"open", *DeliveryState} & set(row)
                    counted = Counter({name: row[name] for name in names})
                else:
                    states[DeliveryState(row["state"]).count_name] += 1
            assert +counted == +states, f"the counts of {part}"
            total += states
        return total


@pytest.hookimpl(tryfirst=True)  # xdist looks at the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests of a group run one after the other: several hosts of several tests would slow each other."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            group = "playground" if item.path.stem in ("test_people", "test_playground") else "hosts"
            item.add_marker(pytest.mark.xdist_group(group))


def audience(people: Sequence[PersonView]) -> Sequence[Row]:
    """Recipients of a notification for these people, who are all that the app knows where they are many."""
    return [user(person) for person in people] if len(people) <= NAMED else [{"all": True}]


@pytest.fixture
async def teams(teams: FakeTeams) -> FakeTeams:
    """With five people, a team and a chat."""
    await teams.grow(Growth(tenant=teams.tenant, people=5, teams=1, chats=1))
    return teams


@pytest.fixture
async def deployment(connection: str, teams: FakeTeams, tmp_path: Path) -> AsyncIterator[Deployment]:
    queues, tables = open_storage({"AzureWebJobsStorage": connection})
    async with queues, tables:
        found = Deployment(connection, teams, tmp_path, queues, tables)
        with found.stack:
            yield found
