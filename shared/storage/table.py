"""The operations on one table that the storage modules need, with conflicts as an exception.

Rows are plain dictionaries with `PartitionKey` and `RowKey`; an ETag is an opaque string. The SDK repeats a request if
the answer was lost, so a write that succeeded can be reported as a conflict. A caller that must know whether a row is
its own writes a token into the row, and reads it back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import ResourceExistsError

from shared.concurrency import gather_limited
from shared.storage.entity_reads import read
from shared.storage.entity_writes import Operation, Row, write
from shared.storage.requests import StorageRefusal

if TYPE_CHECKING:
    from azure.data.tables.aio import TableClient

#: Operations in one entity group transaction, and rows in one answer ("Performing entity group transactions" and
#: "Query timeout and pagination", Table service REST reference).
MAX_TRANSACTION_ROWS = 100
MAX_PAGE_ROWS = 1000
#: Bytes of one column, with text in UTF-16: below the 64 KiB of "Understanding the Table service data model", because
#: storage refuses values that are slightly smaller than that.
COLUMN_BYTES = 64_000


class Conflict(Exception):
    """The row already exists, has another ETag, or was deleted."""


def removal(partition: str, row: str, etag: str = "") -> Operation:
    """Return the operation that deletes a row, for a batch."""
    key_columns = {"PartitionKey": partition, "RowKey": row}
    return ("delete", key_columns, etag) if etag else ("delete", key_columns)


def etag_of(row: Row) -> str:
    """Return the ETag of a row from a query that read all columns."""
    return str(row.metadata["etag"])  # type: ignore[attr-defined]


class Table:
    def __init__(self, client: TableClient) -> None:
        self._client = client

    async def create(self) -> None:
        """Create the table unless it exists."""
        try:
            await self._client.create_table()
        except ResourceExistsError:
            return

    async def get(self, partition: str, row: str, select: Sequence[str] | None = None) -> tuple[Row, str] | None:
        """Return the row and its ETag, or None. `select` must contain Timestamp if the ETag is needed.

        A missing table is a fault of the storage, and raises `ResourceNotFoundError`.
        """
        return await self._read(partition, row, select)

    async def insert(self, row: Row) -> str:
        """Insert the row and return its ETag; raise `Conflict` if it exists."""
        return (await self._execute([("create", row)]))[0]

    async def merge(self, row: Row, etag: str) -> str:
        """Change the given columns and return the new ETag; raise `Conflict` if the row has another ETag."""
        return (await self._execute([("update", row, etag)]))[0]

    async def put(self, row: Row) -> None:
        """Insert the row, or replace it."""
        await self._execute([("put", row)])

    async def delete(self, partition: str, row: str, etag: str = "") -> None:
        """Delete the row if it exists; with an ETag, raise `Conflict` if the row has another."""
        try:
            await self._write([removal(partition, row, etag)])
        except StorageRefusal as refusal:
            if not _is_conflict(refusal):
                raise
            if refusal.status_code != 404:
                raise Conflict from None

    async def clear(self, partition: str, rows: Mapping[str, str]) -> None:
        """Delete rows, given as ETags by row key ("" for any ETag), in as few transactions as possible.

        Rows that do not exist, or have another ETag, are left as they are.
        """
        items = list(rows.items())
        for start in range(0, len(items), MAX_TRANSACTION_ROWS):
            part = items[start : start + MAX_TRANSACTION_ROWS]
            try:
                if len(part) > 1:
                    await self.batch([removal(partition, row, etag) for row, etag in part])
                    continue
            except Conflict:  # one of the rows has changed: delete each of them alone
                pass
            await gather_limited(part, lambda row: self._delete_unchanged(partition, *row))

    async def _delete_unchanged(self, partition: str, row: str, etag: str) -> None:
        with suppress(Conflict):
            await self.delete(partition, row, etag)

    async def batch(self, operations: Sequence[Operation]) -> list[str]:
        """Execute up to 100 operations on one partition, all or none; return the ETags, or raise `Conflict`."""
        return await self._execute(operations)

    async def _execute(self, operations: Sequence[Operation]) -> list[str]:
        try:
            return await self._write(operations)
        except StorageRefusal as refusal:
            if _is_conflict(refusal):
                raise Conflict from None
            raise

    async def _read(self, partition: str, row: str, select: Sequence[str] | None) -> tuple[Row, str] | None:
        return await read(self._client, partition, row, select)

    async def _write(self, operations: Sequence[Operation]) -> list[str]:
        return await write(self._client, operations)

    async def query(
        self, where: str, values: Mapping[str, Any], *, limit: int, select: Sequence[str] | None = None
    ) -> list[Row]:
        """Return the first `limit` rows that match, ordered by their keys."""
        rows: list[Row] = []
        async for page in self.pages(where, values, size=min(limit, MAX_PAGE_ROWS), select=select):
            rows += page
            if len(rows) >= limit:
                break
        return rows[:limit]

    async def pages(
        self, where: str, values: Mapping[str, Any], *, size: int, select: Sequence[str] | None = None
    ) -> AsyncIterator[list[Row]]:
        """Yield all rows that match, ordered by their keys, up to `size` at a time. A page may be empty."""
        pages = self._client.query_entities(
            where, parameters=dict(values), select=list(select) if select else None, results_per_page=size
        ).by_page()
        async for page in pages:
            yield [row async for row in page]


def _is_conflict(refusal: StorageRefusal) -> bool:
    return refusal.status_code in (404, 409, 412) and refusal.code != "TableNotFound"
