"""Parse how long a pause lasts (`2h`, `until 14:00`, `until monday`, `tomorrow`) into an instant."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from shared.time.localtime import second_utc, to_utc, to_wall_time
from shared.time.times_of_day import clock, weekday

#: When a pause ends that names a day and no time of it: nobody wants at midnight what was held.
MORNING = time(9)
#: Longest pause.
MAX_PAUSE = timedelta(days=366)
#: How a pause is written, as a refusal says it.
FORMS = "2h, 30m, 3d, tomorrow, until 14:00, until monday, until 2026-12-24, or until 2026-12-24 09:00"

_DAY = timedelta(days=1)
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": _DAY, "w": 7 * _DAY}
_LENGTH = re.compile(r"(?:for )?([1-9]\d{0,4}) ?(m|min|minutes?|h|hours?|d|days?|w|weeks?)", re.ASCII)


def pause_until(text: str, now: datetime, zone: ZoneInfo) -> datetime:
    """The instant (UTC) at which a pause ends that a person in `zone` asks for at `now`.

    Minutes and hours are counted as they pass, days and weeks on the calendar: the same time of day, whatever
    the clocks do. A day of the week is the next one after today. Raises `ValueError` with one line.
    """
    words, here = " ".join(text.casefold().split()), to_wall_time(now, zone)
    if length := _LENGTH.fullmatch(words):
        unit = length[2][0]
        passed = int(length[1]) * _UNITS[unit]
        _refuse_long(passed)
        return now.astimezone(UTC) + passed if unit in "mh" else to_utc(here + passed, zone)
    day, at = _day_and_time(words.removeprefix("until "), here)
    wall = datetime.combine(day, at)
    _refuse_long(wall - here)
    # From the second showing of an hour, a later time in it is meant as clocks will show it next.
    shows = (to_utc(wall, zone), second_utc(wall, zone)) if wall > here else ()
    if (ends := next((at for at in shows if at and at > now), None)) is None:
        raise ValueError(f"{text!r} has passed")
    return ends


def _refuse_long(length: timedelta) -> None:
    if length > MAX_PAUSE:
        raise ValueError(f"a pause lasts at most {MAX_PAUSE.days} days; stop switches notifications off")


def _day_and_time(words: str, here: datetime) -> tuple[date, time]:
    match words.split():
        case [at] if at[0].isdigit() and "-" not in at:
            if not {":", "."} & set(at):
                raise ValueError(f"a pause is {FORMS}")
            later = clock(at) > here.time()
            return here.date() if later else here.date() + _DAY, clock(at)
        case [day]:
            return _day(day, here.date()), MORNING
        case [day, at]:
            return _day(day, here.date()), clock(at)
    raise ValueError(f"a pause is {FORMS}")


def _day(text: str, today: date) -> date:
    if text == "tomorrow":
        return today + _DAY
    if text[0].isdigit():
        try:
            return date.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{text!r} is no date, such as 2026-12-24") from None
    try:
        return today + ((weekday(text) - today.weekday()) % 7 or 7) * _DAY
    except ValueError:
        raise ValueError(f"a pause is {FORMS}") from None
