"""A fake Teams that serves one test after the other, on a thread of its own: each test has a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Self

from local.fake_teams.server import Options, Server

#: Seconds that its start and its stop may take.
PATIENCE = 30


class ServerThread:
    def __init__(self) -> None:
        self._server = Server(Options())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-teams", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    async def _grant(self) -> str:
        bot = self._server.state.bot
        form = {"grant_type": "client_credentials", "client_id": bot.app_id, "client_secret": bot.password}
        form["scope"] = "https://api.botframework.com/.default"
        return str(self._server.state.tokens.grant(self.url, bot.tenant, form)["access_token"])

    def token(self) -> str:
        """A new access token of the bot, without a request for it."""
        return asyncio.run_coroutine_threadsafe(self._grant(), self._loop).result(PATIENCE)

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def ca_file(self) -> Path | None:
        return self._server.ca_file
