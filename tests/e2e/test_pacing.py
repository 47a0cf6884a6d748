"""Hosts on the same storage account share rate lanes: together they keep Teams' limits and its Retry-After."""

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
from tests.e2e.conftest import Deployment, build_audience
from tests.support.herald import notification, user

#: Requests a second that Teams allows an app in a tenant, and that the hosts use together.
TEAMS_LIMIT_PER_SECOND, RATE_PER_SECOND = 50, 45
#: Long enough for other hosts to take the slots that the suspended host has and waits for. A request that it sends late
#: arrives between two turns of its conversation, which are 3 s apart.
SUSPEND_SECONDS = 4.5
SETTINGS = {"HERALD_TENANT_RATE": str(RATE_PER_SECOND)}
#: The minimum share of Retry-After in which no message arrives: at its start, hosts still use slots that they have.
MIN_SILENT_SHARE = 0.5


@pytest.mark.parametrize(
    ("hosts", "count", "to_one"),
    [
        (2, 120, 20),
        pytest.param(2, 1000, 70, marks=[pytest.mark.full, pytest.mark.timeout(300)]),
        pytest.param(4, 1000, 70, marks=[pytest.mark.full, pytest.mark.timeout(300)]),
    ],
)
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system cannot suspend processes")
async def test_hosts_together_keep_tenant_and_conversation_limits_even_after_one_was_suspended(
    deployment: Deployment, hosts: int, count: int, to_one: int
) -> None:
    trace = deployment.folder / "slots"
    deployment.start_hosts(hosts, _create_traced_app(deployment.folder / "app"), TRACE=str(trace), **SETTINGS)
    people = await deployment.add_people(count)
    recipient = user(people[0])
    await asyncio.gather(*(deployment.put(notification(recipient)) for _ in range(to_one)))
    await deployment.put(notification(*build_audience(people)))
    await deployment.teams.wait(count // 4, timeout=60)
    await _suspend(deployment.hosts[0])
    await deployment.wait_until_ended(within=count / 10 + 60, count=to_one + 1)

    slots = sorted(slot for _, slot in map(json.loads, trace.read_text().splitlines()))
    assert len(slots) >= count + to_one
    assert min(later - earlier for earlier, later in zip(slots, slots[RATE_PER_SECOND:], strict=False)) >= SECOND
    stats = await deployment.teams.stats()
    assert (stats.violations, stats.requests["send"]) == ([], {"201": count + to_one})
    assert stats.peaks[deployment.teams.tenant] <= TEAMS_LIMIT_PER_SECOND
    messages = Counter(message.person for message in await deployment.teams.received())
    assert messages == Counter({person.object_id: 1 for person in people}) + Counter({people[0].object_id: to_one})


def _create_traced_app(folder: Path) -> Path:
    """Create the folder of an app that records its slots."""
    folder.mkdir()
    shutil.copy(ROOT / "host.json", folder)
    (folder / "function_app.py").write_text("from tests.e2e.traced_app import app\n\n__all__ = ['app']\n")
    return folder


async def _suspend(host: FunctionHost) -> None:
    host.process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(SUSPEND_SECONDS)
    finally:
        host.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("seconds", "count"),
    [
        pytest.param(8, 120, marks=pytest.mark.full),
        pytest.param(20, 1000, marks=[pytest.mark.full, pytest.mark.timeout(300)]),
    ],
)
async def test_refusals_of_three_conversations_pause_their_tenant_on_all_hosts_but_no_other(
    deployment: Deployment, seconds: int, count: int
) -> None:
    teams = deployment.teams
    other_tenant = (await teams.grow(Growth(people=1))).people[0].tenant
    deployment.start_hosts(2, **SETTINGS)
    audiences = {
        tenant: build_audience(await deployment.add_people(count, tenant)) for tenant in (teams.tenant, other_tenant)
    }
    await deployment.put(notification(*audiences[teams.tenant], tenant=teams.tenant))
    await teams.wait(count // 5, tenant=teams.tenant, timeout=30)
    await teams.inject(TeamsFault(operation="send", tenant=teams.tenant, status=429, retry_after=seconds, count=3))
    await deployment.put(notification(*audiences[other_tenant], tenant=other_tenant))
    await deployment.wait_until_ended(within=count / 8 + seconds + 60, count=2)

    times, other_times = [_receipt_times(await teams.received(tenant=tenant)) for tenant in audiences]
    assert (len(times), len(other_times)) == (count, count)
    begin, end = max(pairwise(times), key=lambda pair: pair[1] - pair[0])
    assert end - begin >= seconds * MIN_SILENT_SHARE
    assert any(begin < at < end for at in other_times), "the other tenant was paused, too"


def _receipt_times(messages: Sequence[Received]) -> Sequence[float]:
    return [datetime.fromisoformat(message.received_at).timestamp() for message in messages]
