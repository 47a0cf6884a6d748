"""Dates to leave out, from a calendar file (iCalendar, RFC 5545), as those of public holidays are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta

from shared.localtime import zone
from shared.recurrence import Recurrence

#: Longest calendar, in characters.
LONGEST = 1_000_000
#: Most days of one event; a longer one is taken for a mistake.
MOST_DAYS = 366

_EVENT = re.compile(r"^BEGIN:VEVENT$(.*?)^END:VEVENT$", re.MULTILINE | re.DOTALL)
_ALARM = re.compile(r"^BEGIN:VALARM$.*?^END:VALARM$", re.MULTILINE | re.DOTALL)
_PROPERTY = re.compile(r"^([A-Z-]+)(?:;[^:\n]*)?:(.*)$", re.MULTILINE)
_DAY = re.compile(r"(\d{8})(?:T000000)?", re.ASCII)  # midnight as Outlook writes it where the day is whole


def holidays(calendar: str, first: date, last: date) -> frozenset[date]:
    """The dates from `first` to `last` (both included) of a calendar's events that are for whole days.

    Read of an event are DTSTART, DTEND (the day after its last), a yearly RRULE, EXDATE and STATUS (what is CANCELLED
    is left out). Events at a time of day are no holidays. Raises `ValueError` with one line where the text is no
    calendar, has no such event, or has one with more to it than this.
    """
    # A line may be folded: a break and a blank within it (RFC 5545, 3.1).
    text = re.sub(r"\n[ \t]", "", calendar.replace("\r\n", "\n"))
    if len(text) > LONGEST or "BEGIN:VCALENDAR" not in text:
        raise ValueError(f"is no iCalendar file (BEGIN:VCALENDAR) of at most {LONGEST:,} characters")
    events = [_properties(event) for event in _EVENT.findall(_ALARM.sub("", text))]
    whole = [event for event in events if _DAY.fullmatch(event.get("DTSTART", ""))]
    if not whole:
        raise ValueError("has no event for whole days")
    days = {day for event in whole if event.get("STATUS") != "CANCELLED" for day in _days(event, first, last)}
    return frozenset(day for day in days if first <= day <= last)


def _properties(event: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in _PROPERTY.findall(event):
        found[name] = f"{found[name]},{value}" if name == "EXDATE" and name in found else value
    return found


def _days(event: dict[str, str], first: date, last: date) -> Iterator[date]:
    if unread := event.keys() & {"DURATION", "RDATE", "RECURRENCE-ID"}:
        raise ValueError(f"an event has {min(unread)}, which is not read")
    start = _date(event["DTSTART"])
    length = (_date(event["DTEND"]) - start).days if "DTEND" in event else 1
    if not 1 <= length <= MOST_DAYS:
        raise ValueError(f"an event from {start} has {length} days, and not 1 to {MOST_DAYS}")
    left_out = {_date(text) for text in event.get("EXDATE", "").split(",") if text}
    for begins in _starts(start, event.get("RRULE"), first - timedelta(days=length), last):
        if begins not in left_out:
            yield from (begins + timedelta(days=number) for number in range(length))


def _starts(start: date, rule: str | None, first: date, last: date) -> Iterator[date]:
    if rule is None:
        yield start
        return
    if "FREQ=YEARLY" not in rule:
        raise ValueError(f"an event recurs by {rule}, and only FREQ=YEARLY is read")
    yearly = re.sub(r"(UNTIL=\d{8})T\d{6}Z?", r"\1", rule)
    recurrence = Recurrence(yearly, datetime.combine(start, time()), datetime.combine(max(start, last), time()))
    utc = zone("UTC")
    for each in recurrence.coming(datetime.combine(first, time(), utc), utc):
        yield each.wall.date()


def _date(text: str) -> date:
    found = _DAY.fullmatch(text)
    try:
        return datetime.strptime(found[1] if found else "", "%Y%m%d").date()  # noqa: DTZ007 (a date)
    except ValueError:
        raise ValueError(f"{text!r} is no date, such as 20261225") from None
