"""Hosts that are down for hours: an announcement at local times is sent late or missed, but never twice.

In virtual time; `tests/e2e/test_clock.py` has the same with real hosts.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from shared.queue_messages import NOTIFICATIONS
from shared.states import DeliveryState
from tests.support.memory import MemoryAccount
from tests.support.odd_teams import OddTeams, chat_of
from tests.support.triggers import QueueHost
from tests.support.virtual_time import START, run_virtual, virtual_now
from tests.support.virtual_workers import open_workers, store_person

TENANT = "0000000a-0000-4000-8000-000000000000"
#: Zones in which it is nine o'clock one hour after the other, and the people in each.
ZONES = (
    "Pacific/Kiritimati", "Pacific/Tongatapu", "Pacific/Fiji", "Pacific/Noumea", "Australia/Brisbane", "Asia/Tokyo",
)  # fmt: skip
PEOPLE = 7
DATE = date(2026, 11, 25)
#: How long the host is down after the first zone got its messages, and the default of HERALD_LATE_GRACE_MINUTES.
OUTAGE, GRACE = timedelta(hours=2, minutes=3), timedelta(hours=1)


async def run(patch: pytest.MonkeyPatch) -> tuple[OddTeams, QueueHost, Mapping[str, datetime], Counter[str]]:
    teams, host = OddTeams({}, 0.0, random.Random(1)), QueueHost(MemoryAccount())
    [services, *_] = await open_workers(host, teams, patch, 2, [TENANT], 45)
    due: dict[str, datetime] = {}
    for number in range(PEOPLE * len(ZONES)):
        person, zone = f"{TENANT[:8]}-0000-4000-8000-{number:012x}", ZONES[number % len(ZONES)]
        due[person] = datetime.combine(DATE, time(9), ZoneInfo(zone)).astimezone(UTC)
        await store_person(services, TENANT, person, time_zone=zone)
    announcement = {
        "rule": "0 9 * * *", "timeZone": "recipient", "start": f"{DATE}T00:00", "end": f"{DATE}T23:59",
        "notification": {"recipients": [{"all": True}], "category": "news", "content": {"title": "Notice a000"}},
    }  # fmt: skip
    command = {
        "command": "schedule", "target": {"schedule": "morning"}, "tenant": TENANT, "announcement": announcement
    }  # fmt: skip
    await host.account.get_queue_client(NOTIFICATIONS).send_message(json.dumps(command))
    first = min(due.values())
    await host.run((first - virtual_now()).total_seconds() + 90)
    await asyncio.sleep((first + OUTAGE - virtual_now()).total_seconds())
    await host.run((max(due.values()) - virtual_now()).total_seconds() + 300)
    states: Counter[str] = Counter()
    async for page in services.notifications._table.pages("PartitionKey ge @first", {"first": "0"}, size=1000):
        for row in page:
            stored = await services.notifications.get(row["RowKey"])
            assert stored
            states += await services.deliveries.counts(stored.key, stored.shards)
    await services.close()
    return teams, host, due, states


def test_announcement_is_sent_once_not_before_nine_and_unless_the_outage_exceeds_the_grace() -> None:
    with pytest.MonkeyPatch.context() as patch:
        teams, host, due, states = run_virtual(lambda: run(patch))
    assert host.errors == []
    times = sorted(set(due.values()))
    restart = times[0] + OUTAGE
    missed = {person for person, at in due.items() if times[0] < at < restart - GRACE}
    late = {person for person, at in due.items() if restart - GRACE <= at < restart}
    assert (len(missed), len(late)) == (PEOPLE, PEOPLE)
    by_chat = {chat_of(person): person for person in due}
    sent = {by_chat[each.conversation]: START + timedelta(seconds=each.at) for each in teams.requests}
    assert len(teams.requests) == len(sent)
    assert sent.keys() == due.keys() - missed
    assert all(max(due[person], restart if person in late else due[person]) <= at for person, at in sent.items())
    assert states == {DeliveryState.SENT: len(sent), DeliveryState.MISSED: len(missed)}
