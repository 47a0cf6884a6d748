"""Recurring announcements: cron expressions and RRULEs, evaluated on the wall time of a zone.

A rule yields wall times; each of them is then converted to an instant. A wall time that clocks skip becomes the first
instant after the gap, and one that they repeat the first of the two. For fixed times this is what Debian's cron and
`cronsim` do. A rule with several times an hour (`*/15 * * * *`) pauses while an hour is repeated, and has one
occurrence for a gap, at its end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import dropwhile, islice, takewhile
from zoneinfo import ZoneInfo

from shared.time.cron_text import MAX_QUOTE_CHARS
from shared.time.localtime import load_zone, second_utc, to_utc, to_wall_time
from shared.time.rule_text import parse_moment, read_rule

#: Largest COUNT. Such a rule is evaluated from its start each time.
MAX_COUNT = 10_000
#: Most numbers of a BYSETPOS. For each of them dateutil reads all days of a month or year.
MAX_POSITIONS = 12
#: First and last year in which a rule may start, end and have occurrences.
YEARS = (1900, 2300)
#: A rule ends once it has had only dates to skip for so long.
MAX_SKIPPED = timedelta(days=20 * 366)

_FREQUENCIES = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")
_WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_SINGLE = {"INTERVAL": range(1, 1001), "COUNT": range(1, MAX_COUNT + 1), "BYMINUTE": range(60)}
# dateutil counts days of week 53 that lie in the new year to week 52, and the other way round.
_SEVERAL = {"BYHOUR": range(24), "BYMONTH": range(1, 13), "BYWEEKNO": range(1, 52)}
_NEGATIVE_TOO = {"BYMONTHDAY": range(1, 32), "BYYEARDAY": range(1, 367), "BYSETPOS": range(1, 367)}
_PARTS = ("FREQ", "UNTIL", "WKST", "BYDAY", "BYSECOND", *_SINGLE, *_SEVERAL, *_NEGATIVE_TOO)
_ONLY_WITH = {
    "BYMONTHDAY": ("DAILY", "MONTHLY", "YEARLY"),
    "BYYEARDAY": ("YEARLY",),
    "BYWEEKNO": ("YEARLY",),
    "BYSETPOS": ("MONTHLY", "YEARLY"),
}
_NUMBER = re.compile(r"[+-]?[0-9]{1,5}")
_BYDAY = re.compile(rf"([+-]?[0-9]{{1,2}})?({'|'.join(_WEEKDAYS)})")
# dateutil follows a rule that matches no day to the year 9999. The calendar repeats every 400 years, weekdays included,
# so rules are evaluated 7,600 years later, close to that end.
_SHIFT_YEARS = 7600
_FIRST, _LAST = datetime(YEARS[0], 1, 1), datetime(YEARS[1], 12, 31, 23, 59)  # noqa: DTZ001 (wall times)
_MOMENT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """The wall time (without a zone) of an occurrence, its instant (UTC), and a note if a clock change affects it.

    `name` identifies it among the occurrences of its rule, in every zone.
    """

    wall: datetime
    at: datetime
    note: str = ""

    @property
    def name(self) -> str:
        return self.wall.isoformat(timespec="minutes")


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A cron expression of 5 fields, or an RRULE (RFC 5545) that counts from its DTSTART, else from `start`.

    `start` and `end` are wall times (without a zone, whole minutes, both included); dates of `skip` are left out.
    `zone` is needed for a rule with times in UTC. Raises `ValueError` with one line.

    >>> next(Recurrence("0 9 * * mon-fri").wall_times(datetime(2026, 12, 4, 12)))
    datetime.datetime(2026, 12, 7, 9, 0)
    """

    rule: str
    start: datetime | None = None
    end: datetime | None = None
    skip: Container[date] = frozenset()
    zone: ZoneInfo | None = None

    def __post_init__(self) -> None:
        check_span(self._first(), self.end)
        self._excluded()
        self._unbounded(_FIRST)

    def occurrences(self, after: datetime, zone: ZoneInfo) -> Iterator[Occurrence]:
        """Yield the occurrences in `zone` strictly after an instant, one per instant, in order, often without end."""
        for occurrence in self.occurrences_by_wall_time(after, zone):
            if occurrence.at > after:
                yield occurrence
                after = occurrence.at

    def occurrences_by_wall_time(self, after: datetime, zone: ZoneInfo) -> Iterator[Occurrence]:
        """Yield an occurrence for each wall time: several that clocks skip have one instant, the end of the gap."""
        for wall in self.wall_times(to_wall_time(after, zone)):
            if (at := to_utc(wall, zone)) > after:
                yield Occurrence(wall, at, _note(wall, at, zone))

    def wall_times(self, after: datetime) -> Iterator[datetime]:
        """Yield the wall times of the rule strictly after one, in order; often without end."""
        start, end, give_up, excluded = self._first(), self.end or _LAST, None, self._excluded()
        for wall in self._unbounded(min(max(after, (start or _FIRST) - _MOMENT), end)):
            if wall > end:
                return
            if wall.date() not in self.skip and wall.date() not in excluded and wall not in excluded:
                yield wall
                give_up = None
            elif give_up is None:
                give_up = wall + MAX_SKIPPED
            elif wall > give_up:
                return

    def _unbounded(self, after: datetime) -> Iterator[datetime]:
        text = read_rule(self.rule)
        if text.cron:
            return _cron_walls(text.cron, after, self.skip)
        return _rrule_walls(text.rrule, self._first(), after, self.zone)

    def _first(self) -> datetime | None:
        """Return `start`, or the start that is written in the rule."""
        text = read_rule(self.rule)
        if text.start is None:
            return self.start
        written = _wall("DTSTART", text.start, self.zone)
        if not isinstance(written, datetime):
            if "BYHOUR=" not in text.rrule:
                raise ValueError(f"DTSTART needs a time of day, such as {written:%Y%m%d}T090000")
            written = datetime.combine(written, time())
        if self.start and self.start != written:
            raise ValueError(
                f"start is {self.start.isoformat()} and DTSTART {written.isoformat()}: leave one of them out"
            )
        return written

    def _excluded(self) -> frozenset[date]:
        """Return the dates and wall times that the rule leaves out (EXDATE)."""
        return frozenset(_wall("EXDATE", each, self.zone) for each in read_rule(self.rule).excluded)


