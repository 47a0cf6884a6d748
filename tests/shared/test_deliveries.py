"""Pages of open deliveries: the same on Azurite and in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.states import DeliveryState
from shared.storage.deliveries import Deliveries, shard_names
from tests.support.storage import Storage

NOW = datetime(2027, 1, 1, tzinfo=UTC)
NOTIFICATION = "0" * 64

both = pytest.mark.parametrize("account", ["memory", pytest.param("azurite", marks=pytest.mark.azurite)])


@pytest.fixture
async def deliveries(storage: Storage) -> AsyncIterator[Deliveries]:
    queues, tables = storage.open()
    async with queues, tables:
        table = storage.table(tables.get_table_client("Deliveries"))
        await table.create()
        yield Deliveries(table)


async def open_names(deliveries: Deliveries, after: str = "", limit: int = 100) -> list[str]:
    page = await deliveries.page(NOTIFICATION, "0", after, limit, only_open=True)
    return [message.recipient for message, _ in page]


@both
async def test_page_of_open_deliveries_leaves_out_every_final_state(deliveries: Deliveries, account: str) -> None:
    states = list(DeliveryState)
    recipients = {f"u:{number:02}": number for number in range(2 * len(states))}
    messages = await deliveries.add(NOTIFICATION, "0", recipients, NOW, fresh=True)
    for message, state in zip(messages, states * 2, strict=True):
        known = await deliveries.get(message)
        assert known
        if state is DeliveryState.SENDING:
            await deliveries.claim(message, known, NOW)
        elif state is not DeliveryState.QUEUED:
            await deliveries.settle(message, known.etag, state, now=NOW)
    count = len(states)
    expected = [f"u:{number:02}" for number in (0, 1, count, count + 1)]
    assert [state.final for state in states[:3]] == [False, False, True]
    assert await open_names(deliveries) == expected
    assert await open_names(deliveries, limit=3) == expected[:3]
    assert await open_names(deliveries, after=expected[0], limit=2) == expected[1:3]
    assert len(await deliveries.page(NOTIFICATION, "0", "", 100)) == 2 * count


@both
async def test_first_open_shard_is_found_by_the_counts(deliveries: Deliveries, account: str) -> None:
    for shard in "02":
        [message] = await deliveries.add(NOTIFICATION, shard, {"u:1": 0}, NOW, fresh=True)
        if shard == "0":
            await deliveries.settle(message, message.etag, DeliveryState.SENT, now=NOW)
    assert await deliveries.first_open_shard(NOTIFICATION, "0123") == "2"
    assert await deliveries.first_open_shard(NOTIFICATION, "013") is None


async def test_counts_of_a_partition_with_open_deliveries_are_read_first(
    deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a delivery that ends its partition costs one more read, and only the last one reads all counts."""
    reads, read = list[str](), deliveries._table.get

    async def get(partition: str, row: str, *arguments: Any) -> Any:
        reads.append(partition)
        return await read(partition, row, *arguments)

    monkeypatch.setattr(deliveries._table, "get", get)
    shards = shard_names(16)
    messages = [
        message
        for shard in shards
        for message in await deliveries.add(NOTIFICATION, shard, {"u:1": 0}, NOW, fresh=True)
    ]
    for message in reversed(messages):
        is_last = await deliveries.settle(message, message.etag, DeliveryState.SENT, now=NOW)
        assert is_last
        final = await deliveries.final_counts(NOTIFICATION, 16)
    assert final == ({DeliveryState.SENT: 16}, 0)
    assert len(reads) == 15 + 16
