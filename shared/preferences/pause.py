"""Parse a pause (`2h`, `until 14:00`, `until monday`, `tomorrow`) into the instant at which it ends."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from shared.texts import InputError
from shared.time.localtime import second_utc, to_utc, to_wall_time
from shared.time.spellings import normalize
from shared.time.times_of_day import MORNING, parse_time_of_day, parse_weekday

#: Longest pause.
MAX_PAUSE = timedelta(days=366)

_DAY = timedelta(days=1)
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": _DAY, "w": 7 * _DAY}
_LENGTH = re.compile(r"(?:for )?([1-9]\d{0,4}) ?(m|min|minutes?|h|hours?|d|days?|w|weeks?)", re.ASCII)


def parse_pause(text: str, now: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant (UTC) at which the pause ends that a person in `zone` asks for at `now`.

    Minutes and hours are elapsed time; days and weeks end at the same time of day, also across a clock change. A
    weekday is the next one after today. Other spellings are those of `shared.time.spellings`. Raises `InputError`.
    """
    words, local_now = normalize(text), to_wall_time(now, zone)
    if length := _LENGTH.fullmatch(words):
        unit = length[2][0]
        duration = int(length[1]) * _UNITS[unit]
        _check_length(duration)
        return now.astimezone(UTC) + duration if unit in "mh" else to_utc(local_now + duration, zone)
    day, at = _day_and_time(words, local_now)
    wall = datetime.combine(day, at)
    _check_length(wall - local_now)
    # During the second of two repeated hours, a later time of that hour means its second occurrence.
    instants = (to_utc(wall, zone), second_utc(wall, zone)) if wall > local_now else ()
    if (end := next((instant for instant in instants if instant and instant > now), None)) is None:
        raise InputError("pause.past", text=text)
    return end


def _check_length(length: timedelta) -> None:
    if length > MAX_PAUSE:
        raise InputError("pause.long", days=MAX_PAUSE.days)


def _day_and_time(words: str, local_now: datetime) -> tuple[date, time]:
    match words.removeprefix("until ").split():
        case [at] if at[0].isdigit() and "-" not in at:
            if not {":", "."} & set(at) and not words.startswith("until "):  # a number of hours, or a time of day?
                raise InputError("pause")
            later = parse_time_of_day(at) > local_now.time()
            return local_now.date() if later else local_now.date() + _DAY, parse_time_of_day(at)
        case [day]:
            return _day(day, local_now.date()), MORNING
        case [day, at]:
            return _day(day, local_now.date()), parse_time_of_day(at)
    raise InputError("pause")


def _day(text: str, today: date) -> date:
    if text in ("today", "tomorrow"):
        return today + (text == "tomorrow") * _DAY
    if text[0].isdigit():
        try:
            return date.fromisoformat(text)
        except ValueError:
            raise InputError("date", text=text) from None
    try:
        return today + ((parse_weekday(text) - today.weekday()) % 7 or 7) * _DAY
    except ValueError:
        raise InputError("pause") from None
