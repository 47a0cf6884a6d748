"""Timer schedules: NCRONTAB expressions of six or five fields, and plain intervals. All times are UTC.

Azure Functions uses NCRONTAB, whose rules differ from cron's: a day must match the day of month **and** the day of
week; 7 is not Sunday; a reversed range means the same as the range; `5/15` means from 5 to the end in steps of 15.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

from local.host.timespan import parse_timespan

#: How far to search for an occurrence: 29 February on a given weekday is at most 40 years away.
HORIZON_YEARS = 41

_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December")  # fmt: skip
_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_NO_NAMES: tuple[str, ...] = ()
_FIELDS = (
    ("second", 0, 59, _NO_NAMES),
    ("minute", 0, 59, _NO_NAMES),
    ("hour", 0, 23, _NO_NAMES),
    ("day", 1, 31, _NO_NAMES),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 6, _WEEKDAYS),
)


class TimerSchedule(Protocol):
    """The times at which a timer is due."""

    def next(self, after: datetime) -> datetime:
        """Return the first occurrence later than `after`, an aware UTC time."""
        ...


@dataclass(frozen=True)
class Interval:
    """An occurrence every `period`, counted from the last run."""

    period: timedelta

    def next(self, after: datetime) -> datetime:
        return after + self.period


@dataclass(frozen=True)
class Crontab:
    """The values that each field of an expression allows, ascending; Sunday is 0."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]

    def next(self, after: datetime) -> datetime:
        """Return the first occurrence later than `after`; raises `ValueError` if there is none, as for 30 February."""
        start = after.replace(microsecond=0) + timedelta(seconds=1)
        today = start.date()
        for year in range(today.year, today.year + HORIZON_YEARS):
            for month in self.months:
                if (year, month) < (today.year, today.month):
                    continue
                for day in self.days:
                    if not self._has_day(year, month, day) or (found := date(year, month, day)) < today:
                        continue
                    earliest = (start.hour, start.minute, start.second) if found == today else (0, 0, 0)
                    if time := self._time_from(earliest):
                        return datetime(year, month, day, *time, tzinfo=UTC)
        raise ValueError("the schedule has no occurrence: check its day and month")

    def _has_day(self, year: int, month: int, day: int) -> bool:
        try:
            return date(year, month, day).isoweekday() % 7 in self.weekdays
        except ValueError:
            return False

    def _time_from(self, earliest: tuple[int, int, int]) -> tuple[int, int, int] | None:
        for hour in self.hours:
            if hour < earliest[0]:
                continue
            for minute in self.minutes:
                if (hour, minute) < earliest[:2]:
                    continue
                for second in self.seconds:
                    if (hour, minute, second) >= earliest:
                        return hour, minute, second
        return None


def parse_schedule(text: str) -> TimerSchedule:
    """Parse six fields, five (second 0), or an interval `hh:mm:ss`; raises `ValueError`."""
    fields = text.split()
    if len(fields) == 1 and ":" in text:
        period = parse_timespan(text)
        if period < timedelta(seconds=1):
            raise ValueError(f"{text!r}: an interval must be at least one second")
        return Interval(period)
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6:
        raise ValueError(f"{text!r} is not a schedule: use an NCRONTAB expression of 6 or 5 fields, or hh:mm:ss")
    crontab = Crontab(*(_parse_field(part, *kind) for part, kind in zip(fields, _FIELDS, strict=True)))
    crontab.next(datetime(2000, 1, 1, tzinfo=UTC))
    return crontab


def is_frequent(schedule: TimerSchedule, now: datetime) -> bool:
    """Return whether two occurrences fall into the next minute; such timers are not caught up after a stop."""
    return schedule.next(schedule.next(now)) < now + timedelta(minutes=1)


def _parse_field(text: str, kind: str, low: int, high: int, names: tuple[str, ...]) -> tuple[int, ...]:
    allowed: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        if slash and not step_text.isdecimal():
            raise ValueError(f"{text!r} is not a valid {kind}: the step {step_text!r} is not a number")
        first_text, dash, last_text = span.partition("-")
        if span == "*":
            first, last = low, high
        elif dash:
            ends = _parse_value(first_text, kind, low, high, names), _parse_value(last_text, kind, low, high, names)
            first, last = min(ends), max(ends)
        else:
            first = _parse_value(span, kind, low, high, names)
            last = high if slash else first
        allowed.update(range(first, last + 1, max(1, int(step_text or 1))))
    return tuple(sorted(allowed))


def _parse_value(text: str, kind: str, low: int, high: int, names: tuple[str, ...]) -> int:
    if text.isdecimal():
        value = int(text)
        if low <= value <= high:
            return value
    elif text:
        for index, name in enumerate(names):
            if name.lower().startswith(text.lower()):
                return low + index
    raise ValueError(f"{text!r} is not a valid {kind}: use {low} to {high}")
