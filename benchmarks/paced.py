"""A broadcast at 45 of the 50 messages a second that Teams allows, by one host and by three on the same storage.

The fake Teams enforces its limits and answers after 80 ms. `sustained` is the rate between the first and the last
message that arrived; slot operations are those on table RateLanes and the writes of windows to Conversations.
"""

from __future__ import annotations

import time
from collections import defaultdict

from benchmarks.report import Options, Report, Run, median_ratio, medians
from benchmarks.testbed import Testbed, open_testbed

PEOPLE, QUICK_PEOPLE = 2000, 300
RATE_PER_SECOND = 45
LATENCY_SECONDS = 0.08
HOST_COUNTS = (1, 3)
RUN_TIMEOUT_SECONDS = 300


async def run(options: Options) -> Report:
    people = QUICK_PEOPLE if options.quick else PEOPLE
    runs: defaultdict[int, list[Run]] = defaultdict(list)
    async with open_testbed("--latency", str(LATENCY_SECONDS), rate=RATE_PER_SECOND) as testbed:
        for _ in range(options.runs):
            for hosts in HOST_COUNTS:
                runs[hosts].append(await _measure(testbed, people, hosts))
    report = Report({"people": people, "rate": RATE_PER_SECOND, "runs": runs})
    goal = 1.05 * people / RATE_PER_SECOND + 2
    report.add_line(f"{people:,} people at {RATE_PER_SECOND} a second: the goal is {goal:.0f} s at most.")
    headings = {
        "sustained": "sustained, msg/s",
        "seconds": "seconds to the end",
        "peak": "busiest second",
        "refused": "429s",
        "slot_operations": "slot operations a message",
        "cpu_ms": "CPU ms a message",
        "lag_p99_ms": "lag p99, ms",
        "lag_ms": "longest lag, ms",
    }
    rows = [[hosts, *(medians(host_runs)[name] for name in headings)] for hosts, host_runs in runs.items()]
    report.add_table(("hosts", *headings.values()), rows)
    one, three = (runs[hosts] for hosts in HOST_COUNTS)
    report.add_line(f"Three hosts reach {median_ratio(three, one, 'sustained'):.2f} times the rate of one.")
    return report


async def _measure(testbed: Testbed, people: int, host_count: int) -> Run:
    tenant, _ = await testbed.add_tenant(people)
    refusals = await testbed.count_refusals()
    async with testbed.start_hosts(host_count) as hosts:
        before = await testbed.read_meters(hosts, reset=True)
        started = time.monotonic()
        key = await testbed.put_notification(tenant, {"all": True})
        await testbed.wait_until_finished(key, RUN_TIMEOUT_SECONDS)
        seconds = time.monotonic() - started
        after = await testbed.read_meters(hosts)
    stats = await testbed.teams.stats()
    times = [message.monotonic for message in await testbed.teams.received(tenant=tenant)]
    of_slots = ("RateLanes:", "Conversations: merge", "Conversations: insert")
    slot_operations = sum(n for name, n in after.operations.items() if name.startswith(of_slots))
    return {
        "sustained": (len(times) - 1) / (max(times) - min(times)),
        "seconds": seconds,
        "peak": stats.peaks[tenant],
        "refused": await testbed.count_refusals() - refusals,
        "slot_operations": slot_operations / people,
        "cpu_ms": 1000 * (after.cpu_s - before.cpu_s) / people,
        "lag_p99_ms": after.lag_p99_ms,
        "lag_ms": after.lag_ms,
    }
