"""Convert a queue message to what a Python worker receives: the decoded body and the metadata."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime

from azure.functions import meta
from azure.storage.queue import QueueMessage


def decode_body(text: str, encoding: str) -> bytes | None:
    """Return the body of a message in `encoding` (`base64` or `none`), or None if it is not valid base64."""
    if encoding == "none":
        return text.encode()
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def build_trigger_data(message: QueueMessage, body: bytes, binary: bool) -> tuple[meta.Datum, dict[str, meta.Datum]]:
    """Return the body and the metadata of an invocation, in the form in which the Functions host sends them.

    The properties of a text body that is a JSON object replace metadata of the same name, whatever the case; those
    of a binary body do not.
    """
    metadata = {
        "Id": meta.Datum(message.id, "string"),
        "DequeueCount": meta.Datum(message.dequeue_count, "int"),
        "ExpirationTime": _time_datum(message.expires_on),
        "InsertionTime": _time_datum(message.inserted_on),
        "NextVisibleTime": _time_datum(message.next_visible_on),
        "PopReceipt": meta.Datum(message.pop_receipt, "string"),
    }
    if binary:
        return meta.Datum(body, "bytes"), metadata
    text = body.decode(errors="replace")
    names = {name.lower(): name for name in metadata}
    for name, value in _json_properties(text).items():
        datum = meta.Datum(value, "string") if isinstance(value, str) else meta.Datum(json.dumps(value), "json")
        metadata[names.setdefault(name.lower(), name)] = datum
    return meta.Datum(text, "string"), metadata


def _json_properties(text: str) -> dict[str, object]:
    try:
        parsed = json.loads(text)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _time_datum(value: datetime | None) -> meta.Datum:
    return meta.Datum(value.isoformat() if value else "", "string")
