"""Write to a table with requests of our own making: one operation, or up to 100 on one partition, all or none.

The SDK encodes and decodes an entity group transaction with Python's `email` package, which takes five times the CPU of
a single write, and that a third more than needed. The SDK's client still signs, retries and sends; only the text is
ours ("Insert Entity" and others, "Performing entity group transactions", Table service REST reference).
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
#: One write: insert a row (`create`), replace any (`put`), merge where the ETag holds (`update`), or remove (`delete`),
#: with an ETag only where that holds.
Operation = tuple[Literal["create", "put", "delete"], Row] | tuple[Literal["update", "delete"], Row, str]

#: Seconds before each further try where storage was too busy for a transaction, which it says within its answer: the
#: client, who tries again what fails as a whole, does not see that.
RETRY_DELAYS_SECONDS = (0.2, 0.8, 3.2)

_METHODS = {"create": "POST", "update": "PATCH", "put": "PUT", "delete": "DELETE"}
_INT32 = range(-(2**31), 2**31)
# Each operation is answered by a response of its own, in their order; a refusal is the only one, with its code in JSON.
_STATUS = re.compile(rb"^HTTP/1\.1 (\d{3})", re.MULTILINE)
_ETAG = re.compile(rb"^ETag: *(.*?)\r?$", re.MULTILINE | re.IGNORECASE)
_CODE = re.compile(rb'"code": *"(\w+)"')


class StorageRefusal(HttpResponseError):
    """Storage did not do it: `status_code` and `code` say why ("Table service error codes", REST reference)."""

    def __init__(self, status: int, answer: bytes) -> None:
        found = _CODE.search(answer)
        self.code = found[1].decode() if found else ""
        super().__init__(f"Storage refused a write: {status} {self.code}")
        self.status_code = status


async def write(client: TableClient, operations: Sequence[Operation]) -> list[str]:
    """Do all operations, and return the new ETags, "" for a removed row.

    Raises `StorageRefusal` where none was done. After a status of 500 or more that is not certain: a caller who tries
    again may meet its own write.
    """
    if len(operations) == 1:
        return [await _one(client, *operations[0])]
    pauses = iter(RETRY_DELAYS_SECONDS)
    while True:
        found = await _many(client, operations)
        refused = next((each for each in found if each[0] >= 300), None)
        if refused is None:
            break
        pause = next(pauses, None)
        if refused[0] < 500 or pause is None:
            raise StorageRefusal(*refused)
        await asyncio.sleep(pause)
    if len(found) < len(operations):
        raise HttpResponseError("The answer to a transaction cannot be read")
    etags = (_ETAG.search(answer) for _, answer in found)
    return [etag[1].decode() if etag else "" for etag in etags]


async def _one(client: TableClient, kind: str, row: Row, etag: str = "") -> str:
    url, question, query = client.url.partition("?")
    method, where, headers, body = _parts(client.table_name, kind, row, etag)
    request = HttpRequest(method, f"{url}/{where}{question}{query}", headers=headers, content=body.encode())
    status, answer, new = await _send(client, request)
    if status >= 300:
        raise StorageRefusal(status, answer)
    return new


async def _many(client: TableClient, operations: Sequence[Operation]) -> list[tuple[int, bytes]]:
    """The status and the rest of the answer to each operation, or to the one that was refused."""
    url, question, query = client.url.partition("?")
    batch, changes = f"batch_{uuid4()}", f"changeset_{uuid4()}"
    lines = [f"--{batch}", f"Content-Type: multipart/mixed; boundary={changes}", ""]
    for kind, row, *etag in operations:
        method, where, headers, body = _parts(client.table_name, kind, row, *etag)
        lines += [f"--{changes}", "Content-Type: application/http", "Content-Transfer-Encoding: binary", ""]
        lines += [
            f"{method} {url}/{where} HTTP/1.1",
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
    _, *found = _STATUS.split(answer)
    return list(zip(map(int, found[::2]), found[1::2], strict=True))


async def _send(client: TableClient, request: HttpRequest) -> tuple[int, bytes, str]:
    """The status, body and ETag of the answer."""
    request.headers["x-ms-version"] = client.api_version
    # The client below the public one: it is the same, with its policies, and sends what it is given.
    response = await client._client.send_request(request, stream=True)
    return response.status_code, await response.read(), response.headers.get("ETag", "")


def _parts(table: str, kind: str, row: Row, etag: str = "") -> tuple[str, str, dict[str, str], str]:
    """The method, path, headers and body of one operation."""
    key = f"(PartitionKey='{_key(row['PartitionKey'])}',RowKey='{_key(row['RowKey'])}')"
    headers = {"Accept": "application/json", "DataServiceVersion": "3.0"}
    if kind == "create":
        headers["Prefer"] = "return-no-content"
    elif kind != "put":
        headers["If-Match"] = etag or "*"
    if kind == "delete":
        return _METHODS[kind], table + key, headers, ""
    headers["Content-Type"] = "application/json"
    return _METHODS[kind], table if kind == "create" else table + key, headers, json.dumps(dict(_plain(row)))


def _key(key: str) -> str:
    return quote(key.replace("'", "''"), safe="")


def _plain(row: Row) -> Iterator[tuple[str, object]]:
    """The row in JSON, with the types that this does not tell ("Payload format for Table service operations")."""
    for name, value in row.items():
        if isinstance(value, datetime):
            yield name, value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            yield f"{name}@odata.type", "Edm.DateTime"
        elif isinstance(value, bytes):
            yield name, base64.b64encode(value).decode()
            yield f"{name}@odata.type", "Edm.Binary"
        elif isinstance(value, int) and value not in _INT32:
            raise ValueError(f"{name} is too large for a column of numbers")
        elif value is not None:
            yield name, value
