"""Interpret an answer of Teams to a request.

The rules are those of "Status codes from bot conversational APIs" (Microsoft Learn, Teams platform), with both
documented shapes of an error body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

import orjson

from shared.rate_windows import MAX_PAUSE, SECOND
from shared.states import Reason


class Verdict(StrEnum):
    DONE = "done"  #: Teams executed the request
    RETRY = "retry"  #: it did not, and a retry may succeed
    UNKNOWN = "unknown"  #: it may have executed it
    SUPPRESSED = "suppressed"  #: this recipient cannot be reached
    FAILED = "failed"  #: it did not, and a retry cannot succeed


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one request: the verdict, the reason, and after success the JSON object in the body.

    `retry_after` is in seconds, None if unknown. `activity_id` and `conversation_id` are those in the answer. After a
    failure, `may_have_arrived` means that Teams may have executed the request all the same. `service_url` is the host
    that executed it, if that is not the one that was asked first.
    """

    verdict: Verdict
    reason: Reason | None = None
    retry_after: float | None = None
    activity_id: str = ""
    conversation_id: str = ""
    body: Mapping[str, Any] = field(default_factory=dict, compare=False)
    may_have_arrived: bool = False
    service_url: str = ""


#: Shortest and longest wait that Teams' answers can cause. Longer ones are asked for again, by the answer to one try.
RETRY_AFTER_SECONDS = (1.0, MAX_PAUSE / SECOND)
#: Longest id in an answer, in characters, as in activities. A longer one could not be stored, and counts as missing.
MAX_ID_CHARS = 1000
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?")
_REASON_BY_403_CODE = {
    "BotDisabledByAdmin": Reason.DISABLED_BY_ADMIN,
    "BotNotInConversationRoster": Reason.NOT_INSTALLED,
    "ConversationBlockedByUser": Reason.BLOCKED,
    "MessageWritesBlocked": Reason.BLOCKED,
    "ForbiddenOperationException": Reason.NOT_PERSONAL_SCOPE,
}
_OUTCOME_BY_STATUS = {
    400: (Verdict.FAILED, Reason.BAD_REQUEST),
    401: (Verdict.RETRY, Reason.UNAUTHORIZED),
    404: (Verdict.FAILED, Reason.CONVERSATION_GONE),
    408: (Verdict.UNKNOWN, Reason.NO_ANSWER),
    409: (Verdict.RETRY, Reason.PRECONDITION),
    412: (Verdict.RETRY, Reason.PRECONDITION),
    413: (Verdict.FAILED, Reason.TOO_BIG),
    423: (Verdict.RETRY, Reason.PRECONDITION),
    425: (Verdict.RETRY, Reason.PRECONDITION),
    429: (Verdict.RETRY, Reason.THROTTLED),
    500: (Verdict.FAILED, Reason.SERVICE_ERROR),
    501: (Verdict.FAILED, Reason.SERVICE_ERROR),
    502: (Verdict.UNKNOWN, Reason.NO_ANSWER),
    503: (Verdict.UNKNOWN, Reason.NO_ANSWER),
    504: (Verdict.UNKNOWN, Reason.NO_ANSWER),
}


def classify(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Outcome:
    """Return the outcome of an answer; `headers` must be case-insensitive and `now` aware."""
    if 200 <= status < 300:
        # There is no body after update and delete, and after 202 to a text with an attachment.
        value = json_object(body)
        identifier = value.get("activityId") or value.get("id")
        return Outcome(Verdict.DONE, activity_id=_id(identifier), conversation_id=_id(value.get("id")), body=value)
    if status == 403:
        code = error_code(body)
        if code == "InvalidBotApiHost":
            return Outcome(Verdict.FAILED, Reason.WRONG_CLOUD)
        if code == "NotEnoughPermissions":
            return Outcome(Verdict.FAILED, Reason.NOT_PERMITTED)
        if code in _REASON_BY_403_CODE:
            return Outcome(Verdict.SUPPRESSED, _REASON_BY_403_CODE[code])
        # No code, or one that says nothing about the recipient: Teams has answered so for some minutes to all requests.
        return Outcome(Verdict.RETRY, Reason.NOT_PERMITTED, retry_after(headers.get("Retry-After"), now))
    verdict, reason = _OUTCOME_BY_STATUS.get(
        status, (Verdict.UNKNOWN, Reason.NO_ANSWER) if status > 500 else (Verdict.FAILED, Reason.BAD_REQUEST)
    )
    wait = retry_after(headers.get("Retry-After"), now)
    # Teams has answered 500 to messages that it then showed; of these, its documentation says not to retry.
    return Outcome(verdict, reason, wait, may_have_arrived=status == 500)


def error_code(body: bytes) -> str:
    """Return the code in an error body, "" if there is none.

    The documented shapes are `{"error": {"code"}}` and `{"errorCode", "message": "{\\"subCode\\": ...}"}`.
    """
    value = json_object(body)
    error = value.get("error")
    if isinstance(error, dict) and error.get("code"):
        return _text(error["code"])
    message = value.get("message")
    inner = json_object(message.encode()) if isinstance(message, str) else {}
    return _text(inner.get("subCode") or value.get("subCode") or value.get("code"))


def retry_after(header: str | None, now: datetime) -> float | None:
    """Return the seconds of a Retry-After header, within `RETRY_AFTER_SECONDS`; None if it is invalid.

    It is a number of seconds or a date (RFC 9110, 10.2.3). Graph also sends decimals, such as `2.128`.
    """
    text = (header or "").strip()
    if _SECONDS.fullmatch(text):
        seconds = float(text)
    else:
        try:
            at = parsedate_to_datetime(text)
            seconds = (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds()
        except (ValueError, TypeError, IndexError, OverflowError):  # what the parser raises for invalid dates
            return None
    shortest, longest = RETRY_AFTER_SECONDS
    return min(max(seconds, shortest), longest)


def json_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body, {} if there is none."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _id(value: object) -> str:
    text = _text(value)
    return text if len(text) <= MAX_ID_CHARS else ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
