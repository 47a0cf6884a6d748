"""Convert wall times to instants, also where daylight saving skips or repeats them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

#: How far clocks are ahead of UTC in the first zone of all (Kiritimati), and a zone in which they always are.
FIRST_ZONE_OFFSET = timedelta(hours=14)
FIRST_ZONE = "Etc/GMT-14"


@lru_cache(maxsize=1024)
def load_zone(name: str) -> ZoneInfo:
    """The zone of an IANA name, such as Europe/Berlin, or a Windows one, such as W. Europe Standard Time, in any case.

    Raises `shared.time.zone_names.UnknownZone`, a `ValueError` whose text says what may be meant.
    """
    from shared.time.zone_names import find_zone, load_iana_zone, unknown

    if (found := find_zone(name)) is None:
        raise unknown(name)
    return load_iana_zone(found)


def to_wall_time(at: datetime, zone: ZoneInfo) -> datetime:
    """The wall time (without a zone) that clocks in `zone` show at an instant."""
    return at.astimezone(zone).replace(tzinfo=None, fold=0)


def to_utc(wall: datetime, zone: ZoneInfo) -> datetime:
    """The instant (UTC) at which clocks in `zone` show `wall` (without a zone).

    A time that the clocks show twice is the first of the two; one that they skip is the first instant after
    the gap.
    """
    first = wall.replace(tzinfo=zone, fold=0)
    utc = first.astimezone(UTC)
    if to_wall_time(utc, zone) == wall:
        return utc
    # In a gap the two folds lie on either side of the change, which is found by halving: no zone tells it.
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
    """The second instant (UTC) at which clocks in `zone` show `wall`, where they are put back; else None."""
    second = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return second if second > wall.replace(tzinfo=zone, fold=0).astimezone(UTC) else None
