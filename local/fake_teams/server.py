"""One fake Teams: its parts, the listener, and which part serves which path."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from local.fake_teams import certificates
from local.fake_teams.api import Behaviour, Growth
from local.fake_teams.connector import Connector
from local.fake_teams.control import Control
from local.fake_teams.courier import ISSUER, Courier
from local.fake_teams.errors import Refusal, answer
from local.fake_teams.faults import Faults, strike
from local.fake_teams.inbox import Inbox
from local.fake_teams.keys import KeyRing
from local.fake_teams.limits import Limits
from local.fake_teams.tokens import Bot, Tokens
from local.fake_teams.traffic import Traffic
from local.fake_teams.world import HOME_TENANT, Chat, Person, Team, World

#: Where it listens: nowhere else than here.
HOST = "127.0.0.1"
#: Seconds that requests in flight get to end when it stops.
DRAIN = 5.0
#: The app's id, when none is given.
APP_ID = "0d6a1c9e-7a52-4b1f-9a35-2f6f3d1b8c44"


@dataclass(frozen=True)
class Options:
    """How to start; port 0 is a free one, without a CA file a temporary one is written."""

    port: int = 0
    tls: bool = True
    ca_file: Path | None = None
    app_id: str = APP_ID
    app_password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    tenant: str = HOME_TENANT
    behaviour: Behaviour = field(default_factory=lambda: Behaviour())
    growth: Growth = field(default_factory=lambda: Growth())


class Server:
    """A fake Teams on one port; every part of it lives on the loop that started it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.bot = Bot(options.app_id, options.app_password, options.tenant.lower())
        self.behaviour = options.behaviour.model_copy()
        self.world = World()
        self.keys = KeyRing()
        self.tokens = Tokens(self.bot, self.behaviour)
        self.limits = Limits(self.behaviour)
        self.faults = Faults()
        self.inbox = Inbox()
        self.traffic = Traffic()
        self.courier = Courier(self.keys, self.bot.app_id)
        self._control = Control(self)
        self._connector = Connector(
            world=self.world, tokens=self.tokens, limits=self.limits, faults=self.faults, inbox=self.inbox,
            behaviour=self.behaviour, traffic=self.traffic,
        )  # fmt: skip
        self.url = ""
        self.ca_file: Path | None = None
        self._temporary: str | None = None
        self._runner: web.ServerRunner | None = None

    @property
    def service_url(self) -> str:
        return f"{self.url}/teams/"

    def settings(self) -> dict[str, str]:
        """The environment of an app that is to talk to this fake, by the names of its settings."""
        settings = {
            "MicrosoftAppType": "SingleTenant",
            "MicrosoftAppId": self.bot.app_id,
            "MicrosoftAppPassword": self.bot.password,
            "MicrosoftAppTenantId": self.bot.tenant,
            "ToBotFromChannelOpenIdMetadataUrl": f"{self.url}/v1/.well-known/openidconfiguration",
            "ToBotFromChannelTokenIssuer": ISSUER,
            "ToChannelFromBotLoginUrl": f"{self.url}/{self.bot.tenant}",
            "HERALD_ALLOWED_TENANTS": ",".join(self.world.tenants),
            "HERALD_SERVICE_HOSTS": self.url.partition("://")[2],
        }
        if self.ca_file is not None:
            settings["SSL_CERT_FILE"] = settings["REQUESTS_CA_BUNDLE"] = str(self.ca_file)
        return settings

    async def start(self) -> None:
        """Listens; raises OSError when the port is taken."""
        try:
            context = await asyncio.to_thread(self._certify) if self._options.tls else None
            await asyncio.gather(self.keys.begin(), self.tokens.begin())
            self.reset()
            self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=DRAIN)
            await self._runner.setup()
            await web.TCPSite(self._runner, HOST, self._options.port, ssl_context=context, backlog=1024).start()
        except BaseException:
            await self.stop()
            raise
        scheme = "https" if self._options.tls else "http"
        self.url = f"{scheme}://{HOST}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Ends waiting readers, lets requests in flight end, and closes everything."""
        self.inbox.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await self.courier.close()
        if self._temporary is not None:
            await asyncio.to_thread(shutil.rmtree, self._temporary, ignore_errors=True)

    def reset(self) -> None:
        """Back to the state at the start; keys and tokens stay good, so that an app may go on."""
        for part in (self.world, self.tokens, self.limits, self.faults, self.inbox, self.traffic):
            part.clear()
        for name in Behaviour.model_fields:
            setattr(self.behaviour, name, getattr(self._options.behaviour, name))
        self.grow(self._options.growth.model_copy(update={"tenant": self.bot.tenant}))

    def grow(self, growth: Growth) -> tuple[list[Person], list[Team], list[Chat]]:
        """Adds to the world, and returns what is new."""
        world = self.world
        tenant = world.add_tenant(growth.tenant)
        people = [
            world.add_person(tenant, installed=growth.installed, locale=growth.locale, time_zone=growth.time_zone)
            for _ in range(growth.people)
        ]
        teams = [
            world.add_team(
                tenant, world.take_members(tenant, growth.members, turn),
                channels=growth.channels, installed=growth.installed,
            )
            for turn in range(growth.teams)
        ]  # fmt: skip
        chats = [
            world.add_chat(tenant, world.take_members(tenant, growth.members, turn), installed=growth.installed)
            for turn in range(growth.chats)
        ]
        return people, teams, chats

    def _certify(self) -> ssl.SSLContext:
        pem, context = certificates.make()
        self.ca_file = self._options.ca_file
        if self.ca_file is None:
            self._temporary = tempfile.mkdtemp(prefix="fake-teams-")
            self.ca_file = Path(self._temporary, "ca.pem")
        self.ca_file = self.ca_file.resolve()
        self.ca_file.parent.mkdir(parents=True, exist_ok=True)
        self.ca_file.write_bytes(pem)
        return context

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        if path.startswith("/teams/"):
            return await self._connector.serve(request, path[7:], query)
        if path.startswith("/_fake/"):
            return await self._control.serve(request, path[7:], query)
        match request.method, path.split("/")[1:]:
            case "GET", ["v1", ".well-known", "openidconfiguration"]:
                return await self._answer(request, "openid", "metadata", self._metadata)
            case "GET", ["v1", ".well-known", "keys"]:
                return await self._answer(request, "openid", "keys", self._jwks)
            case "GET", [tenant, "v2.0", ".well-known", "openid-configuration"]:

                async def discover() -> web.Response:
                    return answer(200, self.tokens.discovery(self.url, tenant))

                return await self._answer(request, "login", "discovery", discover)
            case "POST", [tenant, "oauth2", "v2.0", "token"]:

                async def grant() -> web.Response:
                    await asyncio.sleep(self.behaviour.token_latency)
                    return answer(200, self.tokens.grant(self.url, tenant, dict(await request.post())))

                return await self._answer(request, "login", "token", grant)
        return answer(404, {"error": {"code": "NotFound", "message": f"No resource at {request.method} {path}."}})

    async def _metadata(self) -> web.Response:
        return answer(200, self.keys.metadata(self.url, ISSUER))

    async def _jwks(self) -> web.Response:
        return answer(200, self.keys.jwks())

    async def _answer(
        self,
        request: web.BaseRequest,
        surface: str,
        operation: str,
        respond: Callable[[], Awaitable[web.Response]],
    ) -> web.Response:
        self.traffic.connection(request, surface)
        fault = self.faults.meet(operation, time.monotonic())
        response = None
        try:
            if fault is not None and not fault.accept:
                response = await strike(fault, request)
            if response is None:
                response = await respond()
                if fault is not None and fault.accept:
                    response = await strike(fault, request) or response
        except Refusal as refusal:
            response = answer(refusal.status, refusal.body)
        self.traffic.answered(operation, request, response)
        return response
