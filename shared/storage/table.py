"""One table, in the few operations that the stores need, with the conflicts as exceptions of our own.

Rows are plain dictionaries with `PartitionKey` and `RowKey`; an ETag is an opaque string. The SDK repeats a
request whose answer was lost, so that a write which did happen can be reported as a conflict: whoever must
know that a row is its own writes a token of its own into it and reads it back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

from shared.concurrency import gather_limited
from shared.storage.entity_writes import StorageRefusal, write

if TYPE_CHECKING:
    from azure.data.tables.aio import TableClient
from shared.storage.entity_writes import Operation, Row

#: Most operations in one entity group transaction, and most rows in one answer ("Performing entity group
#: transactions" and "Query timeout and pagination", Table service REST reference).
MAX_TRANSACTION_ROWS = 100
MAX_PAGE_ROWS = 1000
#: Bytes of one column, text counted in UTF-16: a little below the 64 KiB of "Understanding the Table service data
#: model", as storage refuses values before that.
COLUMN_BYTES = 64_000


class Conflict(Exception):
    """The row is not as it was expected to be: it exists, was changed, or is gone."""


def removal(partition: str, row: str, etag: str = "") -> Operation:
    """What removes a row as a part of a batch."""
    where = {"PartitionKey": partition, "RowKey": row}
    return ("delete", where, etag) if etag else ("delete", where)


def etag_of(row: Row) -> str:
    """The ETag of a row that a query of all its columns found."""
    return str(row.metadata["etag"])  # type: ignore[attr-defined]


class Table:
    def __init__(self, client: TableClient) -> None:
        self._client = client

    async def create(self) -> None:
        """Create the table itself, where it is missing."""
        try:
            await self._client.create_table()
        except ResourceExistsError:
            return

    async def get(self, partition: str, row: str, select: Sequence[str] | None = None) -> tuple[Row, str] | None:
        """The row and its ETag, or None; all columns, or those of `select`, which names Timestamp for the ETag."""
        try:
            entity = await self._client.get_entity(partition, row, select=list(select) if select else None)
        except ResourceNotFoundError:
            return None
        return entity, str(entity.metadata["etag"])

    async def insert(self, row: Row) -> str:
        """Add the row and return its ETag; `Conflict` where there is one."""
        return (await self._do([("create", row)]))[0]

    async def merge(self, row: Row, etag: str) -> str:
        """Change the given columns where the row still has this ETag, and return the new one; else `Conflict`."""
        return (await self._do([("update", row, etag)]))[0]

    async def put(self, row: Row) -> None:
        """Write the row, in the place of any that there is."""
        await self._do([("put", row)])

    async def delete(self, partition: str, row: str, etag: str = "") -> None:
        """Remove the row, where it exists; with an ETag only the row that still has it, else raises `Conflict`."""
        try:
            await self._write([removal(partition, row, etag)])
        except StorageRefusal as refusal:
            if not _is_conflict(refusal):
                raise
            if refusal.status_code != 404:
                raise Conflict from None

    async def clear(self, partition: str, rows: Mapping[str, str]) -> None:
        """Remove the rows of these keys, each where it exists and has its ETag ("" for any): in few transactions."""
        found = list(rows.items())
        for start in range(0, len(found), MAX_TRANSACTION_ROWS):
            part = found[start : start + MAX_TRANSACTION_ROWS]
            try:
                if len(part) > 1:
                    await self.batch([removal(partition, row, etag) for row, etag in part])
                    continue
            except Conflict:  # with one of them: each is tried alone
                pass
            await gather_limited(part, lambda row: self._remove(partition, *row))

    async def _remove(self, partition: str, row: str, etag: str) -> None:
        with suppress(Conflict):
            await self.delete(partition, row, etag)

    async def batch(self, operations: Sequence[Operation]) -> list[str]:
        """Do up to 100 operations on one partition, all or none; returns the ETags, or raises `Conflict`."""
        return await self._do(operations)

    async def _do(self, operations: Sequence[Operation]) -> list[str]:
        try:
            return await self._write(operations)
        except StorageRefusal as refusal:
            if _is_conflict(refusal):
                raise Conflict from None
            raise

    async def _write(self, operations: Sequence[Operation]) -> list[str]:
        return await write(self._client, operations)

    async def query(
        self, where: str, values: Mapping[str, Any], *, limit: int, select: Sequence[str] | None = None
    ) -> list[Row]:
        """The first `limit` rows that match, in the order of their keys, read page by page."""
        rows: list[Row] = []
        async for page in self.pages(where, values, size=min(limit, MAX_PAGE_ROWS), select=select):
            rows += page
            if len(rows) >= limit:
                break
        return rows[:limit]

    async def pages(
        self, where: str, values: Mapping[str, Any], *, size: int, select: Sequence[str] | None = None
    ) -> AsyncIterator[list[Row]]:
        """All rows that match, in the order of their keys, `size` at a time; maybe none in one go."""
        pages = self._client.query_entities(
            where, parameters=dict(values), select=list(select) if select else None, results_per_page=size
        ).by_page()
        async for page in pages:
            yield [row async for row in page]


def _is_conflict(refusal: StorageRefusal) -> bool:
    return refusal.status_code in (404, 409, 412) and refusal.code != "TableNotFound"
