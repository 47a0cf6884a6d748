"""Activities on `/api/messages`, 20 in flight, with the tokens of Teams, beside botbuilder's own `process_activity`.

Contenders take turns, each with new people, who install the bot (two activities), and write `status`, for the second
time when it is measured. `Herald, all of it` is a host with all functions, which meanwhile sends the answers, at 45 a
second. The others share a host that takes nothing from queues, as the instances for HTTP on Flex Consumption. Times are
from request to answer, as the fake Teams sees them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from statistics import median, quantiles

from benchmarks.operations import NOTHING_THERE
from benchmarks.report import Options, Report, Run, medians
from benchmarks.stage import Stage, stage
from local.fake_teams.api import Growth, TeamsEvent
from local.processes import FunctionHost
from shared.queue_messages import WORK_QUEUES
from shared.storage.clients import open_storage

IN_FLIGHT = 20
#: New people of each contender in each run.
PEOPLE, QUICK_PEOPLE = 300, 100
#: Requests a second that Teams is sent, and seconds before each of its answers.
RATE, LATENCY = 45, 0.08
#: Milliseconds in which Herald is to answer.
GOAL_MS = 1000

WHOLE, HERALD, ADMISSION, BOTBUILDER, NOTHING = (
    "Herald, all of it",
    "Herald",
    "Herald, with a bot that does nothing",
    "botbuilder, with a bot that does nothing",
    "a function that does nothing",
)
#: The routes of `endpoints_app`.
ROUTES = {HERALD: "messages", ADMISSION: "admission", BOTBUILDER: "botbuilder", NOTHING: "nothing"}
INSTALL, MESSAGE = "Installs", "Messages: `status`"

#: The runs by the kind of event, by contender.
Runs = Mapping[str, Mapping[str, list[Run]]]


async def run(options: Options) -> Report:
    people = QUICK_PEOPLE if options.quick else PEOPLE
    runs: Runs = {kind: {name: [] for name in (WHOLE, *ROUTES)} for kind in (INSTALL, MESSAGE)}

    async def measure(name: str, hosts: Sequence[FunctionHost]) -> None:
        for kind, made in (await _measure(on, hosts, ROUTES.get(name, "messages"), people)).items():
            runs[kind][name].append(made)

    async with stage("--no-limits", "--latency", str(LATENCY), rate=RATE) as on, on.hosts(app="endpoints_app") as small:
        for route in ROUTES.values():
            await _measure(on, small, route, IN_FLIGHT)  # imports, keys: what the first one alone takes
        for _ in range(options.runs):
            for name in ROUTES:
                await measure(name, small)
            await _clear_queues(on)
            async with on.hosts() as whole:
                await _measure(on, whole, "messages", IN_FLIGHT)
                await measure(WHOLE, whole)
    return _report(people, runs)


async def _measure(on: Stage, hosts: Sequence[FunctionHost], route: str, people: int) -> Mapping[str, Run]:
    """Measure the installs and messages of so many new people on this route."""
    there = (await on.teams.grow(Growth(tenant=on.teams.tenant, people=people))).people
    [endpoint] = [f"{host.url}/api/{route}" for host in hosts]

    ids = [person.object_id for person in there]
    installs = [TeamsEvent(kind="install", person=each, endpoint=endpoint) for each in ids]
    messages = [TeamsEvent(kind="message", person=each, text="status", endpoint=endpoint) for each in ids]
    installed = await _tell(on, hosts, installs)
    await _tell(on, hosts, messages)  # locale, zone and name are stored by the first
    return {INSTALL: installed, MESSAGE: await _tell(on, hosts, messages)}


async def _tell(on: Stage, hosts: Sequence[FunctionHost], events: Sequence[TeamsEvent]) -> Run:
    before = await on.meters(hosts, reset=True)
    begun = time.monotonic()
    answers = await on.teams.send_events(events, concurrency=IN_FLIGHT)
    seconds = time.monotonic() - begun
    after = await on.meters(hosts)
    assert {answer.status for answer in answers} == {200}, {answer.status for answer in answers}
    taken = sorted(1000 * answer.seconds for answer in answers)
    percentiles = quantiles(taken, n=100, method="inclusive")
    operations = sum(n for name, n in after.operations.items() if not name.endswith(NOTHING_THERE))
    return {
        "per_second": len(answers) / seconds,
        "p50_ms": percentiles[49],
        "p95_ms": percentiles[94],
        "longest_ms": taken[-1],
        "cpu_ms": 1000 * (after.cpu_s - before.cpu_s) / len(answers),
        "operations": operations / len(answers),
    }


async def _clear_queues(on: Stage) -> None:
    """Take away what is to be sent, so that a host which starts now has nothing to do."""
    async with AsyncExitStack() as stack:
        service, tables = open_storage(on.environ)
        await stack.enter_async_context(service)
        await stack.enter_async_context(tables)
        for name in WORK_QUEUES:
            await service.get_queue_client(name).clear_messages()


def _report(people: int, runs: Runs) -> Report:
    report = Report({"people": people, "in_flight": IN_FLIGHT, "runs": runs})
    figures = {
        "per_second": "activities/s",
        "p50_ms": "p50, ms",
        "p95_ms": "p95, ms",
        "longest_ms": "longest, ms",
        "cpu_ms": "CPU ms each",
        "operations": "storage operations each",
    }
    for kind, by_name in runs.items():
        report.say(kind)
        heads = ("", *figures.values(), "CPU ms without the host's")
        rows = []
        for name, made in by_name.items():
            found = medians(made)
            rows.append([name, *(found[each] for each in figures), median(_own(by_name, name))])
        report.table(heads, rows)
        pairs = zip(_own(by_name, ADMISSION), _own(by_name, BOTBUILDER), strict=True)
        share = median(ours / theirs for ours, theirs in pairs)
        report.say(f"With the same bot, that does nothing, Herald takes 1/{1 / share:.1f} of botbuilder's CPU.")
        worst = max(made["longest_ms"] for name in (WHOLE, HERALD) for made in by_name[name])
        report.say(f"Herald's longest answer of all took {worst:,.0f} ms; the goal is {GOAL_MS:,} at most.")
        report.say()
    return report


def _own(runs: Mapping[str, Sequence[Run]], name: str) -> Sequence[float]:
    """CPU ms an activity in each run, without what the function that does nothing takes in the same turn."""
    return [made["cpu_ms"] - idle["cpu_ms"] for made, idle in zip(runs[name], runs[NOTHING], strict=True)]
