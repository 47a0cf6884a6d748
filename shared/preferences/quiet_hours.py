"""Quiet hours: when a person wants to receive nothing, by local time and weekday.

As in the settings of Teams' mobile apps, hours and whole quiet days leave no gap: after a whole day, quiet lasts until
the quiet hours of the next morning end, if that day has quiet hours over midnight. With `mon-fri 18:00-08:00; sat,sun`
it is quiet from Friday 18:00 to Monday 08:00.
"""

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
_AND_HOURS = re.compile(r"(?<=\d) and | and (?=\d)")
_DAYS_COMMA_HOURS = re.compile(r"([a-z])\s*,\s*(?=\d)")
#: A Monday, for what depends only on the weekday.
_MONDAY = date(2026, 1, 5)


@dataclass(frozen=True, slots=True)
class Span:
    """A span that starts on each of these weekdays (Monday is 0), and ends on the next day unless `end` is later.

    With `start` and `end` at midnight it is the whole day.
    """

    days: frozenset[int]
    start: time = time()
    end: time = time()

    def __str__(self) -> str:
        if self.is_whole_day:
            return format_weekdays(self.days)
        hours = f"{self.start:%H:%M}-{self.end:%H:%M}"
        return hours if self.days == EVERY_DAY else f"{format_weekdays(self.days)} {hours}"

    @property
    def is_whole_day(self) -> bool:
        return self.start == self.end

    @property
    def is_over_midnight(self) -> bool:
        return self.start > self.end


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
        text = _DAYS_COMMA_HOURS.sub(r"\1 ", _AND_HOURS.sub(";", normalize(text)))
        if text == "off":
            return cls()
        parts = text.split(";")
        if len(parts) > MAX_SPANS:
            raise InputError("quiet.parts", count=MAX_SPANS)
        return cls._checked(map(_span, parts))

    @classmethod
    def daily(cls, start: time | None, end: time | None, days: Iterable[int]) -> Self:
        """Return quiet hours from `start` to `end` on every day, if given, and on whole `days`; raises `InputError`."""
        whole_days = frozenset(days)
        spans = [Span(EVERY_DAY, start, end)] if start is not None and end is not None else []
        if spans and start == end:
            raise InputError("quiet.same", text=f"{start:%H:%M}-{end:%H:%M}")
        if whole_days:
            spans.append(Span(whole_days))
        return cls._checked(spans)

    @classmethod
    def _checked(cls, spans: Iterable[Span]) -> Self:
        found = cls(tuple(spans))
        if found._covers_week():
            raise InputError("quiet.week")
        return found

    def as_daily(self) -> tuple[time | None, time | None, frozenset[int]] | None:
        """Return start and end of the quiet hours of every day, and the whole days; None if there is more to them."""
        hours = [span for span in self.spans if not span.is_whole_day]
        whole_days = frozenset(day for span in self.spans if span.is_whole_day for day in span.days)
        if len(hours) > 1 or any(span.days != EVERY_DAY for span in hours):
            return None
        return (hours[0].start, hours[0].end, whole_days) if hours else (None, None, whole_days)

    def __str__(self) -> str:
        return "; ".join(map(str, self.spans)) or "off"

    def spans_on(self, day: date) -> list[tuple[datetime, datetime]]:
        """Return the wall times of the start and the end of each span that starts on this day."""
        next_day = day + timedelta(days=1)
        found = []
        for span in self.spans:
            if day.weekday() in span.days:
                ends = day if span.start < span.end else next_day
                end = self._morning_end(next_day.weekday()) if span.is_whole_day else span.end
                found.append((datetime.combine(day, span.start), datetime.combine(ends, end)))
        return found

    def _morning_end(self, weekday: int) -> time:
        """Return when quiet ends on this day after a whole quiet day: midnight if it has no hours over midnight."""
        ends = [span.end for span in self.spans if span.is_over_midnight and weekday in span.days]
        return max(ends, default=time())

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

    def _covers_week(self) -> bool:
        quiet_minutes: set[int] = set()
        for number in range(7):
            for start, end in self.spans_on(_MONDAY + timedelta(days=number)):
                first = number * _DAY_MINUTES + start.hour * 60 + start.minute
                length = (end - start) // timedelta(minutes=1)
                quiet_minutes.update(minute % (7 * _DAY_MINUTES) for minute in range(first, first + length))
        return len(quiet_minutes) == 7 * _DAY_MINUTES

    def _spans_around(self, day: date) -> Iterable[tuple[datetime, datetime]]:
        # From the day before, when a span may have started, to two weeks later: clocks may skip the only minute of a
        # week that is not quiet.
        days = [day + timedelta(days=number) for number in range(-1, 15)]
        return sorted(span for each in days for span in self.spans_on(each))


def _span(text: str) -> Span:
    match re.sub(r"\s*([,–-])\s*", lambda found: found[1].replace("–", "-"), text.strip()).split():
        case [hours] if hours[0].isdigit():
            return _hours(EVERY_DAY, hours)
        case [hours, days] if hours[0].isdigit():
            return _hours(parse_weekdays(days), hours)
        case [days]:
            return Span(parse_weekdays(days))
        case [days, hours]:
            return _hours(parse_weekdays(days), hours)
    raise InputError("quiet")


def _hours(days: frozenset[int], text: str) -> Span:
    start, dash, end = text.partition("-")
    if not dash or "," in text:
        raise InputError("quiet")
    span = Span(days, parse_time_of_day(start), time() if end == "24:00" else parse_time_of_day(end))
    if span.start == span.end != time():
        raise InputError("quiet.same", text=text)
    return span
