"""Write to a table with self-encoded requests: one operation, or up to 100 on one partition, all or none.

The SDK encodes and decodes an entity group transaction with Python's `email` package, which takes five times the CPU
time of a single write; its single write takes a third more than needed. The SDK's client still signs, sends and retries
the requests; only their text is built here ("Insert Entity" and others, "Performing entity group transactions", Table
service REST reference).
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote
from uuid import uuid4

from azure.core.exceptions import HttpResponseError
from azure.core.rest import HttpRequest

if TYPE_CHECKING:
    from azure.data.tables.aio import TableClient

#: A row of a table: its columns, with `PartitionKey` and `RowKey`.
Row = Mapping[str, Any]
#: One write: insert a row (`create`), insert or replace it (`put`), merge it if it has this ETag (`update`), or delete
#: it (`delete`), with an ETag only if it has that.
Operation = tuple[Literal["create", "put", "delete"], Row] | tuple[Literal["update", "delete"], Row, str]

#: Delay before each retry of a transaction for which storage was too busy. Storage reports that inside an answer with
#: status 202, so the SDK's client does not retry.
RETRY_DELAYS_SECONDS = (0.2, 0.8, 3.2)

_METHODS = {"create": "POST", "update": "PATCH", "put": "PUT", "delete": "DELETE"}
_INT32 = range(-(2**31), 2**31)
# The answer has one response for each operation, in order; if one is refused, only its response, with a code in JSON.
_STATUS = re.compile(rb"^HTTP/1\.1 (\d{3})", re.MULTILINE)
_ETAG = re.compile(rb"^ETag: *(.*?)\r?$", re.MULTILINE | re.IGNORECASE)
_CODE = re.compile(rb'"code": *"(\w+)"')


class StorageRefusal(HttpResponseError):
    """Storage refused a write; see `status_code` and `code` ("Table service error codes", REST reference)."""

    def __init__(self, status: int, answer: bytes) -> None:
        found = _CODE.search(answer)
        self.code = found[1].decode() if found else ""
        super().__init__(f"Storage refused a write: {status} {self.code}")
        self.status_code = status


async def write(client: TableClient, operations: Sequence[Operation]) -> list[str]:
    """Execute all operations and return the new ETags, "" for a deleted row.

    Raises `StorageRefusal` if none was executed. After a status of 500 or more that is uncertain: a caller that tries
    again may conflict with its own write.
    """
    if len(operations) == 1:
        return [await _write_one(client, *operations[0])]
    delays = iter(RETRY_DELAYS_SECONDS)
    while True:
        responses = await _write_transaction(client, operations)
        refused = next((response for response in responses if response[0] >= 300), None)
        if refused is None:
            break
        delay = next(delays, None)
        if refused[0] < 500 or delay is None:
            raise StorageRefusal(*refused)
        await asyncio.sleep(delay)
    if len(responses) < len(operations):
        raise HttpResponseError("The answer to a transaction cannot be read")
    etags = (_ETAG.search(answer) for _, answer in responses)
    return [etag[1].decode() if etag else "" for etag in etags]


async def _write_one(client: TableClient, kind: str, row: Row, etag: str = "") -> str:
    url, question, query = client.url.partition("?")
    method, path, headers, body = _encode_operation(client.table_name, kind, row, etag)
    request = HttpRequest(method, f"{url}/{path}{question}{query}", headers=headers, content=body.encode())
    status, answer, new_etag = await _send(client, request)
    if status >= 300:
        raise StorageRefusal(status, answer)
    return new_etag


async def _write_transaction(client: TableClient, operations: Sequence[Operation]) -> list[tuple[int, bytes]]:
    """Return the status and the rest of the response to each operation, or to the one that was refused."""
    url, question, query = client.url.partition("?")
    batch, changes = f"batch_{uuid4()}", f"changeset_{uuid4()}"
    lines = [f"--{batch}", f"Content-Type: multipart/mixed; boundary={changes}", ""]
    for kind, row, *etag in operations:
        method, path, headers, body = _encode_operation(client.table_name, kind, row, *etag)
        lines += [f"--{changes}", "Content-Type: application/http", "Content-Transfer-Encoding: binary", ""]
        lines += [
            f"{method} {url}/{path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
            "",
            body,
        ]
    lines += [f"--{changes}--", f"--{batch}--", ""]
    headers = {"Content-Type": f"multipart/mixed; boundary={batch}", "DataServiceVersion": "3.0"}
    text = "\r\n".join(lines).encode()
    request = HttpRequest("POST", f"{url}/$batch{question}{query}", headers=headers, content=text)
    status, answer, _ = await _send(client, request)
    if status != 202:
        raise StorageRefusal(status, answer)
    _, *parts = _STATUS.split(answer)
    return list(zip(map(int, parts[::2]), parts[1::2], strict=True))


async def _send(client: TableClient, request: HttpRequest) -> tuple[int, bytes, str]:
    """Send a request; return the status, body and ETag of the answer."""
    request.headers["x-ms-version"] = client.api_version
    # The public client has no method for a custom request; the one inside applies the same policies.
    response = await client._client.send_request(request, stream=True)
    return response.status_code, await response.read(), response.headers.get("ETag", "")


def _encode_operation(table: str, kind: str, row: Row, etag: str = "") -> tuple[str, str, dict[str, str], str]:
    """Return the method, path, headers and body of the request for one operation."""
    key = f"(PartitionKey='{_quote_key(row['PartitionKey'])}',RowKey='{_quote_key(row['RowKey'])}')"
    headers = {"Accept": "application/json", "DataServiceVersion": "3.0"}
    if kind == "create":
        headers["Prefer"] = "return-no-content"
    elif kind != "put":
        headers["If-Match"] = etag or "*"
    if kind == "delete":
        return _METHODS[kind], table + key, headers, ""
    headers["Content-Type"] = "application/json"
    return _METHODS[kind], table if kind == "create" else table + key, headers, json.dumps(dict(_encode_columns(row)))


def _quote_key(key: str) -> str:
    return quote(key.replace("'", "''"), safe="")


def _encode_columns(row: Row) -> Iterator[tuple[str, object]]:
    """Yield the columns for JSON, with the types that JSON lacks ("Payload format for Table service operations")."""
    for name, value in row.items():
        if isinstance(value, datetime):
            yield name, value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            yield f"{name}@odata.type", "Edm.DateTime"
        elif isinstance(value, bytes):
            yield name, base64.b64encode(value).decode()
            yield f"{name}@odata.type", "Edm.Binary"
        elif isinstance(value, int) and value not in _INT32:
            raise ValueError(f"{name} does not fit into 32 bits: store it as text")
        elif value is not None:
            yield name, value
