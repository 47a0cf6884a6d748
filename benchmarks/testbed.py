"""The testbed for the whole app: Azurite and a fake Teams on one core, function hosts on another."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import aiohttp
import orjson

from benchmarks.cores import pin_processes
from benchmarks.operations import EMPTY_RECEIVE
from benchmarks.report import Options, Report, Run, median_ratio, medians
from local.fake_teams.api import Growth, PersonView
from local.fake_teams.client import FakeTeams
from local.processes import ROOT, Azurite, FunctionHost
from shared import keys, queue_messages
from shared.records import StoredNotification, notification_key
from shared.services import Services, open_services
from shared.settings import load_settings
from shared.states import NotificationState, ReferenceKind, ReferenceStatus
from shared.storage.clients import open_storage
from shared.storage.conversations import SHARDS, VERSION
from shared.storage.table import MAX_TRANSACTION_ROWS, Table

if TYPE_CHECKING:
    from azure.data.tables.aio import TableServiceClient

T = TypeVar("T")

SOURCE = "/benchmark"
#: A larger answer of the fake Teams would block its event loop for seconds.
MAX_PEOPLE_PER_REQUEST = 5_000
POLL_SECONDS = 0.25


@dataclass
class MeterReadings:
    """The meters of several hosts: operations and CPU are sums, lag (ms) and memory (MB) those of the worst host."""

    operations: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0
    resident_mb: float = 0.0
    peak_mb: float = 0.0
    lag_ms: float = 0.0
    lag_p99_ms: float = 0.0

    def add(self, figures: dict[str, Any]) -> None:
        self.operations.update(figures["operations"])
        self.cpu_s += figures["cpu_s"]
        for name in ("resident_mb", "peak_mb", "lag_ms", "lag_p99_ms"):
            setattr(self, name, max(getattr(self, name), figures[name]))

    def without_empty_receives(self) -> Counter[str]:
        """Return the operations except receives from empty queues, which depend on time, not on messages."""
        return Counter({name: n for name, n in self.operations.items() if not name.endswith(EMPTY_RECEIVE)})


@dataclass
class Testbed:
    """A running Azurite and fake Teams; `rate` is the HERALD_TENANT_RATE of function hosts."""

    teams: FakeTeams
    connection: str
    folder: Path
    http: aiohttp.ClientSession
    services: Services
    tables: TableServiceClient
    rate: int

    @asynccontextmanager
    async def start_hosts(self, count: int = 1, *, app: str = "metered_app") -> AsyncIterator[Sequence[FunctionHost]]:
        """Run `count` function hosts with the app of a module of this package, which has meters; yield when ready."""
        folder = self.folder / app
        folder.mkdir(exist_ok=True)
        shutil.copy(ROOT / "host.json", folder)
        (folder / "function_app.py").write_text(f"from benchmarks.{app} import app\n\n__all__ = ['app']\n")
        with ExitStack() as stack:
            with pin_processes(measured=True):
                hosts = [FunctionHost(folder / f"host{number}", self.environ, app=folder) for number in range(count)]
            for host in hosts:
                await asyncio.to_thread(stack.enter_context, host)
            yield hosts

    @property
    def environ(self) -> dict[str, str]:
        return _build_environ(self.teams, self.connection, self.rate)

    async def read_meters(self, hosts: Sequence[FunctionHost], *, reset: bool = False) -> MeterReadings:
        """Return operations and lag since the hosts' start or last `reset`, CPU and peak memory since their start."""
        readings = MeterReadings()
        for host in hosts:
            async with self.http.get(f"{host.url}/api/meters", params={"reset": "1"} if reset else {}) as answer:
                readings.add(await answer.json())
        return readings

    async def count_refusals(self) -> int:
        """Return the number of requests that the fake Teams has answered with 429."""
        return sum(answers.get("429", 0) for answers in (await self.teams.stats()).requests.values())

    async def add_tenant(self, people: int) -> tuple[str, Sequence[str]]:
        """Add a tenant whose people have all installed the bot; return its id and their object ids."""
        table = Table(self.tables.get_table_client(f"{self.services.settings.table_prefix}Conversations"))
        tenant: str | None = None
        ids: list[str] = []
        while len(ids) < people:
            growth = Growth(tenant=tenant, people=min(MAX_PEOPLE_PER_REQUEST, people - len(ids)))
            added = (await self.teams.grow(growth)).people
            for shard in SHARDS:
                rows = [self._build_row(person) for person in added if keys.shard(person.object_id) == shard]
                for start in range(0, len(rows), MAX_TRANSACTION_ROWS):
                    await table.batch([("create", row) for row in rows[start : start + MAX_TRANSACTION_ROWS]])
            tenant = added[0].tenant
            ids += [person.object_id for person in added]
        return str(tenant), ids

    async def add_team(self, tenant: str, members: int, channels: int) -> tuple[str, Sequence[str]]:
        """Add a team that has installed the bot, with people of the tenant; return the ids of team and channels."""
        growth = Growth(tenant=tenant, teams=1, members=members, channels=channels)
        [team] = (await self.teams.grow(growth)).teams
        now, save, url = datetime.now(UTC), self.services.conversations.save, self.teams.service_url
        await save(tenant, ReferenceKind.TEAM, team.id, {"service_url": url}, at=now, status=ReferenceStatus.ACTIVE)
        for channel in team.channels:
            observed = {"service_url": url, "conversation_type": "channel", "team": team.id}
            await save(tenant, ReferenceKind.CONVERSATION, channel.id, observed, at=now)
        return team.id, [channel.id for channel in team.channels]

    async def put_notification(
        self,
        tenant: str,
        *recipients: object,
        title: str = "",
        category: str = "benchmark",
        priority: str = "normal",
        simulate: bool = False,
    ) -> str:
        """Put a new notification for these recipients on the queue, and return its key."""
        identifier = uuid4().hex
        body = {
            "id": identifier,
            "source": SOURCE,
            "tenant": tenant,
            "recipients": recipients,
            "category": category,
            "content": {"title": title or identifier, "text": "Measured"},
            "priority": priority,
            "simulate": simulate,
        }
        await self.services.queues.put(queue_messages.NOTIFICATIONS, orjson.dumps(body).decode())
        return notification_key(tenant, SOURCE, identifier)

    async def wait_until_finished(self, key: str, seconds: float) -> StoredNotification:
        """Return the notification once its final counts are stored; raise `TimeoutError` after `seconds`."""

        async def find_finished() -> StoredNotification | None:
            stored = await self.services.notifications.get(key)
            return stored if stored and stored.state is NotificationState.FINISHED else None

        return await poll(find_finished, seconds)

    def _build_row(self, person: PersonView) -> dict[str, object]:
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
async def open_testbed(*fake_options: str, rate: int) -> AsyncIterator[Testbed]:
    """Open a testbed without people; `fake_options` are for the fake Teams, `rate` is HERALD_TENANT_RATE."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="herald-bench-")))
        with pin_processes(measured=False):
            azurite = Azurite(folder)
            teams = await stack.enter_async_context(FakeTeams.start(*fake_options, people=0, teams=0, chats=0))
        await asyncio.to_thread(stack.enter_context, azurite)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        environ = _build_environ(teams, azurite.connection_string(), rate)
        storage = open_storage(environ)
        services = await open_services(load_settings(environ), storage)
        stack.push_async_callback(services.close)
        yield Testbed(teams, azurite.connection_string(), folder, http, services, storage[1], rate)


def _build_environ(teams: FakeTeams, connection: str, rate: int) -> dict[str, str]:
    return teams.settings | {"AzureWebJobsStorage": connection, "HERALD_TENANT_RATE": str(rate)}


async def measure_sizes(
    options: Options, sizes: Mapping[int, int], quick_sizes: Mapping[int, int], measure: Callable[[int], Awaitable[Run]]
) -> Mapping[int, Sequence[Run]]:
    """Measure each number of people, in turns; `sizes` has the most runs of each."""
    chosen = quick_sizes if options.quick else sizes
    runs: dict[int, list[Run]] = {people: [] for people in chosen}
    for number in range(options.runs):
        for people, max_runs in chosen.items():
            if number < max_runs:
                runs[people].append(await measure(people))
    return runs


def report_sizes(runs: Mapping[int, Sequence[Run]], subject: str, columns: Mapping[str, str]) -> Report:
    """Return a table of the runs by size, in a number of `subject`; `columns` maps headings to figures."""
    report, smallest, rows = Report({"runs": runs}), min(runs), []
    for size, of_size in runs.items():
        figures, first = medians(of_size), runs[smallest][: len(of_size)]
        growth = median_ratio(of_size, first, "peak_mb")
        rows.append([f"{size:,}", len(of_size), *(figures[name] for name in columns.values()), growth])
    report.add_table((subject, "runs", *columns, f"ratio to {smallest:,} {subject}"), rows)
    return report


async def poll(find: Callable[[], Awaitable[T | None]], seconds: float) -> T:
    """Call `find` until it returns something, and return that; raise `TimeoutError` after `seconds`."""
    deadline = time.monotonic() + seconds
    while (found := await find()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not found after {seconds:.0f} s")
        await asyncio.sleep(POLL_SECONDS)
    return found
