"""Changes of one partition share transactions, and the counts are correct after each transaction."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from shared.states import DeliveryState
from shared.storage.clients import open_storage
from shared.storage.delivery_counts import FEW_SHARD, MAX_BATCH, CountedPartitions
from shared.storage.entity_writes import Operation
from shared.storage.table import Conflict, Table

QUEUED, SENT, DIGESTED = DeliveryState.QUEUED, DeliveryState.SENT, DeliveryState.DIGESTED
PARTITION = "notification;0"


@dataclass
class RecordedPartitions(CountedPartitions):
    """Counted partitions that record the number of rows of each transaction, and can delay the next one."""

    table: Table
    transactions: list[int] = field(default_factory=list)
    in_flight: asyncio.Event = field(default_factory=asyncio.Event)
    proceed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        super().__init__(self.table)
        self.proceed.set()
        batch = self.table.batch

        async def record(operations: Sequence[Operation]) -> list[str]:
            if len(operations) > 1:
                self.transactions.append(len(operations))
            self.in_flight.set()
            await self.proceed.wait()
            return await batch(operations)

        self.table.batch = record  # type: ignore[method-assign]

    async def add_deliveries(self, count: int, partition: str = PARTITION, first: int = 0) -> dict[str, str]:
        """Add `count` deliveries and return their ETags by row key; forget the transactions so far."""
        keys = [f"u:{number}" for number in range(first, first + count)]
        rows = [{"PartitionKey": partition, "RowKey": key, "state": "queued"} for key in keys]
        etags = dict(zip(keys, await self.add(partition, rows, fresh=not first), strict=True))
        self.transactions.clear()
        return etags

    async def end(
        self, key: str, etag: str, state: DeliveryState = DIGESTED, partition: str = PARTITION
    ) -> tuple[str, bool]:
        row = {"PartitionKey": partition, "RowKey": key, "state": str(state)}
        return await self.change(row, etag, QUEUED, state)

    async def end_all(self, etags: dict[str, str]) -> int:
        """End all at once; return how many of them were the last open delivery."""
        ended = await asyncio.gather(*(self.end(key, etag) for key, etag in etags.items()))
        return sum(last for _, last in ended)


@pytest.fixture
async def partitions(connection: str) -> AsyncIterator[RecordedPartitions]:
    queues, tables = open_storage({"AzureWebJobsStorage": connection})
    async with queues, tables:
        table = Table(tables.get_table_client("Counted"))
        await table.create()
        yield RecordedPartitions(table)


async def test_changes_that_start_together_share_a_transaction(partitions: RecordedPartitions) -> None:
    etags = await partitions.add_deliveries(5)
    assert await partitions.end_all(etags) == 1
    assert partitions.transactions == [6]
    assert +(await partitions.counts(PARTITION)) == Counter({"digested": 5})


async def test_change_is_written_at_once_while_no_transaction_is_in_flight(partitions: RecordedPartitions) -> None:
    etags = await partitions.add_deliveries(3)
    for key, etag in etags.items():
        await partitions.end(key, etag)
    assert partitions.transactions == [2, 2, 2]


async def test_changes_that_arrive_during_a_transaction_share_the_next_one(partitions: RecordedPartitions) -> None:
    etags = await partitions.add_deliveries(6)
    partitions.in_flight.clear()
    partitions.proceed.clear()
    first = asyncio.create_task(partitions.end("u:0", etags.pop("u:0"), SENT))
    await partitions.in_flight.wait()
    others = []
    for key, etag in etags.items():
        others.append(asyncio.create_task(partitions.end(key, etag)))
        await asyncio.sleep(0.01)  # each in another turn of the loop
    assert partitions.transactions == [2]
    partitions.proceed.set()
    _, last = await first
    assert (last, sum(last for _, last in await asyncio.gather(*others))) == (False, 1)
    assert partitions.transactions == [2, 6]
    assert +(await partitions.counts(PARTITION)) == Counter({"digested": 5, "sent": 1})


async def test_changes_of_two_partitions_do_not_wait_for_each_other(partitions: RecordedPartitions) -> None:
    etags = await partitions.add_deliveries(1)
    other = await partitions.add_deliveries(1, "notification;1")
    partitions.in_flight.clear()
    partitions.proceed.clear()
    first = asyncio.create_task(partitions.end("u:0", etags["u:0"]))
    await partitions.in_flight.wait()
    partitions.in_flight.clear()
    second = asyncio.create_task(partitions.end("u:0", other["u:0"], partition="notification;1"))
    async with asyncio.timeout(30):
        await partitions.in_flight.wait()
    partitions.proceed.set()
    assert [last for _, last in await asyncio.gather(first, second)] == [True, True]


async def test_99_changes_and_the_counts_fill_one_transaction(partitions: RecordedPartitions) -> None:
    assert await partitions.end_all(await partitions.add_deliveries(MAX_BATCH)) == 1
    assert partitions.transactions == [100]


async def test_more_changes_than_a_transaction_takes_are_split(partitions: RecordedPartitions) -> None:
    etags = await partitions.add_deliveries(99) | await partitions.add_deliveries(60, first=99)
    assert await partitions.end_all(etags) == 1
    assert partitions.transactions == [100, 61]
    assert +(await partitions.counts(PARTITION)) == Counter({"digested": 159})


async def test_conflict_fails_only_the_change_that_conflicts(partitions: RecordedPartitions) -> None:
    etags = await partitions.add_deliveries(3)
    await partitions.end("u:1", etags["u:1"], SENT)
    results = await asyncio.gather(*(partitions.end(key, etag) for key, etag in etags.items()), return_exceptions=True)
    assert [isinstance(result, Conflict) for result in results] == [False, True, False]
    assert +(await partitions.counts(PARTITION)) == Counter({"digested": 2, "sent": 1})


async def test_second_change_of_a_row_goes_into_the_next_transaction(partitions: RecordedPartitions) -> None:
    etags = await partitions.add_deliveries(2)
    results = await asyncio.gather(
        partitions.end("u:0", etags["u:0"], SENT),
        partitions.end("u:0", etags["u:0"]),
        partitions.end("u:1", etags["u:1"]),
        return_exceptions=True,
    )
    assert [isinstance(result, Conflict) for result in results] == [False, True, False]
    assert partitions.transactions[0] == 3
    assert +(await partitions.counts(PARTITION)) == Counter({"sent": 1, "digested": 1})


async def test_refused_change_is_counted_beside_the_states(partitions: RecordedPartitions) -> None:
    """It costs a transaction; a change that alters no count is one write without it."""
    etags = await partitions.add_deliveries(2)
    await partitions.end_all(etags)
    partitions.transactions.clear()
    row, etag = {"PartitionKey": PARTITION, "RowKey": "u:0"}, "*"
    for refused, number in ((0, 0), (1, 1), (0, 1), (-1, 0), (0, 0)):
        etag, last = await partitions.change(row, etag, DIGESTED, DIGESTED, refused=refused)
        assert not last
        assert await partitions.counts_and_refused(PARTITION) == (Counter({"open": 0, "digested": 2}), number)
    assert partitions.transactions == [2, 2]


async def test_shard_of_a_few_has_no_counts_row_and_needs_no_transaction(partitions: RecordedPartitions) -> None:
    single = f"notification;{FEW_SHARD}"
    etags = await partitions.add_deliveries(1, single)
    assert await partitions.counts(single) == Counter({"open": 1})
    _, last = await partitions.end("u:0", etags["u:0"], SENT, partition=single)
    assert last
    assert (partitions.transactions, await partitions.counts(single)) == ([], Counter({"sent": 1}))
    with pytest.raises(Conflict):
        await partitions.add_deliveries(1, single)
