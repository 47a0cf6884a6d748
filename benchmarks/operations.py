"""Names of Azure Storage operations, by the method, URL and body of a request."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

#: Suffix of the name of a receive that found an empty queue.
EMPTY_RECEIVE = ", empty queue"

_METHODS = {"POST": "insert", "PUT": "update", "PATCH": "merge", "MERGE": "merge", "GET": "read", "DELETE": "delete"}
_QUEUE_METHODS = {"POST": "put", "GET": "receive", "PUT": "update", "DELETE": "delete"}
_IN_BATCH = re.compile(rb"^(?:POST|PUT|PATCH|MERGE|DELETE) [^\s(]*/(\w+)(?:\(.*)? HTTP", re.MULTILINE)


def name_operation(method: str, url: str, body: bytes, prefix: str) -> str:
    """Return the table (without `prefix`) or queue of a storage request and its operation: "Deliveries: merge"."""
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
