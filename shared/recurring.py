"""When a recurring announcement comes next: its rule, without the dates that it leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from shared.contract import RECIPIENT, Announcement
from shared.holidays import holidays
from shared.localtime import shown, zone
from shared.recurrence import Occurrence, Recurrence

#: How far clocks are ahead of UTC in the first place of all (Kiritimati), and a zone in which they always are.
AHEAD = timedelta(hours=14)
FIRST_PLACE = "Etc/GMT-14"
#: So much of a calendar of holidays is read at once, and so often at most: who finds nothing in all these years but
#: holidays does not look any further.
WINDOW = timedelta(days=366)
MOST_WINDOWS = 40


def place_of(announcement: Announcement, default_zone: str) -> ZoneInfo:
    """The zone by whose clocks its occurrences come due: its own, or the first of all where each has their own."""
    own = announcement.time_zone or default_zone
    return zone(FIRST_PLACE if own == RECIPIENT else own)


def following(announcement: Announcement, after: datetime, place: ZoneInfo) -> Occurrence | None:
    """The first occurrence in `place` strictly after an instant; None where there is no more."""
    skip, read = {date.fromisoformat(each) for each in announcement.skip}, shown(after, place).date()
    start, end = (datetime.fromisoformat(at) if at else None for at in (announcement.start, announcement.end))
    for _ in range(MOST_WINDOWS):
        if announcement.holidays:
            skip |= holidays(announcement.holidays, read, read + WINDOW)
            read += WINDOW
        found = Recurrence(announcement.rule, start, end, frozenset(skip)).following(after, place)
        if found is None or not announcement.holidays or found.wall.date() <= read:
            return found
        read = found.wall.date()
    return None


def coming(announcement: Announcement, after: datetime, place: ZoneInfo) -> Iterator[Occurrence]:
    """All occurrences in `place` strictly after an instant, in order; often without end."""
    while (found := following(announcement, after, place)) is not None:
        yield found
        after = found.at
