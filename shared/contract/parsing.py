"""Parse the bytes of a queue message into a `Request` or a `Command`.

An invalid message raises `MessageRefused`, with a JSON pointer (RFC 6901) to each fault.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from shared.contract.faults import Fault, MessageRefused
from shared.contract.models import (
    INSTANT,
    Announcement,
    BareCommand,
    BareNotification,
    CloudEvent,
    Command,
    CommandEvent,
    CommandTarget,
    Content,
    Notification,
    Schedule,
    Thread,
)

#: The source of a notification that has none.
DEFAULT_SOURCE = "/queues/notifications"
#: Largest `data`, in bytes of canonical JSON: the limit of a binary column of a table ("Understanding the Table service
#: data model", Microsoft Learn).
MAX_DATA_BYTES = 64 * 1024
_BOM = b"\xef\xbb\xbf"

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Request:
    """A valid notification: its identity, its `data` as canonical JSON, and the same as a model.

    `id` and `time` (of the event) are None if the upstream system did not send them. `expires_at` is the earlier of the
    expiry times in the envelope and in `data`.
    """

    source: str
    id: str | None
    data: bytes
    notification: Notification
    expires_at: datetime | None
    time: datetime | None = None

    @property
    def content_hash(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def decode_json(body: bytes) -> Any:
    """Return the JSON value of a queue message, raw or base64; raise `MessageRefused`."""
    text = body.removeprefix(_BOM)
    if text.lstrip()[:1] not in (b"{", b"["):
        try:
            text = base64.b64decode(text.strip(), validate=True).removeprefix(_BOM)
        except (binascii.Error, ValueError):
            message = "is neither a JSON object, which begins with {, nor the base64 encoding of one"
            raise MessageRefused("unreadable", [Fault("", message)]) from None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        message = f"is not valid JSON in UTF-8: {_describe(error, text)}"
        raise MessageRefused("unreadable", [Fault("", message)]) from None


def _describe(error: orjson.JSONDecodeError, text: bytes) -> str:
    """Return what is wrong, with line and column, but without any part of the text."""
    try:
        text.decode()
    except UnicodeDecodeError as decode_error:  # orjson does not report its position
        before = text[: decode_error.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return f"{decode_error.reason} in line {line}, column {column}"
    return f"{error.msg} in line {error.lineno}, column {error.colno}"


def parse_message(body: bytes) -> Request | Command:
    """Return the notification or the command in the body of a queue message; raise `MessageRefused`."""
    value = decode_json(body)
    if not isinstance(value, dict):
        raise MessageRefused("invalid", [Fault("", "must be a JSON object")])
    if "specversion" in value:
        return _read_event(value)
    if "command" in value:
        return _validated(BareCommand, value)
    bare = _validated(BareNotification, value)
    data = {name: part for name, part in value.items() if name not in ("id", "source")}
    return Request(bare.source or DEFAULT_SOURCE, bare.id, canonical_json(data), bare, bare.expires_at)


def _read_event(value: dict[str, Any]) -> Request | Command:
    if "data" not in value and isinstance(value.get("data_base64"), str):
        try:
            value = value | {"data": orjson.loads(base64.b64decode(value["data_base64"], validate=True))}
        except ValueError:
            raise MessageRefused("invalid", [Fault("/data_base64", "must be the base64 encoding of JSON")]) from None
    if isinstance(value.get("data"), dict) and "command" in value["data"]:
        return _validated(CommandEvent, value).data
    event = _validated(CloudEvent, value)
    expiries = [expiry for expiry in (event.expirytime, event.data.expires_at) if expiry]
    return Request(
        event.source, event.id, canonical_json(value["data"]), event.data, min(expiries, default=None), event.time
    )


def data_pointer(request: Request | Command) -> str:
    """Return the JSON pointer to the `data` of a message: "" if it had no envelope."""
    model = request.notification if isinstance(request, Request) else request
    return "" if isinstance(model, BareNotification | BareCommand) else "/data"


def parse_stored(data: bytes) -> Notification:
    """Return the notification with this stored canonical `data`."""
    return Notification.model_validate_json(data)


def canonical_json(data: Any) -> bytes:
    """Return the canonical JSON of a JSON value; raise `MessageRefused` if it cannot be stored."""
    try:
        text = orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        raise MessageRefused("invalid", [Fault("", "is nested too deeply")]) from None
    if len(text) > MAX_DATA_BYTES:
        raise MessageRefused(
            "invalid", [Fault("", f"is too large: {len(text)} bytes of JSON, at most {MAX_DATA_BYTES} are allowed")]
        )
    return text


#: Messages that replace those of pydantic, by error type.
_MESSAGES = {
    "extra_forbidden": "is not a field here",
    "missing": "is required",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "datetime_parsing": INSTANT,
    "datetime_from_date_parsing": INSTANT,
    "datetime_object_invalid": INSTANT,
    "timezone_aware": INSTANT,
}


def _validated(model: type[M], value: Any) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise MessageRefused("invalid", [_fault(item) for item in error.errors(include_input=False)]) from None


def _fault(item: Any) -> Fault:
    path = [str(part) for part in item["loc"] if not str(part).startswith("<")]
    escaped = (part.replace("~", "~0").replace("/", "~1") for part in path)
    message = _MESSAGES.get(item["type"]) or item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden" and (suggestion := _most_similar_field(path[-1])):
        message += f"; did you mean {suggestion}?"
    return Fault("".join(f"/{part}" for part in escaped), message)


def _most_similar_field(name: str) -> str:
    """Return the name of the most similar field, "" if none is similar."""
    from difflib import get_close_matches

    models = (CloudEvent, BareNotification, Content, Schedule, Thread, Announcement, BareCommand, CommandTarget)
    names = {field.alias or name: None for model in models for name, field in model.model_fields.items()}
    by_folded_name = {each.casefold(): each for each in names}
    return next((by_folded_name[each] for each in get_close_matches(name.casefold(), by_folded_name, n=1)), "")
