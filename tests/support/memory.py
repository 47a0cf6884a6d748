"""A storage account in memory, for all tests that are not about storage, races or processes.

Its clients have the part of the SDK's interface that the app and the tests use; `tests/shared/test_storage.py` compares
them with Azurite. They are as strict as the real service where Azurite is not ("Understanding the Table service data
model" and "Put Message", Microsoft Learn).
"""

from __future__ import annotations

import asyncio
import json
import math
import operator
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import count
from types import SimpleNamespace
from typing import Any, Self

from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.data.tables import TableEntity

from shared.storage.entity_writes import Operation, Row
from shared.storage.requests import StorageRefusal
from shared.storage.table import COLUMN_BYTES, MAX_TRANSACTION_ROWS, Table

#: Largest row, transaction and message.
MAX_ROW_BYTES = 1024 * 1024
MAX_TRANSACTION_BYTES = 4 * 1024 * 1024
MAX_MESSAGE_BYTES = 64 * 1024

_KEY_PATTERN = re.compile(r"[^/\\#?\x00-\x1f\x7f-\x9f]{0,512}")
#: Characters that XML 1.0 does not allow, and a queue refuses.
_INVALID_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INT32 = range(-(2**31), 2**31)
_COMPARISONS = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip

RowTest = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
KeyBound = tuple[Callable[[Any, Any], bool], str]


@dataclass
class Outage:
    """While one of these is set, each operation on the tables or queues raises it, before it takes effect."""

    tables: type[AzureError] | None = None
    queues: type[AzureError] | None = None


