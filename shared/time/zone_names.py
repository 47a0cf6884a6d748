"""Find the time zone that a person or a system names, and suggest names for a text that is none.

IANA names and data come from the package `tzdata`, Windows names from CLDR's table (`windowsZones.xml`, in `tzlocal`).
`localtime.load_zone` imports this module on its first call, and CLDR's table is read for the first name that is not
IANA's.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from functools import cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from shared.texts import InputError

#: Most zones that an error suggests.
MAX_SUGGESTIONS = 10
#: How similar a misspelt name must be to a suggestion (0 to 1; the ratio of `difflib`).
MIN_SIMILARITY = 0.75
#: Characters of a text that are compared with names.
MAX_NAME_CHARS = 80
#: Characters of a text that may be the name of a zone.
MAX_TEXT_CHARS = 300
#: Windows names that CLDR's table no longer has and that old calendars, Outlook and Graph still send.
LEGACY_WINDOWS_NAMES = {
    "Armenian Standard Time": "Asia/Yerevan",
    "Coordinated Universal Time": "Etc/UTC",
    "Jerusalem Standard Time": "Asia/Jerusalem",
    "Kamchatka Standard Time": "Asia/Kamchatka",
    "Mexico Standard Time": "America/Mexico_City",
    "Mexico Standard Time 2": "America/Mazatlan",
    "Mid-Atlantic Standard Time": "Etc/GMT+2",
    "tzone://Microsoft/Utc": "Etc/UTC",
    "Z": "Etc/UTC",
}
#: IANA names of one offset that people write for a zone with daylight saving time, with that zone and the fixed one.
FIXED_ABBREVIATIONS = {"est": ("America/New_York", "Etc/GMT+5"), "mst": ("America/Denver", "Etc/GMT+7")}
#: Abbreviations that stand for several zones and are not IANA names themselves (EST, MST, CET and EET are).
ABBREVIATIONS = {
    "aest": ["Australia/Sydney", "Australia/Brisbane"],
    "ast": ["America/Halifax", "Asia/Riyadh"],
    "bst": ["Europe/London", "Asia/Dhaka", "Pacific/Bougainville"],
    "cdt": ["America/Chicago", "America/Havana"],
    "cest": ["Europe/Berlin", "Europe/Paris", "Europe/Madrid", "Europe/Rome", "Europe/Warsaw"],
    "cst": ["America/Chicago", "Asia/Shanghai", "America/Havana"],
    "edt": ["America/New_York", "America/Toronto"],
    "eest": ["Europe/Athens", "Europe/Helsinki", "Europe/Kyiv", "Asia/Beirut"],
    "gst": ["Asia/Dubai", "Atlantic/South_Georgia"],
    "ist": ["Asia/Kolkata", "Europe/Dublin", "Asia/Jerusalem"],
    "mdt": ["America/Denver", "America/Edmonton"],
    "pdt": ["America/Los_Angeles", "America/Vancouver"],
    "pst": ["America/Los_Angeles", "Asia/Manila"],
    "sst": ["Pacific/Pago_Pago", "Asia/Singapore"],
    "wst": ["Australia/Perth", "Pacific/Apia"],
}

_OFFSET = re.compile(r"\(?(?:utc|gmt)?\s*([+-])(\d{1,2})(?::?([0-5]\d))?\)?", re.ASCII | re.IGNORECASE)
#: What Outlook, Exchange and Graph call a zone that somebody defined on one computer.
_CUSTOM = re.compile(r"customi[sz]ed time zone( \d+)?|custom( time zone)?|tzone://microsoft/custom", re.IGNORECASE)
#: A zone by its rules (POSIX, environment variable TZ), such as CET-1CEST,M3.5.0,M10.5.0/3.
_POSIX = re.compile(
    r"(?:[a-z]{3,6}|<[+-]?\w{1,6}>)[+-]?\d{1,2}(?::\d\d)*(?:(?:[a-z]{3,6}|<[+-]?\w{1,6}>)[\d:+-]*(?:,[mj\d./:+,-]*)?)?",
    re.IGNORECASE | re.ASCII,
)
_WINDOWS_SUFFIX = re.compile(r"(_(standard|daylight|summer))?_time$")


def find_zone(text: str) -> str | None:
    """Return the IANA name for an IANA or Windows name or a city, in any case, with blanks or underscores.

    A Windows name may be that of summer (W. Europe Daylight Time). An IANA name may follow a colon, as in the
    environment variable TZ, or a path, as in files (/usr/share/zoneinfo/Europe/Berlin) and old calendars. None for
    other texts, and for a city that stands for several zones.
    """
    folded = _fold(text[:MAX_TEXT_CHARS])
    if folded.startswith((":", "/")):
        parts = folded.removeprefix(":").split("/")
        names = ("/".join(parts[start:]) for start in range(max(len(parts) - 3, 0), len(parts) - 1))
        return next((zone for name in names if (zone := _iana_names().get(name))), None)
    return (
        _iana_names().get(folded)
        or _windows_names().get(folded)
        or _windows_names().get(folded.replace("_daylight_time", "_standard_time"))
        or _cities().get(folded)
    )


def find_fixed_abbreviation(text: str) -> tuple[str, str] | None:
    """Return the zone with daylight saving time, and the fixed one, that `EST` or `MST` may mean; else None."""
    return FIXED_ABBREVIATIONS.get(_fold(text[:MAX_TEXT_CHARS]))


@cache
def load_iana_zone(name: str) -> ZoneInfo:
    """Return the zone of an IANA name, with the data of the package `tzdata`.

    `ZoneInfo(name)` prefers the machine's data, which may be years out of date and differ between instances. The lock
    file pins the version of the package.
    """
    with files("tzdata").joinpath("zoneinfo", name).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


def explain_unknown_zone(text: str) -> InputError:
    """Return the error that says what to write instead of a text that `find_zone` does not know."""
    name = " ".join(text[:MAX_NAME_CHARS].split())
    if _CUSTOM.fullmatch(name):
        return InputError("zone.custom", text=name)
    if offset := _OFFSET.fullmatch(text.strip().replace("−", "-")):
        fixed = _fixed_zone(*offset.groups())
        return InputError("zone.offset.fixed", text=name, zone=fixed) if fixed else InputError("zone.offset", text=name)
    if suggestions := (suggest_zones_of_rule(name) or suggest_zones(text)):
        *others, last = suggestions
        if others:
            return InputError("zone.suggestions", text=name, zones=", ".join(others), last=last)
        return InputError("zone.suggestion", text=name, zone=last)
    return InputError("zone", text=name)


def suggest_zones(text: str) -> list[str]:
    """Return the IANA names that a city, an abbreviation or a misspelt name may mean, the likeliest first."""
    from difflib import get_close_matches

    text = text[:MAX_NAME_CHARS]
    zones = _zones_by_key()
    parts = (text, *re.split(r"[,;()]", text))  # Windows shows "(UTC+01:00) Amsterdam, Berlin, Bern, Rome"
    keys = [key for part in parts if (key := _key(part)) in zones]
    keys = keys or get_close_matches(_key(text), zones, n=3, cutoff=MIN_SIMILARITY)
    found = dict.fromkeys(zone for key in keys for zone in zones[key] if zone.casefold() not in FIXED_ABBREVIATIONS)
    return list(found)[:MAX_SUGGESTIONS]


def suggest_zones_of_rule(text: str) -> list[str]:
    """Return IANA names of well-known zones that have the rules of a POSIX zone (CET-1CEST,M3.5.0,M10.5.0/3)."""
    if not _POSIX.fullmatch(text):
        return []
    rules = text.casefold()
    found = (zone for rule, zones in _zones_by_rule().items() if f"{rule},".startswith(f"{rules},") for zone in zones)
    return list(dict.fromkeys(found))[:MAX_SUGGESTIONS]


@cache
def _zones_by_rule() -> dict[str, list[str]]:
    """Map the rules in the last line of each zone's data (RFC 8536, 3.3) to the zones that Windows names stand for."""
    zones = defaultdict(list)
    for zone in sorted(set(_windows_names().values())):
        data = files("tzdata").joinpath("zoneinfo", zone).read_bytes()
        zones[data.rstrip(b"\n").rpartition(b"\n")[2].decode("ascii", "replace").casefold()].append(zone)
    return zones


