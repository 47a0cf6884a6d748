"""A message from the queue to `sent`, on Azurite, by one function host without a rate limit.

Recipients are addressed in three ways: by one notification each, by one notification that names all of them, and by one
for everyone who has installed the bot. Teams answers after 80 ms. Each storage operation of the host's process is
counted; those of triggers are made by Functions itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import median

from benchmarks.report import Options, Report, Run, medians
from benchmarks.testbed import Testbed, open_testbed

PEOPLE, QUICK_PEOPLE = 1000, 200
LATENCY_SECONDS = 0.08
#: So high that it has no effect.
RATE_PER_SECOND = 10_000
RUN_TIMEOUT_SECONDS = 300
#: Less frequent operations a message are counted, but not listed.
MIN_LISTED_OPERATIONS = 0.005
MAX_CONCURRENT_PUTS = 16

#: The reason for each operation; those that are missing here belong to a notification or page, not to a message.
REASONS = {
    "notifications: receive": "the trigger takes up to 32 messages at once",
    "notifications: delete": "the trigger, after success",
    "deliveries: receive": "the trigger takes up to 32 messages at once",
    "deliveries: delete": "the trigger, after success",
    "deliveries: put": "expansion: one message a recipient",
    "expansions: receive": "the trigger: one page at a time",
    "expansions: delete": "the trigger, after success",
    "expansions: put": "expansion: its next page",
    "Notifications: insert": "ingestion: store the notification under its identity, once",
    "Notifications: read": "content and state, cached for 2 s; the end",
    "Notifications: merge": "the next page of the expansion; the final counts",
    "Timers: update": "the watchdog timer of the notification",
    "Conversations: read": "the conversation reference",
    "Conversations: query": "expansion: a page of recipients",
    "Deliveries: query": "expansion: which rows of the page exist",
    "Deliveries: transaction": "rows of a page; final states with their counts, many together",
    "Deliveries: read": "the counts before they change; the counts of all partitions at the end",
    "Deliveries: merge": "the claim, before the request is sent",
    "RateLanes: read": "recent requests to the conversation; the tenant's next slot",
    "RateLanes: merge": "the tenant's slots, in blocks; the conversation's, from its second message on",
    "RateLanes: insert": "the conversation's first message",
}

#: Sends a message to each of a tenant's people and returns when all deliveries have ended.
SendAll = Callable[[Testbed, str, Sequence[str]], Awaitable[None]]


async def run(options: Options) -> Report:
    people = QUICK_PEOPLE if options.quick else PEOPLE
    audiences: Mapping[str, SendAll] = {"one each": _send_one_each, "named": _send_named, "all": _send_to_all}
    runs: dict[str, list[Run]] = {audience: [] for audience in audiences}
    operations: dict[str, list[Counter[str]]] = {audience: [] for audience in audiences}
    async with open_testbed("--no-limits", "--latency", str(LATENCY_SECONDS), rate=RATE_PER_SECOND) as testbed:
        for _ in range(options.runs):
            for audience, send_all in audiences.items():
                figures, run_operations = await _measure(testbed, send_all, people)
                runs[audience].append(figures)
                operations[audience].append(run_operations)
    return _report(people, runs, operations)


async def _measure(testbed: Testbed, send_all: SendAll, people: int) -> tuple[Run, Counter[str]]:
    tenant, ids = await testbed.add_tenant(people)
    async with testbed.start_hosts() as hosts:
        before = await testbed.read_meters(hosts, reset=True)
        started = time.monotonic()
        await send_all(testbed, tenant, ids)
        seconds = time.monotonic() - started
        after = await testbed.read_meters(hosts)
    operations = after.without_empty_receives()
    return {
        "per_second": people / seconds,
        "cpu_ms": 1000 * (after.cpu_s - before.cpu_s) / people,
        "operations": operations.total() / people,
        "lag_ms": after.lag_ms,
    }, operations


async def _send_to_all(testbed: Testbed, tenant: str, ids: Sequence[str]) -> None:
    key = await testbed.put_notification(tenant, {"all": True})
    await testbed.wait_until_finished(key, RUN_TIMEOUT_SECONDS)


async def _send_named(testbed: Testbed, tenant: str, ids: Sequence[str]) -> None:
    key = await testbed.put_notification(tenant, *({"user": person} for person in ids))
    await testbed.wait_until_finished(key, RUN_TIMEOUT_SECONDS)


async def _send_one_each(testbed: Testbed, tenant: str, ids: Sequence[str]) -> None:
    gate = asyncio.Semaphore(MAX_CONCURRENT_PUTS)

    async def put(person: str) -> str:
        async with gate:
            return await testbed.put_notification(tenant, {"user": person})

    for key in await asyncio.gather(*(put(person) for person in ids)):
        await testbed.wait_until_finished(key, RUN_TIMEOUT_SECONDS)


def _report(people: int, runs: Mapping[str, Sequence[Run]], operations: Mapping[str, Sequence[Counter[str]]]) -> Report:
    per_message = {
        audience: {name: count / people for name, count in _median_counts(run_operations).items()}
        for audience, run_operations in operations.items()
    }
    report = Report({"people": people, "runs": runs, "operations_a_message": per_message})
    rows = []
    for audience, audience_runs in runs.items():
        figures = medians(audience_runs)
        rows.append([audience, *(figures[name] for name in ("per_second", "cpu_ms", "operations", "lag_ms"))])
    report.add_table(("", "msg/s", "CPU ms a message", "operations a message", "longest lag, ms"), rows)
    most = {
        name: max(counts.get(name, 0) for counts in per_message.values()) for name in set().union(*per_message.values())
    }
    listed = [name for name in sorted(most, key=lambda name: -most[name]) if most[name] >= MIN_LISTED_OPERATIONS]
    report.add_line("Operations a message, by name:")
    report.add_table(
        ("operation", *per_message, "reason"),
        [[name, *(counts.get(name, 0.0) for counts in per_message.values()), REASONS.get(name, "")] for name in listed],
    )
    return report


def _median_counts(operations: Sequence[Counter[str]]) -> dict[str, float]:
    return {name: median(counts[name] for counts in operations) for name in set().union(*operations)}