class MemoryAccount:
    """The tables and queues of one account, with the interface of both service clients."""

    def __init__(self) -> None:
        self.outage = Outage()
        self._tables: dict[str, MemoryTableClient] = {}
        self._queues: dict[str, MemoryQueueClient] = {}

    def get_table_client(self, name: str) -> MemoryTableClient:
        return self._tables.setdefault(name, MemoryTableClient(name, self.outage))

    def get_queue_client(self, name: str) -> MemoryQueueClient:
        return self._queues.setdefault(name, MemoryQueueClient(name, self.outage))

    async def put_message(self, queue: str, text: str, delay_seconds: int) -> None:
        await self.get_queue_client(queue).send_message(text, visibility_timeout=delay_seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def close(self) -> None:
        return


class MemoryTable(Table):
    """`Table` on a `MemoryTableClient`. Only what the app makes its own requests for differs."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self._rows: MemoryTableClient = client

    async def _read(self, partition: str, row: str, select: Sequence[str] | None) -> tuple[Row, str] | None:
        return await self._rows.read(partition, row, select)

    async def _write(self, operations: Sequence[Operation]) -> list[str]:
        return await self._rows.write(operations)


class MemoryTableClient:
    """One table, with the interface of `azure.data.tables.aio.TableClient`."""

    _etags = count(1)

    def __init__(self, name: str, outage: Outage) -> None:
        self.table_name, self._outage = name, outage
        self._partitions: dict[str, dict[str, TableEntity]] | None = None

    @property
    def _rows(self) -> dict[str, dict[str, TableEntity]]:
        if self._outage.tables:
            raise self._outage.tables("the storage is away")
        if self._partitions is None:
            raise ResourceNotFoundError("TableNotFound")
        return self._partitions

    async def create_table(self) -> None:
        if self._partitions is not None:
            raise ResourceExistsError("TableAlreadyExists")
        self._partitions = {}

    async def get_entity(self, partition: str, row: str, *, select: Sequence[str] | None = None) -> TableEntity:
        await asyncio.sleep(0)
        found = self._rows.get(partition, {}).get(row)
        if found is None:
            raise ResourceNotFoundError("ResourceNotFound")
        return _select_columns(found, select)

    async def read(self, partition: str, row: str, select: Sequence[str] | None) -> tuple[dict[str, Any], str] | None:
        """Return plain columns, as `entity_reads.read` does: only rows of queries have metadata."""
        try:
            found = await self.get_entity(partition, row, select=select)
        except ResourceNotFoundError as error:
            if "TableNotFound" in str(error):
                raise
            return None
        return dict(found), str(found.metadata["etag"])

    def query_entities(
        self,
        where: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        select: Sequence[str] | None = None,
        results_per_page: int = 1000,
    ) -> Pages:
        return Pages(self, where, parameters or {}, select, results_per_page)

    def list_entities(self, *, select: Sequence[str] | None = None) -> Pages:
        return Pages(self, "", {}, select, 1000)

    def sorted_rows(self, bounds: Sequence[KeyBound], after: tuple[str, str]) -> Iterator[TableEntity]:
        """Yield the rows of the partitions within these bounds, in the order of their keys, above `after`."""
        exact = [value for compare, value in bounds if compare is operator.eq]
        for name in exact[:1] or sorted(self._rows):
            if name >= after[0] and all(compare(name, value) for compare, value in bounds):
                rows = self._rows.get(name, {})
                yield from (rows[key] for key in sorted(rows) if (name, key) > after)

    async def write(self, operations: Sequence[Operation]) -> list[str]:
        """Apply all operations, or none and raise `StorageRefusal`; return the new ETags, "" for deleted rows."""
        await asyncio.sleep(0)
        if self._outage.tables:
            raise self._outage.tables("the storage is away")
        if self._partitions is None:
            raise _refusal(404, "TableNotFound")
        keys = [(str(row["PartitionKey"]), str(row["RowKey"])) for _, row, *_ in operations]
        if len(operations) > MAX_TRANSACTION_ROWS:
            raise _refusal(400, "InvalidInput")
        if len({partition for partition, _ in keys}) > 1:
            raise _refusal(400, "CommandsInBatchActOnDifferentPartitions")
        if len(set(keys)) < len(keys):
            raise _refusal(400, "InvalidDuplicateRow")
        if sum(sum(map(_byte_size, row.values())) for _, row, *_ in operations) > MAX_TRANSACTION_BYTES:
            raise _refusal(413, "ContentLengthExceeded")
        rows = self._partitions.get(keys[0][0], {})
        changed: dict[str, TableEntity | None] = {}
        for (partition, key), (kind, row, *etag) in zip(keys, operations, strict=True):
            changed[key] = self._changed(rows.get(key), kind, partition, key, row, *etag)
        for key, entity in changed.items():
            if entity is None:
                del rows[key]
            else:
                rows[key] = entity
        if rows:
            self._partitions[keys[0][0]] = rows
        else:
            self._partitions.pop(keys[0][0], None)
        return [str(entity.metadata["etag"]) if entity else "" for entity in changed.values()]

    def _changed(
        self, old: TableEntity | None, kind: str, partition: str, key: str, row: Row, etag: str = "*"
    ) -> TableEntity | None:
        """Return a row after one operation, None if it is deleted; raises `StorageRefusal`."""
        if not (_KEY_PATTERN.fullmatch(partition) and _KEY_PATTERN.fullmatch(key)):
            raise _refusal(400, "InvalidInput" if len(max(partition, key, key=len)) <= 512 else "KeyValueTooLarge")
        if kind == "create" and old is not None:
            raise _refusal(409, "EntityAlreadyExists")
        if kind in ("update", "delete"):
            if old is None:
                raise _refusal(404, "ResourceNotFound")
            if etag not in ("*", old.metadata["etag"]):
                raise _refusal(412, "UpdateConditionNotSatisfied")
        if kind == "delete":
            return None
        new = TableEntity(old if old is not None and kind == "update" else {})
        new.update((name, _as_stored(name, value)) for name, value in row.items() if value is not None)
        sizes = [*map(_byte_size, new.values())]
        if max(sizes) > COLUMN_BYTES:
            raise _refusal(400, "PropertyValueTooLarge")
        if 4 + sum(sizes) + sum(8 + 2 * len(name) for name in new) > MAX_ROW_BYTES:
            raise _refusal(400, "EntityTooLarge")
        written = f"W/\"datetime'2026-01-01T00%3A00%3A00.{next(self._etags):07d}Z'\""
        new._metadata = {"etag": written, "timestamp": datetime.now(UTC)}
        return new


class Pages:
    """The result of a query, page by page or row by row; each page is read when it is requested."""

    def __init__(
        self, client: MemoryTableClient, where: str, values: Mapping[str, Any], select: Sequence[str] | None, size: int
    ) -> None:
        self._client, self._values, self._select, self._size = client, values, select, size
        self._test, bounds = _parse_filter(where)
        self._bounds = [(compare, str(values[name])) for compare, name in bounds]

    async def by_page(self) -> AsyncIterator[AsyncIterator[TableEntity]]:
        after: tuple[str, str] | None = ("", "")
        while after is not None:
            await asyncio.sleep(0)
            page: list[TableEntity] = []
            rows = self._client.sorted_rows(self._bounds, after)
            after = None
            for row in rows:
                if self._test(row, self._values):
                    if len(page) == self._size:
                        after = page[-1]["PartitionKey"], page[-1]["RowKey"]
                        break
                    page.append(_select_columns(row, None))
            yield _iterate([_select_columns(row, self._select) for row in page])

    async def __aiter__(self) -> AsyncIterator[TableEntity]:
        async for page in self.by_page():
            async for row in page:
                yield row


async def _iterate(page: Sequence[TableEntity]) -> AsyncIterator[TableEntity]:
    for row in page:
        yield row


def _select_columns(row: TableEntity, select: Sequence[str] | None) -> TableEntity:
    """Return a copy with these columns, and with the ETag if all or Timestamp are among them."""
    found = TableEntity(row if select is None else {name: row[name] for name in select if name in row})
    if select is None or "Timestamp" in select:
        found._metadata = row.metadata
    return found


def _as_stored(name: str, value: Any) -> Any:
    """Return a value as the service returns it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool) and value not in _INT32:
        raise ValueError(f"{name} does not fit into 32 bits: store it as text")
    assert isinstance(value, (bool, int, float, bytes)), f"{name} has no type that a column can have"
    return value


def _byte_size(value: Any) -> int:
    if isinstance(value, str):
        return 2 * len(value) if value.isascii() else len(value.encode("utf-16-le"))
    return len(value) if isinstance(value, bytes) else 8


