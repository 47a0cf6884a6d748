"""The HTTP answers of `/api/messages`."""

from __future__ import annotations

from dataclasses import dataclass

import orjson


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a JSON body, empty where there is nothing to say."""

    status: int
    body: bytes = b""


def refusal(status: int, reason: str) -> Answer:
    """An answer with one line for the caller, which repeats nothing of the request."""
    return Answer(status, orjson.dumps({"error": reason}))
