"""Recurring announcements: cron expressions and recurrence rules, on the wall time of a zone.

A rule is evaluated on wall times alone; each occurrence then becomes an instant. A wall time that clocks skip becomes
the first instant after the gap, one that they repeat the first of the two. For a rule with fixed times this is what
Debian's cron does, as `cronsim` does. One with several times an hour (`*/15 * * * *`) pauses while an hour is repeated,
and occurs once, at its end, for all of a gap.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import dropwhile, islice, takewhile
from zoneinfo import ZoneInfo

from shared.time.localtime import second_utc, to_utc, to_wall_time

#: Longest rule, in characters.
MAX_RULE_CHARS = 500
#: Most occurrences that a rule with a COUNT has; each is counted from the start, for every answer.
MAX_COUNT = 10_000
#: Most numbers of a BYSETPOS: for each, all days of a month or year are gone through.
MAX_POSITIONS = 12
#: The years (both included) in which a rule starts, ends and is heard.
YEARS = (1900, 2300)
#: A rule that falls only on dates to skip for so long is not followed any further.
MAX_SKIPPED = timedelta(days=20 * 366)

_FREQUENCIES = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")
_WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_SINGLE = {"INTERVAL": range(1, 1001), "COUNT": range(1, MAX_COUNT + 1), "BYMINUTE": range(60)}
# dateutil takes the days of a week 53 that are in the new year for week 52, and the other way round.
_SEVERAL = {"BYHOUR": range(24), "BYMONTH": range(1, 13), "BYWEEKNO": range(1, 52)}
_FROM_THE_END_TOO = {"BYMONTHDAY": range(1, 32), "BYYEARDAY": range(1, 367), "BYSETPOS": range(1, 367)}
_PARTS = ("FREQ", "UNTIL", "WKST", "BYDAY", *_SINGLE, *_SEVERAL, *_FROM_THE_END_TOO)
_ONLY_WITH = {
    "BYMONTHDAY": ("DAILY", "MONTHLY", "YEARLY"),
    "BYYEARDAY": ("YEARLY",),
    "BYWEEKNO": ("YEARLY",),
    "BYSETPOS": ("MONTHLY", "YEARLY"),
}
_VALUE = re.compile(r"[A-Z0-9,+-]+")
_NUMBER = re.compile(r"[+-]?\d{1,5}")
_BYDAY = re.compile(rf"([+-]?\d{{1,2}})?({'|'.join(_WEEKDAYS)})")
_UNTIL = re.compile(r"\d{8}(T\d{6})?")
# A rule that matches no day is followed to the end of the calendar, the year 9999. The calendar repeats every 400
# years, weekdays included: 7,600 years on, the end is near.
_LATER = 7600
_FIRST, _LAST = datetime(YEARS[0], 1, 1), datetime(YEARS[1], 12, 31, 23, 59)  # noqa: DTZ001 (wall times)
_MOMENT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """When a rule is heard: its wall time (without a zone), the instant (UTC), and where clocks moved it.

    `name` tells it from all others of its rule, in every zone alike.
    """

    wall: datetime
    at: datetime
    note: str = ""

    @property
    def name(self) -> str:
        return self.wall.isoformat(timespec="minutes")


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A cron expression of 5 fields, or an RRULE (RFC 5545) whose DTSTART is `start`.

    `start` and `end` are wall times (without a zone, whole minutes, both included); on the dates of `skip` nothing
    is heard. Raises `ValueError` with one line.

    >>> next(Recurrence("0 9 * * mon-fri").coming(datetime(2026, 12, 4, 12, tzinfo=UTC), zone("Europe/Berlin"))).name
    '2026-12-07T09:00'
    """

    rule: str
    start: datetime | None = None
    end: datetime | None = None
    skip: Container[date] = frozenset()

    def __post_init__(self) -> None:
        check_span(self.start, self.end)
        if len(self.rule) > MAX_RULE_CHARS:
            raise ValueError(f"a rule has at most {MAX_RULE_CHARS} characters")
        self._unbounded(_FIRST)

    def coming(self, after: datetime, zone: ZoneInfo) -> Iterator[Occurrence]:
        """All occurrences in `zone` strictly after an instant, one at each, in order; often without end."""
        for each in self.each_wall(after, zone):
            if each.at > after:
                yield each
                after = each.at

    def each_wall(self, after: datetime, zone: ZoneInfo) -> Iterator[Occurrence]:
        """As `coming`, but with each wall time: several that clocks skip come together, at the end of the gap."""
        for wall in self.walls(to_wall_time(after, zone)):
            if (at := to_utc(wall, zone)) > after:
                yield Occurrence(wall, at, _note(wall, at, zone))

    def walls(self, after: datetime) -> Iterator[datetime]:
        """All its wall times strictly after one, in order; often without end."""
        end, rest_ends = self.end or _LAST, None
        for wall in self._unbounded(min(max(after, (self.start or _FIRST) - _MOMENT), end)):
            if wall > end:
                return
            if wall.date() not in self.skip:
                yield wall
                rest_ends = None
            elif rest_ends is None:
                rest_ends = wall + MAX_SKIPPED
            elif wall > rest_ends:
                return

    def _unbounded(self, after: datetime) -> Iterator[datetime]:
        if "=" in self.rule:
            return _rrule_walls(self.rule, self.start, after)
        return _cron_walls(self.rule, after, self.skip)


