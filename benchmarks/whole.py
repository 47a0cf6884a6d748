"""A message from the queue to `sent`, on Azurite, by one function host without a rate limit.

Recipients are addressed in four ways: by one notification each, by one notification that names all of them, by one for
everyone who has installed the bot, and in the mix that upstream systems send: of 20 notifications, 16 go to a person,
3 to a channel, and one to a team of 50. Teams answers after 80 ms. Each storage operation of the host's process is
counted; those of triggers are made by Functions itself. Single messages are then sent to the idle host, one after the
other, to measure the time from the queue to Teams.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import median, quantiles

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
#: In the mix, one of so many notifications goes to a team of `TEAM_MEMBERS`, and so many go to a channel.
MIX, MIX_CHANNELS, TEAM_MEMBERS = 20, 3, 50
#: Single messages to an idle host, and the seconds between them: not a multiple of the interval at which queues are
#: polled.
IDLE_MESSAGES, QUICK_IDLE_MESSAGES, IDLE_SECONDS = 60, 12, 1.37

#: The reason for each operation; those that are missing here belong to a notification or page, not to a message.
REASONS = {
    "notifications: receive": "the trigger takes up to 32 messages at once",
    "notifications: delete": "the trigger, after success",
    "deliveries: receive": "the trigger takes up to 32 messages at once",
    "deliveries: delete": "the trigger, after success",
    "deliveries: put": "expansion: one message a recipient; the direct path: what would wait",
    "expansions: receive": "the trigger: one page at a time",
    "expansions: delete": "the trigger, after success",
    "expansions: put": "expansion: its next page",
    "Notifications: insert": "ingestion: store the notification under its identity, once",
    "Notifications: read": "content and state, cached for 2 s; the end",
    "NotificationIndex: update": "ingestion: the list by day",
    "Notifications: merge": "the next page of the expansion; the final counts",
    "Timers: update": "the watchdog timer of the notification",
    "Conversations: read": "the conversation reference, with preferences and windows",
    "Conversations: merge": "the request, in the windows of the conversation",
    "Conversations: query": "expansion: a page of recipients",
    "Deliveries: query": "expansion: which rows of the page exist",
    "Deliveries: transaction": "rows of a page; final states with their counts, many together",
    "Deliveries: read": "the counts before they change; the counts of all partitions at the end",
    "Deliveries: insert": "the claim, before the request is sent, in the direct path",
    "Deliveries: merge": "the claim, or the final state in the direct path",
    "RateLanes: read": "the tenant's next slot",
    "RateLanes: merge": "the tenant's slots, in blocks",
    "Markers: update": "the name of the category, once a process",
}

#: Sends messages to a tenant's people, and returns their number when all deliveries have ended.
SendAll = Callable[[Testbed, str, Sequence[str]], Awaitable[int]]


async def run(options: Options) -> Report:
    people = QUICK_PEOPLE if options.quick else PEOPLE
    audiences: Mapping[str, SendAll] = {
        "one each": _send_one_each,
        "named": _send_named,
        "all": _send_to_all,
        "mix": _send_mix,
    }
    runs: dict[str, list[Run]] = {audience: [] for audience in audiences}
    operations: dict[str, list[dict[str, float]]] = {audience: [] for audience in audiences}
    idle: list[Run] = []
    async with open_testbed("--no-limits", "--latency", str(LATENCY_SECONDS), rate=RATE_PER_SECOND) as testbed:
        for _ in range(options.runs):
            for audience, send_all in audiences.items():
                figures, run_operations = await _measure(testbed, send_all, people)
                runs[audience].append(figures)
                operations[audience].append(run_operations)
            idle.append(await _measure_idle(testbed, QUICK_IDLE_MESSAGES if options.quick else IDLE_MESSAGES))
    return _report(people, runs, operations, idle)


async def _measure(testbed: Testbed, send_all: SendAll, people: int) -> tuple[Run, dict[str, float]]:
    tenant, ids = await testbed.add_tenant(people)
    async with testbed.start_hosts() as hosts:
        before = await testbed.read_meters(hosts, reset=True)
        started = time.monotonic()
        messages = await send_all(testbed, tenant, ids)
        seconds = time.monotonic() - started
        after = await testbed.read_meters(hosts)
    operations = after.without_empty_receives()
    return {
        "per_second": messages / seconds,
        "cpu_ms": 1000 * (after.cpu_s - before.cpu_s) / messages,
        "operations": operations.total() / messages,
        "lag_ms": after.lag_ms,
    }, {name: count / messages for name, count in operations.items()}


async def _measure_idle(testbed: Testbed, messages: int) -> Run:
    """Measure the seconds from the queue to Teams."""
    tenant, ids = await testbed.add_tenant(messages)
    put_at = dict[str, float]()
    async with testbed.start_hosts():
        for person in ids:
            await asyncio.sleep(IDLE_SECONDS)
            started = time.monotonic()
            key = await testbed.put_notification(tenant, {"user": person})
            put_at[person] = started
            await testbed.wait_until_finished(key, RUN_TIMEOUT_SECONDS)
    received = await testbed.teams.received(tenant=tenant)
    seconds = [message.monotonic - put_at[str(message.person)] for message in received]
    return {"p50_s": median(seconds), "p95_s": quantiles(seconds, n=20)[-1]}


async def _send_to_all(testbed: Testbed, tenant: str, ids: Sequence[str]) -> int:
    key = await testbed.put_notification(tenant, {"all": True})
    await testbed.wait_until_finished(key, RUN_TIMEOUT_SECONDS)
    return len(ids)


async def _send_named(testbed: Testbed, tenant: str, ids: Sequence[str]) -> int:
    key = await testbed.put_notification(tenant, *({"user": person} for person in ids))
    await testbed.wait_until_finished(key, RUN_TIMEOUT_SECONDS)
    return len(ids)


async def _send_one_each(testbed: Testbed, tenant: str, ids: Sequence[str]) -> int:
    return await _put_each(testbed, tenant, [{"user": person} for person in ids])


async def _send_mix(testbed: Testbed, tenant: str, ids: Sequence[str]) -> int:
    """Send so many notifications that about as many messages leave as there are people."""
    teams = max(len(ids) // (MIX + TEAM_MEMBERS - 1), 1)
    team, channels = await testbed.add_team(tenant, TEAM_MEMBERS, teams * MIX_CHANNELS - 1)
    people = ids[: teams * (MIX - MIX_CHANNELS - 1)]
    posts = [{"channel": {"teamId": team, "channelId": channel}} for channel in channels]
    await _put_each(testbed, tenant, [*({"user": each} for each in people), *posts, *[{"team": team}] * teams])
    return len(people) + len(posts) + teams * TEAM_MEMBERS


async def _put_each(testbed: Testbed, tenant: str, recipients: Sequence[object]) -> int:
    """Send a notification to each recipient."""
    gate = asyncio.Semaphore(MAX_CONCURRENT_PUTS)

    async def put(recipient: object) -> str:
        async with gate:
            return await testbed.put_notification(tenant, recipient)

    for key in await asyncio.gather(*map(put, recipients)):
        await testbed.wait_until_finished(key, RUN_TIMEOUT_SECONDS)
    return len(recipients)


def _report(
    people: int,
    runs: Mapping[str, Sequence[Run]],
    operations: Mapping[str, Sequence[Mapping[str, float]]],
    idle: Sequence[Run],
) -> Report:
    per_message = {audience: _median_counts(run_operations) for audience, run_operations in operations.items()}
    report = Report({"people": people, "runs": runs | {"idle": idle}, "operations_a_message": per_message})
    rows = []
    for audience, audience_runs in runs.items():
        figures = medians(audience_runs)
        rows.append([audience, *(figures[name] for name in ("per_second", "cpu_ms", "operations", "lag_ms"))])
    report.add_table(("", "msg/s", "CPU ms a message", "operations a message", "longest lag, ms"), rows)
    latency = medians(idle)
    report.add_line("One message to an idle host, from the queue to Teams:")
    report.add_table(("p50, s", "p95, s"), [[latency["p50_s"], latency["p95_s"]]])
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


def _median_counts(operations: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: median(counts.get(name, 0.0) for counts in operations) for name in set().union(*operations)}
