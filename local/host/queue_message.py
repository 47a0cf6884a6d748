"""A queue message as a Python worker gets it: its body decoded, its metadata as the Functions host writes them."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime

from azure.functions import meta
from azure.storage.queue import QueueMessage


def decode_body(text: str, encoding: str) -> bytes | None:
    """The body of a message of `encoding` (`base64` or `none`); None where it is not of that encoding."""
    if encoding == "none":
        return text.encode()
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def trigger_data(message: QueueMessage, body: bytes, binary: bool) -> tuple[meta.Datum, dict[str, meta.Datum]]:
    """The body and the metadata of a call, as the Functions host hands them to a Python worker.

    A text body that is a JSON object lays its own properties over the metadata, whatever their case; a binary
    one does not.
    """
    metadata = {
        "Id": meta.Datum(message.id, "string"),
        "DequeueCount": meta.Datum(message.dequeue_count, "int"),
        "ExpirationTime": _time(message.expires_on),
        "InsertionTime": _time(message.inserted_on),
        "NextVisibleTime": _time(message.next_visible_on),
        "PopReceipt": meta.Datum(message.pop_receipt, "string"),
    }
    if binary:
        return meta.Datum(body, "bytes"), metadata
    text = body.decode(errors="replace")
    names = {name.lower(): name for name in metadata}
    for name, value in _properties(text).items():
        datum = meta.Datum(value, "string") if isinstance(value, str) else meta.Datum(json.dumps(value), "json")
        metadata[names.setdefault(name.lower(), name)] = datum
    return meta.Datum(text, "string"), metadata


def _properties(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _time(value: datetime | None) -> meta.Datum:
    return meta.Datum(value.isoformat() if value else "", "string")
