"""When a recurring announcement comes next: its rule, without the dates that it leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from shared.contract.models import RECIPIENT, Announcement
from shared.time.holidays import Holidays
from shared.time.localtime import FIRST_PLACE, shown, zone
from shared.time.recurrence import Occurrence, Recurrence


def place_of(announcement: Announcement, default_zone: str) -> ZoneInfo:
    """The zone by whose clocks its occurrences come due: its own, or the first of all where each has their own."""
    own = announcement.time_zone or default_zone
    return zone(FIRST_PLACE if own == RECIPIENT else own)


def following(announcement: Announcement, after: datetime, place: ZoneInfo) -> Occurrence | None:
    """The first occurrence in `place` strictly after an instant; None where there is no more."""
    return next(coming(announcement, after, place), None)


def coming(announcement: Announcement, after: datetime, place: ZoneInfo) -> Iterator[Occurrence]:
    """All occurrences in `place` strictly after an instant, in order; often without end."""
    return _recurrence(announcement, shown(after, place)).coming(after, place)


def for_each_own(announcement: Announcement, after: datetime, place: ZoneInfo) -> Iterator[Occurrence]:
    """When those come, strictly after an instant, to who lives in `place`, of which each has their own time.

    Each wall time is a notification of its own, as no clock of `FIRST_PLACE` skips one: several that clocks skip
    elsewhere come together there, at the end of the gap.
    """
    return _recurrence(announcement, shown(after, place)).each_wall(after, place)


def _recurrence(announcement: Announcement, after: datetime) -> Recurrence:
    """Its rule, without the dates that it leaves out from a wall time on."""
    start, end = (datetime.fromisoformat(at) if at else None for at in (announcement.start, announcement.end))
    dates, calendar = frozenset(map(date.fromisoformat, announcement.skip)), announcement.holidays
    skip = _left_out(calendar, after.year, dates) if calendar else dates
    return Recurrence(announcement.rule, start, end, skip)


@lru_cache(maxsize=32)
def _left_out(calendar: str, year: int, dates: frozenset[date]) -> Holidays:
    """The holidays of a calendar from a year on, and `dates`; not read anew for each occurrence."""
    return Holidays(calendar, date(year, 1, 1), dates)
