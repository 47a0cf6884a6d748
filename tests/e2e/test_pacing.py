"""Hosts that share a storage account share the lanes: together they keep Teams' limits, and what Teams asks for."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from local.fake_teams.api import Growth, Received, TeamsFault
from local.processes import ROOT, FunctionHost
from shared.rate_windows import SECOND
from tests.e2e.conftest import Deployment, audience
from tests.support.herald import notification, user

#: What Teams allows in a second to an app in a tenant, and how much of it the hosts use together.
ALLOWED, RATE = 50, 45
#: Seconds for which a host stands still: long enough for its slots, and those it waits for, to be others'.
STALL = 3.0
SETTINGS = {"HERALD_TENANT_RATE": str(RATE)}
#: The part of Teams' "wait" in which nothing arrives, at least: before, hosts use the slots that they have.
SILENT = 0.5


@pytest.mark.parametrize(
    ("hosts", "count", "to_one"),
    [
        (2, 120, 20),
        pytest.param(2, 1000, 70, marks=[pytest.mark.full, pytest.mark.timeout(300)]),
        pytest.param(4, 1000, 70, marks=[pytest.mark.full, pytest.mark.timeout(300)]),
    ],
)
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be stopped here")
async def test_hosts_together_keep_the_limits_of_tenant_and_conversation_also_when_one_stood_still(
    deployment: Deployment, hosts: int, count: int, to_one: int
) -> None:
    trace = deployment.folder / "slots"
    deployment.start(hosts, _traced(deployment.folder / "app"), TRACE=str(trace), **SETTINGS)
    people = await deployment.people(count)
    chosen = user(people[0])
    await asyncio.gather(*(deployment.put(notification(chosen)) for _ in range(to_one)))
    await deployment.put(notification(*audience(people)))
    await deployment.teams.wait(count // 4, timeout=60)
    await _stand_still(deployment.hosts[0])
    await deployment.ended(within=count / 10 + 60, count=to_one + 1)

    slots = sorted(slot for _, slot in map(json.loads, trace.read_text().splitlines()))
    assert len(slots) >= count + to_one
    assert min(later - sooner for sooner, later in zip(slots, slots[RATE:], strict=False)) >= SECOND
    stats = await deployment.teams.stats()
    assert (stats.violations, stats.requests["send"]) == ([], {"201": count + to_one})
    assert stats.peaks[deployment.teams.tenant] <= ALLOWED
    messages = Counter(message.person for message in await deployment.teams.received())
    assert messages == Counter({person.object_id: 1 for person in people}) + Counter({people[0].object_id: to_one})


def _traced(folder: Path) -> Path:
    """The folder of the app that writes its slots down."""
    folder.mkdir()
    shutil.copy(ROOT / "host.json", folder)
    (folder / "function_app.py").write_text("from tests.e2e.traced_app import app\n\n__all__ = ['app']\n")
    return folder


async def _stand_still(host: FunctionHost) -> None:
    host.process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(STALL)
    finally:
        host.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("seconds", "count"), [(8, 120), pytest.param(20, 1000, marks=[pytest.mark.full, pytest.mark.timeout(300)])]
)
async def test_a_tenant_that_asks_to_wait_gets_nothing_from_any_host_and_another_goes_on(
    deployment: Deployment, seconds: int, count: int
) -> None:
    teams = deployment.teams
    other = (await teams.grow(Growth(people=1))).people[0].tenant
    deployment.start(2, **SETTINGS)
    audiences = {tenant: audience(await deployment.people(count, tenant)) for tenant in (teams.tenant, other)}
    await deployment.put(notification(*audiences[teams.tenant], tenant=teams.tenant))
    await teams.wait(count // 5, tenant=teams.tenant, timeout=30)
    await teams.inject(TeamsFault(operation="send", tenant=teams.tenant, status=429, retry_after=seconds, count=1))
    await deployment.put(notification(*audiences[other], tenant=other))
    await deployment.ended(within=count / 8 + seconds + 60, count=2)

    times, others = [_times(await teams.received(tenant=tenant)) for tenant in audiences]
    assert (len(times), len(others)) == (count, count)
    begin, end = max(pairwise(times), key=lambda pair: pair[1] - pair[0])
    assert end - begin >= seconds * SILENT
    assert any(begin < at < end for at in others), "the other one had to wait, too"


def _times(messages: Sequence[Received]) -> Sequence[float]:
    return [datetime.fromisoformat(message.received_at).timestamp() for message in messages]
