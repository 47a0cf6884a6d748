"""Dates to skip, from a calendar file (iCalendar, RFC 5545) such as one of public holidays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from heapq import merge

from shared.time.localtime import FIRST_ZONE, load_zone, to_wall_time
from shared.time.recurrence import Recurrence

#: Most days of one event; a longer one is taken for a mistake.
MAX_EVENT_DAYS = 366
#: Most events that recur, and how often one with a COUNT does at most: such a one is followed from its start, for every
#: answer.
MAX_RECURRING_EVENTS = 50
MAX_COUNT = 500

_DAY = timedelta(days=1)
_LINE = re.compile(r'([A-Za-z-]+)((?:;(?:"[^"]*"|[^":;])*)*):(.*)')
_TZID = re.compile(r';TZID="?([^";]+)', re.IGNORECASE)
_MIDNIGHT = re.compile(r"(\d{8})(?:T000000)?", re.ASCII)  # with a time as Outlook writes it where the day is whole
_DURATION = re.compile(
    r"P(?:(?P<weeks>\d{1,5})W)?(?:(?P<days>\d{1,5})D)?"
    r"(?:T(?:(?P<hours>\d{1,5})H)?(?:(?P<minutes>\d{1,5})M)?(?:(?P<seconds>\d{1,5})S)?)?",
    re.ASCII,
)
_PLACES = re.compile(r"BYSETPOS=[^;]*")
_COUNT = re.compile(r"COUNT=(\d+)", re.ASCII)
_UNTIL = re.compile(r"(?<=UNTIL=)(\d{8})T\d{6}Z", re.ASCII)


class Holidays:
    """The dates from `first` on of a calendar's events that are for whole days, and `others`; read when asked.

    Read of an event are DTSTART, DTEND (the day after its last) or DURATION, a yearly RRULE, EXDATE and STATUS (what is
    CANCELLED is left out). Events at a time of day are no holidays. Raises `ValueError` with one line where the text is
    no calendar, has no such event, or has one with more to it than this.
    """

    def __init__(self, calendar: str, first: date, others: Iterable[date] = ()) -> None:
        if "BEGIN:VCALENDAR" not in calendar.upper():
            raise ValueError("is no iCalendar file (BEGIN:VCALENDAR)")
        events = [event for each in _events(calendar) if (event := _event(each))]
        if not events:
            raise ValueError("has no event for whole days")
        if sum(event.rule is not None for event in events) > MAX_RECURRING_EVENTS:
            raise ValueError(f"has more than {MAX_RECURRING_EVENTS} events that recur")
        self._days, self._read = set(others), date.min
        self._dates = _dates(merge(*(event.spans(first) for event in events)), first)

    def __contains__(self, day: object) -> bool:
        while isinstance(day, date) and self._read < day:
            self._read = next(self._dates, date.max)
            self._days.add(self._read)
        return day in self._days


def _dates(spans: Iterator[tuple[date, timedelta]], first: date) -> Iterator[date]:
    day = first
    for begins, length in spans:
        day = max(day, begins)
        while day - begins < length:
            yield day
            day += _DAY


@dataclass(frozen=True, slots=True)
class _Event:
    start: datetime
    length: timedelta
    rule: Recurrence | None
    left_out: frozenset[date]

    def spans(self, first: date) -> Iterator[tuple[date, timedelta]]:
        """When it begins, each time that it ends after `first`, and how long it is; in order."""
        before = first - self.length
        walls = self.rule.walls(datetime.combine(before, time())) if self.rule else (self.start,)
        for begins in (wall.date() for wall in walls):
            if begins > before and begins not in self.left_out:
                yield begins, self.length


def _events(calendar: str) -> Iterator[dict[str, str]]:
    """The properties of each event, without those of its alarms; TZID is that of DTSTART."""
    event: dict[str, str] | None = None
    inside = False
    for name, parameters, value in _properties(calendar):
        if name == "BEGIN":
            inside = value.upper() == "VEVENT"
            event = {} if inside else event
        elif name == "END":
            if event is not None and value.upper() == "VEVENT":
                yield event
                event = None
            inside = event is not None
        elif inside and event is not None:
            if name == "RRULE" and name in event:
                raise ValueError("an event has more than one RRULE, and only one is read")
            event[name] = f"{event[name]},{value}" if name == "EXDATE" and name in event else value
            if name == "DTSTART" and (zone := _TZID.search(parameters)):
                event["TZID"] = zone[1]


def _properties(calendar: str) -> Iterator[tuple[str, str, str]]:
    # A line may be folded: a break and a blank within it (RFC 5545, 3.1).
    for line in re.sub(r"\n[ \t]", "", re.sub(r"\r\n?", "\n", calendar)).split("\n"):
        if found := _LINE.fullmatch(line.strip()):
            yield found[1].upper(), found[2], found[3].strip()


def _event(found: Mapping[str, str]) -> _Event | None:
    """None for one at a time of day, and for one that is called off."""
    begins = found.get("DTSTART", "")
    if not _MIDNIGHT.fullmatch(begins) or found.get("STATUS", "").upper() == "CANCELLED":
        return None
    start, length = _date(begins), _length(found)
    if "T" in begins and (not length or length % _DAY):
        return None
    if unread := found.keys() & {"RDATE", "EXRULE", "RECURRENCE-ID"}:
        raise ValueError(f"an event has {min(unread)}, which is not read")
    if length is None or length % _DAY or not _DAY <= length <= MAX_EVENT_DAYS * _DAY:
        raise ValueError(f"an event from {start} does not have 1 to {MAX_EVENT_DAYS} whole days")
    left_out = frozenset(_date(text) for text in found.get("EXDATE", "").split(",") if text)
    midnight = datetime.combine(start, time())
    return _Event(midnight, length, _rule(found, midnight) if "RRULE" in found else None, left_out)


def _length(found: Mapping[str, str]) -> timedelta | None:
    """None where it is not said in days, hours, minutes and seconds, nor by a date."""
    if "DURATION" in found:
        said = _DURATION.fullmatch(found["DURATION"])
        return timedelta(**{unit: int(number) for unit, number in said.groupdict("0").items()}) if said else None
    if "DTEND" in found:
        return _date(found["DTEND"]) - _date(found["DTSTART"]) if _MIDNIGHT.fullmatch(found["DTEND"]) else None
    return timedelta() if "T" in found["DTSTART"] else _DAY


def _rule(found: Mapping[str, str], start: datetime) -> Recurrence:
    rule = found["RRULE"].upper()
    if "FREQ=YEARLY" not in rule:
        raise ValueError(f"an event recurs by {rule}, and only FREQ=YEARLY is read")
    if "," in (places.group() if (places := _PLACES.search(rule)) else ""):
        raise ValueError(f"an event recurs by {rule}, and only one number of BYSETPOS is read")
    if "BYHOUR" in rule or "BYMINUTE" in rule:
        raise ValueError(f"an event for whole days recurs by {rule}, with a time of day")
    if (count := _COUNT.search(rule)) and int(count[1]) > MAX_COUNT:
        raise ValueError(f"an event recurs {count[1]} times, which are more than {MAX_COUNT}: leave COUNT out")
    zone = found.get("TZID", "")
    return Recurrence(_UNTIL.sub(lambda until: _last_date(until[0], zone), rule), start)


def _last_date(until: str, name: str) -> str:
    """The date of an UNTIL in UTC, in the zone of its event, and where that is not known in the first of all places."""
    from shared.time.zone_names import find_zone

    try:
        return f"{to_wall_time(datetime.fromisoformat(until), load_zone(find_zone(name) or FIRST_ZONE)):%Y%m%d}"
    except OverflowError:  # the end of the calendar: without end
        return until[:8]
    except ValueError:
        raise ValueError(f"an event recurs until {until!r}, which is no time, such as 20261231T230000Z") from None


def _date(text: str) -> date:
    found = _MIDNIGHT.fullmatch(text)
    try:
        return datetime.strptime(found[1] if found else "", "%Y%m%d").date()  # noqa: DTZ007 (a date)
    except ValueError:
        raise ValueError(f"{text!r} is no date, such as 20261225") from None
