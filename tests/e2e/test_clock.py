"""The app on a moved clock, two hosts at once: days of local time pass in seconds, and nobody is told twice a date."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from local.fake_teams.api import Received
from shared.clock import real_time
from tests.e2e.conftest import LOOK, Deployment, Row

#: The date of the announcement: that of the night in which Europe puts its clocks forward.
DATE = "2027-03-28"
#: Zones with a time of their own on that date, in the order in which 09:00 comes.
HOURLY = (
    "Pacific/Kiritimati", "Pacific/Tongatapu", "Pacific/Fiji", "Pacific/Noumea", "Australia/Brisbane", "Asia/Tokyo",
)  # fmt: skip
ALL_ROUND = (
    "Pacific/Kiritimati", "Pacific/Chatham", "Pacific/Auckland", "Pacific/Fiji", "Australia/Sydney",
    "Australia/Adelaide", "Australia/Brisbane", "Asia/Tokyo", "Australia/Eucla", "Asia/Shanghai", "Asia/Bangkok",
    "Asia/Dhaka", "Asia/Kathmandu", "Asia/Kolkata", "Asia/Dubai", "Europe/Istanbul", "Europe/Berlin",
    "Europe/London", "Atlantic/Reykjavik", "America/St_Johns", "America/Sao_Paulo", "America/New_York",
    "America/Los_Angeles", "Pacific/Pago_Pago",
)  # fmt: skip

#: Seconds within which what is due arrives: the tick comes each second, the queues `people` and `deliveries` are looked
#: at each second, and a noisy machine takes its time; what the pace of the tenant takes is added.
PROMPT = 1 + 1 + 1 + 4
#: Requests a second that the hosts send together.
RATE = 45
#: For how long the app is down on the moved clock.
DOWN = timedelta(hours=3)


@dataclass(frozen=True)
class Clock:
    """It was `begun` at `anchor` of the real time (both UTC), and goes `speed` times as fast."""

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

    def takes(self, seconds: float) -> timedelta:
        """How far it goes in so many real seconds."""
        return timedelta(seconds=seconds * self.speed)

    async def until(self, at: datetime) -> None:
        """Returns when it shows `at`."""
        await asyncio.sleep(max(0.0, (at - self.now()).total_seconds() / self.speed))


@pytest.mark.parametrize(
    ("count", "zones", "after", "speed", "grace"),
    [
        (42, HOURLY, 2, 900, timedelta(minutes=150)),
        pytest.param(
            500, ALL_ROUND, 10, 400, timedelta(minutes=90), marks=[pytest.mark.full, pytest.mark.timeout(600)]
        ),
    ],
)
async def test_everybody_is_told_once_at_their_nine_o_clock_or_after_an_outage_late_or_never_by_the_rule(
    deployment: Deployment, count: int, zones: Sequence[str], after: int, speed: int, grace: timedelta
) -> None:
    """The hosts are killed after the first `after` zones were told, and are back three hours later."""
    due, announced = await _announced(deployment, count, zones)
    times = sorted(set(due.values()))
    assert len(times) == len(zones)
    settings = {"HERALD_LATE_GRACE_MINUTES": str(int(grace.total_seconds() / 60))}
    clock = Clock(times[0] - timedelta(hours=1), real_time(), speed)
    deployment.start(2, HERALD_CLOCK=clock.setting, **settings)
    up = clock.now()
    early = [person for person, at in due.items() if at <= times[after - 1]]
    await deployment.teams.wait(len(early), timeout=(times[after - 1] - clock.now()) / clock.takes(1) + PROMPT + 10)
    await clock.until(times[after - 1] + timedelta(minutes=30))
    await _between_ticks(deployment)
    for host in deployment.hosts:
        host.kill()
    killed = clock.now()
    await clock.until(killed + DOWN)
    deployment.start(2, HERALD_CLOCK=clock.setting, **settings)
    back = clock.now()
    [stored] = await deployment.ended(within=(times[-1] - back) / clock.takes(1) + PROMPT + 10)

    arrived: dict[str, list[datetime]] = {person: [] for person in due}
    for message in await deployment.teams.received():
        arrived[str(message.person)].append(clock.at(datetime.fromisoformat(message.received_at)))
    rows = {name.removeprefix("u:"): row for name, row in (await deployment.deliveries()).items()}
    assert rows.keys() == due.keys()
    told = {person: found for person, found in arrived.items() if rows[person]["state"] == "sent"}
    missed = due.keys() - told.keys()
    for person, at in due.items():
        if person in told:
            print(zones[times.index(at)], [str(x - at) for x in told[person]])
        else:
            print(zones[times.index(at)], rows[person]["state"], clock.at(rows[person]["updated"]) - at)
    print(up, killed, back)


async def _announced(deployment: Deployment, count: int, zones: Sequence[str]) -> tuple[dict[str, datetime], str]:
    """People in these zones, with the instant of their 09:00, and an announcement then, made months before."""
    deployment.start()
    due: dict[str, datetime] = {}
    for number, zone in enumerate(zones):
        at = datetime.fromisoformat(f"{DATE}T09:00").replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
        share = count // len(zones) + (number < count % len(zones))
        due |= {person.object_id: at for person in await deployment.people(share, zone=zone)}
    notification = {"recipients": [{"all": True}], "category": "news", "content": {"title": "Good morning"}}
    announcement = {
        "rule": "0 9 * * *", "timeZone": "recipient", "start": f"{DATE}T00:00", "end": f"{DATE}T23:59",
        "notification": notification,
    }  # fmt: skip
    await deployment.put(
        json.dumps({"command": "schedule", "target": {"schedule": "morning"}, "announcement": announcement})
    )
    async with asyncio.timeout(30):
        while not await deployment.rows("Due"):
            await asyncio.sleep(LOOK)
    deployment.hosts[-1].stop()
    return due, ""


async def _between_ticks(deployment: Deployment) -> None:
    """Returns while no host runs the tick: who dies in that keeps the timer for 15 s more, as on Azure."""
    table = deployment.tables.get_table_client("AzureFunctionsLocalTimers")
    async with asyncio.timeout(30):
        while any([row["Owner"] async for row in table.list_entities()]):
            await asyncio.sleep(0.05)