def _fixed_zone(sign: str, hours: str, minutes: str | None) -> str:
    """Return the zone of a fixed offset, "" if there is none. The signs of these IANA names are reversed."""
    name = f"Etc/GMT{'-' if sign == '+' else '+'}{int(hours)}"
    return name if not int(minutes or 0) and _fold(name) in _iana_names() else ""


def _fold(text: str) -> str:
    if not text.isascii():
        text = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return "_".join(text.casefold().split())


def _key(text: str) -> str:
    """Return a name as suggestions compare it: "Pacific Time" and "Pacific Standard Time" are one."""
    return _WINDOWS_SUFFIX.sub("", _fold(text))


def _read_table(name: str) -> str:
    return files("tzdata").joinpath(name).read_text(encoding="utf-8")


@cache
def _iana_names() -> dict[str, str]:
    return {_fold(name): name for name in _read_table("zones").split() if name != "Factory"}


@cache
def _renamed_zones() -> dict[str, str]:
    """Map former names (Europe/Kiev) to present ones, those of `zone.tab`."""
    rows = (line.split("\t") for line in _read_table("zoneinfo/zone.tab").splitlines() if not line.startswith("#"))
    present = {row[2] for row in rows}
    links = (line.split() for line in _read_table("zoneinfo/tzdata.zi").splitlines() if line.startswith("L "))
    return {old: new for _, new, old in links if new in present and old not in present}


@cache
def _windows_names() -> dict[str, str]:
    from tzlocal.windows_tz import win_tz

    # CLDR keeps the oldest name of a zone (Europe/Kiev); people know the present one.
    return {_fold(name): _renamed_zones().get(zone, zone) for name, zone in (LEGACY_WINDOWS_NAMES | win_tz).items()}


@cache
def _cities() -> dict[str, str]:
    """Map the last part of IANA names to the zone, if it is one zone by its present name."""
    zones = defaultdict(set)
    for name in _iana_names().values():
        area, slash, city = name.rpartition("/")
        if slash and not area.startswith(("Etc", "US", "Canada", "Brazil", "Chile", "Mexico")):
            zones[_fold(city)].add(_renamed_zones().get(name, name))
    return {city: names.pop() for city, names in zones.items() if len(names) == 1}


@cache
def _zones_by_key() -> dict[str, list[str]]:
    """Map the keys of cities, IANA and Windows names, and abbreviations to zones."""
    zones = defaultdict(list, {key: list(names) for key, names in ABBREVIATIONS.items()})
    for name, zone in _windows_names().items():
        for key in (_key(name), name):  # the whole name too, for one whose end is misspelt
            zones[key].append(zone)
    for name in _iana_names().values():
        zones[_key(name)].append(name)
        if not name.startswith("Etc/"):
            zones[_key(name.rpartition("/")[2])].append(_renamed_zones().get(name, name))
    return zones
