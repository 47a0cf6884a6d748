"""A typed client of the fake Teams for tests and benchmarks, which can also start one."""

from __future__ import annotations

import asyncio
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson

from local.fake_teams.api import (
    AppResponse,
    Behaviour,
    Credentials,
    Forgery,
    GraphSettings,
    Growth,
    InstallationUpdate,
    PeopleUpdate,
    Received,
    ReceivedPage,
    Stats,
    TeamsEvent,
    TeamsFault,
    WorldView,
)
from local.fake_teams.server import Options, Server

#: The time limits of a start, a stop, and by default of `wait`.
START_SECONDS, STOP_SECONDS, WAIT_SECONDS = 30.0, 15.0, 15.0
ROOT = Path(__file__).resolve().parents[2]


class ControlError(Exception):
    """The fake refused a request to the control API; the message is its reason."""


class FakeTeams:
    """A running fake, in this process (`serve`) or in a separate one (`start`).

    >>> async with FakeTeams.start(people=2) as teams:
    ...     ada = (await teams.world()).people[0]
    ...     await teams.send_event(TeamsEvent(kind="install", person=ada.object_id, endpoint=url))
    ...     [message] = await teams.wait(1, person=ada.object_id)
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, settings: dict[str, str]) -> None:
        self.url = url
        self.settings = settings
        self._session = session

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, ca_file: Path | None) -> AsyncIterator[Self]:
        """Connect to the fake at `url`; without a CA file, it must serve plain http."""
        context: ssl.SSLContext | bool = True
        if ca_file is not None:
            context = await asyncio.to_thread(ssl.create_default_context, cafile=str(ca_file))
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
            teams = cls(url, session, {})
            teams.settings = await teams._call("GET", "settings")
            yield teams

    @classmethod
    @asynccontextmanager
    async def serve(cls, options: Options | None = None) -> AsyncIterator[Self]:
        """Run a fake on the current loop."""
        server = Server(options or Options())
        await server.start()
        try:
            async with cls.connect(server.url, server.ca_file) as teams:
                yield teams
        finally:
            await server.stop()

    @classmethod
    @asynccontextmanager
    async def start(cls, *arguments: str, people: int = 3, teams: int = 1, chats: int = 1) -> AsyncIterator[Self]:
        """Run a fake as a separate process, with further command-line `arguments`."""
        with tempfile.TemporaryDirectory(prefix="fake-teams-") as folder:
            ca_file = Path(folder, "ca.pem")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "local.fake_teams", "--stop-with-stdin", "--ca-file", str(ca_file),
                "--people", str(people), "--teams", str(teams), "--chats", str(chats), *arguments,
                cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                assert process.stdout is not None
                line = (await asyncio.wait_for(process.stdout.readline(), START_SECONDS)).decode()
                if not line:
                    code = await process.wait()
                    raise ControlError(f"the fake ended at its start with exit code {code}: see its standard error")
                url = line.split()[-1]
                async with cls.connect(url, ca_file if url.startswith("https") else None) as client:
                    yield client
            finally:
                await _stop_process(process)

    @property
    def app_id(self) -> str:
        return self.settings["MicrosoftAppId"]

    @property
    def tenant(self) -> str:
        """The first tenant, in which the app is registered."""
        return self.settings["MicrosoftAppTenantId"]

    @property
    def service_url(self) -> str:
        return f"{self.url}/teams/"

    @property
    def graph_url(self) -> str:
        """The host of Graph; the scope of its tokens is `{graph_url}/.default`."""
        return self.url

    @property
    def ca_file(self) -> Path | None:
        path = self.settings.get("SSL_CERT_FILE")
        return Path(path) if path else None

    async def reset(self) -> None:
        """Restore the initial state; signing keys and tokens stay valid, `settings` is refreshed."""
        await self._call("POST", "reset")
        self.settings = await self._call("GET", "settings")

    async def world(self, tenant: str | None = None) -> WorldView:
        return WorldView.model_validate(await self._call("GET", "world", query={"tenant": tenant}))

    async def grow(self, growth: Growth) -> WorldView:
        """Add people, teams, chats and groups, and return them; `settings` is refreshed."""
        grown = WorldView.model_validate(await self._call("POST", "world", growth.to_json()))
        self.settings = await self._call("GET", "settings")
        return grown

    async def set_installed(self, ids: Sequence[str], *, installed: bool = True) -> None:
        """Set whether the app is installed for people, teams and chats, without an event."""
        await self._call("PUT", "installed", InstallationUpdate(ids=list(ids), installed=installed).to_json())

    async def change_people(self, update: PeopleUpdate) -> None:
        """Change the fields of people that are set in `update`."""
        await self._call("PATCH", "people", update.to_json())

    async def set_graph(self, settings: GraphSettings) -> None:
        """Set the permissions of Graph, and whether the app is in the catalogue, for one tenant."""
        await self._call("PUT", "graph", settings.to_json())

    async def expire_pages(self) -> None:
        """Let all page tokens of Graph expire that were returned so far."""
        await self._call("POST", "graph/expire-pages")

    async def set_credentials(self, credentials: Credentials) -> None:
        """Replace what the app can prove its identity with."""
        await self._call("PUT", "credentials", credentials.to_json())

    async def set_behaviour(self, behaviour: Behaviour) -> None:
        """Change the fields that are set in `behaviour`."""
        await self._call("PATCH", "behaviour", behaviour.to_json())

    async def inject(self, *faults: TeamsFault) -> None:
        """Inject faults; their times count from now."""
        await self._call("POST", "faults", [fault.to_json() for fault in faults])

    async def clear_faults(self) -> None:
        await self._call("DELETE", "faults")

    async def send_event(self, event: TeamsEvent) -> list[AppResponse]:
        """Apply an event, and return the response of the app to each activity."""
        return await self.send_events([event])

    async def send_events(self, events: Sequence[TeamsEvent], *, concurrency: int = 1) -> list[AppResponse]:
        """Apply several events, `concurrency` at a time."""
        responses = await self._call(
            "POST", "events", [event.to_json() for event in events], query={"concurrency": str(concurrency)}
        )
        return [AppResponse.model_validate(each) for each in responses]

    async def post(self, activity: dict[str, Any], *, endpoint: str, forgery: Forgery | None = None) -> AppResponse:
        """Post one activity unchanged."""
        event = TeamsEvent(kind="raw", activity=activity, endpoint=endpoint, forgery=forgery)
        [response] = await self.send_event(event)
        return response

    async def rotate_keys(self, *, keep_old: bool = True) -> str:
        """Sign with a new key from now on, and return its key id."""
        kid: str = (await self._call("POST", "keys/rotate", query={"keepOld": str(keep_old).lower()}))["kid"]
        return kid

    async def add_key(self, key: str) -> str:
        """Publish the key `unendorsed` or `otherChannel` of a forgery, and return its key id."""
        kid: str = (await self._call("POST", "keys/add", query={"key": key}))["kid"]
        return kid

    async def revoke_tokens(self) -> None:
        """Revoke all tokens issued so far."""
        await self._call("POST", "tokens/revoke")

    async def received(
        self,
        *,
        since: int = 0,
        person: str | None = None,
        conversation: str | None = None,
        tenant: str | None = None,
    ) -> list[Received]:
        """Return all messages changed after `since`, in the order of their last change."""
        query = {"person": person, "conversation": conversation, "tenant": tenant}
        messages: list[Received] = []
        more = True
        while more:
            result = await self._call("GET", "received", query={**query, "since": str(since)})
            page = ReceivedPage.model_validate(result)
            messages += page.messages
            since, more = page.next, page.more
        return messages

    async def wait(
        self,
        count: int = 1,
        *,
        until: Callable[[list[Received]], bool] | None = None,
        since: int = 0,
        timeout: float = WAIT_SECONDS,  # noqa: ASYNC109 (the server waits, not this)
        person: str | None = None,
        conversation: str | None = None,
        tenant: str | None = None,
    ) -> list[Received]:
        """Wait for `count` messages changed after `since` for which `until` is true; raises TimeoutError."""
        deadline = time.monotonic() + timeout
        query = {
            "person": person,
            "conversation": conversation,
            "tenant": tenant,
            "since": str(since),
            "limit": "1",
        }
        while True:
            left = max(deadline - time.monotonic(), 0)
            await self._call("GET", "received", query={**query, "count": str(count), "timeout": f"{left:.3f}"})
            messages = await self.received(since=since, person=person, conversation=conversation, tenant=tenant)
            if len(messages) >= count and (until is None or until(messages)):
                return messages
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{len(messages)} of {count} messages within {timeout} s")
            if len(messages) >= count:
                # `until` is not true yet: check again after the next change.
                newest = max(message.changed for message in messages)
                left = max(deadline - time.monotonic(), 0)
                await self._call(
                    "GET",
                    "received",
                    query={**query, "since": str(newest), "count": "1", "timeout": f"{left:.3f}"},
                )

    async def stats(self) -> Stats:
        return Stats.model_validate(await self._call("GET", "stats"))

    async def _call(self, method: str, path: str, body: Any = None, query: dict[str, str | None] | None = None) -> Any:
        parameters = {name: value for name, value in (query or {}).items() if value is not None}
        data = None if body is None else orjson.dumps(body)
        async with self._session.request(method, f"{self.url}/_fake/{path}", data=data, params=parameters) as response:
            result = orjson.loads(await response.read())
            if response.status != 200:
                raise ControlError(result["error"])
            return result


async def _stop_process(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
