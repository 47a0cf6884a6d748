"""Storage that calls a `Tap` around each operation, so that a test can stop a worker, or let it die, at any of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from shared.queues import Queues
from shared.storage.entity_writes import Operation, Row
from shared.storage.table import Conflict, Table
from tests.support.herald import TimedQueues
from tests.support.memory import MemoryTable
from tests.support.storage import Storage

T = TypeVar("T")


class Tap:
    """Called before and after each storage operation of its context.

    `written` is "table/partition" or "queue/name" for a write, and "" for a read or a conflict. `failed` is called for
    any other exception.
    """

    async def before(self, written: str) -> None: ...

    async def after(self, written: str) -> None: ...

    def failed(self) -> None: ...


class OperationCounter(Tap):
    """Count operations by table or queue; reads under ""."""

    def __init__(self) -> None:
        self.operations: Counter[str] = Counter()

    async def before(self, written: str) -> None:
        place, _, name = written.partition("/")
        self.operations[f"{place}/{name}" if place == "queue" else place] += 1


TAP: ContextVar[Tap | None] = ContextVar("tap", default=None)


async def _notify(operation: Coroutine[Any, Any, T], written: str = "") -> T:
    tap = TAP.get()
    if tap is None:
        return await operation
    try:
        await tap.before(written)
    except BaseException:
        operation.close()
        raise
    try:
        result = await operation
    except Conflict:
        await tap.after("")
        raise
    except BaseException:
        tap.failed()
        raise
    await tap.after(written)
    return result


class Tapped(Table):
    async def create(self) -> None:
        if TAP.get() is None:  # only the first worker creates tables
            await super().create()

    def _of(self, row: Row) -> str:
        return f"{self._client.table_name}/{row['PartitionKey']}"

    async def get(self, partition: str, row: str, select: Sequence[str] | None = None) -> tuple[Row, str] | None:
        return await _notify(super().get(partition, row, select))

    async def insert(self, row: Row) -> str:
        return await _notify(super().insert(row), self._of(row))

    async def merge(self, row: Row, etag: str) -> str:
        return await _notify(super().merge(row, etag), self._of(row))

    async def put(self, row: Row) -> None:
        await _notify(super().put(row), self._of(row))

    async def delete(self, partition: str, row: str, etag: str = "") -> None:
        await _notify(super().delete(partition, row, etag), self._of({"PartitionKey": partition}))

    async def batch(self, operations: Sequence[Operation]) -> list[str]:
        return await _notify(super().batch(operations), self._of(operations[0][1]))

    async def pages(
        self, where: str, values: Mapping[str, Any], *, size: int, select: Sequence[str] | None = None
    ) -> AsyncIterator[list[Row]]:
        pages = super().pages(where, values, size=size, select=select)

        async def next_page() -> list[Row] | None:
            return await anext(pages, None)

        while (page := await _notify(next_page())) is not None:
            yield page


class TappedAzure(Tapped, Table): ...


class TappedMemory(Tapped, MemoryTable): ...


class TappedPut(Queues):
    async def create(self, name: str) -> None:
        if TAP.get() is None:
            await super().create(name)

    async def put(self, name: str, text: str, delay: float = 0) -> None:
        await _notify(super().put(name, text, delay), f"queue/{name}")


class TappedQueues(TappedPut, TimedQueues): ...


def tap(storage: Storage) -> None:
    """Let all services that are opened after this call the `Tap` of their context."""
    storage.table = TappedAzure if storage.connection else TappedMemory
    storage.queues = TappedQueues
