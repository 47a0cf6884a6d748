"""A broadcast to everybody, as the audience grows: time and memory of one host, Teams answering at once.

Nothing is refused, and the tenant has the rate that tenants have by default, so that the pages of the list come as fast
as they are sent. Each run has a tenant and a host of its own.
"""

from __future__ import annotations

import time
from collections import defaultdict
from uuid import uuid4

from benchmarks.report import Options, Report, Run, medians, ratio
from benchmarks.stage import Stage, stage

#: People in the tenant, and at most so many runs: the largest takes 40 minutes.
SIZES = {1_000: 5, 10_000: 3, 100_000: 1}
QUICK_SIZES = {1_000: 2, 10_000: 1}
#: The tenant's rate, in requests a second: less than one host can send. At a higher one the list runs ahead of the
#: sending, and in Azurite each receive and delete takes time in proportion to all messages on all queues: 30 to 60 ms
#: with 9,000 of them, 250 to 330 ms with 43,000.
RATE = 45
#: Seconds that one message may take, and a run at least.
PATIENCE_EACH, PATIENCE = 0.1, 300


async def run(options: Options) -> Report:
    sizes = QUICK_SIZES if options.quick else SIZES
    runs: defaultdict[int, list[Run]] = defaultdict(list)
    async with stage("--no-limits", rate=RATE) as on:
        for turn in range(options.runs):
            for size, most in sizes.items():
                if turn < most:
                    runs[size].append(await _measure(on, size))
    report = Report({"runs": runs})
    first, *_ = runs
    rows = []
    for size, made in runs.items():
        found = medians(made)
        peak = ratio(made, runs[first][: len(made)], "peak_mb")
        rows.append([f"{size:,}", len(made), found["seconds"], found["per_second"], found["peak_mb"], peak])
    heads = ("people", "runs", "seconds", "msg/s", "peak RSS, MB", f"to that of {first:,}")
    report.table(heads, rows)
    return report


async def _measure(on: Stage, size: int) -> Run:
    tenant, _ = await on.populate(size)
    async with on.hosts() as hosts:
        begun = time.monotonic()
        key = await on.put(uuid4().hex, tenant, {"all": True})
        finished = await on.finished(key, max(PATIENCE, PATIENCE_EACH * size))
        seconds = time.monotonic() - begun
        meters = await on.meters(hosts)
    assert finished.total == size, f"{finished.total} of {size}"
    return {
        "seconds": seconds,
        "per_second": size / seconds,
        "peak_mb": meters.peak_mb,
        "cpu_ms": 1000 * meters.cpu_s / size,
    }
