"""Dates to skip, from a calendar file (iCalendar, RFC 5545) such as one of public holidays.

Only whole days count. What cannot be read of a calendar is left out, and `Holidays.left_out` names it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from heapq import merge
from threading import Lock

from shared.time.localtime import FIRST_ZONE, load_zone, to_wall_time
from shared.time.recurrence import Recurrence
from shared.time.rule_text import parse_moment

#: Most days of one event; a longer one is taken for a mistake.
MAX_EVENT_DAYS = 366
#: Most recurring events of a calendar, and most of them that recur more often than each year.
MAX_RECURRING_EVENTS = 50
MAX_FREQUENT_EVENTS = 20
#: Largest COUNT of an event. Such an event is followed from its start each time a calendar is read.
MAX_COUNT = 500
#: Characters of a line that an error quotes.
MAX_QUOTE_CHARS = 80

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_DURATION = re.compile(
    r"([+-]?)P(?:(\d{1,5})W)?(?:(\d{1,5})D)?(?:T(?:(\d{1,7})H)?(?:(\d{1,7})M)?(?:(\d{1,7})S)?)?", re.ASCII
)
#: The properties of an event that are read, or for which it is left out.
_EVENT_PROPERTIES = (
    "DTSTART", "DTEND", "DURATION", "RRULE", "EXDATE", "STATUS", "RDATE", "EXRULE", "RECURRENCE-ID", "UID",
    "X-MICROSOFT-CDO-ALLDAYEVENT",
)  # fmt: skip


class Holidays:
    """A container of the dates, from `first` on, of a calendar's all-day events, and of `others`.

    An event's DTSTART, DTEND (the day after its last) or DURATION, RRULE, EXDATE, RDATE, RECURRENCE-ID and STATUS are
    read; CANCELLED events and events at a time of day do not count. `left_out` has one line for each event that cannot
    be read. Dates are computed when they are asked for; threads may share one. Raises `ValueError` with one line for a
    text that is not a calendar, or has no all-day event that can be read.
    """

    def __init__(self, calendar: str, first: date, others: Iterable[date] = ()) -> None:
        if "BEGIN:VCALENDAR" not in calendar.upper():
            raise ValueError("is not an iCalendar file (BEGIN:VCALENDAR)")
        events, self.left_out = _all_day_events(calendar)
        if not events:
            reason = f": {self.left_out[0]}" if self.left_out else ""
            raise ValueError(f"has no all-day event{' that can be read' if reason else ''}{reason}")
        rules = [event.rule for event in events if event.rule and event.last > first - event.length]
        if len(rules) > MAX_RECURRING_EVENTS:
            raise ValueError(f"has more than {MAX_RECURRING_EVENTS} recurring events")
        if sum("FREQ=YEARLY" not in rule.rule for rule in rules) > MAX_FREQUENT_EVENTS:
            raise ValueError(f"has more than {MAX_FREQUENT_EVENTS} events that recur more often than each year")
        self._known, self._known_until = set(others), date.min
        self._computing = Lock()
        self._dates = _dates(merge(*(event.spans(first) for event in events)), first)

    def __contains__(self, day: object) -> bool:
        with self._computing:
            while isinstance(day, date) and self._known_until < day:
                self._known_until = next(self._dates, date.max)
                self._known.add(self._known_until)
            return day in self._known


def _dates(spans: Iterator[tuple[date, timedelta]], first: date) -> Iterator[date]:
    day = first
    for start, length in spans:
        day = max(day, start)
        while day - start < length:
            yield day
            if day == date.max:
                return
            day += _DAY


@dataclass(frozen=True, slots=True)
class _Event:
    """An all-day event. `others` are the dates of RDATE, in order, and `last` the date of an UNTIL."""

    start: datetime
    length: timedelta
    rule: Recurrence | None
    excluded: frozenset[date]
    others: tuple[date, ...] = ()
    last: date = date.max

    def spans(self, first: date) -> Iterator[tuple[date, timedelta]]:
        """Yield the first day and the length of each occurrence that ends after `first`, in order."""
        before = first - self.length
        walls = self.rule.wall_times(datetime.combine(before, time())) if self.rule else (self.start,)
        for start in merge((wall.date() for wall in walls), self.others):
            if start > before and start not in self.excluded:
                yield start, self.length


@dataclass(slots=True)
class _Properties:
    """The properties of an event, each with its values and the TZID of the last; and its first unreadable line."""

    values: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    zones: dict[str, str] = field(default_factory=dict)
    unreadable: str = ""

    def last(self, name: str) -> str:
        return self.values[name][-1] if name in self.values else ""

    def all(self, name: str) -> list[str]:
        return [text for text in ",".join(self.values.get(name, ())).split(",") if text.strip()]


def _all_day_events(calendar: str) -> tuple[list[_Event], Sequence[str]]:
    """Return the all-day events of a calendar, and one line for each event that cannot be read."""
    calendar_zone, components = _read_events(calendar)
    moved = defaultdict[str, set[date]](set)  # the occurrences that have an event of their own, by UID
    for each in components:
        if "RECURRENCE-ID" in each.values and "RRULE" not in each.values:
            try:
                moved[each.last("UID")].add(_day_in(each, "RECURRENCE-ID", each.last("RECURRENCE-ID"), calendar_zone))
            except ValueError as error:
                each.unreadable = each.unreadable or str(error)
    events, left_out = [], []
    for number, each in enumerate(components, 1):
        try:
            event = _all_day_event(each, calendar_zone, moved)
        except ValueError as error:
            start = each.last("DTSTART")[:MAX_QUOTE_CHARS]
            left_out.append(f"event {number}{f' ({start})' if start else ''}: {error}")
            continue
        if event:
            events.append(event)
    return events, left_out


def _read_events(calendar: str) -> tuple[str, list[_Properties]]:
    """Return the zone of the calendar ("" if it has none), and the properties of each event.

    Of icalendar only the reader of lines is used: its components evaluate any rule of a VTIMEZONE.
    """
    from icalendar.parser import Contentlines

    zone = ""
    if "\n" not in calendar and "\r" not in calendar:  # its ends of lines were escaped twice
        calendar = calendar.replace("\\r", "").replace("\\n", "\n")
    events: list[_Properties] = []
    open_components = [_Properties()]  # the innermost one last
    for line in filter(None, Contentlines.from_ical(re.sub(r"\r\n?", "\n", calendar))):  # type: ignore[no-untyped-call]
        component = open_components[-1]
        try:
            name, parameters, value = line.raw_parts()
        except ValueError:
            if events and component is events[-1] and re.split("[:;]", line)[0].upper() in _EVENT_PROPERTIES:
                component.unreadable = f"the line {line[:MAX_QUOTE_CHARS]!r} cannot be read"
            continue
        name, value = name.upper(), value.strip()
        if name == "BEGIN":
            open_components.append(_Properties())
            if value.upper() == "VEVENT":
                events.append(open_components[-1])
        elif name == "END":
            open_components[1:] = open_components[1:-1]
        elif name == "X-WR-TIMEZONE":  # Google, Apple
            zone = zone or value
        elif name in _EVENT_PROPERTIES:
            component.values[name].append(value)
            component.zones[name] = str(parameters.get("TZID", ""))
    return zone, events


def _all_day_event(read: _Properties, calendar_zone: str, moved: Mapping[str, set[date]]) -> _Event | None:
    """Return None for an event at a time of day, and for a cancelled one; raises `ValueError` with one line."""
    if read.last("STATUS").upper() == "CANCELLED":
        return None
    if read.unreadable:
        raise ValueError(read.unreadable)
    if "DTSTART" not in read.values:
        raise ValueError("has no DTSTART")
    start = parse_moment("DTSTART", read.last("DTSTART"))
    is_whole_day = not isinstance(start, datetime) or read.last("X-MICROSOFT-CDO-ALLDAYEVENT").upper() == "TRUE"
    if isinstance(start, datetime) and (start.time() != time() or (start.tzinfo and not is_whole_day)):
        return None
    day, length = date(start.year, start.month, start.day), _length(read, start)
    if length is None or (not length and is_whole_day):  # DTEND is the same day: its author took it for the last one
        length = _DAY if is_whole_day else timedelta()
    # A day that ends at 23:59 or 23:59:59 is whole.
    length += next((gap for gap in (_SECOND, 60 * _SECOND) if not (length + gap) % _DAY), timedelta())
    if not is_whole_day and (not length or length % _DAY):
        return None
    if length % _DAY or not _DAY <= length <= MAX_EVENT_DAYS * _DAY:
        raise ValueError(f"does not have 1 to {MAX_EVENT_DAYS} whole days")
    if "EXRULE" in read.values:
        raise ValueError("EXRULE is not supported: write the dates as EXDATE")
    if len(read.values.get("RRULE", ())) > 1:
        raise ValueError("has more than one RRULE: write an event for each")
    is_moved = "RECURRENCE-ID" in read.values
    if is_moved and "RRULE" in read.values:
        raise ValueError("RECURRENCE-ID with an RRULE is not supported")
    excluded = {_day_in(read, "EXDATE", text, calendar_zone) for text in read.all("EXDATE")}
    if not is_moved and read.last("UID"):
        excluded |= moved.get(read.last("UID"), set())
    others = sorted(_day_in(read, "RDATE", text, calendar_zone) for text in read.all("RDATE"))
    first = datetime.combine(day, time())
    if "RRULE" not in read.values:
        return _Event(first, length, None, frozenset(excluded), tuple(others))
    rule, last = _rule(read.last("RRULE"), first, read.zones["DTSTART"] or calendar_zone)
    return _Event(first, length, rule, frozenset(excluded), tuple(others), last)


def _length(read: _Properties, start: date) -> timedelta | None:
    """Return the length by DURATION or DTEND, None if the event has neither; raises `ValueError`."""
    if "DURATION" in read.values:
        text = read.last("DURATION")
        found = _DURATION.fullmatch(text.upper())
        if not found or not any(found.groups()[1:]):
            raise ValueError(f"DURATION must be a length such as P1D, not {text[:MAX_QUOTE_CHARS]!r}")
        weeks, days, hours, minutes, seconds = (int(part or 0) for part in found.groups()[1:])
        length = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
        return -length if found[1] == "-" else length
    if "DTEND" not in read.values:
        return None
    walls = [
        moment.replace(tzinfo=None) if isinstance(moment, datetime) else datetime.combine(moment, time())
        for moment in (start, parse_moment("DTEND", read.last("DTEND")))
    ]
    return walls[1] - walls[0]


def _rule(text: str, start: datetime, zone_name: str) -> tuple[Recurrence, date]:
    """Return the rule of an event, and the date of its UNTIL, `date.max` without one; raises `ValueError`."""
    last = date.max
    parts = dict(part.partition("=")[::2] for part in "".join(text.upper().split()).split(";") if part)
    if until := parts.get("UNTIL"):
        last = _last_date(until, zone_name)
        parts["UNTIL"] = f"{last:%Y%m%d}"
    for name in ("BYHOUR", "BYMINUTE", "BYSECOND"):  # some systems add a time of day to whole days
        if set(parts.pop(name, "0")) != {"0"}:
            raise ValueError(f"RRULE has {name}, and a whole day has no time: leave it out")
    if "," in parts.get("BYSETPOS", ""):
        raise ValueError("RRULE has several numbers in BYSETPOS: write an event for each")
    rule = Recurrence(";".join(f"{name}={value}" for name, value in parts.items()), start)
    if int(parts.get("COUNT", 0)) > MAX_COUNT:
        raise ValueError(f"RRULE has a COUNT above {MAX_COUNT}: leave COUNT out")
    return rule, last


def _last_date(text: str, zone_name: str) -> date:
    """Return the date of an UNTIL. One in UTC is an instant in the zone of the event, or of its calendar.

    If that is unknown, it is taken for midnight or the last second of a day: the offset follows from the time.
    """
    until = parse_moment("UNTIL", text)
    if not isinstance(until, datetime) or until.tzinfo is None:
        return date(until.year, until.month, until.day)
    zone = _known_zone(zone_name)
    try:
        if zone:
            return to_wall_time(until, load_zone(zone)).date()
        if until.second == 59:
            return to_wall_time(until + _SECOND, load_zone(FIRST_ZONE)).date() - _DAY
        return to_wall_time(until, load_zone(FIRST_ZONE)).date()
    except OverflowError:  # the end of the calendar: without end
        return until.date()


def _day_in(read: _Properties, name: str, text: str, calendar_zone: str) -> date:
    """Return the date of an EXDATE, RDATE or RECURRENCE-ID of a whole day, whatever its time."""
    moment = parse_moment(name, text)
    if isinstance(moment, datetime) and moment.tzinfo:
        zone = _known_zone(read.zones.get("DTSTART") or calendar_zone)
        with suppress(OverflowError):  # the end of the calendar
            return to_wall_time(moment, load_zone(zone or FIRST_ZONE)).date()
    return date(moment.year, moment.month, moment.day)


def _known_zone(name: str) -> str | None:
    from shared.time.zone_names import find_zone

    return find_zone(name) if name else None