def check_span(start: datetime | None, end: datetime | None) -> None:
    """Raises `ValueError` with one line where a rule cannot be heard from `start` to `end`."""
    for name, wall in (("start", start), ("end", end)):
        if wall and (wall.tzinfo or wall.second or wall.microsecond or not YEARS[0] <= wall.year <= YEARS[1]):
            raise ValueError(f"{name} must be a wall time in the years {YEARS[0]} to {YEARS[1]}, in whole minutes")
    if start and end and end < start:
        raise ValueError("end must not be before start")


def _note(wall: datetime, at: datetime, zone: ZoneInfo) -> str:
    if (then := to_wall_time(at, zone)) != wall:
        return f"clocks skip {wall:%H:%M}: at {then:%H:%M} of {then:%Y-%m-%d}"
    return f"clocks show {wall:%H:%M} twice: the first time" if second_utc(wall, zone) else ""


def _cron_walls(rule: str, after: datetime, skip: Container[date]) -> Iterator[datetime]:
    from cronsim import CronSim, CronSimError

    if len(rule.split()) != 5:
        raise ValueError(f"{rule!r} is no cron expression of 5 fields, such as 0 9 * * mon-fri, and no RRULE")
    try:
        walls = CronSim(rule, after)
    except CronSimError as error:
        raise ValueError(f"{rule!r} is no cron expression: {str(error).lower()}") from None

    def each() -> Iterator[datetime]:
        for wall in walls:
            yield wall
            if wall.date() in skip:  # at once, as a day may have 1,440 of them
                walls.dt = datetime.combine(wall.date(), time(23, 59))

    return each()


def _rrule_walls(rule: str, start: datetime | None, after: datetime) -> Iterator[datetime]:
    from dateutil.rrule import rrulestr

    if start is None:
        raise ValueError("an RRULE needs a start: the wall time from which it counts")
    parts = _parts(rule)
    until, count = _until(parts.pop("UNTIL", "")), int(parts.pop("COUNT", 0))
    # A rule without a COUNT is not followed from its start, which may be centuries ago, but from the period of `after`.
    begin = _begin(parts, start.date(), start.date() if count else max(start, after).date())
    parts = _defaults(parts["FREQ"], start, parts.keys()) | parts
    text = ";".join(f"{name}={value}" for name, value in parts.items())
    later = rrulestr(text, dtstart=datetime.combine(begin.replace(year=begin.year + _LATER), time()))
    walls = dropwhile(start.__gt__, (wall.replace(year=wall.year - _LATER) for wall in later))
    return dropwhile(after.__ge__, takewhile(until.__ge__, islice(walls, count or None)))


