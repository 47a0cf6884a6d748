"""Parse the bytes of a queue message into a `Request` or a `Command`.

An invalid message raises `MessageRefused`, with a JSON pointer (RFC 6901) to each fault.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from shared.contract.decoding import decode_json, parse_json, unwrap_text
from shared.contract.faults import Fault, MessageRefused, describe_type
from shared.contract.models import (
    BareCommand,
    BareNotification,
    CloudEvent,
    Command,
    CommandEvent,
    Notification,
)

#: The source of a notification that has none.
DEFAULT_SOURCE = "/queues/notifications"
#: Largest `data`, in bytes of canonical JSON: it is stored in one column (`shared.storage.table.COLUMN_BYTES`).
MAX_DATA_BYTES = 64_000

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


async def parse_message_off_loop(body: bytes) -> Request | Command:
    """Return what `parse_message` returns, called in a thread.

    The first message builds its models, and a calendar, or a zone that is unknown and explained, takes up to a second.
    """
    return await asyncio.to_thread(parse_message, body)


def parse_message(body: bytes) -> Request | Command:
    """Return the notification or the command in the body of a queue message; raise `MessageRefused`."""
    value = decode_json(body)
    if not isinstance(value, dict):
        what_to_do = "put each notification into a message of its own"
        raise MessageRefused("invalid", [Fault("", f"must be a JSON object, not {describe_type(value)}: {what_to_do}")])
    if "specversion" in value:
        return _read_event(value)
    if "command" in value:
        return _validated(BareCommand, value)
    if "recipients" not in value and (fault := _find_other_envelope(value)):
        raise MessageRefused("invalid", [fault])
    bare = _validated(BareNotification, value)
    data = {name: part for name, part in value.items() if name not in ("id", "source")}
    return Request(bare.source or DEFAULT_SOURCE, bare.id, canonical_json(data), bare, bare.expires_at)


def _find_other_envelope(value: dict[str, Any]) -> Fault | None:
    """Return the fault of an object that is an event, but no CloudEvent."""
    if "eventType" in value or "eventTime" in value:
        return Fault(
            "", "is an event in the Event Grid schema; create the event subscription with the schema CloudEvents 1.0"
        )
    if "data" in value or "data_base64" in value:
        return Fault("/specversion", 'is required beside data: "specversion": "1.0", or send only what is in data')
    return None


def _read_event(value: dict[str, Any]) -> Request | Command:
    if value.get("data") is not None or value.get("data_base64") is not None:
        value = {name: part for name, part in value.items() if name != "data_base64"} | {
            "data": _decode_event_data(value)
        }
    if isinstance(value.get("data"), dict) and "command" in value["data"]:
        return _validated(CommandEvent, value).data
    event = _validated(CloudEvent, value)
    expiries = [expiry for expiry in (event.expirytime, event.data.expires_at) if expiry]
    return Request(
        event.source, event.id, canonical_json(value["data"]), event.data, min(expiries, default=None), event.time
    )


def _decode_event_data(value: dict[str, Any]) -> Any:
    """Return the data of a CloudEvent, also where it is a JSON text, or base64 in `data_base64`."""
    data, encoded = value.get("data"), value.get("data_base64")
    if data is not None and encoded is not None:
        raise MessageRefused("invalid", [Fault("/data_base64", "is allowed only without data")])
    name, data = ("data", data) if encoded is None else ("data_base64", encoded)
    if name == "data" and not isinstance(data, str):
        return data
    if not isinstance(data, str):
        found = describe_type(data)
        raise MessageRefused("invalid", [Fault("/data_base64", f"must be the base64 encoding of JSON, not {found}")])
    try:
        return parse_json(unwrap_text(data))
    except MessageRefused as refused:
        faults = [Fault(f"/{name}{fault.pointer}", fault.message) for fault in refused.faults]
        raise MessageRefused("invalid", faults) from None


def data_pointer(request: Request | Command) -> str:
    """Return the JSON pointer to the `data` of a message: "" if it had no envelope."""
    model = request.notification if isinstance(request, Request) else request
    return "" if isinstance(model, BareNotification | BareCommand) else "/data"


def parse_stored(data: bytes) -> Notification:
    """Return the notification with this stored canonical `data`, without fields that only newer instances know."""
    return Notification.model_validate_json(data, extra="ignore")


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


def _validated(model: type[M], value: Any) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        from shared.contract.validation_faults import to_fault  # only invalid messages need it

        raise MessageRefused("invalid", [to_fault(item, model) for item in error.errors()]) from None
