"""Quiet hours: when a person wants to receive nothing, by local time and weekday."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Self
from zoneinfo import ZoneInfo

from shared.texts import InputError
from shared.time.localtime import to_utc, to_wall_time
from shared.time.spellings import normalize
from shared.time.times_of_day import EVERY_DAY, format_weekdays, parse_time_of_day, parse_weekdays

#: Most spans of one person's quiet hours.
MAX_SPANS = 14

_DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Span:
    """A span that starts on each of these weekdays (Monday is 0), and ends on the next day unless `end` is later.

    With `start` and `end` at midnight it is the whole day.
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
        """Return the wall times of the start and the end of the span that starts on this day."""
        ends = day if self.start < self.end else day + timedelta(days=1)
        return datetime.combine(day, self.start), datetime.combine(ends, self.end)


@dataclass(frozen=True, slots=True)
class QuietHours:
    """Spans of quiet in local time; without spans it is never quiet.

    >>> str(QuietHours.parse("Mon-Fri 18:00-8:00; sat,sun"))
    'mon-fri 18:00-08:00; sat,sun'
    """

    spans: tuple[Span, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the quiet hours of `18:00-08:00`, `mon-fri 18:00-08:00`, `sat,sun` or `off`; raises `InputError`.

        Other spellings are those of `shared.time.spellings`.
        """
        text = normalize(text)
        if text == "off":
            return cls()
        parts = text.split(";")
        if len(parts) > MAX_SPANS:
            raise InputError("quiet.parts", count=MAX_SPANS)
        spans = tuple(map(_span, parts))
        if _covers_week(spans):
            raise InputError("quiet.week")
        return cls(spans)

    @classmethod
    def daily(cls, start: time | None, end: time | None, days: Iterable[int]) -> Self:
        """Return quiet hours from `start` to `end` on every day, if given, and on whole `days`; raises `InputError`."""
        whole_days = frozenset(days)
        spans = [Span(EVERY_DAY, start, end)] if start is not None and end is not None else []
        if spans and start == end:
            raise InputError("quiet.same", text=f"{start:%H:%M}-{end:%H:%M}")
        if whole_days:
            spans.append(Span(whole_days))
        if _covers_week(spans):
            raise InputError("quiet.week")
        return cls(tuple(spans))

    def as_daily(self) -> tuple[time | None, time | None, frozenset[int]] | None:
        """Return start and end of the quiet hours of every day, and the whole days; None if there is more to them."""
        hours = [span for span in self.spans if span.start != span.end]
        whole_days = frozenset(day for span in self.spans if span.start == span.end for day in span.days)
        if len(hours) > 1 or any(span.days != EVERY_DAY for span in hours):
            return None
        return (hours[0].start, hours[0].end, whole_days) if hours else (None, None, whole_days)

    def __str__(self) -> str:
        return "; ".join(map(str, self.spans)) or "off"

    def find_end(self, at: datetime, zone: ZoneInfo) -> datetime | None:
        """Return the instant (UTC) at which the quiet at `at` ends, adjoining spans included; None if it is not quiet.

        The start of a span is quiet, its end is not. A start or end that clocks skip is the first instant after the
        gap; of one that occurs twice it is the first.
        """
        quiet_until = None
        for start, end in self._spans_around(to_wall_time(at, zone).date()):
            if to_utc(start, zone) > (quiet_until or at):
                break
            if (end_utc := to_utc(end, zone)) > (quiet_until or at):
                quiet_until = end_utc
        return quiet_until

    def _spans_around(self, day: date) -> Iterable[tuple[datetime, datetime]]:
        # From the day before, when a span may have started, to two weeks later: clocks may skip the only minute of a
        # week that is not quiet.
        days = [day + timedelta(days=number) for number in range(-1, 15)]
        return sorted(span.on(each) for each in days for span in self.spans if each.weekday() in span.days)


def _span(text: str) -> Span:
    match re.sub(r"\s*([,–-])\s*", lambda found: found[1].replace("–", "-"), text.strip()).split():
        case [hours] if hours[0].isdigit():
            return _hours(EVERY_DAY, hours)
        case [days]:
            return Span(parse_weekdays(days))
        case [days, hours]:
            return _hours(parse_weekdays(days), hours)
    raise InputError("quiet")


def _hours(days: frozenset[int], text: str) -> Span:
    start, dash, end = text.partition("-")
    if not dash:
        raise InputError("quiet")
    span = Span(days, parse_time_of_day(start), time() if end == "24:00" else parse_time_of_day(end))
    if span.start == span.end != time():
        raise InputError("quiet.same", text=text)
    return span


def _covers_week(spans: Iterable[Span]) -> bool:
    quiet_minutes: set[int] = set()
    for span in spans:
        start, end = (each.hour * 60 + each.minute for each in (span.start, span.end))
        length = (end - start) % _DAY_MINUTES or _DAY_MINUTES
        for day in span.days:
            first = day * _DAY_MINUTES + start
            quiet_minutes.update(minute % (7 * _DAY_MINUTES) for minute in range(first, first + length))
    return len(quiet_minutes) == 7 * _DAY_MINUTES
