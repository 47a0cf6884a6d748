"""A model of RRULEs by the letter of RFC 5545, independent of dateutil: it tests every day."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from itertools import groupby

WEEKDAYS = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"]


def naive(rule: str, start: datetime, last: date) -> list[datetime]:
    """Return all occurrences until a date."""
    parts = dict(part.split("=") for part in rule.split(";"))
    found = [wall for wall in _walls(parts, start, last) if wall >= start]
    until = parts.get("UNTIL", "99991231")
    return [wall for wall in found if f"{wall:%Y%m%d}" <= until][: int(parts.get("COUNT", len(found)))]


def _walls(parts: Mapping[str, str], start: datetime, last: date) -> Iterator[datetime]:
    hours = sorted(map(int, parts.get("BYHOUR", str(start.hour)).split(",")))
    days = (date(start.year, 1, 1) + timedelta(number - 7) for number in range((last - start.date()).days + 373))
    for period, those in groupby(days, lambda day: _period(parts, day)):
        if (period - _period(parts, start)) % int(parts.get("INTERVAL", 1)) == 0:
            chosen = [day for day in those if _matches(parts, start, day)]
            walls = [datetime.combine(day, time(hour, start.minute)) for day in chosen for hour in hours]
            if "BYSETPOS" in parts:
                positions = {int(position) for position in parts["BYSETPOS"].split(",")}
                walls = [wall for i, wall in enumerate(walls) if i + 1 in positions or i - len(walls) in positions]
            yield from (wall for wall in walls if wall.date() <= last)


def _period(parts: Mapping[str, str], day: date) -> int:
    return {
        "DAILY": day.toordinal(),
        "WEEKLY": (day.toordinal() - 1 - WEEKDAYS.index(parts.get("WKST", "MO"))) // 7,
        "MONTHLY": 12 * day.year + day.month,
        "YEARLY": day.year,
    }[parts["FREQ"]]


def _matches(parts: Mapping[str, str], start: datetime, day: date) -> bool:
    year, month = (date(day.year, 1, 1), date(day.year + 1, 1, 1)), _month(day)
    within = month if parts["FREQ"] == "MONTHLY" or "BYMONTH" in parts else year
    weekday = WEEKDAYS[day.weekday()]
    first, end = ((day - within[0]).days // 7 + 1, -(((within[1] - day).days + 6) // 7))
    is_one_of = {
        "BYMONTH": {str(day.month)},
        "BYMONTHDAY": {str(day.day), str((day - month[1]).days)},
        "BYYEARDAY": {str((day - year[0]).days + 1), str((day - year[1]).days)},
        "BYWEEKNO": _weeks(parts, day),
        "BYDAY": {weekday, f"{first}{weekday}", f"{end}{weekday}"},
    }
    taken = {}
    if is_one_of.keys().isdisjoint(parts.keys() - {"BYMONTH"}):
        taken = {
            "DAILY": {},
            "WEEKLY": {"BYDAY": WEEKDAYS[start.weekday()]},
            "MONTHLY": {"BYMONTHDAY": str(start.day)},
            "YEARLY": {"BYMONTHDAY": str(start.day), "BYMONTH": parts.get("BYMONTH", str(start.month))},
        }[parts["FREQ"]]
    wanted = taken | {name: value for name, value in parts.items() if name in is_one_of}
    return all(not is_one_of[name].isdisjoint(value.split(",")) for name, value in wanted.items())


def _month(day: date) -> tuple[date, date]:
    first = day.replace(day=1)
    return first, (first + timedelta(31)).replace(day=1)


def _weeks(parts: Mapping[str, str], day: date) -> set[str]:
    """Return the number of its week, from the start and from the end of the year in which most of its days lie."""
    into = (day.weekday() - WEEKDAYS.index(parts.get("WKST", "MO"))) % 7
    middle = day + timedelta(3 - into)
    left = (date(middle.year, 12, 31) - middle).days // 7
    return {str((middle - date(middle.year, 1, 1)).days // 7 + 1), str(-left - 1)}
