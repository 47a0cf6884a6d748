"""Send one HTTP request to Teams or Graph, and read its answer within limits of time and size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from shared.limited_read import read_limited
from shared.states import Reason

#: Timeout of a request, and of its connection.
TIMEOUT_SECONDS = 30
CONNECT_TIMEOUT_SECONDS = 10
#: Largest body of an answer. A page of 500 members has about 200 KB, one of Graph's 999 users about 150 KB.
MAX_ANSWER_BYTES = 4 * 1024 * 1024

_TIMEOUT = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS, sock_connect=CONNECT_TIMEOUT_SECONDS)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer; `headers` are case-insensitive, and a body that is too large is empty."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def exchange(
    session: aiohttp.ClientSession,
    method: str,
    url: URL,
    body: bytes,
    token: str,
    more_headers: Mapping[str, str] | None = None,
) -> HttpAnswer | Reason:
    """Send a request, with `body` as JSON and `token` as its bearer if there are any; return the answer.

    Return `UNREACHABLE` if it was not sent, `NO_ANSWER` if it was sent and there was no usable answer.
    """
    headers = {**(more_headers or {})}
    if body:
        headers["Content-Type"] = "application/json"
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        # Redirects are not followed, because they would send the token to another host.
        async with session.request(
            method, url, data=body or None, headers=headers, timeout=_TIMEOUT, allow_redirects=False
        ) as answer:
            # The status of a larger answer counts, too, as if it had no body.
            content = await read_limited(answer, MAX_ANSWER_BYTES) or b""
            return HttpAnswer(answer.status, answer.headers, content)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        return Reason.UNREACHABLE
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError):  # ValueError: an answer that is not HTTP
        return Reason.NO_ANSWER
