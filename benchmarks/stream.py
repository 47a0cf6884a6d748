"""A stream of single messages that takes the tenant's whole rate: how long others wait beside it.

Urgent messages come all the time. In the middle comes a broadcast to everyone, which is cancelled after 10 s. Times are
from the queue to Teams; of the cancellation, to the last message of the broadcast. Teams enforces its limits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from statistics import median

import orjson

from benchmarks.report import Options, Report, Run, medians
from benchmarks.testbed import SOURCE, Testbed, open_testbed
from shared.queue_messages import NOTIFICATIONS

RATE_PER_SECOND = 45
LATENCY_SECONDS = 0.08
MESSAGES, QUICK_MESSAGES = 5000, 900
#: One of so many messages is followed by an urgent one to another person.
URGENT_EVERY = 100
CANCEL_AFTER_SECONDS = 10
RUN_TIMEOUT_SECONDS = 600
HEADINGS = {
    "urgent_s": "urgent, s",
    "longest_urgent_s": "longest urgent, s",
    "single_s": "single, s",
    "broadcast_s": "broadcast begins, s",
    "cancel_s": "cancelled, s",
    "refused": "429s",
}


async def run(options: Options) -> Report:
    messages = QUICK_MESSAGES if options.quick else MESSAGES
    async with open_testbed("--latency", str(LATENCY_SECONDS), rate=RATE_PER_SECOND) as testbed:
        runs = [await _measure(testbed, messages) for _ in range(options.runs)]
    report = Report({"messages": messages, "rate": RATE_PER_SECOND, "runs": {"all": runs}})
    figures = medians(runs)
    report.add_line(f"{messages:,} single messages at {RATE_PER_SECOND} a second:")
    report.add_table(tuple(HEADINGS.values()), [[figures[name] for name in HEADINGS]])
    return report


async def _measure(testbed: Testbed, messages: int) -> Run:
    tenant, ids = await testbed.add_tenant(messages + messages // URGENT_EVERY)
    people, urgent = ids[:messages], ids[messages:]
    put_at = dict[str, float]()
    async with testbed.start_hosts():
        refused = await testbed.count_refusals()
        stream = asyncio.create_task(_put_stream(testbed, tenant, people, urgent, put_at))
        await asyncio.sleep(messages / RATE_PER_SECOND / 2)
        began = time.monotonic()
        broadcast = await testbed.put_notification(tenant, {"all": True}, title="Broadcast")
        await asyncio.sleep(CANCEL_AFTER_SECONDS)
        stored = await testbed.services.notifications.get(broadcast)
        assert stored
        cancelled = time.monotonic()
        command = {"command": "cancel", "target": {"source": SOURCE, "id": stored.id}, "tenant": tenant}
        await testbed.services.queues.put(NOTIFICATIONS, orjson.dumps(command).decode())
        for key in await stream:
            await testbed.wait_until_finished(key, RUN_TIMEOUT_SECONDS)
    received = await testbed.teams.received(tenant=tenant)
    of_broadcast = [each.monotonic for each in received if each.activity.get("summary") == "Broadcast"]
    waits = {
        str(each.person): each.monotonic - put_at[str(each.person)]
        for each in received
        if each.activity.get("summary") != "Broadcast"
    }
    assert len(waits) == len(ids), f"{len(waits)} messages of {len(ids)}"
    return {
        "urgent_s": median(waits[person] for person in urgent),
        "longest_urgent_s": max(waits[person] for person in urgent),
        "single_s": median(waits[person] for person in people),
        "broadcast_s": min(of_broadcast) - began,
        "cancel_s": max(max(of_broadcast) - cancelled, 0.0),
        "refused": await testbed.count_refusals() - refused,
    }


async def _put_stream(
    testbed: Testbed, tenant: str, people: Sequence[str], urgent: Sequence[str], put_at: dict[str, float]
) -> Sequence[str]:
    """Put a notification to each of the people, evenly spaced, and sometimes an urgent one; return all keys."""
    keys, started, remaining = list[str](), time.monotonic(), iter(urgent)
    for number, person in enumerate(people, 1):
        await asyncio.sleep(started + number / RATE_PER_SECOND - time.monotonic())
        put_at[person] = time.monotonic()
        keys.append(await testbed.put_notification(tenant, {"user": person}))
        if number % URGENT_EVERY == 0:
            person = next(remaining)
            put_at[person] = time.monotonic()
            keys.append(await testbed.put_notification(tenant, {"user": person}, priority="urgent"))
    return keys
