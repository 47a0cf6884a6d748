"""The app as it runs: the function host as a process of its own, on Azurite, against a fake Teams with tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from local.fake_teams.api import Answer, Event, PersonView
from local.fake_teams.client import FakeTeams
from local.processes import FunctionHost
from shared.queues import NOTIFICATIONS
from shared.storage import open_storage

#: Seconds for which the host keeps a message to itself: short, so that one in flight at a kill is soon back.
LEASE = "3"


@dataclass
class Deployment:
    """One or more function hosts on one storage account, and the Teams that they talk to."""

    connection: str
    teams: FakeTeams
    folder: Path
    hosts: list[FunctionHost] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)

    def start(self, **settings: str) -> FunctionHost:
        """Start another host; it is stopped at the end of the test."""
        own = {"AzureWebJobsStorage": self.connection, "HERALD_LOCAL_VISIBILITY_SECONDS": LEASE}
        host = FunctionHost(self.folder / f"host{len(self.hosts)}", self.teams.settings | own | settings)
        self.hosts.append(host)
        self.stack.enter_context(host)
        return host

    @property
    def endpoint(self) -> str:
        return f"{self.hosts[-1].url}/api/messages"

    async def tell(self, **event: Any) -> list[Answer]:
        """Let something happen in Teams that the app is told."""
        return await self.teams.event(Event(endpoint=self.endpoint, **event))

    async def install(self, *people: PersonView) -> None:
        """Let these people install the bot."""
        events = [Event(kind="install", person=each.object_id, endpoint=self.endpoint) for each in people]
        answers = await self.teams.events(events, concurrency=8)
        assert {answer.status for answer in answers} == {200}

    async def put(self, body: bytes | str) -> None:
        """Put a message on the queue, as upstream does."""
        queues, tables = open_storage({"AzureWebJobsStorage": self.connection})
        async with queues, tables:
            text = body if isinstance(body, str) else body.decode()
            await queues.get_queue_client(NOTIFICATIONS).send_message(text)

    async def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of a table, as an operator sees them."""
        queues, tables = open_storage({"AzureWebJobsStorage": self.connection})
        async with queues, tables:
            return [dict(row) async for row in tables.get_table_client(f"Herald{table}").list_entities()]


@pytest.fixture
async def teams() -> AsyncIterator[FakeTeams]:
    async with FakeTeams.start(people=5) as fake:
        yield fake


@pytest.fixture
def deployment(connection: str, teams: FakeTeams, tmp_path: Path) -> Iterator[Deployment]:
    found = Deployment(connection, teams, tmp_path)
    with found.stack:
        yield found
