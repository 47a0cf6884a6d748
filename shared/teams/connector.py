"""Client of the Bot Connector, the REST API of the Bot Framework that sends, edits and deletes messages.

One pooled session serves all requests. An activity is passed as the bytes of its JSON, so that one message to many
people is encoded once. Every result is an `Outcome`: the methods raise nothing for what Teams answers, and retry only a
request whose token was refused.
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
from shared.storage.rate_lanes import LaneKind
from shared.teams.exchange import exchange
from shared.teams.outcome import Outcome, Verdict, classify
from shared.teams.rate_limiter import RateLimiter, RetryLater
from shared.teams.tokens import NoToken, Tokens
from shared.time.longer_waits import LongerWaits

#: API host of the GCC cloud, which is asked after an answer `InvalidBotApiHost` ("Send proactive messages").
GCC = "https://smba.infra.gcc.teams.microsoft.com/teams"
#: Shortest and longest pause of a tenant's lane if the bot's token is not accepted: an operator must mend the settings.
TOKEN_PAUSE_SECONDS = (60.0, 900.0)
#: Range of the random pause after a 429 without Retry-After.
THROTTLED_PAUSE_SECONDS = (1.0, 5.0)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Route:
    """The tenant and serviceUrl of a request, and whether it goes before those that are not urgent.

    `recipient` (`Delivery.recipient`) is whose windows a message keeps. Lists of members or channels need none.
    """

    tenant: str
    service_url: str
    urgent: bool = False
    recipient: str = ""


@dataclass(frozen=True, slots=True)
class _Lane:
    """The recipient, roster or team whose windows a request keeps.

    `has_own_limit` means that a 429 may be about this conversation alone, because other bots write to it, too.
    """

    key: str
    kind: LaneKind = LaneKind.CONVERSATION
    has_own_limit: bool = True


def _lane_of(route: Route) -> _Lane:
    return _Lane(channel_of(route.recipient))


def _roster_lane(conversation: str) -> _Lane:
    return _Lane(conversation, LaneKind.ROSTER, has_own_limit=False)


class Connector:
    def __init__(
        self,
        session: aiohttp.ClientSession,
        tokens: Tokens,
        allowed: Callable[[str], bool],
        clock: Callable[[], datetime],
        rate_limiter: RateLimiter | None,
    ) -> None:
        """`allowed` returns whether the bot's token may be sent to a serviceUrl; without a limiter nothing waits."""
        self._session, self._tokens, self._allowed, self._clock = session, tokens, allowed, clock
        self._rate_limiter = rate_limiter
        self._token_waits = LongerWaits(*TOKEN_PAUSE_SECONDS)

    async def create_conversation(self, route: Route, bot_id: str, user: str) -> Outcome:
        """Create the personal chat with a person, by Entra object id or `29:` id; Teams returns an existing one."""
        body: dict[str, Any] = {
            "isGroup": False,
            "bot": {"id": bot_id},
            "members": [{"id": user}],
            "tenantId": route.tenant,
            "channelData": {"tenant": {"id": route.tenant}},
        }
        lane = replace(_lane_of(route), has_own_limit=False)
        return await self._request("POST", route, "/v3/conversations", orjson.dumps(body), lane)

    async def send(self, route: Route, conversation: str, activity: bytes) -> Outcome:
        """Send an activity to a conversation; the outcome has its `activity_id`."""
        return await self._request("POST", route, _path(conversation), activity, _lane_of(route))

    async def update(self, route: Route, conversation: str, activity_id: str, activity: bytes) -> Outcome:
        """Replace a sent activity."""
        path = _path(conversation, activity_id)
        return await self._request("PUT", route, path, activity, _lane_of(route))

    async def delete(self, route: Route, conversation: str, activity_id: str) -> Outcome:
        """Delete a sent activity."""
        return await self._request("DELETE", route, _path(conversation, activity_id), b"", _lane_of(route))

    async def members(self, route: Route, conversation: str, size: int, continuation: str) -> Outcome:
        """Read a page of the members of a conversation or team; the outcome's `body` is Teams' `PagedMembersResult`."""
        query = {"pageSize": str(size)} | ({"continuationToken": continuation} if continuation else {})
        path = f"/v3/conversations/{quote(conversation, safe='')}/pagedmembers?{urlencode(query)}"
        return await self._request("GET", route, path, b"", _roster_lane(conversation))

    async def channels(self, route: Route, team: str) -> Outcome:
        """Read the standard channels of a team; the outcome's `body` is Teams' `ConversationList`."""
        path = f"/v3/teams/{quote(team, safe='')}/conversations"
        return await self._request("GET", route, path, b"", _roster_lane(team))

    async def _request(self, method: str, route: Route, path: str, body: bytes, lane: _Lane) -> Outcome:
        outcome = await self._request_from(method, route, path, body, lane)
        if outcome.reason is Reason.WRONG_CLOUD and route.service_url != GCC:
            outcome = await self._request_from(method, replace(route, service_url=GCC), path, body, lane)
            return replace(outcome, service_url=GCC if outcome.verdict is Verdict.DONE else "")
        return outcome

    async def _request_from(self, method: str, route: Route, path: str, body: bytes, lane: _Lane) -> Outcome:
        if not self._allowed(route.service_url):
            return Outcome(Verdict.FAILED, Reason.HOST_NOT_ALLOWED)
        url = URL(route.service_url.rstrip("/") + path, encoded=True)
        outcome, token = await self._attempt(method, route, url, body, lane, "")
        if outcome.reason is Reason.UNAUTHORIZED and token:
            outcome, _ = await self._attempt(method, route, url, body, lane, token)
        if outcome.verdict is Verdict.DONE:
            self._token_waits.succeeded()
        if outcome.reason is Reason.THROTTLED:
            wait = outcome.retry_after
            outcome = replace(outcome, retry_after=random.uniform(*THROTTLED_PAUSE_SECONDS) if wait is None else wait)  # noqa: S311
        elif outcome.reason in (Reason.UNAUTHORIZED, Reason.NO_TOKEN):
            log.error(
                "Teams does not accept the bot's token (%s): check MicrosoftAppId and its credential", outcome.reason
            )
            outcome = replace(outcome, retry_after=self._token_waits.failed())
        if self._rate_limiter and outcome.reason in _PAUSING and outcome.retry_after:
            if lane.has_own_limit and outcome.reason is Reason.THROTTLED:
                await self._rate_limiter.pause_conversation(route.tenant, lane.key, outcome.retry_after)
            else:
                await self._rate_limiter.pause_tenant(route.tenant, outcome.retry_after)
        return outcome

    async def _attempt(
        self, method: str, route: Route, url: URL, body: bytes, lane: _Lane, refused_token: str
    ) -> tuple[Outcome, str]:
        """Send the request once; return the outcome, and the token that was used."""
        try:
            token = await self._tokens.get(refused=refused_token)
            if self._rate_limiter:
                await self._rate_limiter.wait_for_slot(route.tenant, lane.key, urgent=route.urgent, kind=lane.kind)
        except NoToken as error:
            log.error("The token service returned no token (%s): check MicrosoftAppId and its credential", error)
            return Outcome(Verdict.RETRY, Reason.NO_TOKEN), ""
        except RetryLater as later:
            return Outcome(Verdict.RETRY, Reason.PACED, later.seconds), ""
        answer = await exchange(self._session, method, url, body, token)
        if isinstance(answer, Reason):
            return Outcome(Verdict.RETRY if answer is Reason.UNREACHABLE else Verdict.UNKNOWN, answer), token
        return classify(answer.status, answer.headers, answer.body, self._clock()), token


#: Reasons that pause a lane.
_PAUSING = (Reason.THROTTLED, Reason.UNAUTHORIZED, Reason.NO_TOKEN)


def _path(conversation: str, activity_id: str = "") -> str:
    path = f"/v3/conversations/{quote(conversation, safe='')}/activities"
    return f"{path}/{quote(activity_id, safe='')}" if activity_id else path
