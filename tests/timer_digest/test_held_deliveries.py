"""Held deliveries are deleted in few requests; those that were stored again meanwhile stay."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.queue_messages import Delivery
from shared.records import DigestState, HeldDelivery
from shared.states import Reason
from shared.storage.table import MAX_TRANSACTION_ROWS, Conflict
from tests.support.herald import Herald

ADA = "u:ada"
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def held_delivery(number: int) -> HeldDelivery:
    delivery = Delivery(f"{number:064x}"[::-1], "0", ADA, "", 0)
    return HeldDelivery(
        delivery=delivery,
        reason=Reason.DIGEST,
        until=NOON,
        notification_time=NOON + timedelta(seconds=number),
        eligible_since=NOON,
        delivery_etag="",
    )


async def store(herald: Herald, *items: HeldDelivery) -> list[HeldDelivery]:
    """Store held deliveries and return all of the recipient."""
    for each in items:
        await herald.services.held_deliveries.put(herald.tenant, each)
    return await herald.services.held_deliveries.of(herald.tenant, ADA, 1000)


async def remaining(herald: Herald) -> list[str]:
    return [each.delivery.notification for each in await herald.services.held_deliveries.of(herald.tenant, ADA, 1000)]


@pytest.mark.parametrize("count", [1, 3, MAX_TRANSACTION_ROWS, MAX_TRANSACTION_ROWS + 1])
async def test_done_deletes_any_number_of_rows(herald: Herald, count: int) -> None:
    stored = await store(herald, *map(held_delivery, range(count)))
    await herald.services.held_deliveries.done(herald.tenant, ADA, stored)
    assert await remaining(herald) == []


@pytest.mark.parametrize("state", [DigestState(), DigestState(number=7)], ids=["rows only", "with the digest state"])
async def test_rows_stored_again_stay_and_missing_rows_are_ignored(herald: Herald, state: DigestState) -> None:
    table = herald.services.held_deliveries
    stored = await store(herald, *map(held_delivery, range(4)))
    again, gone = stored[1], stored[2]
    await table.done(herald.tenant, ADA, [gone])
    await table.put(herald.tenant, replace(again, until=NOON + timedelta(hours=1)))
    if state.number:
        state = replace(state, etag=await table.move_digest(herald.tenant, ADA, state))
        await table.move_digest(herald.tenant, ADA, replace(state, number=8), stored)
        assert (await table.digest(herald.tenant, ADA)).number == 8
    else:
        await table.done(herald.tenant, ADA, stored)
    assert await remaining(herald) == [again.delivery.notification]


async def test_digest_state_that_another_worker_changed_is_a_conflict(herald: Herald) -> None:
    table = herald.services.held_deliveries
    stored = await store(herald, *map(held_delivery, range(2)))
    old = replace(DigestState(number=1), etag=await table.move_digest(herald.tenant, ADA, DigestState(number=1)))
    await table.move_digest(herald.tenant, ADA, replace(old, number=2))
    with pytest.raises(Conflict):
        await table.move_digest(herald.tenant, ADA, replace(old, number=3), stored)
    assert (await table.digest(herald.tenant, ADA)).number == 2


async def test_ready_returns_the_digest_state_with_any_limit(herald: Herald) -> None:
    table = herald.services.held_deliveries
    stored = await store(herald, *map(held_delivery, range(5)))
    await table.move_digest(herald.tenant, ADA, DigestState(number=1))
    for limit in (1, 4, 5, 6):
        found, state = await table.ready(herald.tenant, ADA, NOON, limit)
        assert (found, state.number) == (stored[:limit], 1)
    assert await table.ready(herald.tenant, "u:bob", NOON, 5) == ([], DigestState())
