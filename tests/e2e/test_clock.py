"""The app on a moved clock, as two hosts: days of local time in seconds, and nobody is told too early, or twice.

When a message arrived on the moved clock is reckoned from the real time at which Teams received it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from local.fake_teams.api import PersonView
from notify.ingest import ingest
from shared.contract.parsing import DEFAULT_SOURCE
from shared.preferences.preferences import Preferences
from shared.services import open_services
from shared.settings import load_settings
from shared.states import DeliveryState, Mode, ReferenceKind
from shared.storage.clients import open_storage
from shared.storage.conversations import Conversations
from shared.storage.held_deliveries import HeldDeliveries
from shared.storage.notifications import notification_key
from shared.storage.table import Table
from tests.e2e.conftest import LOOK, SHORT_LEASE, Clock, Deployment, audience
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

#: Real seconds after which a test waits no longer for what is to come.
SLOW = 60
#: How long the app is down, and how late what is due may go out; both on the moved clock.
DOWN, GRACE = timedelta(hours=3, minutes=3), timedelta(hours=2)
#: How often something is added to the digests, on the moved clock.
EACH = timedelta(hours=4)


@pytest.mark.parametrize(
    ("count", "zones", "speed"),
    [
        (42, HOURLY, 750),
        pytest.param(500, ALL_ROUND, 300, marks=[pytest.mark.full, pytest.mark.timeout(600)]),
    ],
)
async def test_everybody_is_told_once_and_not_before_their_nine_o_clock_or_an_outage_made_it_too_late(
    deployment: Deployment, count: int, zones: Sequence[str], speed: int
) -> None:
    """The host is killed when the first zone was told, and two others start hours later.

    The clock stands until they have seen to what was due meanwhile, so that this does not go by how fast they are.
    """
    due = await _announce(deployment, count, zones)
    times = sorted(set(due.values()))
    assert len(times) == len(zones)
    grace = {"HERALD_LATE_GRACE_MINUTES": str(GRACE // timedelta(minutes=1))}
    clock = Clock.begin(times[0] - timedelta(seconds=2), 1, is_current=3)
    deployment.start(HERALD_CLOCK=clock.setting, **SHORT_LEASE, **grace)
    first = [person for person, at in due.items() if at == times[0]]
    early = await deployment.teams.wait(len(first), timeout=SLOW)
    await _between_ticks(deployment)
    deployment.hosts[-1].kill()
    back = times[0] + DOWN
    after = Clock.begin(back, speed, is_current=12)
    deployment.start(2, HERALD_CLOCK=after.setting, **grace)
    [stored] = await deployment.ended(within=after.seconds(times[-1]) + SLOW)

    assert (await deployment.deliveries()).keys() == {f"u:{person}" for person in due}
    messages = await deployment.teams.received()
    arrived = {str(message.person): (clock if message in early else after).received(message) for message in messages}
    assert len(arrived) == len(messages), "somebody was told twice"
    missed = {person for person, at in due.items() if times[0] < at < back - GRACE}
    assert missed
    assert any(back - GRACE < at < back for at in due.values())
    assert arrived.keys() == due.keys() - missed
    assert all(due[person] <= at for person, at in arrived.items())
    assert (stored["state"], await deployment.check_counts()) == (
        "finished",
        {DeliveryState.SENT: len(arrived), DeliveryState.MISSED: len(missed)},
    )


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
    clock = Clock.begin(slots[0] - timedelta(minutes=10), speed)
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
        assert all(slot <= at for slot, at in zip(slots, arrived, strict=True))
        named = [name for digest in digests for name in put if f'"{name}"' in json.dumps(digest.activity)]
        assert len(named) == len(set(named)), "something is told twice"
        assert set(named) == told[person.object_id]
    # What came too late for the last one waits for the next.
    rows = [row for row in await deployment.rows("Deliveries") if row["RowKey"] != "~counts"]
    assert len(rows) == len(put) * len(people)
    assert {(row["state"], row["reason"]) for row in rows} <= {("digested", "digest"), ("queued", "digest")}


async def _announce(deployment: Deployment, count: int, zones: Sequence[str]) -> dict[str, datetime]:
    """Have 09:00 in each zone announced months before, by the real time; returns whose 09:00 is when (UTC).

    No host is needed for that: what it does with the command is done here.
    """
    storage = {"AzureWebJobsStorage": deployment.connection}
    services = await open_services(load_settings(deployment.teams.settings | storage), open_storage(storage))
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
    await ingest(services, json.dumps(command).encode(), "announced")
    await services.close()
    assert await deployment.rows("Timers")
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
        await conversations.change_preferences(person.tenant, ReferenceKind.USER, person.object_id, prefer)


async def _settled(deployment: Deployment, people: Sequence[PersonView], names: Iterable[str]) -> dict[str, set[str]]:
    """Which of the notifications with these ids each person was told in a digest, once all digests are written down."""
    waiting = HeldDeliveries(Table(deployment.tables.get_table_client("HeraldHeldDeliveries")))
    async with asyncio.timeout(SLOW):
        while any([(await waiting.digest(each.tenant, f"u:{each.object_id}")).included for each in people]):
            await asyncio.sleep(LOOK)
    by_key = {notification_key(deployment.teams.tenant, DEFAULT_SOURCE, name): name for name in names}
    told: dict[str, set[str]] = defaultdict(set)
    for row in await deployment.rows("Deliveries"):
        if row.get("state") == DeliveryState.DIGESTED:
            told[row["RowKey"].removeprefix("u:")].add(by_key[row["PartitionKey"].split(";")[0]])
    return told
