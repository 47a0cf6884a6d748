"""Fetch the app's access token for Teams or Graph, once for all waiting requests, and cache it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from shared.teams.credentials import request_token

if TYPE_CHECKING:
    from shared.settings import Settings

#: A token is replaced this long before it expires, or after nine tenths of a shorter lifetime.
REFRESH_MARGIN_SECONDS = 300
#: A refusal of the token service is cached this long, so that waiting requests do not flood it.
REFUSAL_CACHE_SECONDS = 10


class NoToken(Exception):
    """The token service returned no token; the text is its error code or the kind of failure, never a secret."""


class Tokens:
    """The app's access token for one scope of one authority. Without an app id (Development only) the token is ""."""

    def __init__(
        self, settings: Settings, monotonic: Callable[[], float], scope: str = "", authority: str = ""
    ) -> None:
        """By default, `scope` and `authority` (`https://host/tenant`) are those of the bot's token for Teams."""
        self._settings, self._scope, self._authority = settings, scope, authority
        self._monotonic = monotonic
        self._token = ""
        self._refresh_at = 0.0
        self._error = ""
        self._fetching: asyncio.Task[None] | None = None

    async def get(self, refused: str = "") -> str:
        """Return the token, another than `refused`, the one that was not accepted; raise `NoToken`."""
        if not self._settings.app_id:
            return ""
        if self._monotonic() >= self._refresh_at or (refused and refused == self._token):
            if self._fetching is None:
                self._fetching = asyncio.create_task(self._fetch())
                self._fetching.add_done_callback(self._clear_task)
            await asyncio.shield(self._fetching)
        if self._error:
            raise NoToken(self._error)
        return self._token

    def _clear_task(self, _task: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        settings = self._settings
        scope, authority = self._scope or settings.oauth_scope, self._authority or settings.authority
        answer = await asyncio.to_thread(request_token, settings, scope, authority)
        self._token = str(answer.get("access_token") or "")
        self._error = "" if self._token else str(answer.get("error") or "no access_token in the answer")
        lifetime = float(answer.get("expires_in", 0)) if self._token else REFUSAL_CACHE_SECONDS
        self._refresh_at = self._monotonic() + lifetime - min(REFRESH_MARGIN_SECONDS, lifetime / 10)
