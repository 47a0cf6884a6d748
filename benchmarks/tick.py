"""One tick of the clock with 100 digests due, however many people have theirs at another time.

Everybody has a row in Conversations, and one in Due for their next 09:00, in 24 zones. The million is simulated by key
ranges: all of its keys are made, and the first and the last row of each partition are stored, so that a request for a
range of keys finds rows wherever it would find some of the million. Operations are counted where they leave; `rows in
its range` are those whose keys, of all that were made, lie in the range that the tick asks for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Any, cast
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from azure.core.pipeline.transport import AioHttpTransport

from benchmarks.operations import operation
from benchmarks.report import Options, Report
from benchmarks.stage import Stage, stage
from shared import keys
from shared.states import ReferenceKind
from shared.storage import timers
from shared.storage.conversations import VERSION
from shared.storage.entity_writes import Row
from shared.storage.table import MAX_TRANSACTION_ROWS, Table
from shared.storage.timers import Timers
from timer_digest.tick import tick

DUE = 100
#: How many people there are, and whether all of their rows are stored.
SIZES = {1_000: True, 100_000: True, 1_000_000: False}
QUICK_SIZES = {1_000: True, 10_000: True, 1_000_000: False}
ZONES = 24

#: Why each operation is made.
WHY = {
    "Timers: query": "what is due, a hundred at a time, until there is no more",
    "recipients: put": "a message for each whose digest is due",
    "Timers: delete": "a row that is alone in its minute and partition, once that is on its queue",
    "Timers: transaction": "the rows of a minute and partition, once they are on their queue",
}

_BEFORE = re.compile(r"PartitionKey lt '([^']+)'")


@dataclass
class Kept:
    """Takes the rows of a store in the place of its table; of each partition all, or without `whole` the outermost."""

    whole: bool
    counts: Counter[str] = field(default_factory=Counter)
    rows: dict[str, list[Row]] = field(default_factory=dict)

    async def put(self, row: Row) -> None:
        partition = row["PartitionKey"]
        self.counts[partition] += 1
        rows = self.rows.setdefault(partition, [])
        rows.append(row)
        if not self.whole and len(rows) > 2:
            rows.sort(key=lambda each: str(each["RowKey"]))
            del rows[1]

    async def store(self, table: Table) -> None:
        for rows in self.rows.values():
            for start in range(0, len(rows), MAX_TRANSACTION_ROWS):
                await table.batch([("create", row) for row in rows[start : start + MAX_TRANSACTION_ROWS]])


@dataclass
class Asked:
    """The requests to the storage: operations by name, and the filters of queries."""

    operations: Counter[str] = field(default_factory=Counter)
    filters: set[str] = field(default_factory=set)


async def run(options: Options) -> Report:
    sizes = QUICK_SIZES if options.quick else SIZES
    found: dict[int, list[Mapping[str, int]]] = {people: [] for people in sizes}
    waiting: Counter[str] = Counter()
    there = 0
    async with stage(rate=1) as on:
        for people, whole in sizes.items():
            waiting += await _populate(on, range(there, people), whole=whole)
            there = people
            for _ in range(options.runs):
                found[people].append(await _measure(on, waiting))
    return _report(sizes, found)


async def _populate(on: Stage, numbers: range, *, whole: bool) -> Counter[str]:
    """Store these people and when they are due; the number of rows in each partition of Due."""
    services = on.services
    digests, people = Kept(whole), Kept(whole)
    writing = Timers(cast("Table", digests))
    nine = datetime.combine(services.clock() + timedelta(days=2), time(9), UTC)
    for number in numbers:
        who = str(UUID(int=number))
        await writing.put(nine - timedelta(hours=number % ZONES), timers.DIGEST, f"{on.teams.tenant};u:{who}")
        partition = f"{on.teams.tenant};{ReferenceKind.USER};{keys.shard(who)}"
        await people.put({"PartitionKey": partition, "RowKey": who, "v": VERSION, "id": who, "status": "active"})
    for name, kept in (("Timers", digests), ("Conversations", people)):
        await kept.store(Table(on.tables.get_table_client(services.settings.table_prefix + name)))
    return digests.counts


async def _measure(on: Stage, waiting: Counter[str]) -> Mapping[str, int]:
    """The operations of one tick that finds 100 due, and how many rows are in the range that it asks for."""
    services = on.services
    now = services.clock()
    for number in range(DUE):
        minute = now - timedelta(minutes=1 + number % 7)
        await services.timers.put(minute, timers.DIGEST, f"{on.teams.tenant};u:{UUID(int=number)}")
    with _listening(services.settings.table_prefix) as asked:
        woken = await tick(services)
    assert woken == DUE, f"{woken} of {DUE}"
    [end] = [found[1] if (found := _BEFORE.fullmatch(each)) else "" for each in asked.filters]
    assert end, f"the tick asks for more than a range of keys: {asked.filters}"
    in_range = sum(rows for partition, rows in waiting.items() if partition < end)
    return {**asked.operations, "rows in its range": DUE + in_range}


@contextmanager
def _listening(prefix: str) -> Iterator[Asked]:
    """Record the requests of this process to the storage."""
    asked = Asked()
    send = AioHttpTransport.send

    async def heard(self: AioHttpTransport, request: Any, **options: Any) -> Any:
        body = request.data if isinstance(request.data, bytes) else b""
        name = operation(request.method, request.url, body, prefix)
        asked.operations[name] += 1
        if name.endswith(": query"):
            asked.filters.add(parse_qs(urlsplit(request.url).query)["$filter"][0])
        return await send(self, request, **options)

    with patch.object(AioHttpTransport, "send", heard):
        yield asked


def _report(sizes: Mapping[int, bool], found: Mapping[int, Sequence[Mapping[str, int]]]) -> Report:
    report = Report({"due": DUE, "runs": found})
    for people, ticks in found.items():
        assert all(each == ticks[0] for each in ticks), f"ticks with {people} people differ: {ticks}"
    names = sorted(set().union(*(ticks[0] for ticks in found.values())), key=lambda name: (name not in WHY, name))
    heads = [f"{people:,} people{'' if whole else ', simulated'}" for people, whole in sizes.items()]
    rows = [[name, *(ticks[0].get(name, 0) for ticks in found.values()), WHY.get(name, "")] for name in names]
    report.table(("", *heads, "why"), rows)
    counted = {frozenset(ticks[0].items()) for ticks in found.values()}
    report.say("The same for all." if len(counted) == 1 else "NOT the same for all.")
    return report
