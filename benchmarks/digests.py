"""Digests that are all due at once, by one function host on Azurite: how fast they go out, and what one costs.

Each person has some notifications in the digest. They are put there by a host whose clock stands on the day before;
then one starts whose clock is just past the minute that all of them have chosen. Teams answers after 80 ms, and
enforces its limits.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

import orjson

from benchmarks.operations import NOTHING_THERE
from benchmarks.report import Options, Report, Run, medians
from benchmarks.stage import Stage, stage, wait
from shared import queue_messages
from shared.states import NotificationState
from shared.storage.notifications import notification_key
from shared.time.clock import format_clock

PEOPLE, QUICK_PEOPLE = 10_000, 200
#: Notifications in each digest.
ITEMS = 3
#: Requests a second that the tenant may have: what one host and this storage carry easily, and what Teams takes.
RATES = (25, 45)
LATENCY = 0.08
#: The times of the two hosts' clocks at their start.
BEFORE, AFTER = "2026-11-23T10:00Z", "2026-11-24T09:00:05Z"
#: Seconds that either host may take for one person, and for whatever else.
PATIENCE_EACH, PATIENCE = 0.5, 120
#: Operations that are made less often than this for a digest are only summed, not named.
RARE = 0.01

SOURCE, CATEGORY, CATEGORIES = "/benchmark", "digested", "categories.json"


@dataclass
class Moved(Stage):
    """The same stage, whose hosts go by a clock that shows this time at their start."""

    start: str

    @property
    def environ(self) -> dict[str, str]:
        moved = {"HERALD_CLOCK": format_clock(self.start, 1), "HERALD_CATEGORIES_FILE": str(self.folder / CATEGORIES)}
        return super().environ | moved


async def run(options: Options) -> Report:
    people = QUICK_PEOPLE if options.quick else PEOPLE
    runs: dict[int, list[Run]] = {rate: [] for rate in RATES}
    counted: Counter[str] = Counter()
    for rate in RATES:
        async with stage("--latency", str(LATENCY), rate=rate) as on:
            (on.folder / CATEGORIES).write_bytes(orjson.dumps([{"name": CATEGORY, "default": "digest"}]))
            for _ in range(options.runs if options.quick else 1):
                figures, counted = await _measure(on, people)
                runs[rate].append(figures)
    report = Report({"people": people, "items": ITEMS, "runs": runs})
    report.say(f"{people:,} digests of {ITEMS} notifications each, all due at once.")
    heads = {
        "sustained": "digests/s",
        "peak": "busiest second",
        "refused": "429s",
        "operations": "operations a digest",
        "cpu_ms": "CPU ms a digest",
    }
    rows: list[Sequence[object]] = [[rate, *(medians(made)[name] for name in heads)] for rate, made in runs.items()]
    report.table(("rate", *heads.values()), rows)
    each = {name: number / people for name, number in counted.most_common()}
    rows = [[name, often] for name, often in each.items() if often >= RARE]
    report.table(("operation", "a digest"), [*rows, ["others", sum(often for often in each.values() if often < RARE)]])
    return report


async def _measure(on: Stage, people: int) -> tuple[Run, Counter[str]]:
    tenant, _ = await on.populate(people)
    patience = PATIENCE + people * PATIENCE_EACH
    async with Moved(**vars(on), start=BEFORE).hosts():
        keys = [await _put(on, tenant) for _ in range(ITEMS)]
        await wait(lambda: _all_wait(on, keys), patience)
    refused = await _refused(on)
    async with Moved(**vars(on), start=AFTER).hosts() as hosts:
        begun = await on.meters(hosts)
        for key in keys:
            await on.finished(key, patience)
        await asyncio.sleep(1)  # what is left to be told of the last ones
        after = await on.meters(hosts)
    counted = Counter({name: n for name, n in after.operations.items() if not name.endswith(NOTHING_THERE)})
    stats = await on.teams.stats()
    times = [each.monotonic for each in await on.teams.received(tenant=tenant)]
    assert len(times) == people, f"{len(times)} digests of {people}"
    return {
        "sustained": (len(times) - 1) / (max(times) - min(times)),
        "peak": stats.peaks[tenant],
        "refused": await _refused(on) - refused,
        "operations": counted.total() / people,
        "cpu_ms": 1000 * (after.cpu_s - begun.cpu_s) / people,
    }, counted


async def _put(on: Stage, tenant: str) -> str:
    identifier = uuid4().hex
    body = {
        "id": identifier,
        "source": SOURCE,
        "tenant": tenant,
        "recipients": [{"all": True}],
        "category": CATEGORY,
        "content": {"title": identifier, "text": "Measured"},
    }
    await on.services.queues.put(queue_messages.NOTIFICATIONS, orjson.dumps(body).decode())
    return notification_key(tenant, SOURCE, identifier)


async def _all_wait(on: Stage, keys: Sequence[str]) -> bool | None:
    """Whether every delivery of these notifications waits for its digest."""
    found = [await on.services.notifications.get(key) for key in keys]
    if not all(each and each.state is NotificationState.EXPANDED for each in found):
        return None
    table = on.tables.get_table_client(f"{on.services.settings.table_prefix}Deliveries")
    for key in keys:
        not_in_digest = table.query_entities(
            "PartitionKey ge @first and PartitionKey lt @last and state eq 'queued' and not (rule eq 'digest')",
            parameters={"first": key, "last": key + "~"},
            select=["RowKey"],
        )
        if [row async for row in not_in_digest]:
            return None
    return True


async def _refused(on: Stage) -> int:
    return sum(answers.get("429", 0) for answers in (await on.teams.stats()).requests.values())
