"""Fetch the bot's access token from Entra ID with msal, once for all waiting requests, and cache it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from shared.settings import Settings

#: A token is replaced this long before it expires, or after nine tenths of a shorter lifetime.
REFRESH_MARGIN_SECONDS = 300
#: A refusal of the token service is cached this long, so that waiting requests do not flood it.
REFUSAL_CACHE_SECONDS = 10
#: Timeout of a request to the token service.
TIMEOUT_SECONDS = 20

_MICROSOFT = ("login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn")


class NoToken(Exception):
    """The token service returned no token; the text is its error code or the kind of failure, never a secret."""


class Tokens:
    """The bot's access token for the connector. Without an app id (Development only) the token is ""."""

    def __init__(self, settings: Settings, monotonic: Callable[[], float]) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._token = ""
        self._refresh_at = 0.0
        self._error = ""
        self._fetching: asyncio.Task[None] | None = None

    async def get(self, refused: str = "") -> str:
        """Return the token, another than `refused`, the one that Teams did not accept; raise `NoToken`."""
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
        answer = await asyncio.to_thread(_request_token, self._settings)
        self._token = str(answer.get("access_token") or "")
        self._error = "" if self._token else str(answer.get("error") or "no access_token in the answer")
        lifetime = float(answer.get("expires_in", 0)) if self._token else REFUSAL_CACHE_SECONDS
        self._refresh_at = self._monotonic() + lifetime - min(REFRESH_MARGIN_SECONDS, lifetime / 10)


def _request_token(settings: Settings) -> dict[str, Any]:
    """Request a token; runs in a thread, because msal blocks and imports slowly.

    Each request has its own application object: the cache of an older one would return the token that Teams refused.
    """
    import msal
    import requests

    try:
        if settings.effective_app_type == "UserAssignedMSI":
            session = requests.Session()
            session.request = partial(session.request, timeout=TIMEOUT_SECONDS)
            identity = msal.UserAssignedManagedIdentity(client_id=settings.app_id)
            client = msal.ManagedIdentityClient(identity, http_client=session)
            answer = client.acquire_token_for_client(resource=settings.oauth_scope.removesuffix("/.default"))
        else:
            application = msal.ConfidentialClientApplication(
                settings.app_id,
                authority=settings.authority,
                client_credential=settings.app_password,
                instance_discovery=None if urlsplit(settings.authority).hostname in _MICROSOFT else False,
                timeout=TIMEOUT_SECONDS,
            )
            answer = application.acquire_token_for_client(scopes=[settings.oauth_scope])
    # requests raises OSError, also if the file of REQUESTS_CA_BUNDLE is missing.
    except (OSError, ValueError, msal.exceptions.MsalError, msal.ManagedIdentityError) as error:
        return {"error": type(error).__name__}
    return dict(answer)
