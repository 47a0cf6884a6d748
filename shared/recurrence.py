"""Recurring announcements: cron expressions and recurrence rules, on the wall time of a zone.

A rule is evaluated on wall times alone, and each of its occurrences then becomes an instant: one that clocks skip
is the first instant after the gap, one that they show twice is the first of the two. For a rule with fixed times this
is what Debian's cron does, as `cronsim` does. One with several times an hour (`*/15 * * * *`) rests while an hour is
shown again, and is heard once, at its end, for all of a gap.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from shared.localtime import again, instant, shown

#: Longest rule, in characters.
LONGEST = 500
#: Most occurrences that a rule with a COUNT has; each is counted from the start, for every answer.
MOST_COUNTED = 10_000
#: The years (both included) in which a rule starts, ends and is heard.
YEARS = (1900, 2300)

_FREQUENCIES = ("DAILY", "WEEKLY", "MONTHLY", "YEARLY")
_BY_PARTS = ("BYMONTH", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYDAY", "BYHOUR", "BYMINUTE", "BYSETPOS")
_PARTS = ("FREQ", "INTERVAL", "COUNT", "UNTIL", "WKST", *_BY_PARTS)
_NUMBERS = {"INTERVAL": range(1, 1001), "COUNT": range(1, MOST_COUNTED + 1), "BYMINUTE": range(60)}
_VALUE = re.compile(r"[A-Z0-9,+-]+")
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

    >>> Recurrence("0 9 * * mon-fri").following(datetime(2026, 12, 4, 12, tzinfo=UTC), zone("Europe/Berlin")).name
    '2026-12-07T09:00'
    """

    rule: str
    start: datetime | None = None
    end: datetime | None = None
    skip: frozenset[date] = frozenset()

    def __post_init__(self) -> None:
        check_span(self.start, self.end)
        if len(self.rule) > LONGEST:
            raise ValueError(f"a rule has at most {LONGEST} characters")
        next(self._walls(self.start or _FIRST, frozenset()), None)

    def following(self, after: datetime, place: ZoneInfo) -> Occurrence | None:
        """The first occurrence in `place` strictly after an instant; None where there is no more."""
        begin, end = max(shown(after, place), (self.start or _FIRST) - _MOMENT), self.end or _LAST
        for wall in self._walls(begin, self.skip):
            if wall > end:
                break
            if (at := instant(wall, place)) > after:
                return Occurrence(wall, at, _note(wall, at, place))
        return None

    def coming(self, after: datetime, place: ZoneInfo) -> Iterator[Occurrence]:
        """All occurrences in `place` strictly after an instant, in order; often without end."""
        while (found := self.following(after, place)) is not None:
            yield found
            after = found.at

    def _walls(self, after: datetime, skip: frozenset[date]) -> Iterator[datetime]:
        if "=" in self.rule:
            return (wall for wall in _rrule_walls(self.rule, self.start, after) if wall.date() not in skip)
        return _cron_walls(self.rule, after, skip)


def check_span(start: datetime | None, end: datetime | None) -> None:
    """Raises `ValueError` with one line where a rule cannot be heard from `start` to `end`."""
    for name, wall in (("start", start), ("end", end)):
        if wall and (wall.tzinfo or wall.second or wall.microsecond or not YEARS[0] <= wall.year <= YEARS[1]):
            raise ValueError(f"{name} must be a wall time in the years {YEARS[0]} to {YEARS[1]}, in whole minutes")
    if start and end and end < start:
        raise ValueError("end must not be before start")


def _note(wall: datetime, at: datetime, place: ZoneInfo) -> str:
    if (then := shown(at, place)) != wall:
        return f"clocks skip {wall:%H:%M}: at {then:%H:%M} of {then:%Y-%m-%d}"
    return f"clocks show {wall:%H:%M} twice: the first time" if again(wall, place) else ""


def _cron_walls(rule: str, after: datetime, skip: frozenset[date]) -> Iterator[datetime]:
    while (wall := _cron_after(rule, after)) is not None:
        if wall.date() in skip:  # at once, as a day may have 1,440 of them
            after = datetime.combine(wall.date(), time.max)
        else:
            yield wall
            after = wall


def _cron_after(rule: str, wall: datetime) -> datetime | None:
    from cronsim import CronSim, CronSimError

    if len(rule.split()) != 5:
        raise ValueError(f"{rule!r} is no cron expression of 5 fields, such as 0 9 * * mon-fri, and no RRULE")
    try:
        return next(CronSim(rule, wall), None)
    except CronSimError as error:
        raise ValueError(f"{rule!r} is no cron expression: {str(error).lower()}") from None


def _rrule_walls(rule: str, start: datetime | None, after: datetime) -> Iterator[datetime]:
    # In one go: each look anew would count from the start again.
    from dateutil.rrule import rrulestr

    if start is None:
        raise ValueError("an RRULE needs a start: the wall time from which it counts")
    parts = _parts(rule)
    until = parts.pop("UNTIL", None)
    last = _until(until) if until else _LAST
    try:
        text = ";".join(f"{name}={value}" for name, value in parts.items())
        for found in rrulestr(text, dtstart=_later(start)).xafter(_later(after)):
            if (wall := found.replace(year=found.year - _LATER)) > last:
                return
            yield wall
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{rule!r} is no RRULE: {error}") from None


def _later(wall: datetime) -> datetime:
    return wall.replace(year=wall.year + _LATER)


def _parts(rule: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in rule.strip().upper().removeprefix("RRULE:").removesuffix(";").split(";")]
    parts = {name: value for name, _, value in pairs}
    if not parts.keys() <= set(_PARTS) or len(parts) < len(pairs) or not all(map(_VALUE.fullmatch, parts.values())):
        known = ", ".join(_PARTS)
        raise ValueError(f"{rule!r} is no RRULE, such as FREQ=WEEKLY;BYDAY=MO; it has each at most once of {known}")
    if parts.get("FREQ") not in _FREQUENCIES:
        raise ValueError(f"FREQ must be one of {', '.join(_FREQUENCIES)}; what comes more often is a cron expression")
    for name, numbers in _NUMBERS.items():
        if name in parts and not (parts[name].isdigit() and int(parts[name]) in numbers):
            raise ValueError(f"{name} must be a number from {numbers[0]} to {numbers[-1]}")
    if "COUNT" in parts and "UNTIL" in parts:
        raise ValueError("COUNT and UNTIL exclude each other")
    if parts["FREQ"] in ("DAILY", "WEEKLY") and any(sign.isdigit() for sign in parts.get("BYDAY", "")):
        raise ValueError("BYDAY has numbers only where FREQ is MONTHLY or YEARLY")
    return parts


def _until(text: str) -> datetime:
    """The last wall time of an UNTIL; a date counts as a whole."""
    try:
        until = datetime.strptime(text, "%Y%m%dT%H%M%S" if "T" in text else "%Y%m%d")  # noqa: DTZ007 (a wall time)
    except ValueError:
        raise ValueError("UNTIL must be a date or a wall time without Z, such as 20261231 or 20261231T090000") from None
    return until if "T" in text else datetime.combine(until, time.max)
