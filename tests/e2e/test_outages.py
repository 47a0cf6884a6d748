"""The tables or the queues are away in the middle of a broadcast: each message is sent once, and nothing is poison."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from local.processes import Azurite
from tests.e2e.conftest import Deployment, build_audience
from tests.support.herald import notification
from tests.support.tcp_proxy import TcpProxy

PEOPLE, OUTAGE_SECONDS = 600, 540
#: The part of the broadcast that is sent before the outage, as the number of its messages.
SENT_BEFORE = 150
#: Seconds from the end of the outage until all is sent: a message that the host could not put back on its queue comes
#: again when its lease of ten minutes ends, and 600 messages take a minute.
REST_SECONDS = 700
TABLES, QUEUES = 2, 1


@pytest.mark.full
@pytest.mark.timeout(1400)
@pytest.mark.parametrize("service", [TABLES, QUEUES], ids=["tables", "queues"])
async def test_broadcast_outlasts_an_outage(deployment: Deployment, azurite: Azurite, service: int) -> None:
    """The platform: the tables or the storage are away."""
    port = azurite.ports[service]
    proxy = deployment.stack.enter_context(TcpProxy(port))
    connection = deployment.connection.replace(f":{port}/", f":{proxy.port}/")
    deployment.start_hosts(AzureWebJobsStorage=connection)
    people = await deployment.add_people(PEOPLE)
    await deployment.put(notification(*build_audience(people)))
    await deployment.teams.wait(SENT_BEFORE, timeout=60)
    proxy.cut()
    await asyncio.sleep(OUTAGE_SECONDS)
    sent_by_then = len(await deployment.teams.received())
    proxy.restore()
    [stored] = await deployment.wait_until_ended(within=REST_SECONDS)
    messages = Counter(message.person for message in await deployment.teams.received())
    assert sent_by_then < PEOPLE
    assert messages == Counter(person.object_id for person in people)
    rows = await deployment.read_deliveries()
    assert {(row["state"], row.get("maybe_twice", False)) for row in rows.values()} == {("sent", False)}
    assert all(row["activity_id"] for row in rows.values())
    assert (stored["state"], await deployment.check_counts()) == ("finished", {"sent": PEOPLE})
    assert await deployment.read_rows("DeadLetters") == []
    # The host creates the poison queue of a queue with its first message.
    assert [queue.name async for queue in deployment.queues.list_queues() if queue.name.endswith("-poison")] == []
