"""The expansion of a large Entra group by one host: calls to Graph, storage operations, time and memory.

The notification is simulated: everything is done except the requests to Teams. Graph answers immediately, 999 members a
page. The members are in parts, each a group of at most 5,000, and half of these are in a group within the group.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.report import Options, Report, Run
from benchmarks.testbed import MAX_PEOPLE_PER_REQUEST, Testbed, measure_sizes, open_testbed, report_sizes
from local.fake_teams.api import Growth

#: Maximum number of runs by number of members.
SIZES = {1_000: 5, 10_000: 3, 100_000: 1}
QUICK_SIZES = {1_000: 2, 10_000: 1}
COLUMNS = {
    "calls to Graph": "calls",
    "seconds": "seconds",
    "members/s": "per_second",
    "operations a member": "operations",
    "CPU ms a member": "cpu_ms",
    "peak RSS, MB": "peak_mb",
}
#: More than one host can simulate.
RATE_PER_SECOND = 1000
MIN_TIMEOUT_SECONDS, TIMEOUT_SECONDS_PER_PERSON = 300, 0.1


@dataclass
class GraphTestbed(Testbed):
    """A testbed whose hosts know the Graph of the fake Teams."""

    @property
    def environ(self) -> dict[str, str]:
        return super().environ | {"HERALD_GRAPH_URL": self.teams.graph_url}


async def run(options: Options) -> Report:
    async with open_testbed("--no-limits", rate=RATE_PER_SECOND) as opened:
        testbed = GraphTestbed(**vars(opened))
        runs = await measure_sizes(options, SIZES, QUICK_SIZES, partial(_measure, testbed))
    return report_sizes(runs, "members", COLUMNS)


async def _add_group(testbed: Testbed, tenant: str, ids: Sequence[str]) -> str:
    """Add a group with these members, half of them in a group within it, and return its id."""

    async def add(members: Sequence[str]) -> str:
        [group] = (await testbed.teams.grow(Growth(tenant=tenant, groups=1, member_ids=list(members)))).groups
        return group.id

    size = min(MAX_PEOPLE_PER_REQUEST, len(ids) // 2)
    parts = [await add(ids[start : start + size]) for start in range(0, len(ids), size)]
    inner = await add(parts[::2])
    return await add([inner, *parts[1::2]])


async def _measure(testbed: Testbed, people: int) -> Run:
    tenant, ids = await testbed.add_tenant(people)
    group = await _add_group(testbed, tenant, ids)
    calls = (await testbed.teams.stats()).count("groupMembers")
    async with testbed.start_hosts() as hosts:
        started = time.monotonic()
        key = await testbed.put_notification(tenant, {"group": group}, simulate=True)
        timeout = max(MIN_TIMEOUT_SECONDS, TIMEOUT_SECONDS_PER_PERSON * people)
        finished = await testbed.wait_until_finished(key, timeout)
        seconds = time.monotonic() - started
        meters = await testbed.read_meters(hosts)
    assert finished.total == people, f"{finished.total} of {people}"
    return {
        "calls": (await testbed.teams.stats()).count("groupMembers") - calls,
        "seconds": seconds,
        "per_second": people / seconds,
        "operations": meters.without_empty_receives().total() / people,
        "cpu_ms": 1000 * meters.cpu_s / people,
        "peak_mb": meters.peak_mb,
    }
