"""Behaviour of storage that the app relies on: the same on Azurite and in the memory storage of most tests.

Where Azurite accepts more than the real service, memory storage refuses it (`memory_only`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError, ServiceResponseError

from shared.queues import Queues
from shared.storage.clients import open_storage
from shared.storage.entity_writes import Operation, Row
from shared.storage.requests import TIMEOUTS
from shared.storage.table import COLUMN_BYTES, Conflict, Table, etag_of, removal
from tests.support.storage import Storage

#: Texts that look like parts of a request or answer, and the limits of each type.
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
LARGE = {f"d{number}": bytes(60_000) for number in range(10)}
KEYS = ("plain", "it's", "o''clock", "a b", "ünï☃", "u:1;c@d=%25 +,(x)", 'say "so"', "~counts")

both = pytest.mark.parametrize("storage", ["azurite", "memory"], indirect=True)
memory_only = pytest.mark.parametrize("storage", ["memory"], indirect=True)


def row(partition: str, key: str, **columns: object) -> Row:
    return {"PartitionKey": partition, "RowKey": key, **columns}


@pytest.fixture
def storage(request: pytest.FixtureRequest) -> Storage:
    return Storage(request.getfixturevalue("connection")) if request.param == "azurite" else Storage()


@pytest.fixture
async def table(storage: Storage) -> AsyncIterator[Table]:
    queues, tables = storage.open()
    async with queues, tables:
        table = storage.table(tables.get_table_client("Rows"))
        await table.create()
        await table.create()
        yield table


async def rows(table: Table, where: str = "PartitionKey eq @p", /, **values: Any) -> dict[str, dict[str, Any]]:
    """Return the rows that match, by row key, in order."""
    found = await table.query(where, {"p": "p", **values}, limit=1000)
    return {each["RowKey"]: dict(each) for each in found}


@both
@pytest.mark.parametrize("key", KEYS)
async def test_insert_and_merge_conflict_unless_the_etag_is_current(table: Table, key: str) -> None:
    assert await table.get("it's", key) is None
    first = await table.insert(row("it's", key, a=1, b="x"))
    with pytest.raises(Conflict):
        await table.insert(row("it's", key))
    second = await table.merge(row("it's", key, a=2), first)
    assert second != first
    with pytest.raises(Conflict):
        await table.merge(row("it's", key, a=3), first)
    found, etag = await table.get("it's", key) or ({}, "")
    assert (dict(found), etag) == (row("it's", key, a=2, b="x"), second)
    await table.put(row("it's", key, c=True))
    found, etag = await table.get("it's", key) or ({}, "")
    assert dict(found) == row("it's", key, c=True)
    assert etag not in (first, second)
    with pytest.raises(Conflict):
        await table.delete("it's", key, second)
    await table.delete("it's", key)
    assert await table.get("it's", key) is None
    await table.delete("it's", key)
    await table.delete("it's", key, second)
    with pytest.raises(Conflict):
        await table.merge(row("it's", key, a=4), second)


@both
async def test_values_of_each_type_are_read_as_written(table: Table) -> None:
    await table.insert(row("p", "k", **TEXTS, **TYPES, left_out=None))
    stored = (await rows(table))["k"]
    assert stored == row("p", "k", **TEXTS, **TYPES)
    assert dict((await table.get("p", "k") or ({}, ""))[0]) == stored
    assert all(stored[name].tzinfo == UTC for name in ("moment", "forever"))
    assert {name: type(stored[name]) for name in ("small", "yes", "empty")} == {"small": int, "yes": bool, "empty": str}
    # A merge does not change columns that are missing or None.
    await table.merge(row("p", "k", small=None, large=1), (await table.get("p", "k") or ({}, ""))[1])
    assert (await rows(table))["k"] == stored | {"large": 1}


@both
async def test_merge_keeps_other_columns_and_returns_the_new_etag(table: Table) -> None:
    first, second = await table.batch([("create", row("p", key, a=1, b="x")) for key in ("it's", "two")])
    changed, removed, added = await table.batch(
        [("update", row("p", "it's", a=2), first), ("delete", row("p", "two"), second), ("create", row("p", "three"))]
    )
    stored = await rows(table)
    assert stored.keys() == {"it's", "three"}
    assert (stored["it's"]["a"], stored["it's"]["b"], removed) == (2, "x", "")
    assert (await table.get("p", "it's") or ((), ""))[1] == changed != first
    assert (await table.get("p", "three") or ((), ""))[1] == added


@both
@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(("create", row("p", "known")), id="insert an existing row"),
        pytest.param(("update", row("p", "known", a=2), OLD), id="merge a changed row"),
        pytest.param(("delete", row("p", "known"), OLD), id="delete a changed row"),
        pytest.param(("delete", row("p", "unknown")), id="delete a missing row"),
    ],
)
@pytest.mark.parametrize("index", [0, 1, 99])
async def test_one_conflict_undoes_the_whole_transaction(table: Table, refused: Operation, index: int) -> None:
    await table.batch([("create", row("p", "known", a=1))])
    operations: list[Operation] = [("create", row("p", f"new{number}")) for number in range(99)]
    operations.insert(index, refused)
    with pytest.raises(Conflict):
        await table.batch(operations)
    assert {key: each["a"] for key, each in (await rows(table)).items()} == {"known": 1}


@both
async def test_a_hundred_rows_are_written_and_deleted_together(table: Table) -> None:
    etags = await table.batch([("create", row("p", f"{number:03}")) for number in range(100)])
    assert list(await rows(table)) == [f"{number:03}" for number in range(100)]
    # Rows that have changed, or do not exist, are left as they are.
    await table.merge(row("p", "007", a=1), etags[7])
    await table.delete("p", "008")
    await table.clear("p", {f"{number:03}": etag for number, etag in enumerate(etags)})
    assert list(await rows(table)) == ["007"]
    await table.batch([removal("p", "007")])
    assert await rows(table) == {}


@both
@pytest.mark.parametrize(
    ("operations", "code"),
    [
        ([("create", row("p", "a/b"))], "InvalidInput"),
        ([("create", row("p", "long", text="x" * 40_000))], "PropertyValueTooLarge"),
        ([("create", row("p", "long", data=b"x" * 70_000))], "PropertyValueTooLarge"),
        ([("create", row("p", "twice")), ("create", row("p", "twice"))], "InvalidDuplicateRow"),
    ],
)
async def test_invalid_operation_raises_an_error_with_status_and_code(
    table: Table, operations: Sequence[Operation], code: str
) -> None:
    with pytest.raises(HttpResponseError, match=code) as refused:
        await table.batch(operations)
    assert refused.value.status_code == 400
    assert await rows(table) == {}


@memory_only
@pytest.mark.parametrize(
    ("operations", "code"),
    [
        ([("create", row("p", "long", text="x" * (COLUMN_BYTES // 2 + 1)))], "PropertyValueTooLarge"),
        ([("create", row("p", "long", text="☃" * (COLUMN_BYTES // 2 + 1)))], "PropertyValueTooLarge"),
        ([("create", row("p", "long", data=bytes(COLUMN_BYTES + 1)))], "PropertyValueTooLarge"),
        ([("create", row("p", "k", **{f"d{n}": bytes(COLUMN_BYTES) for n in range(17)}))], "EntityTooLarge"),
        ([("create", row("p", f"{number}")) for number in range(101)], "InvalidInput"),
        ([("create", row("p", "1")), ("create", row("q", "1"))], "CommandsInBatchActOnDifferentPartitions"),
        ([("create", row("p", f"{n}", **LARGE)) for n in range(8)], "ContentLengthExceeded"),
    ],
)
async def test_memory_refuses_what_only_azurite_accepts(
    table: Table, operations: Sequence[Operation], code: str
) -> None:
    with pytest.raises(HttpResponseError, match=code):
        await table.batch(operations)
    assert await rows(table) == {}


@both
async def test_row_at_the_size_limit_is_accepted(table: Table) -> None:
    text, data = "x" * (COLUMN_BYTES // 2), bytes(COLUMN_BYTES)
    await table.insert(row("p", "k", text=text, **{f"d{n}": data for n in range(15)}))
    assert len((await rows(table))["k"]) == 18


@both
async def test_number_over_32_bits_is_refused(table: Table) -> None:
    with pytest.raises(ValueError, match="far does not fit"):
        await table.batch([("create", row("p", "k", far=2**31))])
    assert await rows(table) == {}


@both
@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("PartitionKey eq @p", "abcd"),
        ("PartitionKey eq @p and RowKey gt @b", "cd"),
        ("PartitionKey eq @p and RowKey ge @b and RowKey lt @d", "bc"),
        ("PartitionKey eq @p and RowKey le @b", "ab"),
        ("PartitionKey eq @p and kind eq 'odd'", "ac"),
        ("PartitionKey eq @p and kind ne @odd", "b"),
        ("PartitionKey eq @p and at le @now", "ab"),
        ("PartitionKey eq @p and yes eq @true and number ge @two", "b"),
        ("PartitionKey eq @p and ( kind eq @odd or at le @now )", "abc"),
        ("kind eq @odd and PartitionKey lt @q", "ac"),
        ("PartitionKey gt @p or RowKey eq @b", "be"),
        ("PartitionKey lt @p", ""),
    ],
)
async def test_filter_returns_the_matching_rows_in_order(table: Table, where: str, found: str) -> None:
    now = datetime(2027, 1, 1, tzinfo=UTC)
    await table.insert(row("q", "e", kind="odd"))
    await table.insert(row("p", "c", kind="odd", at=now + timedelta(seconds=1), number=3, yes=False))
    await table.insert(row("p", "b", kind="even", at=now, number=2, yes=True))
    await table.insert(row("p", "a", kind="odd", at=now, number=1, yes=True))
    await table.insert(row("p", "d"))
    values = {"q": "q", "b": "b", "d": "d", "odd": "odd", "now": now, "true": True, "two": 2}
    assert "".join(await rows(table, where, **values)) == found


@both
async def test_pages_have_the_given_size_and_follow_each_other(table: Table) -> None:
    for partition in "qp":
        await table.batch([("create", row(partition, f"{number}", n=number)) for number in range(5)])
    sizes, seen = [], []
    async for page in table.pages("PartitionKey ge @p and n ge @one", {"p": "p", "one": 1}, size=3):
        sizes.append(len(page))
        seen += [each["PartitionKey"] + each["RowKey"] for each in page]
        await table.delete("p", "4")  # on the next page
        await table.put(row("q", "9", n=9))  # on the last page
    assert seen == ["p1", "p2", "p3", "q1", "q2", "q3", "q4", "q9"]
    assert [size for size in sizes if size] == [3, 3, 2]
    for limit, count in ((2, 2), (100, 10)):
        assert len(await table.query("PartitionKey ge @p", {"p": "p"}, limit=limit)) == count


@both
async def test_select_returns_only_the_columns_and_maybe_the_etag(table: Table) -> None:
    etag = await table.insert(row("p", "k", a=1, b=2))
    assert (await table.get("p", "k", select=["a", "none", "Timestamp"]) or ({}, ""))[1] == etag
    found, _ = await table.get("p", "k", select=["a", "none", "Timestamp"]) or ({}, "")
    assert {name: found.get(name) for name in ("a", "b", "none")} == {"a": 1, "b": None, "none": None}
    [page] = [page async for page in table.pages("PartitionKey eq @p", {"p": "p"}, size=9, select=["b"]) if page]
    assert [(each.get("a"), each["b"]) for each in page] == [(None, 2)]
    [whole] = await table.query("PartitionKey eq @p", {"p": "p"}, limit=9)
    assert etag_of(whole) == etag


@both
async def test_change_of_a_read_row_does_not_change_the_stored_row(table: Table) -> None:
    await table.insert(row("p", "k", a=1))
    found, _ = await table.get("p", "k") or ({}, "")
    assert isinstance(found, dict)
    found["a"] = 2
    assert (await rows(table))["k"]["a"] == 1


@both
async def test_missing_table_is_an_error_and_not_a_conflict(storage: Storage) -> None:
    queues, tables = storage.open()
    async with queues, tables:
        table = storage.table(tables.get_table_client("Nowhere"))
        for operations in ([("create", row("p", "k"))], [("create", row("p", "k")), ("create", row("p", "l"))]):
            with pytest.raises(HttpResponseError, match="404 TableNotFound"):
                await table.batch(operations)  # type: ignore[arg-type]
        with pytest.raises(ResourceNotFoundError):
            await table.get("p", "k")
        with pytest.raises(ResourceNotFoundError):
            await rows(table)


@pytest.fixture
async def queue(storage: Storage) -> AsyncIterator[tuple[Queues, Any]]:
    """Return a queue as the app uses it, and the client of the SDK for the same queue."""
    queues, tables = storage.open()
    async with queues, tables:
        ours = storage.queues(queues)
        await ours.create("work")
        await ours.create("work")
        yield ours, queues.get_queue_client("work")


async def receive(client: Any, **more: Any) -> list[Any]:
    return [each async for each in client.receive_messages(**more)]


@both
@pytest.mark.parametrize("text", ["", "plain", " <&> \r\n\t ", "ünï ☃ 😀", '{"v": 1}', "x" * 64 * 1024])
async def test_message_is_read_as_written(queue: tuple[Queues, Any], text: str) -> None:
    ours, client = queue
    await ours.put("work", text)
    [message] = await receive(client)
    # XML normalises line ends, and a text of white space becomes empty.
    assert message.content in (text, text.replace("\r\n", "\n"), text or None)
    assert message.dequeue_count == 1


@both
async def test_received_message_is_invisible_and_only_its_last_receiver_deletes_it(queue: tuple[Queues, Any]) -> None:
    ours, client = queue
    for text in "abc":
        await ours.put("work", text)
    assert [each.content for each in await client.peek_messages(2)] == ["a", "b"]
    first = await receive(client, max_messages=2, visibility_timeout=1)
    assert [each.content for each in first] == ["a", "b"]
    [third] = await receive(client, visibility_timeout=60)
    assert third.content == "c"
    assert await client.peek_messages(9) == []
    assert (await client.get_queue_properties()).approximate_message_count == 3
    again: list[Any] = []
    while len(again) < 2:
        again += await receive(client, visibility_timeout=60)
    assert sorted((each.content, each.dequeue_count) for each in again) == [("a", 2), ("b", 2)]
    for stale in first:
        with pytest.raises(HttpResponseError):
            await client.delete_message(stale)
    for message in (*again, third):
        await client.delete_message(message)
    assert (await client.get_queue_properties()).approximate_message_count == 0


@both
async def test_delayed_message_is_invisible_and_counted(queue: tuple[Queues, Any]) -> None:
    ours, client = queue
    await ours.put("work", "later", 0.2)
    assert await receive(client) == []
    assert (await client.get_queue_properties()).approximate_message_count == 1
    while not (found := await receive(client)):
        continue
    assert found[0].content == "later"
    await ours.put("work", "far", 10**9)  # shortened to the longest delay
    await client.clear_messages()
    assert (await client.get_queue_properties()).approximate_message_count == 0


@both
@pytest.mark.parametrize("text", ["x" * (64 * 1024 + 1), "ü" * (32 * 1024 + 1)])
async def test_message_over_64_kib_is_refused(queue: tuple[Queues, Any], text: str) -> None:
    ours, client = queue
    with pytest.raises(HttpResponseError):
        await ours.put("work", text)
    assert (await client.get_queue_properties()).approximate_message_count == 0


@memory_only
async def test_character_that_xml_does_not_allow_is_refused(queue: tuple[Queues, Any]) -> None:
    with pytest.raises(HttpResponseError, match="InvalidXmlDocument"):
        await queue[0].put("work", "a\x01b")


@both
async def test_missing_queue_is_an_error(queue: tuple[Queues, Any]) -> None:
    with pytest.raises(ResourceNotFoundError):
        await queue[0].put("nowhere", "x")


async def test_request_to_storage_that_does_not_answer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform: the tables or the storage are away. Connections are accepted, and nothing comes back."""
    short = {name: seconds / 100 for name, seconds in TIMEOUTS.items()}
    monkeypatch.setattr("shared.storage.requests.TIMEOUTS", short)
    writers: list[asyncio.StreamWriter] = []

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a"
    text = (
        f"AccountName=a;AccountKey=YQ==;TableEndpoint={endpoint};QueueEndpoint={endpoint};DefaultEndpointsProtocol=http"
    )
    queues, tables = open_storage({"AzureWebJobsStorage": text})
    async with queues, tables:
        for work in (Table(tables.get_table_client("HeraldTopics")).get("a", "b"), Queues(queues).put("work", "x")):
            before = len(writers)
            with pytest.raises(ServiceResponseError):
                await work
            assert 0 < len(writers) - before <= 3
    for writer in writers:
        writer.close()
    server.close()
