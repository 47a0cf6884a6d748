"""Entity group transactions as plain text: up to 100 operations on one partition, all done or none.

The SDK's `submit_transaction` writes and reads them with Python's `email` package, which takes five times the CPU of a
single write. Here its client still signs, retries and sends them; only their text is ours ("Performing entity group
transactions", Table service REST reference).
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote
from uuid import uuid4

from azure.core.exceptions import HttpResponseError
from azure.core.rest import HttpRequest

if TYPE_CHECKING:
    from azure.data.tables.aio import TableClient

    from shared.store.table import Operation, Row

#: Seconds before each further try where storage was too busy to do it, which it says within its answer: the client, who
#: tries again what fails as a whole, does not see that.
PAUSES = (0.2, 0.8, 3.2)

_METHODS = {"create": "POST", "update": "PATCH", "delete": "DELETE"}
_INT32 = range(-(2**31), 2**31)
# Each operation is answered by a response of its own, in their order; a refusal is the only one, with its code in JSON.
_STATUS = re.compile(rb"^HTTP/1\.1 (\d{3})", re.MULTILINE)
_ETAG = re.compile(rb"^ETag: *(.*?)\r?$", re.MULTILINE | re.IGNORECASE)
_CODE = re.compile(rb'"code": *"(\w+)"')


async def submit(client: TableClient, operations: Sequence[Operation]) -> list[str]:
    """Do all of it; returns the new ETags, "" for what is removed.

    Raises `HttpResponseError` where none of it was done, with the status of the operation that was refused. After a
    status of 500 and more that is not sure: who tries again may meet what they did themselves.
    """
    pauses = iter(PAUSES)
    while True:
        found = await _answers(client, operations)
        refused = next((each for each in found if each[0] >= 300), None)
        if refused is None:
            break
        pause = next(pauses, None)
        if refused[0] < 500 or pause is None:
            raise _refusal(*refused)
        await asyncio.sleep(pause)
    if len(found) < len(operations):
        raise HttpResponseError("The answer to a transaction cannot be read")
    etags = (_ETAG.search(rest) for _, rest in found)
    return [etag[1].decode() if etag else "" for etag in etags]


async def _answers(client: TableClient, operations: Sequence[Operation]) -> list[tuple[int, bytes]]:
    """The status and the rest of the answer to each operation, or to the one that was refused."""
    url, question, query = client.url.partition("?")
    batch, changes = f"batch_{uuid4()}", f"changeset_{uuid4()}"
    lines = [f"--{batch}", f"Content-Type: multipart/mixed; boundary={changes}", ""]
    for operation in operations:
        lines += [f"--{changes}", *_lines(f"{url}/{client.table_name}", *operation)]
    lines += [f"--{changes}--", f"--{batch}--", ""]
    request = HttpRequest(
        "POST",
        f"{url}/$batch{question}{query}",
        headers={
            "Content-Type": f"multipart/mixed; boundary={batch}",
            "DataServiceVersion": "3.0",
            "x-ms-version": client.api_version,
        },
        content="\r\n".join(lines).encode(),
    )
    # The client below the public one: it is the same, with its policies, and sends what it is given.
    response = await client._client.send_request(request, stream=True)
    answer = await response.read()
    if response.status_code != 202:
        raise HttpResponseError(response=response)
    _, *found = _STATUS.split(answer)
    return list(zip(map(int, found[::2]), found[1::2], strict=True))


def _lines(url: str, kind: str, row: Row, etag: str = "*") -> Iterator[str]:
    """The lines of one operation, as a request of its own within the transaction."""
    where = "" if kind == "create" else f"(PartitionKey='{_key(row['PartitionKey'])}',RowKey='{_key(row['RowKey'])}')"
    yield from ("Content-Type: application/http", "Content-Transfer-Encoding: binary", "")
    yield f"{_METHODS[kind]} {url}{where} HTTP/1.1"
    yield from ("Accept: application/json", "DataServiceVersion: 3.0")
    if kind == "create":
        yield "Prefer: return-no-content"
    else:
        yield f"If-Match: {etag}"
    if kind == "delete":
        yield from ("", "")
    else:
        yield from ("Content-Type: application/json", "", json.dumps(_plain(row)))


def _key(key: str) -> str:
    return quote(key.replace("'", "''"), safe="")


def _plain(row: Row) -> Row:
    """The row in JSON, with the types that this does not tell ("Payload format for Table service operations")."""
    plain: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, datetime):
            plain[name] = value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            plain[f"{name}@odata.type"] = "Edm.DateTime"
        elif isinstance(value, bytes):
            plain[name] = base64.b64encode(value).decode()
            plain[f"{name}@odata.type"] = "Edm.Binary"
        elif isinstance(value, int) and value not in _INT32:
            raise ValueError(f"{name} is too large for a column of numbers")
        elif value is not None:
            plain[name] = value
    return plain


def _refusal(status: int, answer: bytes) -> HttpResponseError:
    code = _CODE.search(answer)
    error = HttpResponseError(f"A transaction was refused: {status} {code[1].decode() if code else ''}")
    error.status_code = status
    return error
