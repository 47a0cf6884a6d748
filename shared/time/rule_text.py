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
    """What the text of a rule says: a cron expression or an RRULE, and what its other lines add.

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
    lines = [_FOLD.sub("", line).strip() for line in _LINE_START.split(text.strip()) if line.strip()]
    if not lines or (len(lines) == 1 and _is_cron(lines[0])):
        return _read_cron("".join(lines))
    found, zone, exceptions = dict[str, str](), "", list[tuple[str, str]]()
    start: date | None = None
    for name, parameters, value in map(_read_line, lines):
        if name in ("DTEND", "DURATION") or (name in ("BEGIN", "END") and value.upper() == "VEVENT"):
            continue  # an announcement has no length
        if name in ("RDATE", "EXRULE"):
            raise ValueError(f"{name} is not supported: write a second announcement, or dates in skip")
        if name == "EXDATE":
            exceptions += [(each, parameters.get("TZID", "")) for each in value.split(",") if each.strip()]
            continue
        if name not in _NAMES:
            raise ValueError(f"{name[:MAX_QUOTE_CHARS]} is not a line of a rule: write DTSTART, RRULE and EXDATE")
        if name in found:
            raise ValueError(f"{name} may be written at most once: write a second announcement")
        found[name] = value
        if name == "DTSTART":
            start, zone = _read_start(value, parameters.get("TZID", ""))
    rrule = "".join(found.get("RRULE", "").split()).upper().removesuffix(";")
    if not rrule:
        raise ValueError("has no RRULE such as RRULE:FREQ=WEEKLY;BYDAY=MO")
    if inner := re.search(r"(?:^|;)DTSTART=([^;]*)", rrule):  # as rrule.js once wrote it
        if start is not None:
            raise ValueError("DTSTART may be written at most once")
        start, zone = _read_start(inner[1], "")
        rrule = rrule.replace(inner[0], "").removeprefix(";")
    _check_length(rrule)
    excluded = frozenset(_read_exception(value, zone_name, zone) for value, zone_name in exceptions)
    return RuleText(rrule=rrule, start=start, zone=zone, excluded=excluded)


def parse_moment(name: str, text: str) -> date:
    """Return the date, wall time, or instant (in UTC) of an RFC 5545 value, also with the hyphens of ISO 8601.

    `name` is what the error calls it. Raises `ValueError` with one line.
    """
    try:
        year, month, day, hour, minute, second, offset = _MOMENT.fullmatch(text.strip()).groups()  # type: ignore[union-attr]
        if hour is None:
            return date(int(year), int(month), int(day))
        wall = datetime(int(year), int(month), int(day), int(hour), int(minute), min(int(second or 0), 59))  # noqa: DTZ001
        if not offset:
            return wall
        return datetime.fromisoformat(f"{wall.isoformat()}{offset.upper()}").astimezone(UTC)
    except (AttributeError, ValueError, OverflowError):
        raise ValueError(
            f"{name} must be a date such as 20261231, or one with a time of day such as 20261231T090000, "
            f"not {text[:MAX_QUOTE_CHARS]!r}"
        ) from None


def _is_cron(line: str) -> bool:
    return "=" not in _CRON_ZONE.sub(r"\2", line) and not _LINE.fullmatch(line)


def _read_cron(text: str) -> RuleText:
    zone = ""
    if prefixed := _CRON_ZONE.fullmatch(text):
        zone, text = _load_zone_of("TZ", prefixed[1].strip('"')), prefixed[2]
    _check_length(text)
    return RuleText(cron=check_cron(text), zone=zone)


def _read_line(line: str) -> tuple[str, dict[str, str], str]:
    """Return the name, the parameters and the value of a line; a line without a name is the value of an RRULE."""
    if read := _LINE.fullmatch(line):
        parameters = {name.upper(): value.strip('"') for name, value in _PARAMETER.findall(read[2])}
        return read[1].upper(), parameters, read[3].strip()
    return "RRULE", {}, line


def _read_start(value: str, zone_name: str) -> tuple[date, str]:
    start = parse_moment("DTSTART", value)
    if re.search(r"T.*[+-]", value):
        raise ValueError(f"DTSTART is {value[:MAX_QUOTE_CHARS]!r}: write the zone as TZID, and the time without offset")
    if isinstance(start, datetime) and start.tzinfo:
        return start, "UTC"
    return start, _load_zone_of("TZID", zone_name) if zone_name else ""


def _read_exception(value: str, zone_name: str, start_zone: str) -> date:
    """Return an EXDATE: a date, a wall time of the zone of DTSTART, or the instant of a time in another zone."""
    moment = parse_moment("EXDATE", value)
    if not zone_name or not isinstance(moment, datetime) or moment.tzinfo:
        return moment
    zone = _load_zone_of("TZID", zone_name)
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
