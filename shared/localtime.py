"""Wall time and instants: what a time on somebody's clock means, through changes of daylight saving."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """The IANA zone of that name; `ValueError` says that there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name!r} is no IANA time zone, such as Europe/Berlin") from None


def instant(wall: datetime, place: ZoneInfo) -> datetime:
    """The instant (UTC) at which clocks in `place` show `wall` (without a zone).

    A time that the clocks show twice is the first of the two; one that they skip is the first instant after
    the gap.
    """
    first = wall.replace(tzinfo=place, fold=0)
    utc = first.astimezone(UTC)
    if utc.astimezone(place).replace(tzinfo=None) == wall:
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
