"""The app on a moved clock, as two hosts: days of local time in seconds, and nobody is told too early, or twice.

When a message arrived on the moved clock is reckoned from the real time at which Teams received it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from local.fake_teams.api import PersonView, Received
from shared.clock import real_time
from shared.contract import DEFAULT_SOURCE
from shared.preferences import Mode, Preferences
from shared.states import DeliveryState
from shared.store.conversations import Conversations, Kind
from shared.store.notifications import notification_key
from shared.store.table import Table
from shared.store.waiting import Waiting
from tests.e2e.conftest import LOOK, Deployment, audience
from tests.support.herald import notification

#: The date on which Europe puts its clocks forward, from 02:00 to 03:00 in Berlin.
SPRING = date(2027, 3, 28)
BERLIN = "Europe/Berlin"
#: Zones of which each has its own 09:00 on that date, in that order.
HOURLY = (
    "Pacific/Kiritimati", "Pacific/Tongatapu", "Pacific/Fiji", "Pacific/Noumea", "Australia/Brisbane", "Asia/Tokyo",
)  # fmt: skip
ALL_ROUND = (
    "Pacific/Kiritimati", "Pacific/Chatham", "Pacific/Auckland", "Pacific/Fiji", "Australia/Sydney",
    "Australia/Adelaide", "Australia/Brisbane", "Asia/Tokyo", "Australia/Eucla", "Asia/Shanghai", "Asia/Bangkok",
    "Asia/Dhaka", "Asia/Kathmandu", "Asia/Kolkata", "Asia/Dubai", "Europe/Istanbul", BERLIN, "Europe/London",
    "Atlantic/Reykjavik", "America/St_Johns", "America/Sao_Paulo", "America/New_York", "America/Los_Angeles",
    "Pacific/Pago_Pago",
)  # fmt: skip

#: Real seconds within which what is due arrives, beside what the pace takes: up to 1 until the tick, 1 until each of
#: the queues `people` and `deliveries` is looked at, and the rest for a noisy machine.
PROMPT = 1 + 1 + 1 + 15
#: Real seconds after which a test waits no longer for what is to come.
SLOW = 20
#: Messages a second that the hosts send together, by default.
RATE = 45
#: Real seconds by which a message may pass one that was due before it: two hosts have 64 messages each in flight
#: (batchSize and newBatchThreshold of host.json), which they send side by side.
ABREAST = 2 * 64 / RATE
#: How long the app is down, on the moved clock.
DOWN = timedelta(hours=3)
#: How often something is added to the digests, on the moved clock.
EACH = timedelta(hours=4)
#: Real seconds from the start of the hosts to the first digest.
LEAD = 6.0


@dataclass(frozen=True)
class Clock:
    """It showed `begun` at the real time `anchor` (both UTC), and goes `speed` times as fast."""

    begun: datetime
    anchor: datetime
    speed: int

    @property
    def setting(self) -> str:
        return f"{self.begun.isoformat()}@{self.anchor.isoformat()}*{self.speed}"

    def at(self, real: datetime) -> datetime:
        """What it shows at a real time."""
        return self.begun + (real - self.anchor) * self.speed

    def now(self) -> datetime:
        return self.at(real_time())

    def seconds(self, until: datetime) -> float:
        """Real seconds from now on until it shows `until`."""
        return (until - self.now()).total_seconds() / self.speed

    def moves(self, seconds: float) -> timedelta:
        """By how much it moves in so many real seconds."""
        return timedelta(seconds=seconds * self.speed)

    async def until(self, at: datetime) -> None:
        """Returns when it shows `at`."""
        await asyncio.sleep(max(0.0, self.seconds(at)))

    def received(self, message: Received) -> datetime:
        """What it showed when Teams received a message."""
        return self.at(datetime.fromisoformat(message.received_at))


@pytest.mark.parametrize(
    ("count", "zones", "before", "speed", "grace"),
    [
        (42, HOURLY, 2, 750, timedelta(minutes=150)),
        pytest.param(
            500, ALL_ROUND, 10, 300, timedelta(minutes=120), marks=[pytest.mark.full, pytest.mark.timeout(600)]
        ),
    ],
)
async def test_everybody_is_told_at_their_nine_o_clock_once_and_what_an_outage_made_too_late_is_missed(
    deployment: Deployment, count: int, zones: Sequence[str], before: int, speed: int, grace: timedelta
) -> None:
    """The hosts are killed when the first zones (`before`) were told, and others start three hours later."""
    due = await _announce(deployment, count, zones)
    times = sorted(set(due.values()))
    assert len(times) == len(zones)
    clock = Clock(times[0] - timedelta(hours=1), real_time(), speed)
    settings = {"HERALD_CLOCK": clock.setting, "HERALD_LATE_GRACE_MINUTES": str(grace // timedelta(minutes=1))}
    deployment.start(2, **settings)
    up = clock.now()
    early = [person for person, at in due.items() if at <= times[before - 1]]
    await deployment.teams.wait(len(early), timeout=clock.seconds(times[before - 1]) + SLOW)
    await clock.until(times[before - 1] + timedelta(minutes=30))
    await _between_ticks(deployment)
    for host in deployment.hosts:
        host.kill()
    killed = clock.now()
    await clock.until(killed + DOWN)
    deployment.start(2, **settings)
    back = clock.now()
    [stored] = await deployment.ended(within=clock.seconds(times[-1]) + SLOW)

    rows = {name.removeprefix("u:"): row for name, row in (await deployment.deliveries()).items()}
    assert rows.keys() == due.keys()
    messages = await deployment.teams.received()
    arrived = {str(message.person): clock.received(message) for message in messages}
    assert len(arrived) == len(messages), "somebody was told twice"
    missed = due.keys() - arrived.keys()
    down = {person for person, at in due.items() if killed < at < killed + DOWN}
    late = down - missed
    assert (stored["state"], await deployment.check_counts()) == (
        "finished",
        {DeliveryState.SENT: count - len(missed), DeliveryState.MISSED: len(missed)},
    )

    # Not before nine, and soon after it, or after a start of the hosts, or after they were listed: that begins when it
    # is nine in the first place of all, and takes as long as to send to all.
    listed = {person: row["created"] for person, row in rows.items()}
    pace = max(count / len(zones), len(late)) / RATE
    for person, at in arrived.items():
        possible = max(due[person], listed[person], back if due[person] > killed else up)
        assert due[person] <= at <= possible + clock.moves(PROMPT + pace)
    # Late by the rule: what is decided within the grace is sent, and what is later is missed; the outage led to both.
    assert missed
    assert late
    assert missed <= {person for person, at in due.items() if killed < at < back}
    assert all(rows[person]["state"] == DeliveryState.MISSED for person in missed)
    assert all(clock.at(rows[person]["updated"]) > due[person] + grace for person in missed)
    assert all(arrived[person] <= due[person] + grace + clock.moves(PROMPT + pace) for person in late)
    # In order, also what waited during the outage.
    waited = [(due[person], at) for person, at in arrived.items() if listed[person] < due[person]]
    for earlier, later in pairwise(times):
        first = [at for of, at in waited if of == earlier]
        then = [at for of, at in waited if of == later]
        assert not first or not then or max(first) <= min(then) + clock.moves(ABREAST)


@pytest.mark.full
@pytest.mark.timeout(400)
async def test_each_date_has_one_digest_also_that_on_which_clocks_skip_its_time(deployment: Deployment) -> None:
    """Digests come at 02:30 in Berlin; something is added to them all the time."""
    speed = 1200  # so that three nights take minutes, and a slow machine is not late by a date
    deployment.start()
    people = await deployment.people(5, zone=BERLIN)
    await _want_digests(deployment, people)
    deployment.hosts[-1].stop()
    dates = [SPRING + timedelta(days=number) for number in (-1, 0, 1)]
    slots = [datetime(2027, 3, 27, 1, 30, tzinfo=UTC), datetime(2027, 3, 28, 1, tzinfo=UTC)]
    slots.append(datetime(2027, 3, 29, 0, 30, tzinfo=UTC))
    clock = Clock(slots[0] - timedelta(seconds=LEAD * speed), real_time(), speed)
    deployment.start(2, HERALD_CLOCK=clock.setting)
    put: dict[str, datetime] = {}
    while (now := clock.now()) < slots[-1]:
        name = f"News {len(put)}"
        await deployment.put(notification(*audience(people), id=name, category="news", content={"title": name}))
        put[name] = clock.now()
        await clock.until(min(now + EACH, slots[-1]))
    await deployment.teams.wait(len(slots) * len(people), timeout=SLOW)
    told = await _settled(deployment, people, put)

    for person in people:
        digests = await deployment.teams.received(person=person.object_id)
        arrived = [clock.received(digest) for digest in digests]
        assert [at.astimezone(ZoneInfo(BERLIN)).date() for at in arrived] == dates
        assert all(slot <= at <= slot + clock.moves(PROMPT) for slot, at in zip(slots, arrived, strict=True))
        named = [name for digest in digests for name in put if f'"{name}"' in json.dumps(digest.activity)]
        assert len(named) == len(set(named)), "something is told twice"
        assert set(named) == told[person.object_id]
        # What came late may have missed the last one; all else is told.
        assert {name for name, at in put.items() if at < slots[-1] - clock.moves(PROMPT)} <= set(named)


async def _announce(deployment: Deployment, count: int, zones: Sequence[str]) -> dict[str, datetime]:
    """Have 09:00 in each zone announced months before, by the real time; returns whose 09:00 is when (UTC)."""
    deployment.start()
    due: dict[str, datetime] = {}
    for number, zone in enumerate(zones):
        share = (count + number) // len(zones)
        at = datetime(SPRING.year, SPRING.month, SPRING.day, 9, tzinfo=ZoneInfo(zone)).astimezone(UTC)
        due |= {person.object_id: at for person in await deployment.people(share, zone=zone)}
    data = {"recipients": [{"all": True}], "category": "news", "content": {"title": "Good morning"}}
    announcement = {
        "rule": "0 9 * * *", "timeZone": "recipient", "start": f"{SPRING}T00:00", "end": f"{SPRING}T23:59",
        "notification": data,
    }  # fmt: skip
    command = {"command": "schedule", "target": {"schedule": "morning"}, "announcement": announcement}
    await deployment.put(json.dumps(command))
    async with asyncio.timeout(SLOW):
        while not await deployment.rows("Due"):
            await asyncio.sleep(LOOK)
    deployment.hosts[-1].stop()
    return due


async def _between_ticks(deployment: Deployment) -> None:
    """Returns in the middle of a second whose tick has ended: who is killed in it keeps the timer for 15 s more."""
    table = deployment.tables.get_table_client("AzureFunctionsLocalTimers")
    async with asyncio.timeout(SLOW):
        while True:
            await asyncio.sleep((0.5 - time.time()) % 1)
            if not any([row["Owner"] async for row in table.list_entities()]):
                return


async def _want_digests(deployment: Deployment, people: Sequence[PersonView]) -> None:
    def prefer(before: Preferences) -> Preferences:
        return replace(before, digest="daily 02:30").with_mode("news", Mode.DIGEST)

    conversations = Conversations(Table(deployment.tables.get_table_client("HeraldConversations")))
    for person in people:
        await conversations.prefer(person.tenant, Kind.USER, person.object_id, prefer)


async def _settled(deployment: Deployment, people: Sequence[PersonView], names: Iterable[str]) -> dict[str, set[str]]:
    """Which of the notifications with these ids each person was told in a digest, once all digests are written down."""
    waiting = Waiting(Table(deployment.tables.get_table_client("HeraldWaiting")))
    async with asyncio.timeout(SLOW):
        while any([(await waiting.digest(each.tenant, f"u:{each.object_id}")).told for each in people]):
            await asyncio.sleep(LOOK)
    by_key = {notification_key(deployment.teams.tenant, DEFAULT_SOURCE, name): name for name in names}
    told: dict[str, set[str]] = defaultdict(set)
    for row in await deployment.rows("Deliveries"):
        if row.get("state") == DeliveryState.DIGESTED:
            told[row["RowKey"].removeprefix("u:")].add(by_key[row["PartitionKey"].split(";")[0]])
    return told
