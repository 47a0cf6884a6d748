"""A fake Teams for all tests of a process. It runs on its own thread, because each test has its own event loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Self

from local.fake_teams.activity_sender import ActivitySender
from local.fake_teams.server import Options, Server
from local.fake_teams.token_issuer import CONNECTOR_AUDIENCE

#: Longest time to start, to stop, and to issue a token.
TIMEOUT_SECONDS = 30


class ServerThread:
    def __init__(self) -> None:
        self._server = Server(Options())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-teams", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(TIMEOUT_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(TIMEOUT_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_SECONDS)
        self._loop.close()

    async def _issue_token(self) -> str:
        tenant = self._server.state.bot.tenant
        issuer = f"{self.url}/{tenant}/v2.0"
        return str(self._server.state.tokens.issue(issuer, tenant, CONNECTOR_AUDIENCE)["access_token"])

    def token(self) -> str:
        """Return a new access token of the bot, without a request."""
        return asyncio.run_coroutine_threadsafe(self._issue_token(), self._loop).result(TIMEOUT_SECONDS)

    def request_count(self) -> int:
        """Return the number of requests to the Connector so far."""
        return sum(counts.total() for counts in list(self._server.state.traffic.requests.values()))

    def authorization(self, service_url: str) -> str:
        """Return the header of Teams' requests from a serviceUrl, valid for an hour."""
        state = self._server.state
        return ActivitySender(state.keys, state.bot.app_id)._sign(service_url)

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def ca_file(self) -> Path | None:
        return self._server.ca_file