def zone_of_rule(rule: str) -> str:
    """Return the IANA name of the zone that a rule names (TZID, a DTSTART in UTC, TZ of a cron expression), or ""."""
    return read_rule(rule).zone


def _wall(name: str, moment: date, zone: ZoneInfo | None) -> date:
    """Return a date or wall time as it is, and an instant as the wall time in `zone`; raises `ValueError`."""
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        return moment
    if zone is None:
        local = moment.replace(tzinfo=None)
        raise ValueError(
            f"{name} is a time in UTC, and the times of recipients are local: "
            f"write a local time without Z, such as {local:%Y%m%dT%H%M%S}"
        )
    try:
        return to_wall_time(moment, zone)
    except OverflowError:  # the end of the calendar
        return moment.replace(tzinfo=None)


def check_rule(
    rule: str,
    start: datetime | None,
    end: datetime | None = None,
    zone_name: str | None = None,
    *,
    is_recipient_time: bool = False,
) -> None:
    """Raise `ValueError` with one line if a rule is invalid, or contradicts the other fields of its announcement.

    `is_recipient_time` says that `zone_name` stands for the zone of each recipient: the rule's times are local then.
    """
    text = read_rule(rule)
    zone = None if is_recipient_time else load_zone(zone_name or text.zone or "UTC")
    if is_recipient_time:
        is_contradiction = bool(text.cron and text.zone)  # the start of a calendar becomes a local time instead
    else:  # a start in UTC is an instant, which every zone has
        is_contradiction = bool(zone_name) and text.zone not in ("", "UTC") and load_zone(text.zone) != zone
    if is_contradiction:
        raise ValueError(f"names the zone {text.zone} and timeZone is {zone_name}: leave one of them out")
    Recurrence(rule, start, end, zone=zone)


