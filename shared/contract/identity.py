"""The identity of a message on the queue: whose notification it is, read without validation, and kept on its way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from shared.contract.decoding import decode_json, unwrap
from shared.contract.faults import MessageRefused, escape_controls

#: Largest message of a queue, in bytes ("Put Message", Queue service REST reference).
MAX_MESSAGE_BYTES = 64 * 1024
#: Longest source or id that is read, in characters: the longest valid one.
MAX_NAME_CHARS = 256


@dataclass(frozen=True, slots=True)
class Identity:
    """The source and id of a notification; "" for what could not be read."""

    source: str = ""
    id: str = ""

    def __str__(self) -> str:
        """Return both as a part of a log line."""
        return f"source {self.source or 'unknown'}, id {self.id or 'unknown'}"


#: The identity of a message that cannot be read.
UNKNOWN = Identity()


def read_identity(body: bytes) -> Identity:
    """Return the identity that a message of an upstream system has, or that its command targets; never raise."""
    try:
        value = decode_json(body)
    except MessageRefused:
        return UNKNOWN
    if not isinstance(value, dict):
        return UNKNOWN
    data = value.get("data")
    command = data if isinstance(data, dict) else value
    target = command.get("target") if "command" in command else None
    named = target if isinstance(target, dict) and target.get("id") else value
    return Identity(_name(named.get("source")), _name(named.get("id")))


def with_id(body: bytes, identifier: str, *, commands: bool = False) -> bytes:
    """Return a notification without an envelope and an id with this id; return any other message unchanged.

    With `commands`, a command without both also gets the id. The rest of the text stays as it was: the same
    notification has the same hash.
    """
    try:
        value = decode_json(body)
    except MessageRefused:
        return body
    if not isinstance(value, dict) or not value or not identifier:
        return body
    if value.get("id") is not None or "specversion" in value or ("command" in value and not commands):
        return body
    # Of two fields of the same name, the last counts: it replaces an id that is null.
    text = _escape(f'{unwrap(body)[:-1]},"id":{orjson.dumps(identifier).decode()}}}')
    if len(text) > MAX_MESSAGE_BYTES:  # without its white space, valid data is smaller
        try:
            text = _escape(orjson.dumps(value | {"id": identifier}).decode())
        except orjson.JSONEncodeError:  # nested too deeply, and so refused
            return body
    return text if len(text) <= MAX_MESSAGE_BYTES else body


def _escape(text: str) -> bytes:
    """Return JSON without the characters that a queue takes only in base64, in which it may be too large."""
    return text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff").encode()


def _name(value: Any) -> str:
    return escape_controls(value[:MAX_NAME_CHARS]) if isinstance(value, str) else ""