def _begin(parts: Mapping[str, str], start: date, day: date) -> date:
    """The first day of the last period (day, week, month or year) up to `day` that counts from that of `start`."""
    frequency, interval = parts["FREQ"], int(parts.get("INTERVAL", 1))
    if frequency in ("DAILY", "WEEKLY"):
        into_week = (start.weekday() - _WEEKDAYS.index(parts.get("WKST", "MO"))) % 7
        first = start - timedelta(days=into_week if frequency == "WEEKLY" else 0)
        step = timedelta(days=interval * (7 if frequency == "WEEKLY" else 1))
        return first + (day - first) // step * step
    month = 12 * start.year + (start.month - 1 if frequency == "MONTHLY" else 0)
    months = interval * (1 if frequency == "MONTHLY" else 12)
    month += (12 * day.year + day.month - 1 - month) // months * months
    return date(month // 12, month % 12 + 1, 1)


def _defaults(frequency: str, start: datetime, given: Collection[str]) -> dict[str, str]:
    """What a rule takes from its start."""
    found = {"BYHOUR": str(start.hour), "BYMINUTE": str(start.minute)}
    if {"BYDAY", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO"}.isdisjoint(given):
        if frequency == "WEEKLY":
            found["BYDAY"] = _WEEKDAYS[start.weekday()]
        elif frequency != "DAILY":
            found["BYMONTHDAY"] = str(start.day)
            if frequency == "YEARLY":
                found["BYMONTH"] = str(start.month)
    return found


def _parts(rule: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in rule.strip().upper().removeprefix("RRULE:").removesuffix(";").split(";")]
    parts = {name: value for name, _, value in pairs}
    if not parts.keys() <= set(_PARTS) or len(parts) < len(pairs) or not all(map(_VALUE.fullmatch, parts.values())):
        known = ", ".join(_PARTS)
        raise ValueError(f"{rule!r} is no RRULE, such as FREQ=WEEKLY;BYDAY=MO; it has each at most once of {known}")
    if parts.get("FREQ") not in _FREQUENCIES:
        raise ValueError(f"FREQ must be one of {', '.join(_FREQUENCIES)}; what comes more often is a cron expression")
    for name, numbers in (_SINGLE | _SEVERAL | _FROM_THE_END_TOO).items():
        if name in parts and not _are_numbers(name, parts[name], numbers):
            must = "one number" if name in _SINGLE else "numbers"
            or_end = f", or from -{numbers[-1]} to -1" if name in _FROM_THE_END_TOO else ""
            raise ValueError(f"{name} must be {must} from {numbers[0]} to {numbers[-1]}{or_end}")
    for name, frequencies in _ONLY_WITH.items():
        if name in parts and parts["FREQ"] not in frequencies:
            raise ValueError(f"{name} goes only with a FREQ of {' or '.join(frequencies)}")
    if "COUNT" in parts and "UNTIL" in parts:
        raise ValueError("COUNT and UNTIL exclude each other")
    if parts.get("WKST", "MO") not in _WEEKDAYS:
        raise ValueError(f"WKST must be one of {', '.join(_WEEKDAYS)}")
    if "BYDAY" in parts:
        _check_weekdays(parts)
    if "BYWEEKNO" in parts:
        _check_weeks(parts)
    if "BYSETPOS" in parts and not any(name.startswith("BY") for name in parts.keys() - {"BYSETPOS"}):
        raise ValueError("BYSETPOS needs another BY part, such as BYDAY: what it chooses from")
    if len(parts.get("BYSETPOS", "").split(",")) > MAX_POSITIONS:
        raise ValueError(f"BYSETPOS has at most {MAX_POSITIONS} numbers")
    return parts


def _are_numbers(name: str, text: str, numbers: range) -> bool:
    values = text.split(",")
    return (len(values) == 1 or name not in _SINGLE) and all(
        _NUMBER.fullmatch(value) and (int(value) in numbers or (name in _FROM_THE_END_TOO and -int(value) in numbers))
        for value in values
    )


def _check_weekdays(parts: Mapping[str, str]) -> None:
    days = [_BYDAY.fullmatch(day) for day in parts["BYDAY"].split(",")]
    numbers = [int(day[1]) for day in days if day and day[1]]
    if not all(days):
        raise ValueError(f"BYDAY must be of {', '.join(_WEEKDAYS)}, as MO,FR or -1FR is")
    if numbers and (parts["FREQ"] not in ("MONTHLY", "YEARLY") or "BYWEEKNO" in parts):
        raise ValueError("BYDAY has numbers only where FREQ is MONTHLY or YEARLY, and without BYWEEKNO")
    if 0 < len(numbers) < len(days):
        raise ValueError("BYDAY must have a number with each weekday, or with none: MO,-1FR are two rules")
    most = 5 if parts["FREQ"] == "MONTHLY" or "BYMONTH" in parts else 53
    if not all(1 <= abs(number) <= most for number in numbers):
        raise ValueError(f"the numbers of BYDAY must be from 1 to {most} here, or from -{most} to -1")


def _check_weeks(parts: Mapping[str, str]) -> None:
    if "BYDAY" not in parts:
        raise ValueError("BYWEEKNO needs BYDAY: which days of the week")
    # Days of week 1 may be in December. dateutil counts them to that year, and not to that of their week.
    if int(parts.get("INTERVAL", 1)) > 1 or "BYSETPOS" in parts:
        raise ValueError("BYWEEKNO goes neither with an INTERVAL above 1 nor with BYSETPOS")


def _until(text: str) -> datetime:
    """The last wall time by an UNTIL; a date counts as a whole."""
    if not text:
        return _LAST
    try:
        until = datetime.fromisoformat(text if _UNTIL.fullmatch(text) else "")
    except ValueError:
        raise ValueError("UNTIL must be a date or a wall time without Z, such as 20261231 or 20261231T090000") from None
    return until if "T" in text else datetime.combine(until, time.max)
