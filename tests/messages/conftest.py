"""Fixtures of a small Teams: signing keys, the server that publishes them, tokens, and activities as JSON."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import jwt
import orjson
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from messages.auth.signing_keys import SigningKeys
from shared.services import Services
from shared.settings import Settings, load_settings
from shared.storage.conversations import Conversations
from shared.storage.entity_writes import Row
from tests.support.memory import MemoryAccount, MemoryTable

APP = "8f14c2a0-6d1f-4f0b-9a57-3a1f3f0f9b11"
TENANT = "5f0c1b52-8f5e-4a57-9d0b-6b1d3c0f7a11"
ADA = "c4a7e1d2-9b36-4d58-8f0c-5e2a7b91d364"
BEN = "0d9e6c15-72fb-4a83-b4e8-913f5c6d2a07"
GROUP = "92f4c6d8-1b3e-4a70-8c59-7d0e6a2b5f41"
TEAM = "19:Yk3vQ8nTz5WbLm1@thread.tacv2"
CHANNEL = "19:d5b8a1f37e6c4920@thread.tacv2"
CHAT = "19:7c2e9f4b1a6d4805@thread.v2"
PERSONAL = "a:1xTb5HqWnV8kYrC3"
BOT = f"28:{APP}"
SERVICE_URL = "https://smba.trafficmanager.net/emea/"
ISSUER = "https://api.botframework.com"


@cache
def private_key(number: int) -> rsa.RSAPrivateKey:
    """Return the same key for the same number; each is generated once."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def make_services(**parts: Any) -> Services:
    """Return services that have only these parts."""
    return cast("Services", SimpleNamespace(**parts))


@dataclass
class Clock:
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)


def public_jwk(number: int, key_id: str, endorsements: list[str] | None) -> dict[str, Any]:
    key = dict(jwt.algorithms.RSAAlgorithm.to_jwk(private_key(number).public_key(), as_dict=True))
    key |= {"kid": key_id, "use": "sig"}
    return key if endorsements is None else key | {"endorsements": endorsements}


class OpenIdServer:
    """An OpenID server on loopback: publishes `keys`, and counts the `requests` for each document."""

    def __init__(self) -> None:
        self.keys: list[Any] = [public_jwk(1, "key-1", ["msteams"])]
        self.metadata: object = None
        self.status = 200
        self.requested = asyncio.Event()
        self.hold: asyncio.Event | None = None
        self.requests: Counter[str] = Counter()
        self.url = ""

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/openid", self._metadata)
        app.router.add_get("/keys", self._keys)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    async def _metadata(self, request: web.Request) -> web.Response:
        default = {"issuer": ISSUER, "jwks_uri": f"{self.url}/keys"}
        return await self._answer("openid", default if self.metadata is None else self.metadata)

    async def _keys(self, request: web.Request) -> web.Response:
        return await self._answer("keys", {"keys": self.keys})

    async def _answer(self, name: str, document: object) -> web.Response:
        self.requests[name] += 1
        self.requested.set()
        if self.hold:
            await self.hold.wait()
        return web.Response(body=orjson.dumps(document), status=self.status, content_type="application/json")


@pytest.fixture
async def openid_server() -> AsyncIterator[OpenIdServer]:
    server = OpenIdServer()
    runner = await server.start()
    try:
        yield server
    finally:
        await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(trust_env=False) as session:
        yield session


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(openid_server: OpenIdServer, session: aiohttp.ClientSession, clock: Clock) -> SigningKeys:
    return SigningKeys(f"{openid_server.url}/openid", session, clock)


def token_claims(**changed: object) -> dict[str, Any]:
    """Return the claims of a valid token with changes. None removes a claim, a number is in seconds from now."""
    now = int(datetime.now(UTC).timestamp())
    good = {"iss": ISSUER, "aud": APP, "nbf": -5, "exp": 3600, "serviceurl": SERVICE_URL} | changed
    times = {name: now + value if isinstance(value, int) else value for name, value in good.items()}
    return {name: value for name, value in times.items() if value is not None}


def sign_token(number: int = 1, key_id: object = "key-1", *, algorithm: str = "RS256", **changed: object) -> str:
    headers = {} if key_id is None else {"kid": key_id}
    return jwt.encode(token_claims(**changed), private_key(number), algorithm=algorithm, headers=headers)


