"""Read a recurrence rule as calendars, libraries and cron services write it: a cron expression, or lines of RFC 5545.

>>> read = read_rule("DTSTART;TZID=Europe/Berlin:20261207T090000\\nRRULE:FREQ=WEEKLY;BYDAY=MO")
>>> read.rrule, read.start, read.zone
('FREQ=WEEKLY;BYDAY=MO', datetime.datetime(2026, 12, 7, 9, 0), 'Europe/Berlin')
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache

from shared.time.cron_text import MAX_QUOTE_CHARS, check_cron
from shared.time.localtime import load_chosen_zone, load_zone, to_utc

#: Longest text of a rule with all its lines, and longest cron expression or RRULE in it, in characters.
MAX_TEXT_CHARS = 4_000
MAX_RULE_CHARS = 500
_NAMES = ("DTSTART", "DTEND", "DURATION", "RRULE", "EXRULE", "RDATE", "EXDATE")
# Lines are also separated by blanks, or by an end of line that was escaped twice. A line that begins with a blank
# continues the one before (RFC 5545, 3.1).
_END = r"(?:\s|\\r|\\n)"
_LINE_START = re.compile(rf"(?:^|{_END}+)(?=(?:{'|'.join(_NAMES)})[;:])|(?:\r|\n|\\n)+(?=[A-Z-]+[;:])", re.IGNORECASE)
_FOLD = re.compile(r"\r?\n[ \t]")
_LINE = re.compile(r'([A-Z-]+)((?:;[^=;:"]+=(?:"[^"]*"|[^;:"]*))*):(.*)', re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(r';([^=;:"]+)=("[^"]*"|[^;:"]*)')
_CRON_ZONE = re.compile(r"(?:CRON_)?TZ=(\S+)\s+(.*)", re.IGNORECASE | re.DOTALL)
_MOMENT = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)(?:[T ](\d\d):?(\d\d)(?::?(\d\d))?(Z|[+-]\d\d:?\d\d)?)?", re.IGNORECASE | re.ASCII
)


@dataclass(frozen=True, slots=True)
class RuleText:
    """The content of a rule's text: a cron expression or an RRULE, and what its other lines add.

    `start` (DTSTART) and the members of `excluded` (EXDATE) are dates, wall times, or instants with the zone UTC.
    `zone` is the IANA name of the zone of `start` or of the cron expression, "" if there is none.
    """

    cron: str = ""
    rrule: str = ""
    start: date | None = None
    zone: str = ""
    excluded: frozenset[date] = frozenset()


@lru_cache(maxsize=256)
def read_rule(text: str) -> RuleText:
    """Return what `text` says; raises `ValueError` with one line. The parts of an RRULE are not checked."""
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"a rule has at most {MAX_TEXT_CHARS} characters with all its lines")
    texts = [_FOLD.sub("", line).strip() for line in _LINE_START.split(text.strip()) if line.strip()]
    if not texts or (len(texts) == 1 and _is_cron(texts[0])):
        return _read_cron("".join(texts))
    lines = [line for line in map(_read_line, texts) if _is_needed(line)]
    rrule = "".join(next((line.value for line in lines if line.name == "RRULE"), "").split()).upper().removesuffix(";")
    starts = [line for line in lines if line.name == "DTSTART"]
    if inner := re.search(r"(?:^|;)DTSTART=([^;]*)", rrule):  # as rrule.js once wrote it
        starts.append(_Line("DTSTART", inner[1]))
        rrule = rrule.replace(inner[0], "").removeprefix(";")
    for name, count in (("DTSTART", len(starts)), ("RRULE", sum(line.name == "RRULE" for line in lines))):
        if count > 1:
            raise ValueError(f"{name} may be written at most once: write a second announcement")
    if not rrule:
        raise ValueError("has no RRULE such as RRULE:FREQ=WEEKLY;BYDAY=MO")
    _check_length(rrule)
    start, zone = _read_start(starts[0]) if starts else (None, "")
    exceptions = [_Line(line.name, each, line.zone) for line in lines if line.name == "EXDATE" for each in line.values]
    return RuleText(
        rrule=rrule, start=start, zone=zone, excluded=frozenset(_read_exception(line, zone) for line in exceptions)
    )


def parse_moment(name: str, text: str) -> date:
    """Return the date, wall time, or instant (in UTC) of an RFC 5545 value, also with the hyphens of ISO 8601.

    `name` is what the error calls it. Raises `ValueError` with one line.
    """
    found = _MOMENT.fullmatch(text.strip())
    try:
        if found:
            return _read_moment(*found.groups())
    except (ValueError, OverflowError):  # no such day, or an offset at the end of the calendar
        pass
    raise ValueError(
        f"{name} must be a date such as 20261231, or one with a time of day such as 20261231T090000, "
        f"not {text[:MAX_QUOTE_CHARS]!r}"
    )


def _read_moment(
    year: str, month: str, day: str, hour: str | None, minute: str, second: str | None, offset: str | None
) -> date:
    if hour is None:
        return date(int(year), int(month), int(day))
    seconds = min(int(second or 0), 59)  # a leap second is 60
    wall = datetime(int(year), int(month), int(day), int(hour), int(minute), seconds)  # noqa: DTZ001 (a wall time)
    return datetime.fromisoformat(f"{wall.isoformat()}{offset.upper()}").astimezone(UTC) if offset else wall


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of RFC 5545, with its TZID."""

    name: str
    value: str
    zone: str = ""

    @property
    def values(self) -> list[str]:
        return [each for each in self.value.split(",") if each.strip()]


