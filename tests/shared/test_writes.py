"""Rows are written as the SDK writes them, one by one or in a transaction: then all of them, or none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta, timezone

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from azure.core.credentials import AzureNamedKeyCredential
from azure.core.exceptions import HttpResponseError
from azure.data.tables.aio import TableClient

from shared.storage import open_storage
from shared.store.table import Conflict, Operation, Row, Table
from shared.store.writes import Refusal, write

#: Nothing in it may be taken for the text around it, and each type is there, at its limits.
TEXTS = {
    "line": 'a\r\nHTTP/1.1 409 Conflict\r\nETag: W/"none"\r\n\r\n--changeset_\r\n--batch_--',
    "quotes": 'it\'s "so" \\ %27 &',
    "letters": "ünï ☃ 😀 \u2028 \u0085",
    "empty": "",
}
TYPES = {
    "small": -(2**31),
    "large": 2**31 - 1,
    "yes": True,
    "no": False,
    "bytes": bytes(range(256)),
    "moment": datetime(2027, 3, 28, 2, 30, 1, 678_901, tzinfo=timezone(timedelta(hours=2))),
    "forever": datetime(9000, 1, 1, tzinfo=UTC),
}
OLD = "W/\"datetime'2020-01-01T00%3A00%3A00.0000000Z'\""
KEYS = ("plain", "it's", "o''clock", "a b", "ünï☃", "u:1;c@d=%25 +,(x)", 'say "so"', "~counts")


class Rows(Table):
    async def there(self, partition: str) -> dict[str, Row]:
        """The rows of a partition as the SDK reads them, by their keys."""
        found = await self.query("PartitionKey eq @partition", {"partition": partition}, limit=1000)
        return {row["RowKey"]: dict(row) for row in found}

    async def refusal(self, *operations: Operation) -> HttpResponseError:
        with pytest.raises(HttpResponseError) as refused:
            await write(self._client, operations)
        return refused.value


def row(partition: str, key: str, **columns: object) -> Row:
    return {"PartitionKey": partition, "RowKey": key, **columns}


@pytest.fixture
async def rows(connection: str) -> AsyncIterator[Rows]:
    queues, tables = open_storage({"AzureWebJobsStorage": connection})
    async with queues, tables:
        table = Rows(tables.get_table_client("Rows"))
        await table.create()
        yield table


async def test_rows_are_as_if_the_sdk_had_written_them(rows: Rows) -> None:
    columns = {**TEXTS, **TYPES, "left_out": None}
    for partition in KEYS:
        for key in KEYS:
            await rows._client.create_entity(row(partition, key, **columns))
        by_sdk = await rows.there(partition)
        await rows.clear(partition, dict.fromkeys(KEYS, ""))
        etags = [await rows.insert(row(partition, key, **columns)) for key in KEYS]
        assert [(await rows.get(partition, key) or ((), ""))[1] for key in KEYS] == etags
        assert await rows.there(partition) == by_sdk
        await rows.clear(partition, dict(zip(KEYS, etags, strict=True)))
        assert await rows.there(partition) == {}
        etags = await rows.batch([("create", row(partition, key, **columns)) for key in KEYS])
        assert [(await rows.get(partition, key) or ((), ""))[1] for key in KEYS] == etags
        assert await rows.there(partition) == by_sdk


@pytest.mark.parametrize("key", KEYS)
async def test_one_row_goes_the_same_way_as_several(rows: Rows, key: str) -> None:
    first = await rows.insert(row("it's", key, a=1, b="x"))
    with pytest.raises(Conflict):
        await rows.insert(row("it's", key))
    second = await rows.merge(row("it's", key, a=2), first)
    with pytest.raises(Conflict):
        await rows.merge(row("it's", key, a=3), first)
    there = (await rows.there("it's"))[key]
    assert (there["a"], there["b"]) == (2, "x")
    await rows.put(row("it's", key, c=True))
    assert (await rows.there("it's"))[key] == row("it's", key, c=True)
    with pytest.raises(Conflict):
        await rows.delete("it's", key, second)
    await rows.delete("it's", key)
    assert await rows.there("it's") == {}
    await rows.delete("it's", key)
    await rows.delete("it's", key, second)
    with pytest.raises(Conflict):
        await rows.merge(row("it's", key, a=4), second)


async def test_a_table_that_is_not_there_is_no_conflict(connection: str) -> None:
    queues, tables = open_storage({"AzureWebJobsStorage": connection})
    async with queues, tables:
        table = Table(tables.get_table_client("Nowhere"))
        for operations in ([("create", row("p", "k"))], [("create", row("p", "k")), ("create", row("p", "l"))]):
            with pytest.raises(Refusal, match="404 TableNotFound"):
                await table.batch(operations)  # type: ignore[arg-type]


async def test_a_merge_keeps_the_other_columns_and_answers_with_the_new_etag(rows: Rows) -> None:
    first, second = await rows.batch([("create", row("p", key, a=1, b="x")) for key in ("it's", "two")])
    changed, removed, added = await rows.batch(
        [("update", row("p", "it's", a=2), first), ("delete", row("p", "two"), second), ("create", row("p", "three"))]
    )
    there = await rows.there("p")
    assert there.keys() == {"it's", "three"}
    assert (there["it's"]["a"], there["it's"]["b"], removed) == (2, "x", "")
    assert (await rows.get("p", "it's") or ((), ""))[1] == changed != first
    assert (await rows.get("p", "three") or ((), ""))[1] == added


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(("create", row("p", "known")), id="one that is there"),
        pytest.param(("update", row("p", "known", a=2), OLD), id="changed"),
        pytest.param(("delete", row("p", "known"), OLD), id="removed"),
        pytest.param(("delete", row("p", "unknown")), id="one that is not there"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 98])
async def test_one_that_conflicts_undoes_all(rows: Rows, refused: Operation, place: int) -> None:
    await rows.batch([("create", row("p", "known", a=1))])
    operations: list[Operation] = [("create", row("p", f"new{number}")) for number in range(98)]
    operations.insert(place, refused)
    with pytest.raises(Conflict):
        await rows.batch(operations)
    assert {key: each["a"] for key, each in (await rows.there("p")).items()} == {"known": 1}


@pytest.mark.parametrize(
    ("operations", "code"),
    [
        ([("create", row("p", "a/b"))], "InvalidInput"),
        ([("create", row("p", "long", text="x" * 40_000))], "PropertyValueTooLarge"),
        ([("create", row("p", "twice")), ("create", row("p", "twice"))], "InvalidDuplicateRow"),
    ],
)
async def test_what_storage_does_not_take_is_an_error_with_its_status_and_code(
    rows: Rows, operations: Sequence[Operation], code: str
) -> None:
    error = await rows.refusal(*operations)
    assert error.status_code == 400
    assert code in str(error)
    assert not await rows.there("p")


async def test_a_number_that_would_be_stored_as_another_type_is_refused_before_it_is_sent(rows: Rows) -> None:
    with pytest.raises(ValueError, match="far is too large"):
        await rows.batch([("create", row("p", "k", far=2**31))])
    assert not await rows.there("p")


async def test_who_may_not_write_is_told_by_the_status(connection: str) -> None:
    other = connection.replace("AccountKey=", "AccountKey=AAAA")
    queues, tables = open_storage({"AzureWebJobsStorage": other})
    async with queues, tables:
        with pytest.raises(HttpResponseError) as refused:
            await write(tables.get_table_client("Rows"), [("create", row("p", "k"))])
    assert refused.value.status_code == 403


#: What Azure answers with 202 where one server was too busy for it; Azurite never is.
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

Answered = Callable[..., Awaitable[TableClient]]


@pytest.fixture
async def answered() -> AsyncIterator[Answered]:
    """A table whose storage gives these answers to transactions, the last one ever again."""
    async with AsyncExitStack() as stack:

        async def serve(*bodies: str) -> TableClient:
            left = list(bodies)

            async def answer(_: web.Request) -> web.Response:
                body = left.pop(0) if len(left) > 1 else left[0]
                return web.Response(status=202, text=body, content_type="multipart/mixed")

            app = web.Application()
            app.router.add_post("/account/$batch", answer)
            server = await stack.enter_async_context(TestServer(app))
            client = TableClient(
                str(server.make_url("/account")), "Rows", credential=AzureNamedKeyCredential("a", "a2V5")
            )
            return await stack.enter_async_context(client)

        yield serve


async def test_what_storage_was_too_busy_for_is_tried_again(
    answered: Answered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.store.writes.PAUSES", (0.0, 0.0))
    client = await answered(BUSY, BUSY, BOTH)
    assert await write(client, TWO) == ["W/1", "W/1"]


@pytest.mark.parametrize(
    ("answer", "status"), [(BUSY, 503), ("", None), (DONE, None), (BOTH.replace("HTTP/1.1", "HTTP"), None)]
)
async def test_what_was_not_done_in_the_end_is_never_taken_for_done(
    answered: Answered, answer: str, status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.store.writes.PAUSES", (0.0,))
    client = await answered(answer)
    with pytest.raises(HttpResponseError) as refused:
        await write(client, TWO)
    assert refused.value.status_code == status
