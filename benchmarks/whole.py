"""The whole way of a message, from the queue to `sent`, on Azurite, by one function host with the rate lifted.

As notifications for one person each, as one that names all, and as one for everybody who has installed the bot.
Teams answers after 80 ms. Each storage operation of the host's process is counted where it leaves; those of the
triggers are made by Functions itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import median
from uuid import uuid4

from benchmarks.operations import NOTHING_THERE
from benchmarks.report import Options, Report, Run, medians
from benchmarks.stage import Stage, stage

PEOPLE, QUICK_PEOPLE = 1000, 200
LATENCY = 0.08
#: The tenant's rate, in requests a second: as good as none.
RATE = 10_000
#: Seconds that one run may take.
PATIENCE = 300
#: Operations that are made less often than this for a message are only summed, not named.
RARE = 0.005
#: Notifications that are put on the queue at the same time.
AT_ONCE = 16

#: Why each operation is made; those that are not here belong to a notification or a page, not to a message.
WHY = {
    "notifications: receive": "the trigger takes up to 32 messages at once",
    "notifications: delete": "the trigger, after success",
    "deliveries: receive": "the trigger takes up to 32 messages at once",
    "deliveries: delete": "the trigger, after success",
    "deliveries: put": "the expansion: one message a recipient",
    "expansions: receive": "the trigger: one page at a time",
    "expansions: delete": "the trigger, after success",
    "expansions: put": "the expansion: its next page",
    "Notifications: insert": "intake: the notification under its identity, once",
    "Notifications: read": "the content and the state, kept for 2 s; the end",
    "Notifications: merge": "the next page of the list; the final counts",
    "Timers: update": "the watch over the notification",
    "Conversations: read": "how to reach the person",
    "Conversations: query": "the expansion: a page of people",
    "Deliveries: query": "the expansion: which rows of the page there are",
    "Deliveries: transaction": "rows of a page; final states with their count, many together",
    "Deliveries: read": "the count before it is changed; the counts of all partitions at the end",
    "Deliveries: merge": "the claim, before the request leaves",
    "RateLanes: read": "what went to the conversation lately; the tenant's next slot",
    "RateLanes: merge": "the tenant's slots, in blocks; the conversation's, from its second message on",
    "RateLanes: insert": "the conversation's first message",
}


Way = Callable[[Stage, str, Sequence[str]], Awaitable[None]]


async def run(options: Options) -> Report:
    people = QUICK_PEOPLE if options.quick else PEOPLE
    ways: Mapping[str, Way] = {"one each": _one_each, "named": _named, "all": _all}
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    operations: dict[str, list[Counter[str]]] = {way: [] for way in ways}
    async with stage("--no-limits", "--latency", str(LATENCY), rate=RATE) as on:
        for _ in range(options.runs):
            for name, way in ways.items():
                figures, counted = await _measure(on, way, people)
                runs[name].append(figures)
                operations[name].append(counted)
    return _report(people, runs, operations)


async def _measure(on: Stage, way: Way, people: int) -> tuple[Run, Counter[str]]:
    tenant, ids = await on.populate(people)
    async with on.hosts() as hosts:
        before = await on.meters(hosts, reset=True)
        begun = time.monotonic()
        await way(on, tenant, ids)
        seconds = time.monotonic() - begun
        after = await on.meters(hosts)
    counted = Counter({name: n for name, n in after.operations.items() if not name.endswith(NOTHING_THERE)})
    return {
        "per_second": people / seconds,
        "cpu_ms": 1000 * (after.cpu_s - before.cpu_s) / people,
        "operations": counted.total() / people,
        "lag_ms": after.lag_ms,
    }, counted


async def _all(on: Stage, tenant: str, ids: Sequence[str]) -> None:
    key = await on.put(uuid4().hex, tenant, {"all": True})
    await on.finished(key, PATIENCE)


async def _named(on: Stage, tenant: str, ids: Sequence[str]) -> None:
    key = await on.put(uuid4().hex, tenant, *({"user": each} for each in ids))
    await on.finished(key, PATIENCE)


async def _one_each(on: Stage, tenant: str, ids: Sequence[str]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def put(person: str) -> str:
        async with gate:
            return await on.put(uuid4().hex, tenant, {"user": person})

    for key in await asyncio.gather(*(put(person) for person in ids)):
        await on.finished(key, PATIENCE)


def _report(people: int, runs: Mapping[str, Sequence[Run]], operations: Mapping[str, Sequence[Counter[str]]]) -> Report:
    each = {way: {name: n / people for name, n in _median_counts(made).items()} for way, made in operations.items()}
    report = Report({"people": people, "runs": runs, "operations_a_message": each})
    rows = []
    for way, made in runs.items():
        found = medians(made)
        rows.append([way, *(found[name] for name in ("per_second", "cpu_ms", "operations", "lag_ms"))])
    report.table(("", "msg/s", "CPU ms a message", "operations a message", "longest lag, ms"), rows)
    names = sorted(set().union(*each.values()), key=lambda name: -max(found.get(name, 0) for found in each.values()))
    shown = [name for name in names if any(found.get(name, 0) >= RARE for found in each.values())]
    report.say("Operations a message, by their name:")
    report.table(
        ("operation", *each, "why"),
        [[name, *(found.get(name, 0.0) for found in each.values()), WHY.get(name, "")] for name in shown],
    )
    return report


def _median_counts(counted: Sequence[Counter[str]]) -> dict[str, float]:
    return {name: median(each[name] for each in counted) for name in set().union(*counted)}
