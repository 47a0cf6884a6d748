"""A broadcast at the pace that Teams allows, 45 a second of its 50, by one host and by three on one storage.

The fake Teams enforces its limits and answers after 80 ms. `sustained` is the rate from the first message that
arrived to the last; slots are the operations on table RateLanes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from uuid import uuid4

from benchmarks.report import Options, Report, Run, medians, ratio
from benchmarks.stage import Stage, stage

PEOPLE, QUICK_PEOPLE = 2000, 300
RATE = 45
LATENCY = 0.08
HOSTS = (1, 3)
PATIENCE = 300


async def run(options: Options) -> Report:
    people = QUICK_PEOPLE if options.quick else PEOPLE
    runs: defaultdict[int, list[Run]] = defaultdict(list)
    async with stage("--latency", str(LATENCY), rate=RATE) as on:
        for _ in range(options.runs):
            for hosts in HOSTS:
                runs[hosts].append(await _measure(on, people, hosts))
    report = Report({"people": people, "rate": RATE, "runs": runs})
    report.say(f"{people:,} people at {RATE} a second: the goal is {1.05 * people / RATE + 2:.0f} s at most.")
    figures = {
        "sustained": "sustained, msg/s",
        "seconds": "seconds to the end",
        "peak": "busiest second",
        "refused": "429s",
        "slot_operations": "slot operations a message",
        "cpu_ms": "CPU ms a message",
        "lag_p99_ms": "lag p99, ms",
        "lag_ms": "longest lag, ms",
    }
    rows = [[hosts, *(medians(made)[name] for name in figures)] for hosts, made in runs.items()]
    report.table(("hosts", *figures.values()), rows)
    one, three = (runs[hosts] for hosts in HOSTS)
    report.say(f"Three hosts to one: {ratio(three, one, 'sustained'):.2f} of the rate.")
    return report


async def _measure(on: Stage, people: int, count: int) -> Run:
    tenant, _ = await on.populate(people)
    refused = await _refused(on)
    async with on.hosts(count) as hosts:
        before = await on.meters(hosts, reset=True)
        begun = time.monotonic()
        key = await on.put(uuid4().hex, tenant, {"all": True})
        await on.finished(key, PATIENCE)
        seconds = time.monotonic() - begun
        after = await on.meters(hosts)
    stats = await on.teams.stats()
    times = [each.monotonic for each in await on.teams.received(tenant=tenant)]
    slots = sum(n for name, n in after.operations.items() if name.startswith("RateLanes:"))
    return {
        "sustained": (len(times) - 1) / (max(times) - min(times)),
        "seconds": seconds,
        "peak": stats.peaks[tenant],
        "refused": await _refused(on) - refused,
        "slot_operations": slots / people,
        "cpu_ms": 1000 * (after.cpu_s - before.cpu_s) / people,
        "lag_p99_ms": after.lag_p99_ms,
        "lag_ms": after.lag_ms,
    }


async def _refused(on: Stage) -> int:
    return sum(answers.get("429", 0) for answers in (await on.teams.stats()).requests.values())
