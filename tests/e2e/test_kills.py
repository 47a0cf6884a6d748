"""The host is killed repeatedly while it sends: no delivery is lost, and possible duplicates are marked."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from shared.states import DeliveryState
from shared.storage.deliveries import CLAIM_SECONDS
from tests.e2e.conftest import POLL_SECONDS, SHORT_VISIBILITY, Deployment, build_audience
from tests.support.herald import notification

#: Deliveries that a host processes at the same time: batchSize and newBatchThreshold of host.json.
MAX_IN_FLIGHT = 32 + 32


@pytest.mark.parametrize(
    ("count", "kills", "wait"),
    [(60, 2, False), pytest.param(2000, 10, True, marks=[pytest.mark.full, pytest.mark.timeout(900)])],
)
async def test_kills_lose_no_delivery_and_repeat_only_marked_messages_that_were_in_flight(
    deployment: Deployment, count: int, kills: int, wait: bool
) -> None:
    """Without `wait`, the test ends the claims of killed hosts itself, as if they had expired."""
    deployment.start_hosts(**SHORT_VISIBILITY)
    people = await deployment.add_people(count)
    await deployment.put(notification(*build_audience(people)))
    interrupted: dict[str, str] = {}
    for kill in range(1, kills + 1):
        await deployment.teams.wait(kill * count // (kills + 1), timeout=count / 10 + 30)
        deployment.hosts[-1].kill()
        claims = await _claims(deployment)
        assert len(claims.keys() - interrupted.keys()) <= MAX_IN_FLIGHT
        interrupted |= claims
        # No host is running, so a missing count would be a real loss.
        await deployment.check_counts()
        if not wait:
            await _end_claims(deployment, claims.values())
        deployment.start_hosts(**SHORT_VISIBILITY)
    [stored] = await deployment.wait_until_ended(within=count / 10 + 40 + wait * 2 * CLAIM_SECONDS)

    assert (stored["state"], await deployment.check_counts()) == ("finished", {"sent": count})
    rows = await deployment.read_deliveries()
    assert set(rows) == {f"u:{person.object_id}" for person in people}
    messages = Counter(f"u:{message.person}" for message in await deployment.teams.received())
    assert set(messages) == set(rows)
    assert interrupted
    assert {name for name, row in rows.items() if row.get("maybe_twice")} == set(interrupted.values())
    # Only a message that was in flight at a kill may be sent again, once for each kill.
    assert messages - Counter(list(rows)) <= Counter(interrupted.values())


async def _claims(deployment: Deployment) -> dict[str, str]:
    """Return the recipients of claimed deliveries, by claim, once the killed host's last storage requests are done."""
    before: dict[str, str] | None = None
    while True:
        rows = await deployment.read_deliveries()
        now = {row["claim"]: name for name, row in rows.items() if row["state"] == DeliveryState.SENDING}
        if now == before:
            return now
        before = now
        await asyncio.sleep(POLL_SECONDS)


async def _end_claims(deployment: Deployment, names: Iterable[str]) -> None:
    table = deployment.tables.get_table_client("HeraldDeliveries")
    rows = await deployment.read_deliveries()
    for name in names:
        row_keys = {column: rows[name][column] for column in ("PartitionKey", "RowKey")}
        await table.update_entity(row_keys | {"claimed_until": datetime.now(UTC) - timedelta(seconds=1)})
