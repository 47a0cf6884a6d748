"""Activities on `/api/messages`, 20 in flight, with the tokens of Teams, compared with botbuilder's `process_activity`.

The contenders alternate. Each gets new people, who install the bot (two activities) and write `status`; the second
`status` is measured. "Herald, all of it" is a host with all functions, which also sends the answers at 45 a second. The
others share a host without queue triggers, like the instances for HTTP on Flex Consumption. Times are from request to
response, as measured by the fake Teams.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from statistics import median, quantiles

from benchmarks.report import Options, Report, Run, medians
from benchmarks.testbed import Testbed, open_testbed
from local.fake_teams.api import Growth, TeamsEvent
from local.processes import FunctionHost
from shared.queue_messages import WORK_QUEUES
from shared.storage.clients import open_storage

IN_FLIGHT = 20
#: New people for each contender in each run.
PEOPLE, QUICK_PEOPLE = 300, 100
#: The tenant's rate of requests to Teams, and the delay of each answer of the fake Teams.
RATE_PER_SECOND, LATENCY_SECONDS = 45, 0.08
#: The longest response time that Herald aims at.
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

#: Runs by kind of activity and contender.
Runs = Mapping[str, Mapping[str, list[Run]]]


async def run(options: Options) -> Report:
    people = QUICK_PEOPLE if options.quick else PEOPLE
    runs: Runs = {kind: {name: [] for name in (WHOLE, *ROUTES)} for kind in (INSTALL, MESSAGE)}

    async def measure(name: str, hosts: Sequence[FunctionHost]) -> None:
        for kind, figures in (await _measure(testbed, hosts, ROUTES.get(name, "messages"), people)).items():
            runs[kind][name].append(figures)

    async with (
        open_testbed("--no-limits", "--latency", str(LATENCY_SECONDS), rate=RATE_PER_SECOND) as testbed,
        testbed.start_hosts(app="endpoints_app") as http_hosts,
    ):
        for route in ROUTES.values():
            await _measure(testbed, http_hosts, route, IN_FLIGHT)  # warm up: imports and signing keys
        for _ in range(options.runs):
            for name in ROUTES:
                await measure(name, http_hosts)
            await _clear_queues(testbed)
            async with testbed.start_hosts() as whole_hosts:
                await _measure(testbed, whole_hosts, "messages", IN_FLIGHT)
                await measure(WHOLE, whole_hosts)
    return _report(people, runs)


async def _measure(testbed: Testbed, hosts: Sequence[FunctionHost], route: str, people: int) -> Mapping[str, Run]:
    """Measure the installs and messages of new people on this route."""
    added = (await testbed.teams.grow(Growth(tenant=testbed.teams.tenant, people=people))).people
    [endpoint] = [f"{host.url}/api/{route}" for host in hosts]

    ids = [person.object_id for person in added]
    installs = [TeamsEvent(kind="install", person=person_id, endpoint=endpoint) for person_id in ids]
    messages = [TeamsEvent(kind="message", person=person_id, text="status", endpoint=endpoint) for person_id in ids]
    installed = await _send_events(testbed, hosts, installs)
    await _send_events(testbed, hosts, messages)  # the first message stores locale, time zone and name
    return {INSTALL: installed, MESSAGE: await _send_events(testbed, hosts, messages)}


async def _send_events(testbed: Testbed, hosts: Sequence[FunctionHost], events: Sequence[TeamsEvent]) -> Run:
    before = await testbed.read_meters(hosts, reset=True)
    started = time.monotonic()
    responses = await testbed.teams.send_events(events, concurrency=IN_FLIGHT)
    seconds = time.monotonic() - started
    after = await testbed.read_meters(hosts)
    statuses = {response.status for response in responses}
    assert statuses == {200}, statuses
    times_ms = sorted(1000 * response.seconds for response in responses)
    percentiles = quantiles(times_ms, n=100, method="inclusive")
    return {
        "per_second": len(responses) / seconds,
        "p50_ms": percentiles[49],
        "p95_ms": percentiles[94],
        "longest_ms": times_ms[-1],
        "cpu_ms": 1000 * (after.cpu_s - before.cpu_s) / len(responses),
        "operations": after.without_empty_receives().total() / len(responses),
    }


async def _clear_queues(testbed: Testbed) -> None:
    """Delete all queue messages, so that a host that starts now is idle."""
    async with AsyncExitStack() as stack:
        service, tables = open_storage(testbed.environ)
        await stack.enter_async_context(service)
        await stack.enter_async_context(tables)
        for name in WORK_QUEUES:
            await service.get_queue_client(name).clear_messages()


def _report(people: int, runs: Runs) -> Report:
    report = Report({"people": people, "in_flight": IN_FLIGHT, "runs": runs})
    headings = {
        "per_second": "activities/s",
        "p50_ms": "p50, ms",
        "p95_ms": "p95, ms",
        "longest_ms": "longest, ms",
        "cpu_ms": "CPU ms each",
        "operations": "storage operations each",
    }
    for kind, by_name in runs.items():
        report.add_line(kind)
        rows = []
        for name, contender_runs in by_name.items():
            figures = medians(contender_runs)
            rows.append([name, *(figures[key] for key in headings), median(_subtract_host_cpu(by_name, name))])
        report.add_table(("", *headings.values(), "CPU ms without the host's"), rows)
        pairs = zip(_subtract_host_cpu(by_name, ADMISSION), _subtract_host_cpu(by_name, BOTBUILDER), strict=True)
        share = median(ours / theirs for ours, theirs in pairs)
        report.add_line(f"With the same bot, which does nothing, Herald takes 1/{1 / share:.1f} of botbuilder's CPU.")
        longest_ms = max(figures["longest_ms"] for name in (WHOLE, HERALD) for figures in by_name[name])
        report.add_line(f"Herald's longest response took {longest_ms:,.0f} ms; the goal is at most {GOAL_MS:,} ms.")
        report.add_line()
    return report


def _subtract_host_cpu(runs: Mapping[str, Sequence[Run]], name: str) -> Sequence[float]:
    """Return the CPU ms of an activity in each run, minus that of the function that does nothing in the same round."""
    return [figures["cpu_ms"] - idle["cpu_ms"] for figures, idle in zip(runs[name], runs[NOTHING], strict=True)]
