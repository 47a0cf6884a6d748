"""Hosts that share a storage account share the lanes: together they keep Teams' limits, and what Teams asks for."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

import pytest

from local.fake_teams.api import Fault, Growth, Received
from local.processes import FunctionHost
from tests.e2e.conftest import Deployment, audience
from tests.notify.conftest import notification, user

#: What Teams allows in a second to an app in a tenant, and how much of it the hosts use together.
ALLOWED, RATE = 50, 45
#: Seconds for which a host stands still: long enough for its slots, and those it waits for, to be others'.
STALL = 3.0
#: The hosts share the rate, and keep their messages for longer than any of them stands still, as on Azure.
SETTINGS = {"HERALD_TENANT_RATE": str(RATE), "HERALD_LOCAL_VISIBILITY_SECONDS": "60"}
#: Seconds after Teams' "wait" within which what another host had begun may still arrive.
UNDER_WAY = 0.6
#: The share of its rate that a tenant has at least while another one has to wait.
GOES_ON = 0.75


@pytest.mark.full
@pytest.mark.parametrize(
    ("hosts", "count", "to_one"),
    [
        (2, 150, 20),
        pytest.param(2, 1000, 70, marks=[pytest.mark.full, pytest.mark.timeout(300)]),
        pytest.param(4, 1000, 70, marks=[pytest.mark.full, pytest.mark.timeout(300)]),
    ],
)
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be stopped here")
async def test_hosts_together_keep_the_limits_of_tenant_and_conversation_also_when_one_stood_still(
    deployment: Deployment, hosts: int, count: int, to_one: int
) -> None:
    deployment.start(hosts, **SETTINGS)
    people = await deployment.people(count)
    chosen = user(people[0])
    await asyncio.gather(*(deployment.put(notification(chosen)) for _ in range(to_one)))
    await deployment.put(notification(*audience(people)))
    await deployment.teams.wait(count // 3, timeout=60)
    await _stand_still(deployment.hosts[0])
    await deployment.ended(within=count / 10 + 60, count=to_one + 1)

    stats = await deployment.teams.stats()
    assert (stats.violations, stats.requests["send"]) == ([], {"201": count + to_one})
    assert stats.peaks[deployment.teams.tenant] <= ALLOWED
    messages = Counter(message.person for message in await deployment.teams.received())
    assert messages == Counter({person.object_id: 1 for person in people}) + Counter({people[0].object_id: to_one})


async def _stand_still(host: FunctionHost) -> None:
    host.process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(STALL)
    finally:
        host.process.send_signal(signal.SIGCONT)


@pytest.mark.full
@pytest.mark.parametrize(
    ("seconds", "count"), [(4, 150), pytest.param(20, 1000, marks=[pytest.mark.full, pytest.mark.timeout(300)])]
)
async def test_a_tenant_that_asks_to_wait_gets_nothing_from_any_host_and_another_goes_on(
    deployment: Deployment, seconds: int, count: int
) -> None:
    teams = deployment.teams
    other = (await teams.grow(Growth(people=1))).people[0].tenant
    deployment.start(2, **SETTINGS)
    audiences = {tenant: audience(await deployment.people(count, tenant)) for tenant in (teams.tenant, other)}
    for tenant, everybody in audiences.items():
        await deployment.put(notification(*everybody, tenant=tenant))
    await teams.wait(count // 5, tenant=teams.tenant, timeout=30)
    await teams.fault(Fault(operation="send", tenant=teams.tenant, status=429, retry_after=seconds, count=1))
    await deployment.ended(within=count / 8 + seconds + 60, count=2)

    asked = _times(await teams.received(tenant=teams.tenant))
    silence, begun = max((later - sooner, sooner) for sooner, later in pairwise(asked))
    assert silence >= seconds - UNDER_WAY
    others = _times(await teams.received(tenant=other))
    during = [at for at in others if begun <= at <= begun + seconds]
    assert len(during) >= min(GOES_ON * RATE * seconds, sum(at > begun for at in others))


def _times(messages: Sequence[Received]) -> Sequence[float]:
    return [datetime.fromisoformat(message.received_at).timestamp() for message in messages]