def _is_cron(line: str) -> bool:
    return "=" not in _CRON_ZONE.sub(r"\2", line) and not _LINE.fullmatch(line)


def _read_cron(text: str) -> RuleText:
    zone = ""
    if prefixed := _CRON_ZONE.fullmatch(text):
        zone, text = _load_zone_of("TZ", prefixed[1].strip('"')), prefixed[2]
    _check_length(text)
    return RuleText(cron=check_cron(text), zone=zone)


def _read_line(text: str) -> _Line:
    """Return a line; one without a name is the value of an RRULE."""
    if read := _LINE.fullmatch(text):
        parameters = {name.upper(): value.strip('"') for name, value in _PARAMETER.findall(read[2])}
        return _Line(read[1].upper(), read[3].strip(), parameters.get("TZID", ""))
    return _Line("RRULE", text)


def _is_needed(line: _Line) -> bool:
    """Return whether a line says something about a rule; raises `ValueError` for one that is not supported."""
    if line.name in ("RDATE", "EXRULE"):
        raise ValueError(f"{line.name} is not supported: write a second announcement, or dates in skip")
    if line.name in ("DTEND", "DURATION") or (line.name in ("BEGIN", "END") and line.value.upper() == "VEVENT"):
        return False  # an announcement has no length
    if line.name not in _NAMES:
        raise ValueError(f"{line.name[:MAX_QUOTE_CHARS]} is not a line of a rule: write DTSTART, RRULE and EXDATE")
    return True


def _read_start(line: _Line) -> tuple[date, str]:
    """Return the start and its zone, "" if it has none."""
    start = parse_moment("DTSTART", line.value)
    if re.search(r"T.*[+-]", line.value):
        written = repr(line.value[:MAX_QUOTE_CHARS])
        raise ValueError(f"DTSTART is {written}: write the zone as TZID, and the time without offset")
    if isinstance(start, datetime) and start.tzinfo:
        return start, "UTC"
    return start, _load_zone_of("TZID", line.zone) if line.zone else ""


def _read_exception(line: _Line, start_zone: str) -> date:
    """Return an EXDATE: a date, a wall time of the zone of DTSTART, or the instant of a time in another zone."""
    moment = parse_moment("EXDATE", line.value)
    if not line.zone or not isinstance(moment, datetime) or moment.tzinfo:
        return moment
    zone = _load_zone_of("TZID", line.zone)
    try:
        return moment if zone == start_zone else to_utc(moment, load_zone(zone))
    except OverflowError:  # at the end of the calendar, where no rule has an occurrence
        return moment


def _load_zone_of(name: str, text: str) -> str:
    try:
        return load_chosen_zone(text).key
    except ValueError as unknown:
        raise ValueError(f"{name}: {unknown}") from None


def _check_length(rule: str) -> None:
    if len(rule) > MAX_RULE_CHARS:
        raise ValueError(f"a cron expression or RRULE has at most {MAX_RULE_CHARS} characters")
