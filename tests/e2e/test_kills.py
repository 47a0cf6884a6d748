"""The host is killed again and again while it delivers: nobody is lost, and who may have got it twice is marked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from shared.states import DeliveryState
from shared.storage.deliveries import CLAIM_SECONDS
from tests.e2e.conftest import LOOK, SHORT_LEASE, Deployment, audience
from tests.support.herald import notification

#: Deliveries that a host works on at the same time, at most: batchSize and newBatchThreshold of host.json.
IN_FLIGHT = 32 + 32


@pytest.mark.parametrize(
    ("count", "kills", "wait"),
    [(60, 2, False), pytest.param(2000, 10, True, marks=[pytest.mark.full, pytest.mark.timeout(900)])],
)
async def test_kills_lose_nobody_and_repeat_only_what_was_in_flight_and_that_is_marked(
    deployment: Deployment, count: int, kills: int, wait: bool
) -> None:
    """Without `wait`, the claims of the killed are let end at once, as if nothing had run for that long."""
    deployment.start(**SHORT_LEASE)
    people = await deployment.people(count)
    await deployment.put(notification(*audience(people)))
    interrupted: dict[str, str] = {}
    for kill in range(1, kills + 1):
        await deployment.teams.wait(kill * count // (kills + 1), timeout=count / 10 + 30)
        deployment.hosts[-1].kill()
        claims = await _claims(deployment)
        assert len(claims.keys() - interrupted.keys()) <= IN_FLIGHT
        interrupted |= claims
        # Nothing runs now: what is not counted at this moment never was.
        await deployment.check_counts()
        if not wait:
            await _end_claims(deployment, claims.values())
        deployment.start(**SHORT_LEASE)
    [stored] = await deployment.ended(within=count / 10 + 40 + wait * 2 * CLAIM_SECONDS)

    assert (stored["state"], await deployment.check_counts()) == ("finished", {"sent": count})
    rows = await deployment.deliveries()
    assert set(rows) == {f"u:{person.object_id}" for person in people}
    messages = Counter(f"u:{message.person}" for message in await deployment.teams.received())
    assert set(messages) == set(rows)
    assert interrupted
    assert {name for name, row in rows.items() if row.get("maybe_twice")} == set(interrupted.values())
    # A kill may repeat what it struck, once, and nothing else is sent twice.
    assert messages - Counter(list(rows)) <= Counter(interrupted.values())


async def _claims(deployment: Deployment) -> dict[str, str]:
    """Whose messages were under way at a kill, by claim, once what the host had sent to the storage is written."""
    found: dict[str, str] | None = None
    while True:
        rows = await deployment.deliveries()
        now = {row["claim"]: name for name, row in rows.items() if row["state"] == DeliveryState.SENDING}
        if now == found:
            return now
        found = now
        await asyncio.sleep(LOOK)


async def _end_claims(deployment: Deployment, names: Iterable[str]) -> None:
    table = deployment.tables.get_table_client("HeraldDeliveries")
    rows = await deployment.deliveries()
    for name in names:
        where = {each: rows[name][each] for each in ("PartitionKey", "RowKey")}
        await table.update_entity(where | {"claimed_until": datetime.now(UTC) - timedelta(seconds=1)})
