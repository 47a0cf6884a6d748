"""Two hosts with a moved clock, on which days pass in seconds: no message is sent too early or twice.

The time of a message on the moved clock is computed from the real time at which Teams received it.
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
from shared.records import notification_key
from shared.services import open_services
from shared.settings import load_settings
from shared.states import DeliveryState, Mode, ReferenceKind
from shared.storage.clients import open_storage
from shared.storage.conversations import Conversations
from shared.storage.held_deliveries import HeldDeliveries
from shared.storage.table import Table
from tests.e2e.conftest import POLL_SECONDS, SHORT_VISIBILITY, Deployment, MovedClock, build_audience
from tests.support.herald import notification

#: The date on which summer time begins in Europe; in Berlin, clocks skip from 02:00 to 03:00.
DST_DATE = date(2027, 3, 28)
BERLIN = "Europe/Berlin"
#: Zones with different instants of 09:00 on that date, in this order.
SIX_ZONES = (
    "Pacific/Kiritimati", "Pacific/Tongatapu", "Pacific/Fiji", "Pacific/Noumea", "Australia/Adelaide",
    "Australia/Brisbane",
)  # fmt: skip
WORLD_ZONES = (
    "Pacific/Kiritimati", "Pacific/Chatham", "Pacific/Auckland", "Pacific/Fiji", "Australia/Sydney",
    "Australia/Adelaide", "Australia/Brisbane", "Asia/Tokyo", "Australia/Eucla", "Asia/Shanghai", "Asia/Bangkok",
    "Asia/Dhaka", "Asia/Kathmandu", "Asia/Kolkata", "Asia/Dubai", "Europe/Istanbul", BERLIN, "Europe/London",
    "Atlantic/Reykjavik", "America/St_Johns", "America/Sao_Paulo", "America/New_York", "America/Los_Angeles",
    "Pacific/Pago_Pago",
)  # fmt: skip

#: Real seconds.
TIMEOUT_SECONDS = 60
#: The length of the outage, and HERALD_LATE_GRACE_MINUTES; both on the moved clock.
OUTAGE, GRACE = timedelta(hours=3, minutes=3), timedelta(hours=2)
#: The interval between notifications for the digests, on the moved clock.
PUT_INTERVAL = timedelta(hours=4)


@pytest.mark.parametrize(
    ("count", "zones", "speed"),
    [
        pytest.param(42, SIX_ZONES, 750, marks=pytest.mark.full),
        pytest.param(500, WORLD_ZONES, 300, marks=[pytest.mark.full, pytest.mark.timeout(600)]),
    ],
)
async def test_people_get_announcement_once_and_not_before_their_nine_o_clock_unless_outage_exceeds_grace(
    deployment: Deployment, count: int, zones: Sequence[str], speed: int
) -> None:
    """The host is killed after the first zone got its messages, and two others start hours later.

    The clock does not run until they have handled the timers that became due in between, so that the result does not
    depend on their speed.
    """
    due = await _announce(deployment, count, zones)
    times = sorted(set(due.values()))
    assert len(times) == len(zones)
    grace = {"HERALD_LATE_GRACE_MINUTES": str(GRACE // timedelta(minutes=1))}
    clock = MovedClock.starting_at(times[0] - timedelta(seconds=2), 1, delay=3)
    deployment.start_hosts(HERALD_CLOCK=clock.setting, **SHORT_VISIBILITY, **grace)
    first_people = [person for person, at in due.items() if at == times[0]]
    early = await deployment.teams.wait(len(first_people), timeout=TIMEOUT_SECONDS)
    await _wait_between_ticks(deployment)
    deployment.hosts[-1].kill()
    restart = times[0] + OUTAGE
    later_clock = MovedClock.starting_at(restart, speed, delay=12)
    deployment.start_hosts(2, HERALD_CLOCK=later_clock.setting, **grace)
    [stored] = await deployment.wait_until_ended(within=later_clock.seconds_until(times[-1]) + TIMEOUT_SECONDS)

    assert (await deployment.read_deliveries()).keys() == {f"u:{person}" for person in due}
    messages = await deployment.teams.received()
    arrived = {
        str(message.person): (clock if message in early else later_clock).receipt_time(message) for message in messages
    }
    assert len(arrived) == len(messages), "somebody got the announcement twice"
    missed = {person for person, at in due.items() if times[0] < at < restart - GRACE}
    assert missed
    assert any(restart - GRACE < at < restart for at in due.values())
    assert arrived.keys() == due.keys() - missed
    assert all(due[person] <= at for person, at in arrived.items())
    assert (stored["state"], await deployment.check_counts()) == (
        "finished",
        {DeliveryState.SENT: len(arrived), DeliveryState.MISSED: len(missed)},
    )


@pytest.mark.full
@pytest.mark.timeout(400)
async def test_each_date_has_one_digest_even_if_clocks_skip_its_time(deployment: Deployment) -> None:
    """Digests are due at 02:30 in Berlin; further notifications are added to them all the time."""
    speed = 1200  # three nights take minutes, and a slow machine does not send a digest a date late
    deployment.start_hosts()
    people = await deployment.add_people(5, zone=BERLIN)
    await _set_digest_preferences(deployment, people)
    deployment.hosts[-1].stop()
    dates = [DST_DATE + timedelta(days=number) for number in (-1, 0, 1)]
    due = [datetime(2027, 3, 27, 1, 30, tzinfo=UTC), datetime(2027, 3, 28, 1, tzinfo=UTC)]
    due.append(datetime(2027, 3, 29, 0, 30, tzinfo=UTC))
    clock = MovedClock.starting_at(due[0] - timedelta(minutes=10), speed)
    deployment.start_hosts(2, HERALD_CLOCK=clock.setting)
    put: dict[str, datetime] = {}
    while (now := clock.now()) < due[-1]:
        name = f"News {len(put)}"
        await deployment.put(notification(*build_audience(people), id=name, category="news", content={"title": name}))
        put[name] = clock.now()
        await clock.wait_until(min(now + PUT_INTERVAL, due[-1]))
    await deployment.teams.wait(len(due) * len(people), timeout=TIMEOUT_SECONDS)
    digested = await _wait_until_settled(deployment, people, put)

    for person in people:
        digests = await deployment.teams.received(person=person.object_id)
        arrived = [clock.receipt_time(digest) for digest in digests]
        assert [at.astimezone(ZoneInfo(BERLIN)).date() for at in arrived] == dates
        assert all(minute <= at for minute, at in zip(due, arrived, strict=True))
        included = [name for digest in digests for name in put if f'"{name}"' in json.dumps(digest.activity)]
        assert len(included) == len(set(included)), "a notification is in two digests"
        assert set(included) == digested[person.object_id]
    # Notifications that came too late for the last digest are held for the next one.
    keys = {_key_of(deployment, name) for name in put}
    rows = [row for row in await deployment.read_rows("Deliveries") if row["PartitionKey"].split(";")[0] in keys]
    assert len(rows) == len(put) * len(people)
    assert {(row["state"], row["reason"]) for row in rows} <= {("digested", ""), ("queued", "digest")}


def _key_of(deployment: Deployment, name: str) -> str:
    return notification_key(deployment.teams.tenant, DEFAULT_SOURCE, name)


async def _announce(deployment: Deployment, count: int, zones: Sequence[str]) -> dict[str, datetime]:
    """Schedule an announcement for 09:00 in each recipient's zone, and return each person's 09:00 in UTC.

    The command is ingested here, without a host and by the real time, which is months before.
    """
    storage = {"AzureWebJobsStorage": deployment.connection}
    services = await open_services(load_settings(deployment.teams.settings | storage), open_storage(storage))
    due: dict[str, datetime] = {}
    for number, zone in enumerate(zones):
        share = (count + number) // len(zones)
        at = datetime(DST_DATE.year, DST_DATE.month, DST_DATE.day, 9, tzinfo=ZoneInfo(zone)).astimezone(UTC)
        due |= {person.object_id: at for person in await deployment.add_people(share, zone=zone)}
    data = {"recipients": [{"all": True}], "category": "news", "content": {"title": "Good morning"}}
    announcement = {
        "rule": "0 9 * * *", "timeZone": "recipient", "start": f"{DST_DATE}T00:00", "end": f"{DST_DATE}T23:59",
        "notification": data,
    }  # fmt: skip
    command = {"command": "schedule", "target": {"schedule": "morning"}, "announcement": announcement}
    await ingest(services, json.dumps(command).encode(), "announced")
    await services.close()
    assert await deployment.read_rows("Timers")
    return due


async def _wait_between_ticks(deployment: Deployment) -> None:
    """Return in the middle of a second whose tick has ended: a host killed during a tick keeps the timer for 15 s."""
    table = deployment.tables.get_table_client("AzureFunctionsLocalTimers")
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            await asyncio.sleep((0.5 - time.time()) % 1)
            if not any([row["Owner"] async for row in table.list_entities()]):
                return


async def _set_digest_preferences(deployment: Deployment, people: Sequence[PersonView]) -> None:
    def prefer(before: Preferences) -> Preferences:
        return replace(before, digest="daily 02:30").with_mode("news", Mode.DIGEST)

    conversations = Conversations(Table(deployment.tables.get_table_client("HeraldConversations")))
    for person in people:
        await conversations.change_preferences(person.tenant, ReferenceKind.USER, person.object_id, prefer)


async def _wait_until_settled(
    deployment: Deployment, people: Sequence[PersonView], names: Iterable[str]
) -> dict[str, set[str]]:
    """Return the ids among `names` that each person got in a digest, once all digests are settled."""
    held = HeldDeliveries(Table(deployment.tables.get_table_client("HeraldHeldDeliveries")))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while any([(await held.digest_state(person.tenant, f"u:{person.object_id}")).included for person in people]):
            await asyncio.sleep(POLL_SECONDS)
    by_key = {_key_of(deployment, name): name for name in names}
    digested: dict[str, set[str]] = defaultdict(set)
    for row in await deployment.read_rows("Deliveries"):
        if row.get("state") == DeliveryState.DIGESTED:
            digested[row["RowKey"].removeprefix("u:")].add(by_key[row["PartitionKey"].split(";")[0]])
    return digested
