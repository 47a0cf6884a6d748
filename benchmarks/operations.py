"""Observe the requests of this process to Azure Storage, and name them by method, URL and body."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

from azure.core.pipeline.transport import AioHttpTransport

from shared.storage.requests import Answer, Sender

#: Called after each request with its method, URL and body, and a function that returns the body of the answer.
Observer = Callable[[str, str, bytes, Callable[[], bytes]], None]

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


@contextmanager
def observe_requests(observe: Observer) -> Iterator[None]:
    """Call `observe` after each request of the SDK's clients and of `shared.storage.requests`, retries included."""
    send, send_once = AioHttpTransport.send, Sender.send_once

    async def send_observed(self: AioHttpTransport, request: Any, **options: Any) -> Any:
        answer = await send(self, request, **options)
        body = request.data if isinstance(request.data, bytes) else str(request.data or "").encode()
        observe(request.method, request.url, body, answer.body)
        return answer

    async def send_once_observed(
        self: Sender, method: str, url: str, headers: Mapping[str, str], body: bytes, remaining_seconds: float
    ) -> Answer:
        answer = await send_once(self, method, url, headers, body, remaining_seconds)
        observe(method, url, body, lambda: answer.body)
        return answer

    with (
        patch.object(AioHttpTransport, "send", send_observed),
        patch.object(Sender, "send_once", send_once_observed),
    ):
        yield
