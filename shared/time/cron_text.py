"""Check a cron expression, and say what to write for the spellings of Quartz, AWS, Azure and Jenkins.

cronsim evaluates the expression. What it would read in another way than the author meant it, such as a step of 90
minutes, is refused here, as is what it does not know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Characters of an expression that an error quotes.
MAX_QUOTE_CHARS = 80
#: Names for whole expressions, as crontab(5) has them.
MACROS = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Field:
    """A field: its name, its numbers, the names of some of them, and the time after which its steps start again."""

    name: str
    first: int
    last: int
    starts_again: str
    names: tuple[str, ...] = ()

    def number(self, text: str) -> int | None:
        """Return the number that a number or a name stands for, or None."""
        if text in self.names:
            return self.first + self.names.index(text)
        if re.fullmatch(r"[0-9]{1,4}", text) and self.first <= int(text) <= self.last:
            return int(text)
        return None


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DAY_OF_MONTH, _DAY_OF_WEEK = _Field("day-of-month", 1, 31, "month"), _Field("day-of-week", 0, 7, "week", _DAYS)
_FIELDS = (
    _Field("minute", 0, 59, "hour"),
    _Field("hour", 0, 23, "day"),
    _DAY_OF_MONTH,
    _Field("month", 1, 12, "year", _MONTHS),
    _DAY_OF_WEEK,
)
_FIVE_FIELDS = "a cron expression of 5 fields, such as 0 9 * * mon-fri"
_LAST_DAY = re.compile(rf"\b({'|'.join(_DAYS)})l\b")
_SPECIAL = {_DAY_OF_MONTH: re.compile("l|lw"), _DAY_OF_WEEK: re.compile("([0-7]|[a-z]{3})#[1-5]|[0-7]l")}


def check_cron(text: str) -> str:
    """Return an expression of 5 fields that cronsim reads as it is meant; raises `ValueError` with one line.

    >>> check_cron("@daily")
    '0 0 * * *'
    """
    expression = " ".join(text.lower().split())
    if wrapped := re.fullmatch(r"cron\((.*)\)", expression):  # AWS
        expression = wrapped[1]
    fields = MACROS.get(expression, expression).split()
    if len(fields) in (6, 7):
        raise ValueError(
            f"{_quote(text)} has {len(fields)} fields: leave out the seconds (Azure, Quartz) and the year (AWS, "
            f"Quartz), and write the minute, hour, day of the month, month and day of the week, such as "
            f"0 9 * * mon-fri, where mon is 1 and sun is 0"
        )
    if len(fields) != len(_FIELDS):
        raise ValueError(f"{_quote(text)} is neither {_FIVE_FIELDS}, nor an RRULE such as FREQ=WEEKLY;BYDAY=MO")
    fields[-1] = _LAST_DAY.sub(lambda found: f"{_DAYS.index(found[1])}l", fields[-1])
    for field, terms in zip(_FIELDS, fields, strict=True):
        for term in terms.split(","):
            if fault := _find_fault(field, term):
                raise ValueError(f"{_quote(text)} is not a cron expression: bad {field.name}: {fault}")
    return " ".join(fields)


def _find_fault(field: _Field, term: str) -> str:
    """Return what is wrong with one term of a field, and what to write; "" if it is valid."""
    if "?" in term:
        return "write * for ?"
    if re.fullmatch(r"h(\([0-9-]*\))?(/[0-9]+)?", term):
        return f"H is a number that Jenkins chooses: write a number, such as {field.first}"
    if (special := _SPECIAL.get(field)) and special.fullmatch(term):
        day = term.partition("#")[0].rstrip("l")
        return "" if field is _DAY_OF_MONTH or field.number(day) is not None else _expect(field, term)
    span, slash, step = term.partition("/")
    if slash and not re.fullmatch(r"0*[1-9][0-9]{0,3}", step):
        return f"the step of {_quote(term)} must be a number from 1 on"
    start, dash, end = span.partition("-")
    if span == "*":
        first, last = field.first, field.last
    else:
        first_number = field.number(start)
        last_number = field.number(end) if dash else field.last if slash else first_number
        if first_number is None or last_number is None:
            return _expect(field, term)
        first, last = first_number, last_number
    if first > last:
        return f"{_quote(term)} runs backwards: write {_split_range(field, start, end)}"
    if slash and int(step) > max(last - first, 1):
        return (
            f"{_quote(term)} is only {first}, since steps start again with each {field.starts_again}: "
            f"write {first}, or a step of at most {max(last - first, 1)}"
        )
    return ""


def _expect(field: _Field, term: str) -> str:
    names = f", or {field.names[0]} to {field.names[-1]}" if field.names else ""
    return f"{_quote(term)} must consist of numbers from {field.first} to {field.last}{names}"


def _split_range(field: _Field, start: str, end: str) -> str:
    """Return a range across the end of a field as two: `fri-mon` is `fri-sat,sun-mon`."""
    by_name = start in field.names
    last = field.names[-1] if by_name else str(6 if field is _DAY_OF_WEEK else field.last)
    first = field.names[0] if by_name else str(field.first)
    return ",".join(one if one == other else f"{one}-{other}" for one, other in ((start, last), (first, end)))


def _quote(text: str) -> str:
    return repr(text if len(text) <= MAX_QUOTE_CHARS else f"{text[:MAX_QUOTE_CHARS]}…")
