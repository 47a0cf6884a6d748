"""Convert wall times to instants, also where daylight saving skips or repeats them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

#: How far clocks are ahead of UTC in the first place of all (Kiritimati), and a zone in which they always are.
AHEAD = timedelta(hours=14)
FIRST_PLACE = "Etc/GMT-14"


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """The zone of an IANA name, such as Europe/Berlin, or a Windows one, such as W. Europe Standard Time, in any case.

    Raises `shared.time.zone_names.UnknownZone`, a `ValueError` whose text says what may be meant.
    """
    from shared.time.zone_names import find_zone, load_zone, unknown

    if (found := find_zone(name)) is None:
        raise unknown(name)
    return load_zone(found)


def shown(at: datetime, place: ZoneInfo) -> datetime:
    """The wall time (without a zone) that clocks in `place` show at an instant."""
    return at.astimezone(place).replace(tzinfo=None, fold=0)


def instant(wall: datetime, place: ZoneInfo) -> datetime:
    """The instant (UTC) at which clocks in `place` show `wall` (without a zone).

    A time that the clocks show twice is the first of the two; one that they skip is the first instant after
    the gap.
    """
    first = wall.replace(tzinfo=place, fold=0)
    utc = first.astimezone(UTC)
    if shown(utc, place) == wall:
        return utc
    # In a gap the two folds lie on either side of the change, which is found by halving: no zone tells it.
    before, after = sorted((utc, wall.replace(tzinfo=place, fold=1).astimezone(UTC)))
    offset = before.astimezone(place).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) / 2
        if middle.astimezone(place).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after.replace(microsecond=0)


def again(wall: datetime, place: ZoneInfo) -> datetime | None:
    """The second instant (UTC) at which clocks in `place` show `wall`, where they are put back; else None."""
    second = wall.replace(tzinfo=place, fold=1).astimezone(UTC)
    return second if second > wall.replace(tzinfo=place, fold=0).astimezone(UTC) else None
