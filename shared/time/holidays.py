"""Dates to skip, from a calendar file (iCalendar, RFC 5545) such as one of public holidays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from heapq import merge

from shared.time.localtime import FIRST_ZONE, load_zone, to_wall_time
from shared.time.recurrence import Recurrence

#: Most days of one event; a longer one is taken for a mistake.
MAX_EVENT_DAYS = 366
#: Most recurring events of a calendar.
MAX_RECURRING_EVENTS = 50
#: Largest COUNT of an event. Such an event is followed from its start each time a calendar is read.
MAX_COUNT = 500
#: Characters of a line that an error quotes.
MAX_QUOTE_CHARS = 80

_DAY = timedelta(days=1)
#: The properties of an event that are read, or refused.
_EVENT_PROPERTIES = (
    "DTSTART", "DTEND", "DURATION", "RRULE", "EXDATE", "STATUS", "RDATE", "EXRULE", "RECURRENCE-ID"
)  # fmt: skip


class Holidays:
    """A container of the dates, from `first` on, of a calendar's all-day events, and of `others`.

    An event's DTSTART, DTEND (the day after its last) or DURATION, yearly RRULE, EXDATE and STATUS are read; CANCELLED
    events and events at a time of day are left out. Dates are computed when they are asked for. Raises `ValueError`
    with one line for a text that is not a calendar, has no all-day event, or has one with other rules.
    """

    def __init__(self, calendar: str, first: date, others: Iterable[date] = ()) -> None:
        if "BEGIN:VCALENDAR" not in calendar.upper():
            raise ValueError("is not an iCalendar file (BEGIN:VCALENDAR)")
        events = [event for properties in _read_events(calendar) if (event := _all_day_event(properties))]
        if not events:
            raise ValueError("has no all-day event")
        if sum(event.rule is not None for event in events) > MAX_RECURRING_EVENTS:
            raise ValueError(f"has more than {MAX_RECURRING_EVENTS} recurring events")
        self._known, self._known_until = set(others), date.min
        self._dates = _dates(merge(*(event.spans(first) for event in events)), first)

    def __contains__(self, day: object) -> bool:
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
            day += _DAY


@dataclass(frozen=True, slots=True)
class _Event:
    start: datetime
    length: timedelta
    rule: Recurrence | None
    excluded: frozenset[date]

    def spans(self, first: date) -> Iterator[tuple[date, timedelta]]:
        """Yield the first day and the length of each occurrence that ends after `first`, in order."""
        before = first - self.length
        walls = self.rule.wall_times(datetime.combine(before, time())) if self.rule else (self.start,)
        for start in (wall.date() for wall in walls):
            if start > before and start not in self.excluded:
                yield start, self.length


def _read_events(calendar: str) -> list[dict[str, list[str]]]:
    """Return the properties of each event, and the TZID of its start; all other components are left out.

    Of icalendar only the readers of lines and values are used: its components evaluate any rule of a VTIMEZONE.
    """
    from icalendar.parser import Contentlines

    events: list[dict[str, list[str]]] = []
    open_components: list[dict[str, list[str]]] = [{}]  # the innermost one last
    for line in filter(None, Contentlines.from_ical(re.sub(r"\r\n?", "\n", calendar))):  # type: ignore[no-untyped-call]
        component = open_components[-1]
        try:
            name, parameters, value = line.raw_parts()
        except ValueError:
            if events and component is events[-1] and re.split("[:;]", line)[0].upper() in _EVENT_PROPERTIES:
                raise ValueError(f"an event has a line that cannot be read: {line[:MAX_QUOTE_CHARS]!r}") from None
            continue
        name, value = name.upper(), value.strip()
        if name == "BEGIN":
            open_components.append({})
            if value.upper() == "VEVENT":
                events.append(open_components[-1])
        elif name == "END":
            open_components[1:] = open_components[1:-1]
        else:
            component.setdefault(name, []).append(value)
            if name == "DTSTART":
                component["TZID"] = [str(parameters.get("TZID", ""))]
    return events


def _all_day_event(properties: Mapping[str, Sequence[str]]) -> _Event | None:
    """Return None for an event at a time of day, and for a cancelled one."""
    from icalendar import vDuration

    found = {name: values[-1] for name, values in properties.items()}
    if found.get("STATUS", "").upper() == "CANCELLED":
        return None
    day = _day(found["DTSTART"]) if "DTSTART" in found else None
    if day is None:
        return None
    length = timedelta() if "T" in found["DTSTART"] else _DAY
    if "DURATION" in found:
        length = vDuration.from_ical(found["DURATION"])  # type: ignore[no-untyped-call]
    elif "DTEND" in found:
        length = (_day(found["DTEND"]) or day) - day
    if "T" in found["DTSTART"] and (not length or length % _DAY):
        return None
    if length % _DAY or not _DAY <= length <= MAX_EVENT_DAYS * _DAY:
        raise ValueError(f"an event from {day} does not have 1 to {MAX_EVENT_DAYS} whole days")
    if unsupported := found.keys() & {"RDATE", "EXRULE", "RECURRENCE-ID"}:
        raise ValueError(f"an event has {min(unsupported)}, which is not supported")
    if len(properties.get("RRULE", ())) > 1:
        raise ValueError("an event has more than one RRULE; only one is supported")
    excluded = [_day(text) for text in ",".join(properties.get("EXDATE", ())).split(",") if text]
    if None in excluded:
        raise ValueError(f"an all-day event from {day} has an EXDATE with a time of day")
    start = datetime.combine(day, time())
    rule = _rule(found["RRULE"].upper(), start, found["TZID"]) if "RRULE" in found else None
    return _Event(start, length, rule, frozenset(filter(None, excluded)))


def _rule(text: str, start: datetime, zone_name: str) -> Recurrence:
    parts = dict(part.partition("=")[::2] for part in text.split(";"))
    if (until := parts.get("UNTIL", "")).endswith("Z"):
        text = text.replace(until, f"{_local_date(until, zone_name):%Y%m%d}")
    rule = Recurrence(text, start)
    if parts.get("FREQ") != "YEARLY" or "," in parts.get("BYSETPOS", "") or parts.keys() & {"BYHOUR", "BYMINUTE"}:
        raise ValueError(f"an event recurs by {text}; only FREQ=YEARLY with one BYSETPOS and no time is supported")
    if int(parts.get("COUNT", 0)) > MAX_COUNT:
        raise ValueError(f"an event recurs {parts['COUNT']} times, which are more than {MAX_COUNT}: leave COUNT out")
    return rule


def _local_date(until: str, zone_name: str) -> date:
    """Return the date of an UNTIL in UTC, in the zone of its event, or in the first of all zones if it is unknown."""
    from icalendar import vDatetime

    from shared.time.zone_names import find_zone

    at: datetime = vDatetime.from_ical(until)  # type: ignore[no-untyped-call]
    try:
        return to_wall_time(at, load_zone(find_zone(zone_name) or FIRST_ZONE)).date()
    except OverflowError:  # the end of the calendar: without end
        return at.date()


def _day(text: str) -> date | None:
    """Return the date of a DATE, or of midnight, as Outlook writes whole days; None for another time of day."""
    from icalendar import vDate

    day = text.removesuffix("T000000")
    return None if "T" in day else vDate.from_ical(day)  # type: ignore[no-untyped-call]
