"""What a request to Azure Storage does, by its method and URL: a name to count it under."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

#: How the name of a look at a queue ends where there was no message.
NOTHING_THERE = ", nothing there"

_METHODS = {"POST": "insert", "PUT": "update", "PATCH": "merge", "MERGE": "merge", "GET": "read", "DELETE": "delete"}
_QUEUE_METHODS = {"POST": "put", "GET": "receive", "PUT": "update", "DELETE": "delete"}
_IN_BATCH = re.compile(rb"^(?:POST|PUT|PATCH|MERGE|DELETE) [^\s(]*/(\w+)(?:\(.*)? HTTP", re.MULTILINE)


def operation(method: str, url: str, body: bytes, prefix: str) -> str:
    """The name of a storage request: the table (without its prefix) or queue, and what is done there."""
    parts = urlsplit(url)
    *_, last = unquote(parts.path).split("/")
    if last == "$batch":
        found = _IN_BATCH.search(body)
        return f"{found[1].decode().removeprefix(prefix) if found else '?'}: transaction"
    if "/messages" in parts.path:
        queue = parts.path.partition("/messages")[0].rpartition("/")[2]
        return f"{queue}: {_QUEUE_METHODS[method]}"
    table, parenthesis, keys = last.partition("(")
    if method == "GET" and parenthesis and keys.startswith(")"):
        return f"{table.removeprefix(prefix)}: query"
    return f"{table.removeprefix(prefix)}: {_METHODS[method]}"
