"""Time and memory of one host for a broadcast to a whole tenant, as the audience grows.

Teams answers immediately and refuses nothing. The tenant has the default rate. Each run has its own tenant and host.
"""

from __future__ import annotations

import time
from functools import partial

from benchmarks.report import Options, Report, Run
from benchmarks.testbed import Testbed, measure_sizes, open_testbed, report_sizes

#: Maximum number of runs by number of people: the largest takes at least 37 minutes at the rate below.
SIZES = {1_000: 5, 10_000: 3, 100_000: 1}
QUICK_SIZES = {1_000: 2, 10_000: 1}
#: Less than one host can send.
RATE_PER_SECOND = 45
MIN_TIMEOUT_SECONDS, TIMEOUT_SECONDS_PER_PERSON = 300, 0.1


async def run(options: Options) -> Report:
    async with open_testbed("--no-limits", rate=RATE_PER_SECOND) as testbed:
        runs = await measure_sizes(options, SIZES, QUICK_SIZES, partial(_measure, testbed))
    return report_sizes(runs, "people", {"seconds": "seconds", "msg/s": "per_second", "peak RSS, MB": "peak_mb"})


async def _measure(testbed: Testbed, people: int) -> Run:
    tenant, _ = await testbed.add_tenant(people)
    async with testbed.start_hosts() as hosts:
        started = time.monotonic()
        key = await testbed.put_notification(tenant, {"all": True})
        timeout = max(MIN_TIMEOUT_SECONDS, TIMEOUT_SECONDS_PER_PERSON * people)
        finished = await testbed.wait_until_finished(key, timeout)
        seconds = time.monotonic() - started
        meters = await testbed.read_meters(hosts)
    assert finished.total == people, f"{finished.total} of {people}"
    return {
        "seconds": seconds,
        "per_second": people / seconds,
        "peak_mb": meters.peak_mb,
        "cpu_ms": 1000 * meters.cpu_s / people,
    }
