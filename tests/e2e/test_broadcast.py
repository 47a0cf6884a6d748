"""A running broadcast: an urgent notification overtakes it, a cancel command ends it, duplicates are ignored."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence

import orjson
import pytest

from local.fake_teams.api import Received
from shared.queue_messages import NOTIFICATIONS, WORK_QUEUES
from shared.storage.deliveries import CLAIM_SECONDS
from tests.e2e.conftest import Deployment, build_audience
from tests.support.herald import notification, user

#: Recipients, messages received before the urgent notification is put, and messages a second. The rate is so low that
#: the broadcast is not over when the cancel command arrives.
SIZES = [(150, 15, 10), pytest.param(10_000, 1000, 45, marks=[pytest.mark.full, pytest.mark.timeout(600)])]
#: Queue messages with the same notification.
DUPLICATES = 20


@pytest.mark.parametrize(("count", "reached", "rate"), SIZES)
async def test_urgent_notification_overtakes_broadcast_and_cancelled_broadcast_ends_with_matching_counts(
    deployment: Deployment, count: int, reached: int, rate: int
) -> None:
    deployment.start_hosts(2, HERALD_TENANT_RATE=str(rate))  # a host sees in the storage what the other received
    [recipient] = await deployment.add_people(1)
    people = await deployment.add_people(count)
    await deployment.put(notification(*build_audience(people), id="bulk", content={"title": "bulk"}))
    await deployment.teams.wait(reached, timeout=reached / 10 + 30)
    await deployment.put(notification(user(recipient), id="urgent", priority="urgent", content={"title": "urgent"}))
    await deployment.teams.wait(person=recipient.object_id, until=_has_urgent, timeout=60)
    received_before_cancel = len(await deployment.teams.received())
    await deployment.put(json.dumps({"command": "cancel", "target": {"id": "bulk"}}))
    rows = {row["id"]: row for row in await deployment.wait_until_ended(within=180, count=2)}

    counts = Counter(orjson.loads(rows["bulk"]["counts"]))
    assert (rows["bulk"]["state"], rows["bulk"]["total"]) == ("cancelled", counts.total())
    assert await deployment.check_counts() == counts + Counter(sent=1)
    bulk = [message for message in await deployment.teams.received() if not _has_urgent([message])]
    assert counts == Counter(sent=len(bulk), cancelled=counts.total() - len(bulk))
    assert reached <= received_before_cancel <= len(bulk) + 1
    assert len(bulk) < count, "the broadcast was over before it was overtaken or cancelled"


@pytest.mark.parametrize(
    "queues", [(NOTIFICATIONS,), pytest.param(WORK_QUEUES, marks=[pytest.mark.full, pytest.mark.timeout(300)])]
)
async def test_concurrent_duplicates_of_notification_reach_each_recipient_once(
    deployment: Deployment, queues: Sequence[str]
) -> None:
    """The full test also waits for delivery messages that met another worker's claim and retry after its end."""
    deployment.start_hosts(2)
    people = await deployment.add_people(10)
    body = notification(*map(user, people))
    await asyncio.gather(*(deployment.put(body) for _ in range(DUPLICATES)))
    [stored] = await deployment.wait_until_ended(within=60)
    await deployment.wait_until_empty(*queues, within=2 * CLAIM_SECONDS)
    assert (stored["state"], await deployment.check_counts()) == ("finished", {"sent": len(people)})
    messages = Counter(message.person for message in await deployment.teams.received())
    assert messages == Counter(person.object_id for person in people)


def _has_urgent(messages: list[Received]) -> bool:
    return any(message.activity["summary"] == "urgent" for message in messages)
