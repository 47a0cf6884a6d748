"""Parse and format times of day and weekdays as people write them in a chat."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import time

from shared.texts import InputError

#: Short names of the days, in the order of `datetime.weekday()`.
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FULL = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

#: The time of day of what is asked for a day without a time: a digest, the end of a pause.
MORNING = time(9)

EVERY_DAY = frozenset(range(7))
WORKDAYS = frozenset(range(5))
WEEKEND = EVERY_DAY - WORKDAYS

_CLOCK = re.compile(r"([01]?\d|2[0-3])(?:[:.]([0-5]\d))?", re.ASCII)


def parse_time_of_day(text: str) -> time:
    """Return the time of `9:00`, `17.30` or `9`; raises `InputError`."""
    if not (found := _CLOCK.fullmatch(text)):
        raise InputError("timeOfDay", text=text)
    return time(int(found[1]), int(found[2] or 0))


def parse_weekday(text: str) -> int:
    """Return the weekday (Monday is 0) of `mon`, `Mon.` or `Monday`; raises `InputError`."""
    name = text.casefold().rstrip(".")
    for number, full in enumerate(_FULL):
        if len(name) >= 3 and full.startswith(name):
            return number
    raise InputError("weekday", text=text)


def parse_weekdays(text: str) -> frozenset[int]:
    """Return the weekdays of `mon-fri`, `fri-mon`, `sat,sun`, `daily`, `weekdays` or `weekend`; raises `InputError`."""
    named = {"daily": EVERY_DAY, "weekdays": WORKDAYS, "weekend": WEEKEND, "weekends": WEEKEND}
    if (known := named.get(text.casefold())) is not None:
        return known
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        start = parse_weekday(first.strip())
        length = (parse_weekday(last.strip()) - start) % 7 if dash else 0
        days |= {(start + step) % 7 for step in range(length + 1)}
    return frozenset(days)


def format_weekdays(days: Iterable[int]) -> str:
    """Return weekdays as `parse_weekdays` reads them; three or more in a row are a span, also across Sunday."""
    left, spans = set(days), []
    if left == EVERY_DAY:
        return "mon-sun"
    for start in sorted(left):
        if (start - 1) % 7 in left:
            continue
        length = next(step for step in range(1, 8) if (start + step) % 7 not in left)
        row = [DAYS[(start + step) % 7] for step in range(length)]
        spans.append(f"{row[0]}-{row[-1]}" if length > 2 else ",".join(row))
    return ",".join(spans)
