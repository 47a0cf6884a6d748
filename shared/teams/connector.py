"""A client of the Bot Connector: the REST API of the Bot Framework that sends, edits and deletes messages.

One pooled session serves all requests. An activity is passed as the bytes of its JSON, so that one message to many
people is encoded once. Every result is an `Outcome`: nothing is raised, and nothing is retried except a request that
was refused for its token.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from shared.conversation_ids import channel_of
from shared.states import Reason
from shared.teams.outcome import Outcome, Verdict, classify
from shared.teams.rate_limiter import RateLimiter, RetryLater
from shared.teams.tokens import NoToken, Tokens

#: Seconds that a request to Teams may take in all, and to connect.
TIMEOUT = 30
CONNECT_TIMEOUT = 10
#: Seconds for which nothing is sent to a tenant when our token is not accepted: that needs a person.
TOKEN_PAUSE = 60.0
#: Seconds to wait after a 429 that names no time, by chance in between (full jitter).
THROTTLED_PAUSE = (1.0, 5.0)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """Where requests go: the tenant's lane, whether they pass others in it, and the serviceUrl."""

    tenant: str
    service_url: str
    urgent: bool = False


class Connector:
    def __init__(
        self,
        session: aiohttp.ClientSession,
        tokens: Tokens,
        allowed: Callable[[str], bool],
        clock: Callable[[], datetime],
        pacer: RateLimiter | None,
    ) -> None:
        """`allowed` says whether a serviceUrl may be given our token. Without a `pacer` nothing waits for its turn."""
        self._session, self._tokens, self._allowed, self._clock, self._pacer = session, tokens, allowed, clock, pacer

    async def create_conversation(self, route: Route, bot_id: str, user: str) -> Outcome:
        """Open the personal chat with a person, by Entra object id or `29:` id; the same one where it exists."""
        body: dict[str, Any] = {
            "isGroup": False,
            "bot": {"id": bot_id},
            "members": [{"id": user}],
            "tenantId": route.tenant,
            "channelData": {"tenant": {"id": route.tenant}},
        }
        return await self._request("POST", route, "/v3/conversations", orjson.dumps(body))

    async def send(self, route: Route, conversation: str, activity: bytes) -> Outcome:
        """Send an activity to a conversation; `activity_id` of the outcome is its id in Teams."""
        return await self._request("POST", route, _path(conversation), activity, conversation)

    async def update(self, route: Route, conversation: str, activity_id: str, activity: bytes) -> Outcome:
        """Replace an activity that was sent."""
        return await self._request("PUT", route, _path(conversation, activity_id), activity, conversation)

    async def delete(self, route: Route, conversation: str, activity_id: str) -> Outcome:
        """Take an activity back that was sent."""
        return await self._request("DELETE", route, _path(conversation, activity_id), b"", conversation)

    async def members(self, route: Route, conversation: str, size: int, continuation: str) -> Outcome:
        """A page of the people in a conversation or team; `body` of the outcome is Teams' `PagedMembersResult`."""
        asked = {"pageSize": str(size)} | ({"continuationToken": continuation} if continuation else {})
        path = f"/v3/conversations/{quote(conversation, safe='')}/pagedmembers?{urlencode(asked)}"
        return await self._request("GET", route, path, b"")

    async def _request(self, method: str, route: Route, path: str, body: bytes, conversation: str = "") -> Outcome:
        if not self._allowed(route.service_url):
            return Outcome(Verdict.FAILED, Reason.HOST_NOT_ALLOWED)
        url = URL(route.service_url.rstrip("/") + path, encoded=True)
        lane = channel_of(conversation)
        outcome, token = await self._once(method, route, url, body, lane, "")
        if outcome.reason is Reason.UNAUTHORIZED and token:
            outcome, _ = await self._once(method, route, url, body, lane, token)
        if outcome.reason is Reason.THROTTLED:
            wait = outcome.retry_after
            outcome = replace(outcome, retry_after=random.uniform(*THROTTLED_PAUSE) if wait is None else wait)  # noqa: S311
        elif outcome.reason in (Reason.UNAUTHORIZED, Reason.NO_TOKEN):
            log.error("Teams takes no message of ours (%s): check MicrosoftAppId and its secret", outcome.reason)
            outcome = replace(outcome, retry_after=TOKEN_PAUSE)
        if self._pacer and outcome.reason in _HOLDS and outcome.retry_after:
            # All that we send keeps the windows of its conversation, by our count: so the tenant is full as well.
            await self._pacer.hold_tenant(route.tenant, outcome.retry_after)
            if lane and outcome.reason is Reason.THROTTLED:
                await self._pacer.hold_conversation(route.tenant, lane, outcome.retry_after)
        return outcome

    async def _once(
        self, method: str, route: Route, url: URL, body: bytes, lane: str, refused: str
    ) -> tuple[Outcome, str]:
        try:
            token = await self._tokens.get(instead_of=refused)
            if self._pacer:
                await self._pacer.turn(route.tenant, lane, urgent=route.urgent)
        except NoToken as error:
            log.error("The token service refuses us a token (%s)", error)
            return Outcome(Verdict.RETRY, Reason.NO_TOKEN), ""
        except RetryLater as later:
            return Outcome(Verdict.RETRY, Reason.PACED, later.seconds), ""
        headers = {"Content-Type": "application/json"} if body else {}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            # No redirect is followed: it would carry the token to wherever it points.
            async with self._session.request(
                method, url, data=body or None, headers=headers, timeout=_TIMEOUT, allow_redirects=False
            ) as answer:
                return classify(answer.status, answer.headers, await answer.read(), self._clock()), token
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return Outcome(Verdict.RETRY, Reason.UNREACHABLE), token
        except (TimeoutError, aiohttp.ClientError, OSError):
            return Outcome(Verdict.UNKNOWN, Reason.NO_ANSWER), token


_TIMEOUT = aiohttp.ClientTimeout(total=TIMEOUT, sock_connect=CONNECT_TIMEOUT)
_HOLDS = (Reason.THROTTLED, Reason.UNAUTHORIZED, Reason.NO_TOKEN)


def _path(conversation: str, activity_id: str = "") -> str:
    path = f"/v3/conversations/{quote(conversation, safe='')}/activities"
    return f"{path}/{quote(activity_id, safe='')}" if activity_id else path
