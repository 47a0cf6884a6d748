"""Partitions of deliveries whose row `~counts` always says how many are open, and how many ended in which state.

The counts change in the same entity group transaction as a state. Changes of one partition are grouped: those that come
while a transaction is in flight go into the next one, and a patient change waits a moment for others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from shared.states import OPEN, DeliveryState
from shared.storage.entity_writes import Operation, Row
from shared.storage.table import MAX_TRANSACTION_ROWS, Conflict, Table

VERSION = 1
#: The row that counts.
COUNTS = "~counts"
#: The partition of the only delivery of what Herald itself says: in that nothing is counted.
SINGLE_SHARD = "x"
#: Seconds that a patient change waits for others which share its transaction.
GROUPING_SECONDS = 0.1
#: Partitions whose counts are kept in memory.
MAX_CACHED_PARTITIONS = 4096

_COUNTED = (OPEN, *(str(state) for state in DeliveryState if state.final))


@dataclass(frozen=True, slots=True)
class _Change:
    """Columns of a row with this ETag; as far as counting goes it was `was`, and is `state` then.

    `done` gets the new ETag, and whether no delivery of the partition is open after it.
    """

    row: Row
    etag: str
    was: str
    state: str
    done: asyncio.Future[tuple[str, bool]]


@dataclass(slots=True)
class _Line:
    """The changes of a partition that wait for the next transaction; `hurry` says that this is not to wait."""

    changes: list[_Change] = field(default_factory=list)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)


class Counted:
    def __init__(self, table: Table) -> None:
        self._table = table
        self._lines: dict[str, _Line] = {}
        #: The counts of a partition as they were written last, which saves a read where nobody else wrote since.
        self._counts: dict[str, tuple[Counter[str], str]] = {}
        self._writers: set[asyncio.Task[None]] = set()

    async def counts(self, partition: str) -> Counter[str]:
        """How many deliveries are `open`, and how many in each final state."""
        return (await self._read(partition))[0]

    async def add(self, partition: str, rows: Sequence[Row], *, fresh: bool = False) -> Sequence[str]:
        """Insert up to 99 open deliveries; returns their ETags, or raises `Conflict` where one is there already.

        `fresh` says that there is nothing in the partition yet. `Conflict` is also raised where others wrote there.
        """
        if _is_alone(partition):
            return [await self._table.insert(row) for row in rows]
        counted, etag = (Counter[str](), "") if fresh else await self._read(partition)
        counted[OPEN] += len(rows)
        inserts: list[Operation] = [("create", row) for row in rows]
        *etags, etag = await self._table.batch([*inserts, _count(partition, counted, etag)])
        self._keep(partition, counted, etag)
        return etags

    async def change(
        self, row: Row, etag: str, was: DeliveryState, state: DeliveryState, *, patient: bool = False
    ) -> tuple[str, bool]:
        """Write it with what else changes in its partition; raises `Conflict` where the row has another ETag.

        Returns the new ETag, and whether it was the last one that was open. What is `patient` is written within
        `GROUPING_SECONDS` seconds.
        """
        partition = str(row["PartitionKey"])
        change = _Change(row, etag, was.counted, state.counted, asyncio.get_running_loop().create_future())
        line = self._lines.get(partition)
        if line is None:
            line = self._lines[partition] = _Line()
            writer = asyncio.create_task(self._write(partition, line))
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        line.changes.append(change)
        if not patient or len(line.changes) == MAX_TRANSACTION_ROWS - 1:
            line.hurry.set()
        return await change.done

    async def _write(self, partition: str, line: _Line) -> None:
        while line.changes:
            if not line.hurry.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(line.hurry.wait(), GROUPING_SECONDS)
            # A transaction refuses to have a row twice: of copies that change the same delivery, the next one waits.
            first = {str(change.row["RowKey"]): change for change in reversed(line.changes)}
            batch = list(first.values())[-(MAX_TRANSACTION_ROWS - 1) :]
            taken = set(map(id, batch))
            line.changes = [change for change in line.changes if id(change) not in taken]
            if not line.changes:
                line.hurry.clear()
            try:
                await self._commit(partition, batch)
            except Exception as error:  # noqa: BLE001 (each waiting delivery is told, and fails with it)
                for change in batch:
                    if not change.done.done():
                        change.done.set_exception(error)
        del self._lines[partition]

    async def _commit(self, partition: str, batch: Sequence[_Change]) -> None:
        rows: list[Operation] = [("update", change.row, change.etag) for change in batch]
        moved = Counter(change.state for change in batch)
        moved.subtract(change.was for change in batch)
        alone = _is_alone(partition)
        counts = await self._recent(partition) if any(moved.values()) and not alone else None
        while True:
            try:
                if counts:
                    after = counts[0].copy()
                    after.update(moved)
                    *etags, etag = await self._table.batch([*rows, _count(partition, after, counts[1])])
                    self._keep(partition, after, etag)
                elif len(batch) > 1:
                    etags = await self._table.batch(rows)
                else:
                    etags = [await self._table.merge(batch[0].row, batch[0].etag)]
            except Conflict:
                if counts and (now := await self._read(partition))[1] != counts[1]:
                    counts = now
                    continue
                # The count is as it was read, so it is one of the rows that has changed.
                if len(batch) == 1:
                    raise
                for change in batch:
                    try:
                        await self._commit(partition, [change])
                    except Conflict as conflict:
                        if not change.done.done():
                            change.done.set_exception(conflict)
                return
            all_ended = alone or (counts and not after[OPEN])
            ending = [change for change in batch if change.was == OPEN != change.state] if all_ended else []
            last = ending[-1] if ending else None
            for change, written in zip(batch, etags, strict=True):
                if not change.done.done():
                    change.done.set_result((written, change is last))
            return

    async def _read(self, partition: str) -> tuple[Counter[str], str]:
        if _is_alone(partition):
            only = await self._table.query("PartitionKey eq @partition", {"partition": partition}, limit=1)
            return Counter(DeliveryState(row["state"]).counted for row in only), ""
        found = await self._table.get(partition, COUNTS)
        if found is None:
            return Counter(), ""
        row, etag = found
        return Counter({name: row[name] for name in _COUNTED if name in row}), etag

    async def _recent(self, partition: str) -> tuple[Counter[str], str]:
        return self._counts.get(partition) or await self._read(partition)

    def _keep(self, partition: str, counted: Counter[str], etag: str) -> None:
        self._counts.pop(partition, None)
        self._counts[partition] = counted, etag
        if len(self._counts) > MAX_CACHED_PARTITIONS:
            self._counts.pop(next(iter(self._counts)))


def _is_alone(partition: str) -> bool:
    return partition.endswith(f";{SINGLE_SHARD}")


def _count(partition: str, counted: Counter[str], etag: str) -> Operation:
    row = {"PartitionKey": partition, "RowKey": COUNTS, "v": VERSION, **counted}
    return ("update", row, etag) if etag else ("create", row)
