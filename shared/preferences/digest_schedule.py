"""Compute when a person's digest is due: never twice for one local date, whatever clocks, zones and preferences do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Self
from zoneinfo import ZoneInfo

from shared.time.localtime import to_utc, to_wall_time
from shared.time.times_of_day import DAYS, EVERY_DAY, WORKDAYS, clock, weekday

#: How a digest is ordered, as a refusal says it.
FORMS = "daily 09:00, weekdays 17:00, weekly mon 09:00, or off"


@dataclass(frozen=True, slots=True)
class Slot:
    """When a digest goes out (UTC), and the local date (of its person or channel) whose only one it is."""

    date: date
    at: datetime


@dataclass(frozen=True, slots=True)
class DigestRule:
    """A local time of day on days of the week (Monday is 0); no days means that there is no digest.

    >>> str(DigestRule.parse("Weekly Monday 9:00"))
    'weekly mon 09:00'
    """

    days: frozenset[int] = frozenset()
    at: time = time()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The rule of `daily 09:00`, `weekdays 17:00`, `weekly mon 09:00` or `off`; raises `ValueError`."""
        match text.casefold().split():
            case ["off"]:
                return cls()
            case ["daily", at]:
                return cls(EVERY_DAY, clock(at))
            case ["weekdays", at]:
                return cls(WORKDAYS, clock(at))
            case ["weekly", day, at]:
                return cls(frozenset({weekday(day)}), clock(at))
        raise ValueError(f"a digest is {FORMS}")

    def __str__(self) -> str:
        if not self.days:
            return "off"
        often = {EVERY_DAY: "daily", WORKDAYS: "weekdays"}
        return f"{often.get(self.days) or f'weekly {DAYS[min(self.days)]}'} {self.at:%H:%M}"

    def following(self, after: datetime, zone: ZoneInfo, last: date | None) -> Slot | None:
        """The next slot strictly after an instant, for a local date later than `last`, that of the digest before it.

        A time that clocks skip is the first instant after the gap, be it in the next date; a whole day that a zone
        left out counts for the one that follows it. None where the rule is `off`.
        """
        first = max(to_wall_time(after, zone).date(), last or date.min)
        # In eight days each day of the week comes, and the first once more, where it is too early for that.
        for day in (first + timedelta(days=number) for number in range(8)):
            if day.weekday() in self.days and (at := to_utc(datetime.combine(day, self.at), zone)) > after:
                existing = to_wall_time(to_utc(datetime.combine(day, time()), zone), zone).date()
                if last is None or existing > last:
                    return Slot(existing, at)
        return None
