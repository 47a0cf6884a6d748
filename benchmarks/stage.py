"""The stage on which the whole app is measured: Azurite and a fake Teams on one core, function hosts on another."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
import orjson

from benchmarks.cores import pinned
from local.fake_teams.api import Growth, PersonView
from local.fake_teams.client import FakeTeams
from local.processes import ROOT, Azurite, FunctionHost
from shared import keys, queue_messages
from shared.services import Services, open_services
from shared.settings import load_settings
from shared.states import NotificationState, ReferenceKind
from shared.storage.clients import open_storage
from shared.storage.conversations import SHARDS, VERSION
from shared.storage.notifications import StoredNotification, notification_key
from shared.storage.table import MAX_TRANSACTION_ROWS, Table

if TYPE_CHECKING:
    from azure.data.tables.aio import TableServiceClient

T = TypeVar("T")

SOURCE = "/benchmark"
#: People who are added to Teams in one request: a larger answer keeps the loop busy for seconds.
AT_A_TIME = 5_000
#: Seconds between two looks at what is awaited.
LOOK = 0.25


@dataclass
class Meters:
    """Sum the meters of hosts over a time; lag (ms) and memory (MB) are those of the worst host."""

    operations: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0
    resident_mb: float = 0.0
    peak_mb: float = 0.0
    lag_ms: float = 0.0
    lag_p99_ms: float = 0.0

    def add(self, told: dict[str, Any]) -> None:
        self.operations.update(told["operations"])
        self.cpu_s += told["cpu_s"]
        for name in ("resident_mb", "peak_mb", "lag_ms", "lag_p99_ms"):
            setattr(self, name, max(getattr(self, name), told[name]))


@dataclass
class Stage:
    teams: FakeTeams
    connection: str
    folder: Path
    http: aiohttp.ClientSession
    services: Services
    tables: TableServiceClient
    rate: int

    @asynccontextmanager
    async def hosts(self, count: int = 1, *, app: str = "counted_app") -> AsyncIterator[Sequence[FunctionHost]]:
        """So many function hosts with the app of a module in this package, which has meters; all of them ready."""
        folder = self.folder / app
        folder.mkdir(exist_ok=True)
        shutil.copy(ROOT / "host.json", folder)
        (folder / "function_app.py").write_text(f"from benchmarks.{app} import app\n\n__all__ = ['app']\n")
        with ExitStack() as stack:
            with pinned(measured=True):
                found = [FunctionHost(folder / f"host{turn}", self.environ, app=folder) for turn in range(count)]
            for host in found:
                await asyncio.to_thread(stack.enter_context, host)
            yield found

    @property
    def environ(self) -> dict[str, str]:
        return _environ(self.teams, self.connection, self.rate)

    async def meters(self, hosts: Sequence[FunctionHost], *, reset: bool = False) -> Meters:
        """Read the meters of these hosts since their start, or since the last `reset`; CPU always from the start."""
        meters = Meters()
        for host in hosts:
            async with self.http.get(f"{host.url}/api/meters", params={"reset": "1"} if reset else {}) as answer:
                meters.add(await answer.json())
        return meters

    async def populate(self, people: int) -> tuple[str, Sequence[str]]:
        """A new tenant of so many people, who have installed the bot; returns its id and their object ids."""
        table = Table(self.tables.get_table_client(f"{self.services.settings.table_prefix}Conversations"))
        tenant: str | None = None
        ids: list[str] = []
        while len(ids) < people:
            there = (await self.teams.grow(Growth(tenant=tenant, people=min(AT_A_TIME, people - len(ids))))).people
            for shard in SHARDS:
                rows = [self._row(each) for each in there if keys.shard(each.object_id) == shard]
                for start in range(0, len(rows), MAX_TRANSACTION_ROWS):
                    await table.batch([("create", row) for row in rows[start : start + MAX_TRANSACTION_ROWS]])
            tenant = there[0].tenant
            ids += [each.object_id for each in there]
        return str(tenant), ids

    async def put(self, identifier: str, tenant: str, *recipients: object) -> str:
        """Put a notification for these recipients on its queue; returns its key."""
        said = {"category": "benchmark", "content": {"title": identifier, "text": "Measured"}}
        body = {"id": identifier, "source": SOURCE, "tenant": tenant, "recipients": recipients, **said}
        await self.services.queues.put(queue_messages.NOTIFICATIONS, orjson.dumps(body).decode())
        return notification_key(tenant, SOURCE, identifier)

    async def finished(self, key: str, seconds: float) -> StoredNotification:
        """The notification once its final counts are stored; raises TimeoutError."""

        async def look() -> StoredNotification | None:
            found = await self.services.notifications.get(key)
            return found if found and found.state is NotificationState.FINISHED else None

        return await wait(look, seconds)

    def _row(self, person: PersonView) -> dict[str, object]:
        return {
            "PartitionKey": f"{person.tenant};{ReferenceKind.USER};{keys.shard(person.object_id)}",
            "RowKey": keys.key(person.object_id),
            "v": VERSION,
            "id": person.object_id,
            "status": "active",
            "conversation_id": person.conversation,
            "conversation_type": "personal",
            "service_url": self.teams.service_url,
            "user_id": person.id,
            "bot_id": f"28:{self.teams.app_id}",
            "name": person.name,
            "locale": person.locale,
        }


@asynccontextmanager
async def stage(*of_teams: str, rate: int) -> AsyncIterator[Stage]:
    """A stage with nobody on it; `of_teams` are options of the fake, `rate` the tenant's."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="herald-bench-")))
        with pinned(measured=False):
            azurite = Azurite(folder)
            teams = await stack.enter_async_context(FakeTeams.start(*of_teams, people=0, teams=0, chats=0))
        await asyncio.to_thread(stack.enter_context, azurite)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        environ = _environ(teams, azurite.connection_string(), rate)
        storage = open_storage(environ)
        services = await open_services(load_settings(environ), storage)
        stack.push_async_callback(services.close)
        yield Stage(teams, azurite.connection_string(), folder, http, services, storage[1], rate)


def _environ(teams: FakeTeams, connection: str, rate: int) -> dict[str, str]:
    return teams.settings | {"AzureWebJobsStorage": connection, "HERALD_TENANT_RATE": str(rate)}


async def wait(look: Callable[[], Awaitable[T | None]], seconds: float) -> T:
    """What `look` finds, looked at again and again; raises TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while (found := await look()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not there after {seconds:.0f} s")
        await asyncio.sleep(LOOK)
    return found
