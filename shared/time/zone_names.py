"""Find the time zone that a person or a system means, and suggest names where there is none.

IANA's names are those of the package `tzdata`; Windows' names go by CLDR's table (`windowsZones.xml`, in `tzlocal`).
This module is loaded when the first zone is looked up, and CLDR's table when a name is none of IANA's.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from itertools import chain
from zoneinfo import ZoneInfo

#: Most zones that an answer suggests.
SUGGESTIONS = 10
#: Most zones for each season that an answer to an offset names.
A_SEASON = 3
#: How alike a misspelt name must be to what it suggests (0 to 1; the ratio of `difflib`).
MIN_LIKENESS = 0.75
#: Longest text that is compared with names, in characters.
MAX_NAME_CHARS = 80
#: Names that CLDR's table does not have (any more), and that old calendars, Outlook and Graph still tell.
LEGACY = {
    "Armenian Standard Time": "Asia/Yerevan",
    "Coordinated Universal Time": "Etc/UTC",
    "Jerusalem Standard Time": "Asia/Jerusalem",
    "Kamchatka Standard Time": "Asia/Kamchatka",
    "Mexico Standard Time": "America/Mexico_City",
    "Mexico Standard Time 2": "America/Mazatlan",
    "Mid-Atlantic Standard Time": "Etc/GMT+2",
    "tzone://Microsoft/Utc": "Etc/UTC",
}
#: Countries by what people call them, beside ISO 3166's codes and names.
COUNTRIES = [("GB", "UK"), ("GB", "England"), ("GB", "Great Britain"), ("US", "USA"), ("US", "America")]

_OFFSET = re.compile(r"(?:utc|gmt)?\s*([+-])(\d{1,2})(?::?([0-5]\d))?", re.ASCII | re.IGNORECASE)


class UnknownZone(ValueError):
    """A text that names no time zone; the message answers helpfully, `suggestions` are the zones that fit."""

    def __init__(self, message: str, suggestions: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.suggestions = tuple(suggestions)


def find_zone(text: str) -> str | None:
    """The IANA name that `text` is: an IANA name or a Windows one, in any case, with blanks for underscores."""
    folded = _folded(text)
    return _iana().get(folded) or _windows().get(folded)


@cache
def load_iana_zone(name: str) -> ZoneInfo:
    """The zone of an IANA name, by the package's data and not the machine's.

    What `ZoneInfo(name)` finds depends on the machine, whose data may be years behind the laws and differ between
    instances; the package's version is in the lock file.
    """
    with files("tzdata").joinpath("zoneinfo", name).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


def unknown(text: str) -> UnknownZone:
    """What to answer to a text that `find_zone` does not know: a city, a country, an offset, or something misspelt."""
    shown = f"{text[:MAX_NAME_CHARS]!r} is no IANA time zone and no Windows one"
    if offset := _OFFSET.fullmatch(text.strip().replace("−", "-")):
        return _at_offset(shown, *offset.groups())
    if found := list(dict.fromkeys(_meant(text[:MAX_NAME_CHARS])))[:SUGGESTIONS]:
        *others, last = found
        choice = f"{', '.join(others)} or {last}" if others else last
        return UnknownZone(f"{shown}; did you mean {choice}?", found)
    return UnknownZone(f"{shown}, such as Europe/Berlin or W. Europe Standard Time")


def _folded(text: str) -> str:
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))
    return "_".join(plain.casefold().split())


def _essence(text: str) -> str:
    return re.sub(r"(_(standard|daylight|summer))?_time$", "", _folded(text))


def _table(name: str) -> str:
    return files("tzdata").joinpath(name).read_text(encoding="utf-8")


@cache
def _iana() -> dict[str, str]:
    return {_folded(name): name for name in _table("zones").split() if name != "Factory"}


@cache
def _current() -> dict[str, list[str]]:
    """The zones that each country (by its code) uses, by their present names."""
    zones = defaultdict(list)
    for line in _table("zoneinfo/zone.tab").splitlines():
        if not line.startswith("#"):
            code, _, name, *_ = line.split("\t")
            zones[code].append(name)
    return zones


@cache
def _renamed() -> dict[str, str]:
    links = (line.split() for line in _table("zoneinfo/tzdata.zi").splitlines() if line.startswith("L "))
    present = set(chain.from_iterable(_current().values()))
    return {old: new for _, new, old in links if new in present and old not in present}


@cache
def _windows() -> dict[str, str]:
    from tzlocal.windows_tz import win_tz

    # CLDR keeps the oldest name of a place (Europe/Kiev); people know it by the one it has now.
    return {_folded(name): _renamed().get(zone, zone) for name, zone in (LEGACY | win_tz).items()}


@cache
def _by_use() -> dict[str, int]:
    """One zone for each Windows name, with its rank: first those whose Windows name stands for the most IANA zones."""
    from tzlocal.windows_tz import tz_win

    use = Counter(_folded(name) for name in tz_win.values())
    zones = (_windows()[name] for name in sorted(_windows(), key=lambda name: -use[name]))
    return {zone: rank for rank, zone in enumerate(zones) if not zone.startswith("Etc/")}


def _seasons(name: str) -> tuple[datetime, datetime]:
    year, zone = datetime.now(UTC).year, load_iana_zone(name)
    january, july = (datetime(year, month, 1, tzinfo=zone) for month in (1, 7))
    winter_first = (january.utcoffset() or timedelta()) <= (july.utcoffset() or timedelta())
    return (january, july) if winter_first else (july, january)


@cache
def _meanings() -> dict[str, list[str]]:
    """The zones that a text may mean, by its essence: a name or the last part of it, a country, an abbreviation."""
    meanings = defaultdict(list)
    for name in (*chain.from_iterable(_current().values()), *_iana().values()):
        city = _essence(name.rpartition("/")[2])
        if not name.startswith("Etc/") and not (city in meanings and name in _renamed()):
            meanings[city].append(name)
        meanings[_essence(name)].append(name)
    for name, zone in _windows().items():
        for spelling in (_essence(name), name):  # the whole name helps a person who has misspelt its end
            meanings[spelling].append(zone)
    countries = (line.split("\t") for line in _table("zoneinfo/iso3166.tab").splitlines() if line[0] != "#")
    for code, country in chain(countries, COUNTRIES):
        zones = sorted(_current()[code], key=lambda zone: _by_use().get(zone, len(_iana())))
        for spelling in (code, country.partition(" (")[0]):
            meanings[_essence(spelling)] += zones
    for name in _by_use():
        for season in _seasons(name):
            meanings[_essence(str(season.tzname()))].append(name)
    return meanings


def _meant(text: str) -> Iterable[str]:
    from difflib import get_close_matches

    meanings = _meanings()
    parts = (text, *re.split(r"[,;()]", text))  # Windows shows "(UTC+01:00) Amsterdam, Berlin, Bern, Rome"
    exact = [essence for part in parts if (essence := _essence(part)) in meanings]
    alike = exact or get_close_matches(_essence(text), meanings, n=3, cutoff=MIN_LIKENESS)
    return chain.from_iterable(meanings[each] for each in alike)


def _at_offset(shown: str, sign: str, hours: str, minutes: str | None) -> UnknownZone:
    size = timedelta(hours=int(hours), minutes=int(minutes or 0))
    offset = -size if sign == "-" else size
    seasons: dict[str, list[str]] = {}
    for names in (_by_use(), chain.from_iterable(_current().values()), filter(_is_fixed, _iana().values())):
        seasons = _with_offset(names, offset)
        if any(seasons.values()):
            break
    found = {season: names[:A_SEASON] for season, names in seasons.items() if names}
    told = "; ".join(f"{season} {', '.join(names)}" for season, names in found.items())
    zones = f"; zones with it: {told}" if told else ", and no zone has it"
    message = f"{shown} but an offset, which knows no daylight saving time{zones}"
    return UnknownZone(message, [name for names in found.values() for name in names])


def _with_offset(names: Iterable[str], offset: timedelta) -> dict[str, list[str]]:
    """Those whose clocks are so far from UTC, by when they are."""
    seasons: dict[str, list[str]] = {"all year": [], "in winter": [], "in summer": []}
    for name in names:
        winter, summer = (season.utcoffset() for season in _seasons(name))
        if winter == summer == offset and _is_constant(name):
            seasons["all year"].append(name)
        elif winter == offset != summer:
            seasons["in winter"].append(name)
        elif summer == offset != winter:
            seasons["in summer"].append(name)
    return seasons


def _is_constant(name: str) -> bool:
    """Whether its clocks do not change in this year, be it for Ramadan alone."""
    year, zone = datetime.now(UTC).year, load_iana_zone(name)
    return len({datetime(year, month, 1, tzinfo=zone).utcoffset() for month in range(1, 13)}) == 1


def _is_fixed(name: str) -> bool:
    return name.startswith("Etc/GMT")
