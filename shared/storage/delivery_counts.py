"""Partitions of deliveries with a row `~counts`: how many deliveries are open, and how many ended in each final state.

The row also counts the deliveries whose edit or recall was refused (`refused_changes`); that is no state of its own.
The counts change in the same entity group transaction as the row of a delivery. Changes that arrive while a
transaction of the partition is in flight share the next one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shared.states import OPEN, DeliveryState
from shared.storage.entity_writes import Operation, Row
from shared.storage.table import MAX_TRANSACTION_ROWS, Conflict, Table

VERSION = 1
#: The row key of the counts.
COUNTS = "~counts"
#: Shard of a notification to a few recipients. Its partition has one row for each of them, and no counts.
FEW_SHARD = "x"
#: Recipients of a notification whose deliveries are in that shard.
MAX_FEW = 10
#: Rows that such a partition may have: when the notification's message comes again, an address may name somebody else.
MAX_FEW_ROWS = 2 * MAX_FEW
#: Partitions whose counts are kept in memory.
MAX_CACHED_PARTITIONS = 4096
#: Deliveries in one transaction: one operation is for the counts.
MAX_BATCH = MAX_TRANSACTION_ROWS - 1

#: The column that counts deliveries which show an old message because their edit or recall was refused.
REFUSED_CHANGES = "refused_changes"
_COUNT_COLUMNS = (OPEN, *(str(state) for state in DeliveryState if state.final), REFUSED_CHANGES)


@dataclass(frozen=True, slots=True)
class _Change:
    """New columns for the row with this ETag, which is counted as `previous` now and as `state` afterwards.

    With the ETag "" the row is new. `refused` is added to the refused changes. `done` receives the new ETag, and
    whether this change ended the last open delivery of the partition.
    """

    row: Row
    etag: str
    previous: str
    state: str
    refused: int
    done: asyncio.Future[tuple[str, bool]]


class CountedPartitions:
    def __init__(self, table: Table) -> None:
        self._table = table
        #: The changes of a partition that wait for the next transaction. A key exists while a writer runs.
        self._pending: dict[str, list[_Change]] = {}
        #: The counts that this process wrote last and their ETag: saves a read if no other process wrote since.
        self._cache: dict[str, tuple[Counter[str], str]] = {}
        self._writers: set[asyncio.Task[None]] = set()

    async def counts(self, partition: str) -> Counter[str]:
        """Return how many deliveries are `open`, and how many are in each final state."""
        return (await self.counts_and_refused(partition))[0]

    def is_believed_open(self, partition: str) -> bool:
        """Return whether the partition had an open delivery when this process last wrote its counts."""
        counts, _ = self._cache.get(partition, (Counter[str](), ""))
        return counts[OPEN] > 0

    async def counts_and_refused(self, partition: str) -> tuple[Counter[str], int]:
        """Return the counts, and the number of deliveries whose edit or recall was refused."""
        counts, _ = await self._read(partition)
        refused = counts.pop(REFUSED_CHANGES, 0)
        return counts, refused

    async def add(self, partition: str, rows: Sequence[Row], *, fresh: bool = False) -> Sequence[str]:
        """Insert up to `MAX_BATCH` open deliveries and return their ETags.

        With `fresh` the partition is assumed to be empty. Raises `Conflict` if one of the rows exists, or if another
        worker changed the counts meanwhile.
        """
        if _is_uncounted(partition):
            return await self._table.batch([("create", row) for row in rows])
        counts, etag = (Counter[str](), "") if fresh else await self._read(partition)
        counts[OPEN] += len(rows)
        inserts: list[Operation] = [("create", row) for row in rows]
        *etags, etag = await self._table.batch([*inserts, _counts_operation(partition, counts, etag)])
        self._remember(partition, counts, etag)
        return etags

    async def change(
        self, row: Row, etag: str, previous: DeliveryState, state: DeliveryState, *, refused: int = 0
    ) -> tuple[str, bool]:
        """Merge the columns of `row`, and count the delivery under `state` instead of `previous`.

        With the ETag "" the row is inserted, which is possible in `FEW_SHARD` only. `refused` is 1 if its edit or
        recall was refused now, and -1 if one succeeded after that. Returns the new ETag, and whether this ended the
        last open delivery of the partition; in `FEW_SHARD`, whether it may have. Raises `Conflict` if the row has
        another ETag.
        """
        partition = str(row["PartitionKey"])
        done: asyncio.Future[tuple[str, bool]] = asyncio.get_running_loop().create_future()
        change = _Change(row, etag, previous.count_name, state.count_name, refused, done)
        if partition in self._pending:
            self._pending[partition].append(change)
        else:
            self._pending[partition] = [change]
            # A task starts in the next turn of the loop: changes that begin in this one share its transaction.
            writer = asyncio.create_task(self._write_pending(partition))
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        return await change.done

    async def _write_pending(self, partition: str) -> None:
        while changes := self._pending[partition]:
            batch: dict[str, _Change] = {}
            rest: list[_Change] = []
            for change in changes:
                key = str(change.row["RowKey"])
                # A transaction may contain a row only once: a second change of it goes into the next one.
                if key in batch or len(batch) == MAX_BATCH:
                    rest.append(change)
                else:
                    batch[key] = change
            self._pending[partition] = rest
            try:
                await self._commit(partition, list(batch.values()))
            except Exception as error:  # noqa: BLE001 (passed on to each caller that waits)
                for change in batch.values():
                    if not change.done.done():
                        change.done.set_exception(error)
        del self._pending[partition]

    async def _commit(self, partition: str, batch: Sequence[_Change]) -> None:
        rows = [_row_operation(change.row, change.etag) for change in batch]
        difference = Counter(change.state for change in batch)
        difference.subtract(change.previous for change in batch)
        if refused := sum(change.refused for change in batch):
            difference[REFUSED_CHANGES] = refused
        is_uncounted = _is_uncounted(partition)
        known = await self._recent(partition) if any(difference.values()) and not is_uncounted else None
        while True:
            try:
                if known:
                    counts = known[0].copy()
                    counts.update(difference)
                    *etags, etag = await self._table.batch([*rows, _counts_operation(partition, counts, known[1])])
                    self._remember(partition, counts, etag)
                else:
                    etags = await self._table.batch(rows)
            except Conflict:
                if known and (current := await self._read(partition))[1] != known[1]:
                    known = current
                    continue
                # The counts have not changed, so one of the deliveries has. Each is written alone to find out which.
                if len(batch) == 1:
                    raise
                for change in batch:
                    try:
                        await self._commit(partition, [change])
                    except Conflict as conflict:
                        if not change.done.done():
                            change.done.set_exception(conflict)
                return
            all_ended = is_uncounted or (known and not counts[OPEN])
            ending = [change for change in batch if change.previous == OPEN != change.state] if all_ended else []
            last = ending[-1] if ending else None
            for change, written in zip(batch, etags, strict=True):
                if not change.done.done():
                    change.done.set_result((written, change is last))
            return

    async def _read(self, partition: str) -> tuple[Counter[str], str]:
        if _is_uncounted(partition):
            rows = await self._table.query("PartitionKey eq @partition", {"partition": partition}, limit=MAX_FEW_ROWS)
            counts = Counter(DeliveryState(row["state"]).count_name for row in rows)
            counts[REFUSED_CHANGES] = sum(bool(row.get("refused_change")) for row in rows)
            return counts, ""
        found = await self._table.get(partition, COUNTS)
        if found is None:
            return Counter(), ""
        row, etag = found
        return Counter({name: row[name] for name in _COUNT_COLUMNS if name in row}), etag

    async def _recent(self, partition: str) -> tuple[Counter[str], str]:
        return self._cache.get(partition) or await self._read(partition)

    def _remember(self, partition: str, counts: Counter[str], etag: str) -> None:
        self._cache.pop(partition, None)
        self._cache[partition] = counts, etag
        if len(self._cache) > MAX_CACHED_PARTITIONS:
            self._cache.pop(next(iter(self._cache)))


def _is_uncounted(partition: str) -> bool:
    return partition.endswith(f";{FEW_SHARD}")


def _counts_operation(partition: str, counts: Counter[str], etag: str) -> Operation:
    return _row_operation({"PartitionKey": partition, "RowKey": COUNTS, "v": VERSION, **counts}, etag)


def _row_operation(row: Row, etag: str) -> Operation:
    return ("update", row, etag) if etag else ("create", row)
