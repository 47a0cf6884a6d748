"""A broadcast under way: what may pass it, what ends it, and what cannot make it two."""

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
from tests.e2e.conftest import Deployment, audience
from tests.support.herald import notification, user

#: Recipients, how many are reached when something happens, and messages a second: it is not to be over by then.
SIZES = [(300, 30, 15), pytest.param(10_000, 1000, 45, marks=[pytest.mark.full, pytest.mark.timeout(600)])]
#: Messages of the queue that bring the same notification.
REPEATS = 20


@pytest.mark.parametrize(("count", "reached", "rate"), SIZES)
async def test_what_is_urgent_passes_a_broadcast_and_one_that_is_called_off_ends_and_its_counts_sum(
    deployment: Deployment, count: int, reached: int, rate: int
) -> None:
    deployment.start(2, HERALD_TENANT_RATE=str(rate))  # one learns from the storage what the other is told
    [late] = await deployment.people(1)
    people = await deployment.people(count)
    await deployment.put(notification(*audience(people), id="bulk", content={"title": "bulk"}))
    await deployment.teams.wait(reached, timeout=reached / 10 + 30)
    await deployment.put(notification(user(late), id="urgent", priority="urgent", content={"title": "urgent"}))
    await deployment.teams.wait(person=late.object_id, until=_urgent, timeout=60)
    passed = len(await deployment.teams.received())
    await deployment.put(json.dumps({"command": "cancel", "target": {"id": "bulk"}}))
    rows = {row["id"]: row for row in await deployment.ended(within=180, count=2)}

    counts = Counter(orjson.loads(rows["bulk"]["counts"]))
    assert (rows["bulk"]["state"], rows["bulk"]["total"]) == ("cancelled", counts.total())
    assert await deployment.check_counts() == counts + Counter(sent=1)
    bulk = [message for message in await deployment.teams.received() if not _urgent([message])]
    assert counts == Counter(sent=len(bulk), cancelled=counts.total() - len(bulk))
    assert reached <= passed <= len(bulk) + 1
    assert len(bulk) < count, "the broadcast was over, so nothing was passed or called off"


@pytest.mark.parametrize(
    "queues", [(NOTIFICATIONS,), pytest.param(WORK_QUEUES, marks=[pytest.mark.full, pytest.mark.timeout(300)])]
)
async def test_the_same_notification_many_times_at_once_is_one_and_reaches_each_once(
    deployment: Deployment, queues: Sequence[str]
) -> None:
    """In full also after the copies of a delivery that met its claim: they are looked at when that would end."""
    deployment.start(2)
    people = await deployment.people(10)
    same = notification(*map(user, people))
    await asyncio.gather(*(deployment.put(same) for _ in range(REPEATS)))
    [stored] = await deployment.ended(within=60)
    await deployment.emptied(*queues, within=2 * CLAIM_SECONDS)
    assert (stored["state"], await deployment.check_counts()) == ("finished", {"sent": len(people)})
    messages = Counter(message.person for message in await deployment.teams.received())
    assert messages == Counter(person.object_id for person in people)


def _urgent(messages: list[Received]) -> bool:
    return any(message.activity["summary"] == "urgent" for message in messages)
