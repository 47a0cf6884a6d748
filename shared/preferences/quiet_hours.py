"""Quiet hours: when a person wants to receive nothing, by local time and day of the week."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Self
from zoneinfo import ZoneInfo

from shared.time.localtime import to_utc, to_wall_time
from shared.time.times_of_day import EVERY_DAY, clock, format_weekdays, weekdays

#: Most spans that one person's quiet hours have.
MAX_SPANS = 14
#: How quiet hours are written, as a refusal says it.
FORMS = "18:00-08:00, mon-fri 18:00-08:00, sat,sun, several of these with ; between, or off"

_DAY = 24 * 60  # minutes


@dataclass(frozen=True, slots=True)
class Span:
    """From `start` on each of these days (Monday is 0) until `end`, which is the next day's where it is not later.

    Both at midnight are the whole day.
    """

    days: frozenset[int]
    start: time = time()
    end: time = time()

    def __str__(self) -> str:
        if self.start == self.end:
            return format_weekdays(self.days)
        hours = f"{self.start:%H:%M}-{self.end:%H:%M}"
        return hours if self.days == EVERY_DAY else f"{format_weekdays(self.days)} {hours}"

    def on(self, day: date) -> tuple[datetime, datetime]:
        """The wall times at which the span that starts on this day starts and ends."""
        ends = day if self.start < self.end else day + timedelta(days=1)
        return datetime.combine(day, self.start), datetime.combine(ends, self.end)


@dataclass(frozen=True, slots=True)
class QuietHours:
    """Spans of quiet in local time; none means never quiet.

    >>> str(QuietHours.parse("Mon-Fri 18:00-8:00; sat,sun"))
    'mon-fri 18:00-08:00; sat,sun'
    """

    spans: tuple[Span, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The quiet hours of `18:00-08:00`, `mon-fri 18:00-08:00`, `sat,sun`, or `off`; raises `ValueError`."""
        if text.casefold().strip() == "off":
            return cls()
        parts = text.split(";")
        if len(parts) > MAX_SPANS:
            raise ValueError(f"quiet hours have at most {MAX_SPANS} parts")
        spans = tuple(map(_span, parts))
        if _always(spans):
            raise ValueError("that would be quiet at all times; stop switches notifications off, pause holds them")
        return cls(spans)

    def __str__(self) -> str:
        return "; ".join(map(str, self.spans)) or "off"

    def until(self, at: datetime, zone: ZoneInfo) -> datetime | None:
        """When the quiet ends in which an instant lies, with all that adjoins it; None where it is not quiet.

        The start counts as quiet, the end does not. Where clocks skip a start or an end it is the first instant
        after the gap, and where they show it twice the first of the two.
        """
        quiet_until = None
        for start, end in self._from(to_wall_time(at, zone).date()):
            if to_utc(start, zone) > (quiet_until or at):
                break
            if (ends := to_utc(end, zone)) > (quiet_until or at):
                quiet_until = ends
        return quiet_until

    def _from(self, day: date) -> Iterable[tuple[datetime, datetime]]:
        # A day earlier, as a span may have begun then; two weeks ahead, as the only open minute of a week may be
        # one that the clocks skip.
        days = [day + timedelta(days=number) for number in range(-1, 15)]
        return sorted(span.on(each) for each in days for span in self.spans if each.weekday() in span.days)


def _span(text: str) -> Span:
    match re.sub(r"\s*([,–-])\s*", lambda found: found[1].replace("–", "-"), text.strip()).split():
        case [hours] if hours[0].isdigit():
            return _hours(EVERY_DAY, hours)
        case [days]:
            return Span(weekdays(days))
        case [days, hours]:
            return _hours(weekdays(days), hours)
    raise ValueError(f"quiet hours are {FORMS}")


def _hours(days: frozenset[int], text: str) -> Span:
    start, dash, end = text.partition("-")
    if not dash:
        raise ValueError(f"quiet hours are {FORMS}")
    span = Span(days, clock(start), time() if end == "24:00" else clock(end))
    if span.start == span.end != time():
        raise ValueError(f"{text!r} starts when it ends; a whole day is its name, such as sat")
    return span


def _always(spans: Iterable[Span]) -> bool:
    quiet: set[int] = set()
    for span in spans:
        start, end = (each.hour * 60 + each.minute for each in (span.start, span.end))
        length = (end - start) % _DAY or _DAY
        quiet.update((day * _DAY + start + minute) % (7 * _DAY) for day in span.days for minute in range(length))
    return len(quiet) == 7 * _DAY
