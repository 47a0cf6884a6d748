"""Compute when a person's digest is due: never twice for one local date, whatever clocks, zones and preferences do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Self
from zoneinfo import ZoneInfo

from shared.texts import InputError
from shared.time.localtime import to_utc, to_wall_time
from shared.time.spellings import normalize
from shared.time.times_of_day import DAYS, EVERY_DAY, MORNING, WORKDAYS, parse_time_of_day, parse_weekday


@dataclass(frozen=True, slots=True)
class DigestTime:
    """When a digest is due (UTC), and its local date; each date of a person or channel has at most one digest."""

    date: date
    at: datetime


@dataclass(frozen=True, slots=True)
class DigestSchedule:
    """A local time of day on weekdays (Monday is 0); without days there is no digest.

    >>> str(DigestSchedule.parse("Weekly Monday 9:00"))
    'weekly mon 09:00'
    """

    days: frozenset[int] = frozenset()
    at: time = time()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the schedule of `daily 09:00`, `weekdays 17:00`, `weekly mon 09:00` or `off`; raises `InputError`.

        Without a time of day it is 09:00. Other spellings are those of `shared.time.spellings`.
        """
        words = normalize(text).split()
        if words == ["off"]:
            return cls()
        if words and words[0] == "weekly":
            del words[0]
        if not 1 <= len(words) <= 2:
            raise InputError("digest")
        days, *at = words
        try:
            chosen = {"daily": EVERY_DAY, "weekdays": WORKDAYS}.get(days) or frozenset({parse_weekday(days)})
        except ValueError:
            raise InputError("digest") from None
        return cls(chosen, parse_time_of_day(at[0]) if at else MORNING)

    def __str__(self) -> str:
        if not self.days:
            return "off"
        names = {EVERY_DAY: "daily", WORKDAYS: "weekdays"}
        return f"{names.get(self.days) or f'weekly {DAYS[min(self.days)]}'} {self.at:%H:%M}"

    def next_time(self, after: datetime, zone: ZoneInfo, last: date | None) -> DigestTime | None:
        """Return the next time strictly after `after` on a local date later than `last`, the previous digest's date.

        A time that clocks skip is the first instant after the gap, which may be on the next date; a day that the zone
        skipped counts as the day after it. None if the schedule is `off`.
        """
        first = max(to_wall_time(after, zone).date(), last or date.min)
        # Eight days: each weekday, and the first one again in case its time has passed.
        for day in (first + timedelta(days=number) for number in range(8)):
            if day.weekday() in self.days and (at := to_utc(datetime.combine(day, self.at), zone)) > after:
                local_date = to_wall_time(to_utc(datetime.combine(day, time()), zone), zone).date()
                if last is None or local_date > last:
                    return DigestTime(local_date, at)
        return None