def bearer(*arguments: Any, **changed: Any) -> str:
    return f"Bearer {sign_token(*arguments, **changed)}"


def make_settings(**changed: str) -> Settings:
    good = {
        "MicrosoftAppId": APP,
        "MicrosoftAppPassword": "a secret",
        "MicrosoftAppTenantId": TENANT,
        "AzureWebJobsStorage": "UseDevelopmentStorage=true",
    }
    return load_settings(good | changed)


def activity_json(kind: str, **changed: Any) -> dict[str, Any]:
    """Return an activity of Ada in her personal chat, with changes. None removes a field."""
    parts = {
        "type": kind,
        "id": "f:1",
        "timestamp": "2026-11-20T09:00:00.000Z",
        "channelId": "msteams",
        "serviceUrl": SERVICE_URL,
        "from": {"id": "29:ada", "aadObjectId": ADA},
        "recipient": {"id": BOT, "name": "Herald"},
        "conversation": {"conversationType": "personal", "tenantId": TENANT, "id": PERSONAL},
        "channelData": {"tenant": {"id": TENANT}},
    } | changed
    return {name: part for name, part in parts.items() if part is not None}


def message_json(**changed: Any) -> dict[str, Any]:
    """Return a message of Ada in her personal chat, with the fields that a Teams client adds."""
    client = {
        "from": {"id": "29:ada", "aadObjectId": ADA, "name": "Ada"},
        "text": "hello",
        "locale": "de-DE",
        "localTimezone": "Europe/Berlin",
        "localTimestamp": "2026-11-20T10:00:00.000+01:00",
        "entities": [{"type": "clientInfo", "locale": "de-DE", "country": "DE", "timezone": "Europe/Berlin"}],
    }
    return activity_json("message", **(client | changed))


def group_chat_fields() -> dict[str, Any]:
    return {
        "conversation": {
            "conversationType": "groupChat", "isGroup": True, "tenantId": TENANT, "id": CHAT, "name": "Release crew",
        },
    }  # fmt: skip


def channel_fields(channel: str = TEAM, /, **data: Any) -> dict[str, Any]:
    """Return the fields of an activity in a channel of the team; `data` is added to `channelData`."""
    return {
        "conversation": {"conversationType": "channel", "isGroup": True, "tenantId": TENANT, "id": channel},
        "channelData": {
            "tenant": {"id": TENANT}, "team": {"id": TEAM, "name": "Platform", "aadGroupId": GROUP}, **data,
        },
    }  # fmt: skip


class CountingTable(MemoryTable):
    """A table that counts its reads and writes."""

    calls: Counter[str]

    async def get(self, *arguments: Any, **named: Any) -> tuple[Row, str] | None:
        self.calls["read"] += 1
        return await super().get(*arguments, **named)

    async def insert(self, row: Row) -> str:
        self.calls["write"] += 1
        return await super().insert(row)

    async def merge(self, row: Row, etag: str) -> str:
        self.calls["write"] += 1
        return await super().merge(row, etag)


@pytest.fixture
async def table() -> CountingTable:
    """Table Conversations."""
    table = CountingTable(MemoryAccount().get_table_client("HeraldConversations"))
    table.calls = Counter()
    await table.create()
    return table


class ReferenceRecorder:
    """Storage of conversation references: records what is saved, or fails with `error`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.saved: list[tuple[str, str, str]] = []

    async def save(self, tenant: str, kind: str, identifier: str, observed: object, **_: object) -> None:
        if self.error:
            raise self.error
        self.saved.append((tenant, kind, identifier))

    async def get(self, *_: str) -> None:
        return None


class ForbiddenStorage:
    """Storage that fails the test when it is used."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"storage was used: {name}")


@pytest.fixture
def forbidden_storage() -> Conversations:
    return Conversations(ForbiddenStorage())  # type: ignore[arg-type]


@pytest.fixture
def without_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the bot store references only: it answers no command, and welcomes nobody."""

    async def do_nothing(*_: object) -> None:
        return

    for name in ("dispatch_command", "welcome_members", "welcome_person"):
        monkeypatch.setattr(f"messages.bot.{name}", do_nothing)
