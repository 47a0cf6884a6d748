"""Convert wall times to instants, also where daylight saving skips or repeats them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

#: The zone that reaches every wall time first, with the largest offset from UTC of all (also Kiritimati's).
FIRST_ZONE = "Etc/GMT-14"
FIRST_ZONE_OFFSET = timedelta(hours=14)


@lru_cache(maxsize=1024)
def load_zone(name: str) -> ZoneInfo:
    """Return the zone of an IANA name (Europe/Berlin), a Windows name (W. Europe Standard Time) or a city, in any case.

    Raises `InputError`, which suggests names.
    """
    from shared.time.zone_names import explain_unknown_zone, find_zone, load_iana_zone

    if (found := find_zone(name)) is None:
        raise explain_unknown_zone(name)
    return load_iana_zone(found)


def load_chosen_zone(name: str) -> ZoneInfo:
    """Return the zone that somebody writes for a new schedule or setting; raises `InputError`.

    `EST` and `MST` are refused with the two zones that may be meant, since these IANA names have no daylight saving
    time.
    """
    from shared.time.zone_names import find_fixed_abbreviation

    if found := find_fixed_abbreviation(name):
        from shared.texts import InputError

        raise InputError("zone.fixed", text=name, zone=found[0], fixed=found[1])
    return load_zone(name)


def to_wall_time(at: datetime, zone: ZoneInfo) -> datetime:
    """Return the wall time (without a zone) in `zone` at an instant."""
    return at.astimezone(zone).replace(tzinfo=None, fold=0)


def to_utc(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant (UTC) of the wall time `wall` (without a zone) in `zone`.

    Of a wall time that occurs twice it is the first; for one that clocks skip it is the first instant after the gap.
    """
    first = wall.replace(tzinfo=zone, fold=0)
    utc = first.astimezone(UTC)
    if to_wall_time(utc, zone) == wall:
        return utc
    # In a gap the two folds lie on either side of the change. `ZoneInfo` does not expose its changes: bisect.
    before, after = sorted((utc, wall.replace(tzinfo=zone, fold=1).astimezone(UTC)))
    offset = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) / 2
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after.replace(microsecond=0)


def second_utc(wall: datetime, zone: ZoneInfo) -> datetime | None:
    """Return the second instant (UTC) of a wall time that occurs twice in `zone`, or None."""
    second = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return second if second > wall.replace(tzinfo=zone, fold=0).astimezone(UTC) else None
