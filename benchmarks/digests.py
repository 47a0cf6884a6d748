"""Digests that are all due in the same minute, sent by one function host on Azurite: their rate and their cost.

Each person has some held notifications. A host whose clock shows the day before puts them into the digest; then another
host starts, whose clock shows a time just after the minute in which all digests are due. Teams answers after 80 ms and
enforces its limits.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from benchmarks.report import Options, Report, Run, medians
from benchmarks.testbed import Testbed, open_testbed, poll
from shared.states import NotificationState
from shared.time.clock import format_clock

PEOPLE, QUICK_PEOPLE = 10_000, 200
ITEMS_PER_DIGEST = 3
#: Requests a second to the tenant: a rate that one host on this storage sustains easily, and the default.
RATES_PER_SECOND = (25, 45)
LATENCY_SECONDS = 0.08
#: The clock times at which the two hosts start; the digests are due between them.
HOLD_START, SEND_START = "2026-11-23T10:00Z", "2026-11-24T09:00:05Z"
#: The timeout of each of the two hosts is the base plus a part for each person.
BASE_TIMEOUT_SECONDS, TIMEOUT_SECONDS_PER_PERSON = 120, 0.5
#: Less frequent operations a digest are listed as one sum.
MIN_LISTED_OPERATIONS = 0.01

CATEGORY, CATEGORIES_FILE = "digested", "categories.json"


@dataclass
class MovedClockTestbed(Testbed):
    """A testbed whose hosts start at the clock time `start`."""

    start: str

    @property
    def environ(self) -> dict[str, str]:
        return super().environ | {
            "HERALD_CLOCK": format_clock(self.start, 1),
            "HERALD_CATEGORIES_FILE": str(self.folder / CATEGORIES_FILE),
        }


async def run(options: Options) -> Report:
    people = QUICK_PEOPLE if options.quick else PEOPLE
    runs: dict[int, list[Run]] = {rate: [] for rate in RATES_PER_SECOND}
    operations: Counter[str] = Counter()
    for rate in RATES_PER_SECOND:
        async with open_testbed("--latency", str(LATENCY_SECONDS), rate=rate) as testbed:
            categories = orjson.dumps([{"name": CATEGORY, "default": "digest"}])
            (testbed.folder / CATEGORIES_FILE).write_bytes(categories)
            for _ in range(options.runs if options.quick else 1):
                figures, operations = await _measure(testbed, people)
                runs[rate].append(figures)
    report = Report({"people": people, "items": ITEMS_PER_DIGEST, "runs": runs})
    report.add_line(f"{people:,} digests of {ITEMS_PER_DIGEST} notifications each, all due in the same minute.")
    headings = {
        "sustained": "digests/s",
        "peak": "busiest second",
        "refused": "429s",
        "operations": "operations a digest",
        "cpu_ms": "CPU ms a digest",
    }
    rows: list[Sequence[object]] = [
        [rate, *(medians(rate_runs)[name] for name in headings)] for rate, rate_runs in runs.items()
    ]
    report.add_table(("rate", *headings.values()), rows)
    per_digest = {name: count / people for name, count in operations.most_common()}
    rows = [[name, count] for name, count in per_digest.items() if count >= MIN_LISTED_OPERATIONS]
    others = sum(count for count in per_digest.values() if count < MIN_LISTED_OPERATIONS)
    report.add_table(("operation", "a digest"), [*rows, ["others", others]])
    return report


async def _measure(testbed: Testbed, people: int) -> tuple[Run, Counter[str]]:
    tenant, _ = await testbed.add_tenant(people)
    timeout = BASE_TIMEOUT_SECONDS + people * TIMEOUT_SECONDS_PER_PERSON
    async with MovedClockTestbed(**vars(testbed), start=HOLD_START).start_hosts():
        keys = [
            await testbed.put_notification(tenant, {"all": True}, category=CATEGORY) for _ in range(ITEMS_PER_DIGEST)
        ]
        await poll(lambda: _find_all_held(testbed, keys), timeout)
    refusals = await testbed.count_refusals()
    async with MovedClockTestbed(**vars(testbed), start=SEND_START).start_hosts() as hosts:
        before = await testbed.read_meters(hosts)
        for key in keys:
            await testbed.wait_until_finished(key, timeout)
        await asyncio.sleep(1)  # for the storage operations that follow the last digests
        after = await testbed.read_meters(hosts)
    operations = after.without_empty_receives()
    stats = await testbed.teams.stats()
    times = [message.monotonic for message in await testbed.teams.received(tenant=tenant)]
    assert len(times) == people, f"{len(times)} digests of {people}"
    return {
        "sustained": (len(times) - 1) / (max(times) - min(times)),
        "peak": stats.peaks[tenant],
        "refused": await testbed.count_refusals() - refusals,
        "operations": operations.total() / people,
        "cpu_ms": 1000 * (after.cpu_s - before.cpu_s) / people,
    }, operations


async def _find_all_held(testbed: Testbed, keys: Sequence[str]) -> bool | None:
    """Return True once every delivery of these notifications is held for a digest, else None."""
    notifications = [await testbed.services.notifications.get(key) for key in keys]
    if not all(stored and stored.state is NotificationState.EXPANDED for stored in notifications):
        return None
    table = testbed.tables.get_table_client(f"{testbed.services.settings.table_prefix}Deliveries")
    for key in keys:
        not_in_digest = table.query_entities(
            "PartitionKey ge @first and PartitionKey lt @last and state eq 'queued' and not (rule eq 'digest')",
            parameters={"first": key, "last": key + "~"},
            select=["RowKey"],
        )
        if [row async for row in not_in_digest]:
            return None
    return True
