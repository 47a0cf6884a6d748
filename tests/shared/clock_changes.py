"""The clock changes of a zone in the years 2024 to 2030, and a sample of zones for every run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files

import pytest

from shared.time.localtime import load_zone

FIRST, LAST = datetime(2024, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)

#: All names of the package `tzdata`.
ALL = sorted(set(files("tzdata").joinpath("zones").read_text(encoding="ascii").split()) - {"Factory"})

#: An hour, half an hour and two; at midnight; twice a year around Ramadan; changed by law in these years; the ends.
SAMPLE = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Antarctica/Troll",
    "Africa/Cairo",
    "Asia/Beirut",
    "America/Havana",
    "America/Santiago",
    "America/Nuuk",
    "Africa/Casablanca",
    "Asia/Gaza",
    "Asia/Almaty",
    "America/Asuncion",
    "Asia/Kolkata",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
]

#: For `parametrize`: the sample in every run, all zones in the full one.
ZONES = [pytest.param(SAMPLE, id="sample"), pytest.param(ALL, id="all", marks=pytest.mark.full)]


@cache
def changes(name: str) -> list[datetime]:
    """Return the instants (to the second) from 2024 to 2030 at which the offset from UTC changes."""
    zone, found = load_zone(name), []
    days = [FIRST + timedelta(days=number) for number in range((LAST - FIRST).days + 1)]
    offsets = [day.astimezone(zone).utcoffset() for day in days]
    for number, day in enumerate(days[:-1]):
        if offsets[number] != offsets[number + 1]:
            before, after = day, days[number + 1]
            while after - before > timedelta(seconds=1):
                middle = before + (after - before) // 2
                unchanged = middle.astimezone(zone).utcoffset() == offsets[number]
                before, after = (middle, after) if unchanged else (before, middle)
            found.append(after.replace(microsecond=0))
    return found
