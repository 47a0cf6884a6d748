"""The HTTP answers of `/api/messages`."""

from __future__ import annotations

from dataclasses import dataclass

import orjson


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A status and a JSON body, which may be empty."""

    status: int
    body: bytes = b""


def build_error(status: int, reason: str) -> HttpAnswer:
    """Return an error with `reason`, one line for the caller that repeats nothing of the request."""
    return HttpAnswer(status, orjson.dumps({"error": reason}))
