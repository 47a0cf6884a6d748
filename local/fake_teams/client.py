"""A typed client of the fake Teams for tests and benchmarks, and the two ways to start one."""

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
    Answer,
    Behaviour,
    Event,
    Fault,
    Forgery,
    Growth,
    Installed,
    Page,
    Received,
    Stats,
    WorldView,
)
from local.fake_teams.server import Options, Server

#: Seconds that a start and a stop may take, and that `wait` waits when nothing else is said.
START, STOP, WAIT = 30.0, 15.0, 15.0
ROOT = Path(__file__).resolve().parents[2]


class ControlError(Exception):
    """The fake refused a control request; the text says why."""


class FakeTeams:
    """One running fake, in this process (`serve`) or as a process of its own (`start`).

    >>> async with FakeTeams.start(people=2) as teams:
    ...     ada = (await teams.world()).people[0]
    ...     await teams.event(Event(kind="install", person=ada.object_id, endpoint=url))
    ...     [message] = await teams.wait(1, person=ada.object_id)
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, settings: dict[str, str]) -> None:
        self.url = url
        self.settings = settings
        self._session = session

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, ca_file: Path | None) -> AsyncIterator[Self]:
        """A client of the fake at `url`; without a CA file, of one that serves plain http."""
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
        """Runs a fake on the present loop."""
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
        """Runs a fake as a process of its own; `arguments` are further ones of its command line."""
        with tempfile.TemporaryDirectory(prefix="fake-teams-") as folder:
            ca_file = Path(folder, "ca.pem")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "local.fake_teams", "--stop-with-stdin", "--ca-file", str(ca_file),
                "--people", str(people), "--teams", str(teams), "--chats", str(chats), *arguments,
                cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                assert process.stdout is not None
                line = (await asyncio.wait_for(process.stdout.readline(), START)).decode()
                if not line:
                    raise ControlError(f"the fake ended at its start with {await process.wait()}")
                url = line.split()[-1]
                async with cls.connect(url, ca_file if url.startswith("https") else None) as client:
                    yield client
            finally:
                await _end(process)

    @property
    def app_id(self) -> str:
        return self.settings["MicrosoftAppId"]

    @property
    def tenant(self) -> str:
        """The first tenant, where the app is registered."""
        return self.settings["MicrosoftAppTenantId"]

    @property
    def service_url(self) -> str:
        return f"{self.url}/teams/"

    @property
    def ca_file(self) -> Path | None:
        path = self.settings.get("SSL_CERT_FILE")
        return Path(path) if path else None

    async def reset(self) -> None:
        """Back to the state at the start; signing keys and tokens stay good, `settings` is refreshed."""
        await self._call("POST", "reset")
        self.settings = await self._call("GET", "settings")

    async def world(self, tenant: str | None = None) -> WorldView:
        return WorldView.model_validate(await self._call("GET", "world", asked={"tenant": tenant}))

    async def grow(self, growth: Growth) -> WorldView:
        """Adds to the world, and returns what is new; `settings` is refreshed."""
        grown = WorldView.model_validate(await self._call("POST", "world", growth.wire()))
        self.settings = await self._call("GET", "settings")
        return grown

    async def set_installed(self, ids: Sequence[str], *, installed: bool = True) -> None:
        """Installs for people, teams and chats without telling the app."""
        await self._call("PUT", "installed", Installed(ids=list(ids), installed=installed).wire())

    async def behave(self, behaviour: Behaviour) -> None:
        """Changes what is set in `behaviour`, and nothing else."""
        await self._call("PATCH", "behaviour", behaviour.wire())

    async def fault(self, *faults: Fault) -> None:
        """Orders faults; times count from now on."""
        await self._call("POST", "faults", [fault.wire() for fault in faults])

    async def clear_faults(self) -> None:
        await self._call("DELETE", "faults")

    async def event(self, event: Event) -> list[Answer]:
        """Lets something happen in Teams, and returns what the app answered to each activity."""
        return await self.events([event])

    async def events(self, events: Sequence[Event], *, concurrency: int = 1) -> list[Answer]:
        """The same for many events, several at a time."""
        told = await self._call(
            "POST", "events", [event.wire() for event in events], asked={"concurrency": str(concurrency)}
        )
        return [Answer.model_validate(each) for each in told]

    async def post(self, activity: dict[str, Any], *, endpoint: str, forgery: Forgery | None = None) -> Answer:
        """Posts one activity as it is."""
        [told] = await self.event(Event(kind="raw", activity=activity, endpoint=endpoint, forgery=forgery))
        return told

    async def rotate_keys(self, *, keep_old: bool = True) -> str:
        """Signs with a new key from now on; its key id."""
        kid: str = (await self._call("POST", "keys/rotate", asked={"keepOld": str(keep_old).lower()}))["kid"]
        return kid

    async def add_key(self, key: str) -> str:
        """Publishes the key `unendorsed` or `otherChannel`, which a forgery then signs with; its key id."""
        kid: str = (await self._call("POST", "keys/add", asked={"key": key}))["kid"]
        return kid

    async def revoke_tokens(self) -> None:
        """Makes every token bad that was issued so far."""
        await self._call("POST", "tokens/revoke")

    async def received(
        self,
        *,
        since: int = 0,
        person: str | None = None,
        conversation: str | None = None,
        tenant: str | None = None,
    ) -> list[Received]:
        """All messages changed after `since`, in the order of their last change."""
        asked = {"person": person, "conversation": conversation, "tenant": tenant}
        messages: list[Received] = []
        more = True
        while more:
            page = Page.model_validate(await self._call("GET", "received", asked={**asked, "since": str(since)}))
            messages += page.messages
            since, more = page.next, page.more
        return messages

    async def wait(
        self,
        count: int = 1,
        *,
        until: Callable[[list[Received]], bool] | None = None,
        since: int = 0,
        timeout: float = WAIT,  # noqa: ASYNC109 (the server waits, not this)
        person: str | None = None,
        conversation: str | None = None,
        tenant: str | None = None,
    ) -> list[Received]:
        """All messages changed after `since`, once there are `count` and `until` holds; raises TimeoutError."""
        deadline = time.monotonic() + timeout
        asked = {
            "person": person,
            "conversation": conversation,
            "tenant": tenant,
            "since": str(since),
            "limit": "1",
        }
        while True:
            left = max(deadline - time.monotonic(), 0)
            await self._call("GET", "received", asked={**asked, "count": str(count), "timeout": f"{left:.3f}"})
            messages = await self.received(since=since, person=person, conversation=conversation, tenant=tenant)
            if len(messages) >= count and (until is None or until(messages)):
                return messages
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{len(messages)} of {count} messages after {timeout} s")
            if len(messages) >= count:
                # Enough, but not the right ones: the next look is after the next change.
                newest = max(message.changed for message in messages)
                left = max(deadline - time.monotonic(), 0)
                await self._call(
                    "GET",
                    "received",
                    asked={**asked, "since": str(newest), "count": "1", "timeout": f"{left:.3f}"},
                )

    async def stats(self) -> Stats:
        return Stats.model_validate(await self._call("GET", "stats"))

    async def _call(self, method: str, path: str, body: Any = None, asked: dict[str, str | None] | None = None) -> Any:
        parameters = {name: value for name, value in (asked or {}).items() if value is not None}
        data = None if body is None else orjson.dumps(body)
        async with self._session.request(method, f"{self.url}/_fake/{path}", data=data, params=parameters) as response:
            told = orjson.loads(await response.read())
            if response.status != 200:
                raise ControlError(told["error"])
            return told


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOP)
    except TimeoutError:
        process.kill()
        await process.wait()