def check_span(start: datetime | None, end: datetime | None) -> None:
    """Raise `ValueError` with one line if a rule cannot run from `start` to `end`."""
    for name, wall in (("start", start), ("end", end)):
        if wall and (wall.tzinfo or wall.second or wall.microsecond or not YEARS[0] <= wall.year <= YEARS[1]):
            raise ValueError(f"{name} must be a wall time in the years {YEARS[0]} to {YEARS[1]}, in whole minutes")
    if start and end and end < start:
        raise ValueError("end must not be before start")


def _note(wall: datetime, at: datetime, zone: ZoneInfo) -> str:
    if (moved := to_wall_time(at, zone)) != wall:
        return f"clocks skip {wall:%H:%M}: at {moved:%H:%M} of {moved:%Y-%m-%d}"
    return f"clocks show {wall:%H:%M} twice: the first time" if second_utc(wall, zone) else ""


def _cron_walls(rule: str, after: datetime, skip: Container[date]) -> Iterator[datetime]:
    from cronsim import CronSim, CronSimError

    try:
        walls = CronSim(rule, after)
    except CronSimError as error:
        raise ValueError(f"{rule!r} is not a cron expression: {str(error).lower()}") from None

    def without_skipped_days() -> Iterator[datetime]:
        for wall in walls:
            yield wall
            if wall.date() in skip:  # jump to the day's end: it may have 1,440 occurrences
                walls.dt = datetime.combine(wall.date(), time(23, 59))

    return without_skipped_days()


def _rrule_walls(rule: str, start: datetime | None, after: datetime, zone: ZoneInfo | None) -> Iterator[datetime]:
    from dateutil.rrule import rrulestr

    parts = _parts(rule)
    if start is None:
        raise ValueError("an RRULE needs a start, the wall time from which it counts, such as 2026-12-07T09:00")
    is_in_time, count = _check_until(parts.pop("UNTIL", ""), zone), int(parts.pop("COUNT", 0))
    # A rule without a COUNT is evaluated from the period of `after`: its start may be centuries ago.
    first = _period_start(parts, start.date(), start.date() if count else max(start, after).date())
    parts = _defaults(parts["FREQ"], start, parts.keys()) | parts
    text = ";".join(f"{name}={value}" for name, value in parts.items())
    later = rrulestr(text, dtstart=datetime.combine(first.replace(year=first.year + _SHIFT_YEARS), time()))
    walls = dropwhile(start.__gt__, (wall.replace(year=wall.year - _SHIFT_YEARS) for wall in later))
    return dropwhile(after.__ge__, takewhile(is_in_time, islice(walls, count or None)))


def _period_start(parts: Mapping[str, str], start: date, day: date) -> date:
    """Return the first day of the last period (day, week, month or year) up to `day`, by the rule's INTERVAL."""
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
    """Return the parts that a rule takes from its start."""
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
    pairs = [part.partition("=") for part in rule.split(";")]
    parts = {name: value for name, _, value in pairs}
    for name, value in parts.items():
        if name not in _PARTS:
            raise ValueError(f"{name[:MAX_QUOTE_CHARS]!r} is not a part of an RRULE{_most_similar_part(name)}")
        if not value:
            raise ValueError(f"{name} has no value: write it as in FREQ=WEEKLY;BYDAY=MO, or leave it out")
    if len(parts) < len(pairs):
        twice = next(name for name in parts if sum(name == each for each, _, _ in pairs) > 1)
        raise ValueError(f"{twice} may be written at most once")
    if parts.pop("BYSECOND", "0").strip("0"):
        raise ValueError("BYSECOND is not supported, since an announcement has a minute: leave it out")
    if parts.get("FREQ") not in _FREQUENCIES:
        raise ValueError(
            f"FREQ must be one of {', '.join(_FREQUENCIES)}; use a cron expression for more often, such as 0 * * * *"
        )
    for name, numbers in (_SINGLE | _SEVERAL | _NEGATIVE_TOO).items():
        if name in parts and not _are_numbers(name, parts[name], numbers):
            must = "one number" if name in _SINGLE else "numbers"
            or_end = f", or from -{numbers[-1]} to -1" if name in _NEGATIVE_TOO else ""
            raise ValueError(f"{name} must be {must} from {numbers[0]} to {numbers[-1]}{or_end}")
    for name, frequencies in _ONLY_WITH.items():
        if name in parts and parts["FREQ"] not in frequencies:
            raise ValueError(f"{name} is only supported with a FREQ of {' or '.join(frequencies)}")
    if "COUNT" in parts and "UNTIL" in parts:
        raise ValueError("COUNT and UNTIL cannot be combined")
    if parts.get("WKST", "MO") not in _WEEKDAYS:
        raise ValueError(f"WKST must be one of {', '.join(_WEEKDAYS)}")
    if "BYDAY" in parts:
        _check_weekdays(parts)
    if "BYWEEKNO" in parts:
        _check_weeks(parts)
    if "BYSETPOS" in parts and not any(name.startswith("BY") for name in parts.keys() - {"BYSETPOS"}):
        raise ValueError("BYSETPOS needs another BY part to choose from, such as BYDAY")
    if len(parts.get("BYSETPOS", "").split(",")) > MAX_POSITIONS:
        raise ValueError(f"BYSETPOS has at most {MAX_POSITIONS} numbers")
    return parts


