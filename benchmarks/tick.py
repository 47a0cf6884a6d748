"""One tick with 100 timers of digests due, while more and more people have a digest at another time.

Each person has a row in Conversations, and one in Timers for the next 09:00 in one of 24 zones. The million people are
simulated: all keys are made, but only the first and last row of each partition are stored, so that a query of a key
range finds rows wherever it would find some of the million. Operations are counted as requests. "Rows in its range"
counts the keys, stored or not, in the range that the tick queries.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import cast
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from benchmarks.operations import name_operation, observe_requests
from benchmarks.report import Options, Report
from benchmarks.testbed import Testbed, open_testbed
from shared import keys
from shared.states import ReferenceKind
from shared.storage import timers
from shared.storage.conversations import VERSION
from shared.storage.entity_writes import Row
from shared.storage.table import MAX_TRANSACTION_ROWS, Table
from shared.storage.timers import Timers
from timer_digest.tick import tick

DUE_TIMERS = 100
#: Whether all rows are stored, by number of people.
SIZES = {1_000: True, 100_000: True, 1_000_000: False}
QUICK_SIZES = {1_000: True, 10_000: True, 1_000_000: False}
ZONES = 24

#: The reason for each operation.
REASONS = {
    "Timers: query": "read due timers, a hundred at a time, until there are no more",
    "recipients: put": "one queue message for each recipient whose digest is due",
    "Timers: delete": "delete a timer that is alone in its minute and partition, once its message is on the queue",
    "Timers: transaction": "delete the timers of a minute and partition, once their messages are on the queue",
}

_RANGE_END = re.compile(r"PartitionKey lt '([^']+)'")


@dataclass
class SampledTable:
    """A stand-in for a table that counts all rows, but keeps only the outermost two of each partition (or all)."""

    keep_all: bool
    counts: Counter[str] = field(default_factory=Counter)
    rows: dict[str, list[Row]] = field(default_factory=dict)

    async def put(self, row: Row) -> None:
        partition = row["PartitionKey"]
        self.counts[partition] += 1
        rows = self.rows.setdefault(partition, [])
        rows.append(row)
        if not self.keep_all and len(rows) > 2:
            rows.sort(key=lambda kept: str(kept["RowKey"]))
            del rows[1]

    async def copy_to(self, table: Table) -> None:
        for rows in self.rows.values():
            for start in range(0, len(rows), MAX_TRANSACTION_ROWS):
                await table.batch([("create", row) for row in rows[start : start + MAX_TRANSACTION_ROWS]])


@dataclass
class RecordedRequests:
    """Requests to the storage: operations by name, and the filters of queries."""

    operations: Counter[str] = field(default_factory=Counter)
    filters: set[str] = field(default_factory=set)


async def run(options: Options) -> Report:
    sizes = QUICK_SIZES if options.quick else SIZES
    ticks: dict[int, list[Mapping[str, int]]] = {people: [] for people in sizes}
    rows_by_partition: Counter[str] = Counter()
    stored_people = 0
    async with open_testbed(rate=1) as testbed:
        for people, store_all in sizes.items():
            rows_by_partition += await _add_people(testbed, range(stored_people, people), store_all=store_all)
            stored_people = people
            for _ in range(options.runs):
                ticks[people].append(await _measure(testbed, rows_by_partition))
    return _report(sizes, ticks)


async def _add_people(testbed: Testbed, numbers: range, *, store_all: bool) -> Counter[str]:
    """Store these people and the timers of their digests; return the row count of each partition of Timers."""
    services = testbed.services
    timer_rows, people_rows = SampledTable(store_all), SampledTable(store_all)
    sampled_timers = Timers(cast("Table", timer_rows))
    nine = datetime.combine(services.clock() + timedelta(days=2), time(9), UTC)
    for number in numbers:
        person = str(UUID(int=number))
        at = nine - timedelta(hours=number % ZONES)
        await sampled_timers.put(at, timers.DIGEST, f"{testbed.teams.tenant};u:{person}")
        partition = f"{testbed.teams.tenant};{ReferenceKind.USER};{keys.shard(person)}"
        await people_rows.put(
            {"PartitionKey": partition, "RowKey": person, "v": VERSION, "id": person, "status": "active"}
        )
    for name, rows in (("Timers", timer_rows), ("Conversations", people_rows)):
        await rows.copy_to(Table(testbed.tables.get_table_client(services.settings.table_prefix + name)))
    return timer_rows.counts


async def _measure(testbed: Testbed, rows_by_partition: Counter[str]) -> Mapping[str, int]:
    """Return the operations of one tick with `DUE_TIMERS` due, and the number of rows in the range that it queries."""
    services = testbed.services
    now = services.clock()
    for number in range(DUE_TIMERS):
        minute = now - timedelta(minutes=1 + number % 7)
        await services.timers.put(minute, timers.DIGEST, f"{testbed.teams.tenant};u:{UUID(int=number)}")
    with _record_requests(services.settings.table_prefix) as recorded:
        handled = await tick(services)
    assert handled == DUE_TIMERS, f"{handled} of {DUE_TIMERS}"
    [end] = [match[1] if (match := _RANGE_END.fullmatch(text)) else "" for text in recorded.filters]
    assert end, f"the tick queries more than a range of keys: {recorded.filters}"
    in_range = sum(rows for partition, rows in rows_by_partition.items() if partition < end)
    return {**recorded.operations, "rows in its range": DUE_TIMERS + in_range}


@contextmanager
def _record_requests(prefix: str) -> Iterator[RecordedRequests]:
    """Record the requests of this process to the storage."""
    recorded = RecordedRequests()

    def record(method: str, url: str, body: bytes, _: Callable[[], bytes]) -> None:
        name = name_operation(method, url, body, prefix)
        recorded.operations[name] += 1
        if name.endswith(": query"):
            recorded.filters.add(parse_qs(urlsplit(url).query)["$filter"][0])

    with observe_requests(record):
        yield recorded


def _report(sizes: Mapping[int, bool], runs: Mapping[int, Sequence[Mapping[str, int]]]) -> Report:
    report = Report({"due": DUE_TIMERS, "runs": runs})
    for people, ticks in runs.items():
        assert all(figures == ticks[0] for figures in ticks), f"ticks with {people} people differ: {ticks}"
    first_ticks = [ticks[0] for ticks in runs.values()]
    names = sorted(set().union(*first_ticks), key=lambda name: (name not in REASONS, name))
    headings = [f"{people:,} people{'' if store_all else ', simulated'}" for people, store_all in sizes.items()]
    rows = [[name, *(figures.get(name, 0) for figures in first_ticks), REASONS.get(name, "")] for name in names]
    report.add_table(("", *headings, "reason"), rows)
    is_same = all(figures == first_ticks[0] for figures in first_ticks)
    report.add_line("The same for all sizes." if is_same else "NOT the same for all sizes.")
    return report