def _refusal(status: int, code: str) -> StorageRefusal:
    return StorageRefusal(status, json.dumps({"odata.error": {"code": code}}).encode())


@cache
def _parse_filter(where: str) -> tuple[RowTest, Sequence[KeyBound]]:
    """Return an OData filter as a test of a row, and its bounds of the partition key, each with a parameter's name.

    Words and parentheses are separated by spaces: otherwise the SDK does not insert the parameters.
    """
    words = where.split()
    depths = [words[:position].count("(") - words[:position].count(")") for position in range(len(words))]
    positions = [position for position, word in enumerate(words) if word == "PartitionKey" and not depths[position]]
    if ("or", 0) in zip(words, depths, strict=True):
        positions = []
    bounds = [(_COMPARISONS[words[position + 1]], words[position + 2].removeprefix("@")) for position in positions]
    test = _parse_or(words) if words else lambda row, values: True
    assert not words, f"{where} is not a filter"
    return test, bounds


def _parse_or(words: list[str]) -> RowTest:
    test = _parse_and(words)
    while words[:1] == ["or"]:
        del words[0]
        test = _either(test, _parse_and(words))
    return test


def _parse_and(words: list[str]) -> RowTest:
    test = _parse_term(words)
    while words[:1] == ["and"]:
        del words[0]
        test = _both(test, _parse_term(words))
    return test


def _either(left: RowTest, right: RowTest) -> RowTest:
    return lambda row, values: left(row, values) or right(row, values)


def _both(left: RowTest, right: RowTest) -> RowTest:
    return lambda row, values: left(row, values) and right(row, values)


def _parse_term(words: list[str]) -> RowTest:
    if words[0] == "(":
        del words[0]
        test = _parse_or(words)
        assert words.pop(0) == ")"
        return test
    name, word, value = words[:3]
    del words[:3]
    compare = _COMPARISONS[word]
    if value.startswith("@"):
        return lambda row, values: name in row and compare(row[name], values[value[1:]])
    assert re.fullmatch(r"'[^']*'", value), f"{value} is not a parameter or a text"
    return lambda row, values: name in row and compare(row[name], value[1:-1])


@dataclass
class Message:
    """A message as it was received; only the receipt of its last reception deletes it."""

    id: str
    content: str
    visible_at: float
    dequeue_count: int = 0
    pop_receipt: str = ""


@dataclass
class MemoryQueueClient:
    """One queue, with the interface of `azure.storage.queue.aio.QueueClient`."""

    queue_name: str
    _outage: Outage
    _messages: dict[str, Message] | None = field(default=None)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def _existing(self) -> dict[str, Message]:
        if self._outage.queues:
            raise self._outage.queues("the storage is away")
        if self._messages is None:
            raise ResourceNotFoundError("QueueNotFound")
        return self._messages

    async def create_queue(self) -> None:
        if self._messages is not None:
            raise ResourceExistsError("QueueAlreadyExists")
        self._messages = {}

    async def send_message(self, content: str, *, visibility_timeout: int = 0, time_to_live: int = 0) -> None:
        await asyncio.sleep(0)
        if _INVALID_XML.search(content):
            raise HttpResponseError("InvalidXmlDocument")
        if len(content.encode()) > MAX_MESSAGE_BYTES:
            raise HttpResponseError("RequestBodyTooLarge")
        number = f"{next(self._numbers):08d}"
        self._existing[number] = Message(number, content, time.monotonic() + visibility_timeout)

    async def receive_messages(
        self, *, max_messages: int | None = None, visibility_timeout: int = 30
    ) -> AsyncIterator[Message]:
        now = time.monotonic()
        visible = [each for each in self._existing.values() if each.visible_at <= now]
        if visible:
            await asyncio.sleep(0)
        for message in visible[:max_messages]:
            message.dequeue_count += 1
            message.pop_receipt = str(next(self._numbers))
            message.visible_at = now + visibility_timeout
            yield Message(**vars(message))

    async def peek_messages(self, max_messages: int = 1) -> list[Message]:
        now = time.monotonic()
        return [each for each in self._existing.values() if each.visible_at <= now][:max_messages]

    def next_visible_at(self) -> float:
        """Return when the next message is visible (`time.monotonic`), infinity if there is none."""
        return min((each.visible_at for each in self._existing.values()), default=math.inf)

    async def delete_message(self, message: Message) -> None:
        await asyncio.sleep(0)
        del self._existing[self._received(message).id]

    async def hide_message(self, message: Message, seconds: float) -> None:
        """Make a received message visible again after `seconds`."""
        await asyncio.sleep(0)
        self._received(message).visible_at = time.monotonic() + seconds

    def _received(self, message: Message) -> Message:
        found = self._existing.get(message.id)
        if found is None or found.pop_receipt != message.pop_receipt:
            raise ResourceNotFoundError("MessageNotFound")
        return found

    async def clear_messages(self) -> None:
        self._existing.clear()

    async def get_queue_properties(self) -> SimpleNamespace:
        return SimpleNamespace(approximate_message_count=len(self._existing))
