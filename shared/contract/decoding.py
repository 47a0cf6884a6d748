"""Decode the text of a queue message, in the wrappings that clients, portals and gateways put around JSON.

A wrapping is a character encoding (UTF-8, UTF-16 or UTF-32, with or without a byte order mark), base64 (RFC 4648: both
alphabets, with or without padding and line breaks), or a JSON string that contains JSON.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import orjson

from shared.contract.faults import Fault, MessageRefused

#: Wrappings that are removed, one inside the other.
MAX_WRAPPINGS = 4

_WHAT_TO_WRITE = "write a JSON object, which begins with {, or the base64 encoding of one"
_GZIP = b"\x1f\x8b"
#: White space, byte order marks, and the NULs that end texts of some clients; JSON begins and ends with none of them.
_MARGIN = " \t\r\n\ufeff\x00"
_URL_ALPHABET = str.maketrans("-_", "+/")


def decode_json(body: bytes) -> Any:
    """Return the JSON value of a queue message without its wrappings; raise `MessageRefused`."""
    if body[:1] == b"{":  # most messages: the others take longer
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            pass
    return parse_json(unwrap(body))


def unwrap(body: bytes) -> str:
    """Return the text of a JSON object or list in a queue message, without its wrappings.

    Raises `MessageRefused`: the fault says what was found instead, without any part of the text.
    """
    return unwrap_text(_decode_characters(body))


def unwrap_text(text: str) -> str:
    """Return the text of the JSON object or list in `text`, as `unwrap` does."""
    for wrappings in range(MAX_WRAPPINGS + 1):
        if text.lstrip().startswith(("{", "[")):
            return text.rstrip(_MARGIN)  # the lines before it count in a fault
        text = text.strip(_MARGIN)
        if text.startswith(("{", "[")):
            return text
        inner = _remove_wrapping(text) if wrappings < MAX_WRAPPINGS else None
        if inner is None:
            raise _unreadable(f"{_describe(text, wrappings)}; {_WHAT_TO_WRITE}")
        text = inner
    raise AssertionError("unreachable")


def parse_json(text: str) -> Any:
    """Return the value of a JSON text; raise `MessageRefused` with line and column of what is wrong."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        message = f"is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        raise _unreadable(message + _suggest(text)) from None


def _suggest(text: str) -> str:
    """Return what to write instead of a frequent mistake, as the end of a fault; "" for others."""
    quote = text.lstrip().removeprefix("[").lstrip().removeprefix("{").lstrip()[:2]
    if quote == '\\"':
        return '; write " without a backslash before it'
    return "; write \" around names and texts, not '" if quote.startswith("'") else ""


def _remove_wrapping(text: str) -> str | None:
    """Return the text in a JSON string or in base64; None if it is neither."""
    if text.startswith('"'):
        value = parse_json(text)
        return value if isinstance(value, str) else None
    decoded = _decode_base64(text)
    if decoded is None:
        return None
    try:
        return _decode_characters(decoded)
    except MessageRefused:
        # Letters may be base64 by chance. Only JSON with a wrong character is worth its line and column.
        if decoded.lstrip()[:1] in (b"{", b"["):
            raise
        return None


def _decode_base64(text: str) -> bytes | None:
    compact = "".join(text.split()).rstrip("=").translate(_URL_ALPHABET)
    if not compact:
        return None
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _decode_characters(body: bytes) -> str:
    """Return bytes as text, in the encoding that a byte order mark or the zero bytes show (RFC 4627, section 3)."""
    encoding = json.detect_encoding(body)
    try:
        return body.decode(encoding)
    except UnicodeDecodeError as error:
        if body.startswith(_GZIP):
            raise _unreadable(f"is compressed with gzip; {_WHAT_TO_WRITE}") from None
        before = error.object[: error.start].decode(encoding, "ignore")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        name = encoding.upper().removesuffix("-SIG")
        message = f"is not valid text in {name}: {error.reason} in line {line}, column {column}"
        raise _unreadable(f"{message}; write JSON in UTF-8") from None


def _describe(text: str, wrappings: int) -> str:
    """Return what a text is that is no JSON object, list or string, without any part of it."""
    if not text:
        return "is empty"
    if wrappings == MAX_WRAPPINGS:
        return f"is wrapped more than {MAX_WRAPPINGS} times"
    if text.startswith("<"):
        return "is XML or HTML"
    if text.startswith(("'", "`", "‘", "“", "”", "„", "«")):
        return "begins with a quotation mark that is none of JSON"
    if text[:3].lower() in ("%7b", "%5b", "%22"):
        return "is encoded for a URL"
    if (compressed := _decode_base64(text)) and compressed.startswith(_GZIP):
        return "is compressed with gzip"
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return "is neither a JSON object nor the base64 encoding of one"
    return "is a single JSON value, not an object"


def _unreadable(message: str) -> MessageRefused:
    return MessageRefused("unreadable", [Fault("", message)])
