"""The time zones that a list offers: one for each Windows zone, with its best known cities."""

from __future__ import annotations

from collections import defaultdict
from datetime import date, datetime, time
from functools import lru_cache

from shared.time.localtime import load_zone

#: Cities in one title.
MAX_CITIES = 3
#: Cities that people look for first; a zone without one of them shows the city of its IANA name.
WELL_KNOWN_CITIES = frozenset((
    "Accra", "Addis_Ababa", "Adelaide", "Algiers", "Amman", "Amsterdam", "Anchorage", "Athens", "Auckland",
    "Baghdad", "Baku", "Bangkok", "Barcelona", "Beirut", "Belgrade", "Berlin", "Bogota", "Brisbane", "Brussels",
    "Bucharest", "Budapest", "Buenos_Aires", "Cairo", "Caracas", "Casablanca", "Chicago", "Copenhagen",
    "Dar_es_Salaam", "Darwin", "Denver", "Detroit", "Dhaka", "Dubai", "Dublin", "Edmonton", "Halifax", "Hanoi",
    "Harare", "Havana", "Helsinki", "Ho_Chi_Minh", "Hobart", "Hong_Kong", "Honolulu", "Istanbul", "Jakarta",
    "Jamaica", "Jerusalem", "Johannesburg", "Kabul", "Kampala", "Karachi", "Kathmandu", "Kolkata", "Kuala_Lumpur",
    "Kuwait", "Kyiv", "La_Paz", "Lagos", "Lima", "Lisbon", "London", "Los_Angeles", "Luanda", "Luxembourg",
    "Madrid", "Managua", "Manaus", "Manila", "Melbourne", "Mexico_City", "Minsk", "Monterrey", "Montevideo",
    "Montreal", "Moscow", "Nairobi", "New_York", "Oslo", "Panama", "Paris", "Perth", "Phoenix", "Prague", "Qatar",
    "Regina", "Riga", "Rio_Branco", "Riyadh", "Rome", "Samara", "Santiago", "Sao_Paulo", "Seoul", "Shanghai",
    "Singapore", "Sofia", "Stockholm", "Sydney", "Taipei", "Tallinn", "Tashkent", "Tbilisi", "Tehran", "Tel_Aviv",
    "Tijuana", "Tokyo", "Toronto", "Tripoli", "Tunis", "Vancouver", "Vienna", "Vilnius", "Warsaw", "Winnipeg",
    "Yangon", "Yekaterinburg", "Yerevan", "Zagreb", "Zurich",
))  # fmt: skip


@lru_cache(maxsize=2)
def list_zone_choices(day: date) -> tuple[tuple[str, str], ...]:
    """Return the IANA name and the title of each zone (`Berlin, Amsterdam, Rome (UTC+01:00)`), by offset on `day`."""
    from tzlocal.windows_tz import tz_win, win_tz

    names = defaultdict(list)
    for name, windows in tz_win.items():
        area, _, city = name.rpartition("/")
        if city in WELL_KNOWN_CITIES and area and not area.startswith(("US", "Etc")):
            names[windows].append(city)
    noon = datetime.combine(day, time(12))
    choices = []
    for windows, name in win_tz.items():
        zone = load_zone(windows)
        first = name.rpartition("/")[2] if not name.startswith("Etc/") else ""
        cities = list(dict.fromkeys(city for city in (zone.key.rpartition("/")[2], *names[windows]) if first))
        offset = noon.replace(tzinfo=zone).strftime("%z")
        shown = f"UTC{offset[:3]}:{offset[3:]}"
        title = f"{', '.join(cities[:MAX_CITIES]).replace('_', ' ')} ({shown})" if cities else shown
        choices.append((noon.replace(tzinfo=zone).utcoffset(), title, zone.key))
    return tuple((key, title) for _, title, key in sorted(choices))
