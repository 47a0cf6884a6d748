"""Parse the bytes of a queue message into a `Request` or a `Command`.

What cannot be taken raises `MessageRefused`, with a JSON pointer (RFC 6901) to each fault.
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

#: The source of a notification that names none.
DEFAULT_SOURCE = "/queues/notifications"
#: Longest `data` that is stored, in bytes of canonical JSON: a binary column of a table holds no more ("Understanding
#: the Table service data model", Microsoft Learn).
MAX_DATA_BYTES = 64 * 1024
_BOM = b"\xef\xbb\xbf"

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Request:
    """A valid message: its identity, its `data` as canonical JSON, and the same as a model.

    `id` is None where the caller gave none, `time` where it did not say when it happened. `expires_at` is the
    earlier of the envelope's and the data's.
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
    """The JSON value of a queue message, raw or base64; raises `MessageRefused`."""
    text = body.removeprefix(_BOM)
    if text.lstrip()[:1] not in (b"{", b"["):
        try:
            text = base64.b64decode(text.strip(), validate=True).removeprefix(_BOM)
        except (binascii.Error, ValueError):
            said = "is neither a JSON object, which begins with {, nor base64 of one"
            raise MessageRefused("unreadable", [Fault("", said)]) from None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        said = f"is no JSON in UTF-8: {_fault_of_json(text, error)}"
        raise MessageRefused("unreadable", [Fault("", said)]) from None


def _fault_of_json(text: bytes, error: orjson.JSONDecodeError) -> str:
    """What is wrong, and in which line and column; nothing of the text itself."""
    try:
        text.decode()
    except UnicodeDecodeError as wrong:  # whose place orjson does not tell
        before = text[: wrong.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return f"{wrong.reason} in line {line}, column {column}"
    return f"{error.msg} in line {error.lineno}, column {error.colno}"


def parse_message(body: bytes) -> Request | Command:
    """The notification or the command in the body of a queue message; raises `MessageRefused`."""
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
            raise MessageRefused("invalid", [Fault("/data_base64", "is no base64 of JSON")]) from None
    if isinstance(value.get("data"), dict) and "command" in value["data"]:
        return _validated(CommandEvent, value).data
    event = _validated(CloudEvent, value)
    ends = [end for end in (event.expirytime, event.data.expires_at) if end]
    return Request(
        event.source, event.id, canonical_json(value["data"]), event.data, min(ends, default=None), event.time
    )


def data_pointer(request: Request | Command) -> str:
    """The JSON pointer to the `data` of what was read: "" where it came bare."""
    model = request.notification if isinstance(request, Request) else request
    return "" if isinstance(model, BareNotification | BareCommand) else "/data"


def parse_stored(data: bytes) -> Notification:
    """The notification whose canonical `data` was stored."""
    return Notification.model_validate_json(data)


def canonical_json(data: Any) -> bytes:
    """The canonical JSON of a value of JSON; raises `MessageRefused` where it cannot be stored."""
    try:
        text = orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        raise MessageRefused("invalid", [Fault("", "is nested too deep")]) from None
    if len(text) > MAX_DATA_BYTES:
        raise MessageRefused(
            "invalid", [Fault("", f"has {len(text)} bytes of JSON, and {MAX_DATA_BYTES} is the limit")]
        )
    return text


#: What is said of a fault instead of pydantic's own words, by its type.
_SAID = {
    "extra_forbidden": "is no field here",
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
    said = _SAID.get(item["type"]) or item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden" and (meant := _likest(path[-1])):
        said += f"; did you mean {meant}?"
    return Fault("".join(f"/{part}" for part in escaped), said)


def _likest(name: str) -> str:
    """The name of a field that is most like this one, "" for none."""
    from difflib import get_close_matches

    models = (CloudEvent, BareNotification, Content, Schedule, Thread, Announcement, BareCommand, CommandTarget)
    names = {field.alias or name: None for model in models for name, field in model.model_fields.items()}
    by_letters = {each.casefold(): each for each in names}
    return next((by_letters[each] for each in get_close_matches(name.casefold(), by_letters, n=1)), "")
