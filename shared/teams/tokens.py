"""Fetch our own tokens from Entra ID with msal: off the loop, once for all who wait, and cached until they expire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from shared.settings import Settings

#: Seconds before its end at which a token is replaced; a tenth of a shorter life.
MARGIN = 300
#: Seconds for which a refusal of the token service stands, so that waiting senders do not storm it.
REFUSED_FOR = 10
#: Seconds that one request to the token service may take.
TIMEOUT = 20

_MICROSOFT = ("login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn")


class NoToken(Exception):
    """The token service gave none; the text is its error code, or the kind of failure, and never a secret."""


class Tokens:
    """The bot's access token for the connector. Without an app id (Development only) there is none."""

    def __init__(self, settings: Settings, monotonic: Callable[[], float]) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._token = ""
        self._until = 0.0
        self._refused = ""
        self._fetching: asyncio.Task[None] | None = None

    async def get(self, instead_of: str = "") -> str:
        """The token, or "" without an app id; `instead_of` is one that Teams refused. Raises `NoToken`."""
        if not self._settings.app_id:
            return ""
        if self._monotonic() >= self._until or (instead_of and instead_of == self._token):
            if self._fetching is None:
                self._fetching = asyncio.create_task(self._fetch())
                self._fetching.add_done_callback(self._fetched)
            await asyncio.shield(self._fetching)
        if self._refused:
            raise NoToken(self._refused)
        return self._token

    def _fetched(self, _task: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        answer = await asyncio.to_thread(_ask, self._settings)
        self._token = str(answer.get("access_token") or "")
        self._refused = "" if self._token else str(answer.get("error") or "no access_token in the answer")
        lifetime = float(answer.get("expires_in", 0)) if self._token else REFUSED_FOR
        self._until = self._monotonic() + lifetime - min(MARGIN, lifetime / 10)


def _ask(settings: Settings) -> dict[str, Any]:
    """One request to the token service, in a thread of its own: msal blocks, and imports slowly.

    The application object lives for this request alone, as its cache would return a token that Teams refused.
    """
    import msal
    import requests

    try:
        if settings.kind == "UserAssignedMSI":
            session = requests.Session()
            session.request = partial(session.request, timeout=TIMEOUT)
            identity = msal.UserAssignedManagedIdentity(client_id=settings.app_id)
            client = msal.ManagedIdentityClient(identity, http_client=session)
            answer = client.acquire_token_for_client(resource=settings.oauth_scope.removesuffix("/.default"))
        else:
            application = msal.ConfidentialClientApplication(
                settings.app_id,
                authority=settings.authority,
                client_credential=settings.app_password,
                instance_discovery=None if urlsplit(settings.authority).hostname in _MICROSOFT else False,
                timeout=TIMEOUT,
            )
            answer = application.acquire_token_for_client(scopes=[settings.oauth_scope])
    # OSError is what requests raises, also where the file of REQUESTS_CA_BUNDLE is missing.
    except (OSError, ValueError, msal.exceptions.MsalError, msal.ManagedIdentityError) as error:
        return {"error": type(error).__name__}
    return dict(answer)
