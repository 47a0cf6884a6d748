from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import pytest
from aiohttp import web

from local.fake_teams.api import Growth
from local.fake_teams.client import FakeTeams
from local.fake_teams.server import Options

SCOPE = "https://api.botframework.com/.default"


GROWTH = Growth(people=3, teams=1, chats=1)
#: For tests that need a new fake, such as tests of a reset.
own_teams = pytest.mark.parametrize("teams", [Options(growth=GROWTH)], ids=["own"], indirect=True)


@pytest.fixture
async def teams(request: pytest.FixtureRequest, teams: FakeTeams) -> AsyncIterator[FakeTeams]:
    """A fake with 3 people, 1 team with 2 channels, 1 chat: shared by all tests or, with `own_teams`, a new one."""
    if options := getattr(request, "param", None):
        async with FakeTeams.serve(options) as running:
            yield running
    else:
        await teams.grow(GROWTH.model_copy(update={"tenant": teams.tenant}))
        yield teams


@dataclass
class Reply:
    status: int
    body: Any
    headers: dict[str, str]

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])


class Bot:
    """Calls the Bot Connector as an app does, with an access token."""

    def __init__(self, teams: FakeTeams, session: aiohttp.ClientSession, token: str) -> None:
        self.token = token
        self.session = session
        self._teams = teams

    async def call(self, method: str, path: str, body: Any = None, *, authorization: str | None = None) -> Reply:
        headers = {"Authorization": authorization or f"Bearer {self.token}", "Content-Type": "application/json"}
        data = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
        url = self._teams.service_url + path
        async with self.session.request(method, url, data=data, headers=headers) as response:
            text = await response.read()
            parsed = orjson.loads(text) if response.content_type == "application/json" and text else text.decode()
            return Reply(response.status, parsed, dict(response.headers))

    async def send(self, conversation: str, activity: dict[str, Any] | None = None) -> Reply:
        return await self.call("POST", activities(conversation), activity or message("hello"))

    async def create(self, person: str, tenant: str | None = None) -> Reply:
        channel_data = {"tenant": {"id": tenant or self._teams.tenant}}
        body = {"isGroup": False, "members": [{"id": person}], "channelData": channel_data}
        return await self.call("POST", "v3/conversations", body)


def activities(conversation: str, activity: str | None = None) -> str:
    path = f"v3/conversations/{quote(conversation, safe='')}/activities"
    return path if activity is None else f"{path}/{activity}"


def message(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "text": text, **more}


async def fetch_token(teams: FakeTeams, session: aiohttp.ClientSession, **changed: str) -> Reply:
    settings = teams.settings
    form = {
        "grant_type": "client_credentials",
        "client_id": settings["MicrosoftAppId"],
        "client_secret": settings["MicrosoftAppPassword"],
        "scope": SCOPE,
        **changed,
    }
    url = f"{settings['ToChannelFromBotLoginUrl']}/oauth2/v2.0/token"
    async with session.post(url, data=form) as response:
        return Reply(response.status, await response.json(), dict(response.headers))


@pytest.fixture
async def session(teams: FakeTeams) -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session(teams) as opened:
        yield opened


def open_session(teams: FakeTeams) -> aiohttp.ClientSession:
    context = ssl.create_default_context(cafile=str(teams.ca_file))
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=0))


@pytest.fixture
async def bot(teams: FakeTeams, session: aiohttp.ClientSession) -> Bot:
    granted = await fetch_token(teams, session)
    return Bot(teams, session, granted.body["access_token"])


@dataclass
class FakeApp:
    """A messaging endpoint: the response that it returns, and the requests that it received."""

    url: str
    status: int = 200
    body: str = ""
    activities: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


@pytest.fixture
async def app() -> AsyncIterator[FakeApp]:
    """A messaging endpoint that records its requests."""

    async def messages(request: web.BaseRequest) -> web.Response:
        body = await request.read()
        running.bodies.append(body)
        running.authorizations.append(request.headers.get("Authorization"))
        if body.startswith(b"{"):
            running.activities.append(orjson.loads(body))
        return web.Response(status=running.status, text=running.body)

    runner = web.ServerRunner(web.Server(messages))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    running = FakeApp(f"http://127.0.0.1:{runner.addresses[0][1]}/api/messages")
    yield running
    await runner.cleanup()
