"""Many messages to one chat at once, by one host, while other people get one message after another.

Teams enforces its limits. Each storage operation of the host's process is counted, also those for the other people.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from statistics import median

from benchmarks.report import Options, Report, Run, medians
from benchmarks.testbed import Testbed, open_testbed

RATE_PER_SECOND = 45
#: The messages to one chat, and those to other people, with a pause between these.
MESSAGES, QUICK_MESSAGES = 110, 60
OTHERS, PAUSE_SECONDS = 60, 0.5
RUN_TIMEOUT_SECONDS = 300


async def run(options: Options) -> Report:
    messages = QUICK_MESSAGES if options.quick else MESSAGES
    runs: dict[str, list[Run]] = {"alone": [], "beside a flood": []}
    async with open_testbed(rate=RATE_PER_SECOND) as testbed:
        for _ in range(options.runs):
            for name, flood in {"alone": 0, "beside a flood": messages}.items():
                runs[name].append(await _measure(testbed, flood))
    report = Report({"messages": messages, "others": OTHERS, "runs": runs})
    rows = []
    for name, of_kind in runs.items():
        figures = medians(of_kind)
        rows.append([name, *(figures[each] for each in ("wait_s", "longest_wait_s", "operations", "refused"))])
    headings = ("the other people's messages", "wait, s", "longest wait, s", "operations a message", "refused by Teams")
    report.add_table(headings, rows)
    return report


async def _measure(testbed: Testbed, flood: int) -> Run:
    """Send `flood` messages to the first person, and one after another to the others."""
    tenant, (first, *others) = await testbed.add_tenant(OTHERS + 1)
    put_at: dict[str, float] = {}
    async with testbed.start_hosts() as hosts:
        refused = await testbed.count_refusals()
        await testbed.read_meters(hosts, reset=True)
        all_keys = list(
            await asyncio.gather(*(testbed.put_notification(tenant, {"user": first}) for _ in range(flood)))
        )
        for person in others:
            put_at[person] = datetime.now(UTC).timestamp()
            all_keys.append(await testbed.put_notification(tenant, {"user": person}))
            await asyncio.sleep(PAUSE_SECONDS)
        for key in all_keys:
            await testbed.wait_until_finished(key, RUN_TIMEOUT_SECONDS)
        operations = (await testbed.read_meters(hosts)).without_empty_receives()
    received = await testbed.teams.received(tenant=tenant)
    waits = [
        datetime.fromisoformat(message.received_at).timestamp() - put_at[str(message.person)]
        for message in received
        if message.person in put_at
    ]
    assert len(received) == len(all_keys)
    return {
        "wait_s": median(waits),
        "longest_wait_s": max(waits),
        "operations": operations.total() / len(all_keys),
        "refused": await testbed.count_refusals() - refused,
    }
