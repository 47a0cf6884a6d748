"""Rows are written as the SDK writes them, and the answers of storage are interpreted correctly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import HttpResponseError
from azure.data.tables.aio import TableClient

from shared.storage.clients import open_storage
from shared.storage.entity_writes import Operation, Row, write
from shared.storage.table import Table
from tests.shared.test_storage import KEYS, TEXTS, TYPES, row


class Rows(Table):
    async def read(self, partition: str) -> dict[str, Row]:
        """Return the rows of a partition as the SDK reads them, by row key."""
        found = await self.query("PartitionKey eq @partition", {"partition": partition}, limit=1000)
        return {row["RowKey"]: dict(row) for row in found}


@pytest.fixture
async def rows(connection: str) -> AsyncIterator[Rows]:
    queues, tables = open_storage({"AzureWebJobsStorage": connection})
    async with queues, tables:
        table = Rows(tables.get_table_client("Rows"))
        await table.create()
        yield table


async def test_rows_equal_those_that_the_sdk_writes(rows: Rows) -> None:
    columns = {**TEXTS, **TYPES, "left_out": None}
    for partition in KEYS:
        for key in KEYS:
            await rows._client.create_entity(row(partition, key, **columns))
        by_sdk = await rows.read(partition)
        await rows.clear(partition, dict.fromkeys(KEYS, ""))
        etags = [await rows.insert(row(partition, key, **columns)) for key in KEYS]
        assert [(await rows.get(partition, key) or ((), ""))[1] for key in KEYS] == etags
        assert await rows.read(partition) == by_sdk
        await rows.clear(partition, dict(zip(KEYS, etags, strict=True)))
        assert await rows.read(partition) == {}
        etags = await rows.batch([("create", row(partition, key, **columns)) for key in KEYS])
        assert [(await rows.get(partition, key) or ((), ""))[1] for key in KEYS] == etags
        assert await rows.read(partition) == by_sdk


async def test_write_with_a_wrong_key_is_refused_with_its_status(connection: str) -> None:
    other = connection.replace("AccountKey=", "AccountKey=AAAA")
    queues, tables = open_storage({"AzureWebJobsStorage": other})
    async with queues, tables:
        with pytest.raises(HttpResponseError) as refused:
            await write(tables.get_table_client("Rows"), [("create", row("p", "k"))])
    assert refused.value.status_code == 403


#: The answer of Azure, with status 202, if a server was too busy for a transaction; Azurite never sends it.
BUSY = (
    "--batchresponse_1\r\nContent-Type: multipart/mixed; boundary=changesetresponse_1\r\n\r\n"
    "--changesetresponse_1\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\r\n"
    '{"odata.error":{"code":"ServerBusy","message":{"lang":"en-US","value":"0:Busy"}}}\r\n'
    "--changesetresponse_1--\r\n--batchresponse_1--\r\n"
)
DONE = BUSY.replace("503 Service Unavailable", "204 No Content").replace("Content-Type: application/json", "ETag: W/1")
_PART = DONE.partition("--changesetresponse_1\r\n")[2].partition("--changesetresponse_1--")[0]
BOTH = DONE.replace(_PART, f"{_PART}--changesetresponse_1\r\n{_PART}")
TWO: Sequence[Operation] = [("create", row("p", "k")), ("create", row("p", "l"))]

ServeAnswers = Callable[..., Awaitable[TableClient]]


@pytest.fixture
async def serve_answers() -> AsyncIterator[ServeAnswers]:
    """Return a function that starts a storage with these answers to transactions, and repeats the last one."""
    async with AsyncExitStack() as stack:

        async def serve(*bodies: str) -> TableClient:
            remaining = list(bodies)

            async def answer(_: web.Request) -> web.Response:
                body = remaining.pop(0) if len(remaining) > 1 else remaining[0]
                return web.Response(status=202, text=body, content_type="multipart/mixed")

            app = web.Application()
            app.router.add_post("/account/$batch", answer)
            server = await stack.enter_async_context(TestServer(app))
            client = TableClient(
                str(server.make_url("/account")), "Rows", credential=AzureNamedKeyCredential("a", "a2V5")
            )
            return await stack.enter_async_context(client)

        yield serve


async def test_transaction_is_retried_while_storage_is_busy(
    serve_answers: ServeAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.storage.entity_writes.RETRY_DELAYS_SECONDS", (0.0, 0.0))
    client = await serve_answers(BUSY, BUSY, BOTH)
    assert await write(client, TWO) == ["W/1", "W/1"]


@pytest.mark.parametrize(
    ("answer", "status"), [(BUSY, 503), ("", None), (DONE, None), (BOTH.replace("HTTP/1.1", "HTTP"), None)]
)
async def test_transaction_without_a_complete_answer_raises(
    serve_answers: ServeAnswers, answer: str, status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.storage.entity_writes.RETRY_DELAYS_SECONDS", (0.0,))
    client = await serve_answers(answer)
    with pytest.raises(HttpResponseError) as refused:
        await write(client, TWO)
    assert refused.value.status_code == status
