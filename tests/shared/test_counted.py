"""Changes of a partition share transactions, and its counts are right after each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from shared.states import DeliveryState
from shared.storage.clients import open_storage
from shared.storage.delivery_counts import SINGLE_SHARD, Counted
from shared.storage.entity_writes import Operation
from shared.storage.table import Conflict, Table

QUEUED, SENT, DIGESTED = DeliveryState.QUEUED, DeliveryState.SENT, DeliveryState.DIGESTED
PARTITION = "notification;0"


@dataclass
class Rows(Counted):
    """Counted partitions of a table, whose transactions are noted: how many rows each had."""

    table: Table
    transactions: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.table)
        batch = self.table.batch

        async def noted(operations: Sequence[Operation]) -> list[str]:
            self.transactions.append(len(operations))
            return await batch(operations)

        self.table.batch = noted  # type: ignore[method-assign]

    async def some(self, count: int, partition: str = PARTITION, first: int = 0) -> dict[str, str]:
        """So many new deliveries: their ETags by their row keys."""
        keys = [f"u:{number}" for number in range(first, first + count)]
        rows = [{"PartitionKey": partition, "RowKey": key, "state": "queued"} for key in keys]
        return dict(zip(keys, await self.add(partition, rows, fresh=not first), strict=True))

    async def end(
        self, key: str, etag: str, state: DeliveryState = DIGESTED, *, patient: bool = True, partition: str = PARTITION
    ) -> bool:
        row = {"PartitionKey": partition, "RowKey": key, "state": str(state)}
        return (await self.change(row, etag, QUEUED, state, patient=patient))[1]


@pytest.fixture
async def rows(connection: str) -> AsyncIterator[Rows]:
    queues, tables = open_storage({"AzureWebJobsStorage": connection})
    async with queues, tables:
        table = Table(tables.get_table_client("Counted"))
        await table.create()
        yield Rows(table)


async def test_what_is_patient_shares_a_transaction_with_what_comes_a_moment_later(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.storage.delivery_counts.GROUPING_SECONDS", 0.3)
    there = await rows.some(5)
    rows.transactions.clear()

    async def end(turn: int, key: str) -> bool:
        await asyncio.sleep(turn * 0.02)
        return await rows.end(key, there[key])

    last = await asyncio.gather(*(end(turn, key) for turn, key in enumerate(there)))
    assert (rows.transactions, sum(last)) == ([6], 1)
    assert +(await rows.counts(PARTITION)) == Counter({"digested": 5})


async def test_who_is_in_a_hurry_takes_the_patient_along_at_once(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.storage.delivery_counts.GROUPING_SECONDS", 3600)
    there = await rows.some(3)
    rows.transactions.clear()
    patient = [asyncio.create_task(rows.end(key, there[key])) for key in ("u:0", "u:1")]
    await asyncio.sleep(0.05)
    assert not any(each.done() for each in patient)
    async with asyncio.timeout(30):
        await rows.end("u:2", there["u:2"], SENT, patient=False)
        assert await asyncio.gather(*patient)
    assert rows.transactions == [4]
    assert +(await rows.counts(PARTITION)) == Counter({"digested": 2, "sent": 1})


async def test_a_transaction_that_is_full_waits_for_nobody(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.storage.delivery_counts.GROUPING_SECONDS", 3600)
    there = await rows.some(99)
    async with asyncio.timeout(30):
        assert sum(await asyncio.gather(*(rows.end(key, etag) for key, etag in there.items()))) == 1
    assert rows.transactions == [100, 100]


async def test_more_than_one_transaction_takes_go_into_several(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.storage.delivery_counts.GROUPING_SECONDS", 0)
    there = await rows.some(99) | await rows.some(60, first=99)
    rows.transactions.clear()
    assert sum(await asyncio.gather(*(rows.end(key, etag) for key, etag in there.items()))) == 1
    assert rows.transactions == [100, 61]
    assert +(await rows.counts(PARTITION)) == Counter({"digested": 159})


async def test_after_who_was_in_a_hurry_the_next_is_patient_again(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.storage.delivery_counts.GROUPING_SECONDS", 0.3)
    there = await rows.some(4)
    rows.transactions.clear()
    first = asyncio.create_task(rows.end("u:0", there["u:0"], SENT, patient=False))
    while not rows.transactions:  # it is being written
        await asyncio.sleep(0)
    second = asyncio.create_task(rows.end("u:1", there["u:1"]))
    await first
    await asyncio.sleep(0.05)
    await asyncio.gather(second, rows.end("u:2", there["u:2"]))
    assert rows.transactions == [2, 3]


async def test_one_that_has_changed_meanwhile_fails_alone(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.storage.delivery_counts.GROUPING_SECONDS", 0.1)
    there = await rows.some(3)
    await rows.end("u:1", there["u:1"], SENT, patient=False)
    found = await asyncio.gather(*(rows.end(key, etag) for key, etag in there.items()), return_exceptions=True)
    assert [isinstance(each, Conflict) for each in found] == [False, True, False]
    assert +(await rows.counts(PARTITION)) == Counter({"digested": 2, "sent": 1})


async def test_who_has_no_others_is_counted_by_its_row_and_needs_no_transaction(rows: Rows) -> None:
    alone = f"notification;{SINGLE_SHARD}"
    there = await rows.some(1, alone)
    assert await rows.counts(alone) == Counter({"open": 1})
    assert await rows.end("u:0", there["u:0"], SENT, patient=False, partition=alone)
    assert (rows.transactions, await rows.counts(alone)) == ([], Counter({"sent": 1}))
    with pytest.raises(Conflict):
        await rows.some(1, alone)
