"""The Bot Connector: the requests of the Bot Framework's REST API by which Teams is told something.

One pooled session serves all; an activity is given as the bytes of its JSON, so that one message to many people
is encoded once. Whatever happens comes back as an `Outcome`; nothing is raised, and nothing is repeated but a
request that was refused for its token.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from shared.states import Reason
from shared.teams.outcome import Outcome, Verdict, classify
from shared.teams.tokens import NoToken, Tokens

#: Seconds that a request to Teams may take in all, and to connect.
TIMEOUT = 30
CONNECT_TIMEOUT = 10

log = logging.getLogger(__name__)


class Connector:
    def __init__(
        self,
        session: aiohttp.ClientSession,
        tokens: Tokens,
        allowed: Callable[[str], bool],
        clock: Callable[[], datetime],
    ) -> None:
        """`allowed` says whether a serviceUrl may be given our token."""
        self._session, self._tokens, self._allowed, self._clock = session, tokens, allowed, clock

    async def create_conversation(self, service_url: str, tenant: str, bot_id: str, user: str) -> Outcome:
        """Open the personal chat with a person, by Entra object id or `29:` id; the same one where it exists."""
        body: dict[str, Any] = {
            "isGroup": False,
            "bot": {"id": bot_id},
            "members": [{"id": user}],
            "tenantId": tenant,
            "channelData": {"tenant": {"id": tenant}},
        }
        return await self._request("POST", service_url, "/v3/conversations", orjson.dumps(body))

    async def send(self, service_url: str, conversation: str, activity: bytes) -> Outcome:
        """Send an activity to a conversation; `activity_id` of the outcome is its id in Teams."""
        return await self._request("POST", service_url, _path(conversation), activity)

    async def _request(self, method: str, service_url: str, path: str, body: bytes) -> Outcome:
        if not self._allowed(service_url):
            return Outcome(Verdict.FAILED, Reason.HOST_NOT_ALLOWED)
        url = URL(service_url.rstrip("/") + path, encoded=True)
        outcome, token = await self._once(method, url, body, "")
        if outcome.reason is Reason.UNAUTHORIZED and token:
            outcome, _ = await self._once(method, url, body, token)
        return outcome

    async def _once(self, method: str, url: URL, body: bytes, refused: str) -> tuple[Outcome, str]:
        try:
            token = await self._tokens.get(instead_of=refused)
        except NoToken as error:
            log.error("The token service refuses us a token (%s): check MicrosoftAppId and its secret", error)
            return Outcome(Verdict.RETRY, Reason.NO_TOKEN), ""
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            # No redirect is followed: it would carry the token to wherever it points.
            async with self._session.request(
                method, url, data=body, headers=headers, timeout=_TIMEOUT, allow_redirects=False
            ) as answer:
                return classify(answer.status, answer.headers, await answer.read(), self._clock()), token
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return Outcome(Verdict.RETRY, Reason.UNREACHABLE), token
        except (TimeoutError, aiohttp.ClientError, OSError):
            return Outcome(Verdict.UNKNOWN, Reason.NO_ANSWER), token


_TIMEOUT = aiohttp.ClientTimeout(total=TIMEOUT, sock_connect=CONNECT_TIMEOUT)


def _path(conversation: str) -> str:
    return f"/v3/conversations/{quote(conversation, safe='')}/activities"
