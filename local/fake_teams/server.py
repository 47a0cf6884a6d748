"""The server of a fake Teams: one port, and the routing of each path to the part that serves it."""

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

from local.fake_teams.activity_sender import ISSUER, ActivitySender
from local.fake_teams.api import Behaviour, Growth
from local.fake_teams.certificates import create_certificates
from local.fake_teams.connector import FakeConnector
from local.fake_teams.control import ControlApi
from local.fake_teams.errors import ConnectorError, json_response
from local.fake_teams.fault_injector import apply_fault
from local.fake_teams.graph import FakeGraph
from local.fake_teams.state import FakeState
from local.fake_teams.token_issuer import BotRegistration
from local.fake_teams.world import HOME_TENANT

#: The only address on which it listens.
HOST = "127.0.0.1"
#: How long a stop waits for requests in flight.
DRAIN_SECONDS = 5.0
#: The id of the app, unless another is given.
APP_ID = "0d6a1c9e-7a52-4b1f-9a35-2f6f3d1b8c44"


@dataclass(frozen=True)
class Options:
    """The start options; port 0 is any free port, and without a CA file a temporary file is written."""

    port: int = 0
    tls: bool = True
    ca_file: Path | None = None
    app_id: str = APP_ID
    app_password: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    tenant: str = HOME_TENANT
    behaviour: Behaviour = field(default_factory=lambda: Behaviour())
    growth: Growth = field(default_factory=lambda: Growth())


class Server:
    """A fake Teams on one port; all of it runs on the loop that started it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        bot = BotRegistration(options.app_id, options.app_password, options.tenant.lower())
        self.state = FakeState(bot, options.behaviour, options.growth)
        self._connector = FakeConnector(self.state)
        self._sender = ActivitySender(self.state.keys, bot.app_id)
        self._graph = FakeGraph(self.state, self._sender, self)
        self._control = ControlApi(self.state, self, self._sender)
        self.url = ""
        self.ca_file: Path | None = None
        self._temporary_folder: str | None = None
        self._runner: web.ServerRunner | None = None

    @property
    def service_url(self) -> str:
        return f"{self.url}/teams/"

    def settings(self) -> dict[str, str]:
        """Return the settings of an app that uses this fake, as environment variables."""
        bot = self.state.bot
        settings = {
            "MicrosoftAppType": "SingleTenant",
            "MicrosoftAppId": bot.app_id,
            "MicrosoftAppPassword": bot.password,
            "MicrosoftAppTenantId": bot.tenant,
            "ToBotFromChannelOpenIdMetadataUrl": f"{self.url}/v1/.well-known/openidconfiguration",
            "ToBotFromChannelTokenIssuer": ISSUER,
            "ToChannelFromBotLoginUrl": f"{self.url}/{bot.tenant}",
            "HERALD_ALLOWED_TENANTS": ",".join(self.state.world.tenants),
            "HERALD_SERVICE_HOSTS": self.url.partition("://")[2],
        }
        if self.ca_file is not None:
            settings["SSL_CERT_FILE"] = settings["REQUESTS_CA_BUNDLE"] = str(self.ca_file)
        return settings

    async def start(self) -> None:
        """Start to listen; raises OSError if the port is taken."""
        try:
            context = await asyncio.to_thread(self._create_certificates) if self._options.tls else None
            await self.state.create_keys()
            self.state.reset()
            self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=DRAIN_SECONDS)
            await self._runner.setup()
            await web.TCPSite(self._runner, HOST, self._options.port, ssl_context=context, backlog=1024).start()
        except BaseException:
            await self.stop()
            raise
        scheme = "https" if self._options.tls else "http"
        self.url = f"{scheme}://{HOST}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """End waiting readers, wait for requests in flight, and close all connections."""
        self.state.inbox.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await self._graph.close()
        await self._sender.close()
        if self._temporary_folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._temporary_folder, ignore_errors=True)

    def _create_certificates(self) -> ssl.SSLContext:
        pem, context = create_certificates()
        self.ca_file = self._options.ca_file
        if self.ca_file is None:
            self._temporary_folder = tempfile.mkdtemp(prefix="fake-teams-")
            self.ca_file = Path(self._temporary_folder, "ca.pem")
        self.ca_file = self.ca_file.resolve()
        self.ca_file.parent.mkdir(parents=True, exist_ok=True)
        self.ca_file.write_bytes(pem)
        return context

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        if path.startswith("/teams/"):
            return await self._connector.serve(request, path[7:], query)
        if path.startswith("/v1.0/"):
            return await self._graph.serve(request, path[6:], query)
        if path.startswith("/_fake/"):
            return await self._control.serve(request, path[7:], query)
        match request.method, path.split("/")[1:]:
            case "GET", ["v1", ".well-known", "openidconfiguration"]:
                return await self._respond(request, "openid", "metadata", self._get_metadata)
            case "GET", ["v1", ".well-known", "keys"]:
                return await self._respond(request, "openid", "keys", self._get_jwks)
            case "GET", [tenant, "v2.0", ".well-known", "openid-configuration"]:

                async def discover() -> web.Response:
                    return json_response(200, self.state.tokens.discovery(self.url, tenant))

                return await self._respond(request, "login", "discovery", discover)
            case "POST", [tenant, "oauth2", "v2.0", "token"]:

                async def grant() -> web.Response:
                    await asyncio.sleep(self.state.behaviour.token_latency)
                    return json_response(200, self.state.tokens.grant(self.url, tenant, dict(await request.post())))

                return await self._respond(request, "login", "token", grant)
        error = ConnectorError(404, "NotFound", f"No resource at {request.method} {path}.")
        return json_response(404, error.body)

    async def _get_metadata(self) -> web.Response:
        return json_response(200, self.state.keys.metadata(self.url, ISSUER))

    async def _get_jwks(self) -> web.Response:
        return json_response(200, self.state.keys.jwks())

    async def _respond(
        self,
        request: web.BaseRequest,
        surface: str,
        operation: str,
        respond: Callable[[], Awaitable[web.Response]],
    ) -> web.Response:
        self.state.traffic.count_connection(request, surface)
        fault = self.state.faults.match(operation, time.monotonic())
        response = None
        try:
            if fault is not None and not fault.accept:
                response = await apply_fault(fault, request)
            if response is None:
                response = await respond()
                if fault is not None and fault.accept:
                    response = await apply_fault(fault, request) or response
        except ConnectorError as error:
            response = json_response(error.status, error.body)
        self.state.traffic.count_response(operation, request, response)
        return response
