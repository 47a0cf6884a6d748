"""What waits is removed in few requests, and what was put again meanwhile stays."""

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


def item(number: int) -> HeldDelivery:
    delivery = Delivery(f"{number:064x}"[::-1], "0", ADA, "", 0)
    return HeldDelivery(
        delivery=delivery,
        reason=Reason.DIGEST,
        until=NOON,
        notification_time=NOON + timedelta(seconds=number),
        eligible_since=NOON,
        delivery_etag="",
    )


async def put(herald: Herald, *items: HeldDelivery) -> list[HeldDelivery]:
    for each in items:
        await herald.services.held_deliveries.put(herald.tenant, each)
    return await herald.services.held_deliveries.of(herald.tenant, ADA, 1000)


async def left(herald: Herald) -> list[str]:
    return [each.delivery.notification for each in await herald.services.held_deliveries.of(herald.tenant, ADA, 1000)]


@pytest.mark.parametrize("count", [1, 3, MAX_TRANSACTION_ROWS, MAX_TRANSACTION_ROWS + 1])
async def test_what_is_over_goes(herald: Herald, count: int) -> None:
    there = await put(herald, *map(item, range(count)))
    await herald.services.held_deliveries.done(herald.tenant, ADA, there)
    assert await left(herald) == []


@pytest.mark.parametrize("state", [DigestState(), DigestState(number=7)], ids=["alone", "with the state"])
async def test_what_was_put_again_stays_and_what_is_gone_hinders_nothing(herald: Herald, state: DigestState) -> None:
    waiting = herald.services.held_deliveries
    there = await put(herald, *map(item, range(4)))
    again, gone = there[1], there[2]
    await waiting.done(herald.tenant, ADA, [gone])
    await waiting.put(herald.tenant, replace(again, until=NOON + timedelta(hours=1)))
    if state.number:
        state = replace(state, etag=await waiting.move_digest(herald.tenant, ADA, state))
        await waiting.move_digest(herald.tenant, ADA, replace(state, number=8), there)
        assert (await waiting.digest(herald.tenant, ADA)).number == 8
    else:
        await waiting.done(herald.tenant, ADA, there)
    assert await left(herald) == [again.delivery.notification]


async def test_a_state_that_another_has_moved_is_not_moved_with_what_is_over(herald: Herald) -> None:
    waiting = herald.services.held_deliveries
    there = await put(herald, *map(item, range(2)))
    old = replace(DigestState(number=1), etag=await waiting.move_digest(herald.tenant, ADA, DigestState(number=1)))
    await waiting.move_digest(herald.tenant, ADA, replace(old, number=2))
    with pytest.raises(Conflict):
        await waiting.move_digest(herald.tenant, ADA, replace(old, number=3), there)
    assert (await waiting.digest(herald.tenant, ADA)).number == 2


async def test_the_state_is_found_however_many_wait(herald: Herald) -> None:
    waiting = herald.services.held_deliveries
    there = await put(herald, *map(item, range(5)))
    await waiting.move_digest(herald.tenant, ADA, DigestState(number=1))
    for limit in (1, 4, 5, 6):
        found, state = await waiting.ready(herald.tenant, ADA, NOON, limit)
        assert (found, state.number) == (there[:limit], 1)
    assert await waiting.ready(herald.tenant, "u:bob", NOON, 5) == ([], DigestState())