def _most_similar_part(name: str) -> str:
    from difflib import get_close_matches

    known = {"BYWEEKDAY": "BYDAY", "DAYOFWEEK": "BYDAY", "ENDDATE": "UNTIL", "END": "UNTIL"}
    found = known.get(name) or next(iter(get_close_matches(name[:MAX_QUOTE_CHARS], _PARTS, n=1)), "")
    return f": did you mean {found}?" if found else " such as FREQ=WEEKLY;BYDAY=MO"


def _are_numbers(name: str, text: str, numbers: range) -> bool:
    values = text.split(",")
    return (len(values) == 1 or name not in _SINGLE) and all(
        _NUMBER.fullmatch(value) and (int(value) in numbers or (name in _NEGATIVE_TOO and -int(value) in numbers))
        for value in values
    )


def _check_weekdays(parts: Mapping[str, str]) -> None:
    days = [_BYDAY.fullmatch(day) for day in parts["BYDAY"].split(",")]
    numbers = [int(day[1]) for day in days if day and day[1]]
    if not all(days):
        raise ValueError(f"BYDAY must consist of {', '.join(_WEEKDAYS)}, such as MO,FR or -1FR")
    if numbers and (parts["FREQ"] not in ("MONTHLY", "YEARLY") or "BYWEEKNO" in parts):
        raise ValueError("BYDAY may have numbers only with a FREQ of MONTHLY or YEARLY, and without BYWEEKNO")
    if 0 < len(numbers) < len(days):
        raise ValueError("BYDAY must have a number with every weekday or with none; use two rules for MO,-1FR")
    most = 5 if parts["FREQ"] == "MONTHLY" or "BYMONTH" in parts else 53
    if not all(1 <= abs(number) <= most for number in numbers):
        raise ValueError(f"the numbers of BYDAY must be from 1 to {most} here, or from -{most} to -1")


def _check_weeks(parts: Mapping[str, str]) -> None:
    if "BYDAY" not in parts:
        raise ValueError("BYWEEKNO needs BYDAY")
    # Days of week 1 may lie in December: dateutil counts them to that year instead of the year of their week.
    if int(parts.get("INTERVAL", 1)) > 1 or "BYSETPOS" in parts:
        raise ValueError("BYWEEKNO cannot be combined with an INTERVAL above 1 or with BYSETPOS")


def _check_until(text: str, zone: ZoneInfo | None) -> Callable[[datetime], bool]:
    """Return a test whether a wall time is not after an UNTIL; a date includes the whole day."""
    until = parse_moment("UNTIL", text) if text else _LAST
    if not isinstance(until, datetime):
        return datetime.combine(until, time.max).__ge__
    if until.tzinfo is None:
        return until.__ge__
    _wall("UNTIL", until, zone)
    return lambda wall: zone is not None and to_utc(wall, zone) <= until
