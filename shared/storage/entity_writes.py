"""Write to a table with self-encoded requests: one operation, or up to 100 on one partition, all or none.

The SDK encodes and decodes an entity group transaction with Python's `email` package, which takes five times the CPU
time of a single write ("Insert Entity" and others, "Performing entity group transactions", Table service REST
reference).
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

from shared.storage.requests import StorageRefusal, sender_of

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
    method, path, headers, body = _encode_operation(client.table_name, kind, row, etag)
    answer = await sender_of(client).send(method, path, headers, body.encode())
    if answer.status >= 300:
        raise answer.refusal()
    return answer.headers.get("ETag", "")


async def _write_transaction(client: TableClient, operations: Sequence[Operation]) -> list[tuple[int, bytes]]:
    """Return the status and the rest of the response to each operation, or to the one that was refused."""
    url = client.url.partition("?")[0]
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
    answer = await sender_of(client).send("POST", "$batch", headers, "\r\n".join(lines).encode())
    if answer.status != 202:
        raise answer.refusal()
    _, *parts = _STATUS.split(answer.body)
    return list(zip(map(int, parts[::2]), parts[1::2], strict=True))


def _encode_operation(table: str, kind: str, row: Row, etag: str = "") -> tuple[str, str, dict[str, str], str]:
    """Return the method, path, headers and body of the request for one operation."""
    key = encode_key(row["PartitionKey"], row["RowKey"])
    headers = {"Accept": "application/json", "DataServiceVersion": "3.0"}
    if kind == "create":
        headers["Prefer"] = "return-no-content"
    elif kind != "put":
        headers["If-Match"] = etag or "*"
    if kind == "delete":
        return _METHODS[kind], table + key, headers, ""
    headers["Content-Type"] = "application/json"
    return _METHODS[kind], table if kind == "create" else table + key, headers, json.dumps(dict(_encode_columns(row)))


def encode_key(partition: str, row: str) -> str:
    """Return the part of a URL that names a row, after its table."""
    return f"(PartitionKey='{_quote_key(partition)}',RowKey='{_quote_key(row)}')"


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
