"""Preview a recurring announcement: `python -m timer_digest.preview FILE --zone Europe/Berlin`.

It prints the next times at which people in each zone get it. With `--person` the zone is the one that the app knows of
a person, read from the storage of `AzureWebJobsStorage`. A wrong argument is answered with one line and exit code 2.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import NoReturn
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
from azure.core.exceptions import AzureError

from shared.announcements import occurrences, recipient_occurrences, zone_name_of
from shared.contract.decoding import decode_json
from shared.contract.faults import MessageRefused
from shared.contract.models import RECIPIENT, Announcement, Command
from shared.contract.parsing import parse_message
from shared.records import ConversationReference
from shared.settings import Settings, load_settings
from shared.states import ReferenceKind, SettingsError
from shared.storage.clients import open_storage
from shared.storage.conversations import Conversations
from shared.storage.table import Table
from shared.time.localtime import load_zone, to_wall_time
from shared.time.recurrence import YEARS, Occurrence

#: Limit of `--count`, the times that are printed for each zone.
MAX_TIMES = 1000


def preview(
    announcement: Announcement, zones: Sequence[str], count: int, after: datetime, default_zone: str = "UTC"
) -> dict[str, list[Occurrence]]:
    """Return for each of `zones` the next `count` times after an instant at which people there get the announcement.

    The wall time of each is the one in that zone; its note says if a clock change moves it.
    """
    own = zone_name_of(announcement) or default_zone
    found = {
        name: _local_times(announcement, name, after)
        if own == RECIPIENT
        else _times_elsewhere(announcement, own, name, after)
        for name in zones
    }
    return {name: list(islice(times, count)) for name, times in found.items()}


def _local_times(announcement: Announcement, name: str, after: datetime) -> Iterator[Occurrence]:
    """Yield the times in a zone of an announcement that each recipient gets at their local time."""
    zone = load_zone(name)
    for occurrence in recipient_occurrences(announcement, after, zone):
        yield Occurrence(to_wall_time(occurrence.at, zone), occurrence.at, occurrence.note)


def _times_elsewhere(announcement: Announcement, own: str, name: str, after: datetime) -> Iterator[Occurrence]:
    """Yield the times in the zone `name` of an announcement that goes out in the zone `own`."""
    zone, home, previous = load_zone(name), load_zone(own), None
    for occurrence in occurrences(announcement, after, home):
        wall, notes = to_wall_time(occurrence.at, zone), []
        if occurrence.note:
            notes.append(occurrence.note if zone == home else f"in {home.key} {occurrence.note}")
        if previous and zone != home:
            shift = (wall - occurrence.wall) - (to_wall_time(previous.at, zone) - previous.wall)
            if shift:
                changed = [each.key for each in (zone, home) if _offset(previous, each) != _offset(occurrence, each)]
                # If neither offset changed, the previous occurrence was moved to the end of a gap.
                notes.append(f"{_describe_shift(shift)}: the clocks changed in {' and '.join(changed or [home.key])}")
        previous = occurrence
        yield Occurrence(wall, occurrence.at, "; ".join(notes))


def _offset(occurrence: Occurrence, zone: ZoneInfo) -> timedelta | None:
    return occurrence.at.astimezone(zone).utcoffset()


def _describe_shift(shift: timedelta) -> str:
    minutes = round(abs(shift).total_seconds() / 60)
    return f"{minutes} minutes {'later' if shift > timedelta() else 'earlier'} than before"


async def load_references(
    people: Sequence[str], settings: Settings, tenant: str
) -> dict[str, ConversationReference | None]:
    """Return the stored reference of each of these people (Entra object ids), None for those who have none."""
    queues, tables = open_storage()
    async with queues, tables:
        conversations = Conversations(Table(tables.get_table_client(f"{settings.table_prefix}Conversations")))
        return {person: await conversations.get(tenant, ReferenceKind.USER, person.lower()) for person in people}


def missing_zone_note(person: str, known: ConversationReference | None, default_zone: str) -> str:
    """Return one line that says why the default zone applies to a person, "" if their own zone is known."""
    if known and (known.preferences.time_zone or known.time_zone):
        return ""
    why = "has no time zone" if known else "is unknown to Herald"
    return f"{person} {why}: {default_zone} is used (HERALD_DEFAULT_TIME_ZONE)"


def format_times(found: Mapping[str, Sequence[Occurrence]], people: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines to print for the result of `preview`; `people` maps each person to their zone."""
    for name, times in found.items():
        residents = [person for person, zone in people.items() if zone == name]
        yield f"{name}: {', '.join(residents)}" if residents else name
        for each in times:
            yield f"  {each.wall:%a %Y-%m-%d %H:%M}  {each.at:%Y-%m-%dT%H:%MZ}  {each.note}".rstrip()
        if not times:
            yield "  no more occurrences"


def _announcement(body: bytes) -> Announcement:
    """Return the announcement in `body`, in its command or alone; raises `MessageRefused`."""
    value = decode_json(body)
    if isinstance(value, dict) and "rule" in value:
        body = orjson.dumps({"command": "schedule", "target": {"schedule": "preview"}, "announcement": value})
    command = parse_message(body)
    if not isinstance(command, Command) or command.announcement is None:
        raise MessageRefused("invalid", [])
    return command.announcement


def _as_development(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the environment of a development machine, where settings are valid without an app id."""
    hosted = ("WEBSITE_SITE_NAME", "CONTAINER_NAME")
    kept = {name: value for name, value in environ.items() if name.upper() not in hosted}
    return kept | {"AZURE_FUNCTIONS_ENVIRONMENT": "Development"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_TIMES:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {MAX_TIMES}, not {text!r}")
    return int(text)


def _object_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an Entra object id (a UUID), not {text!r}") from None


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        examples = "2027-03-27, 2027-03-27T18:00 (both in UTC) or 2027-03-27T18:00+01:00"
        raise argparse.ArgumentTypeError(f"must be a date or time such as {examples}, not {text!r}") from None
    if not YEARS[0] <= at.year <= YEARS[1]:
        raise argparse.ArgumentTypeError(f"must be in the years {YEARS[0]} to {YEARS[1]}")
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the times and return the exit code: 1 if the file has no valid announcement, 2 for other errors."""
    description = "Show the next times at which people get a recurring announcement."
    parser = _Parser(prog="python -m timer_digest.preview", description=description)
    parser.add_argument("file", type=Path, help="JSON file with the command `schedule` or only its announcement")
    parser.add_argument("--count", type=_count, default=5, help="number of times for each zone (default: 5)")
    parser.add_argument("--zone", action="append", default=[], help="IANA or Windows time zone; may be repeated")
    person_help = "Entra object id of a person whose zone is looked up; may be repeated"
    parser.add_argument("--person", type=_object_id, action="append", default=[], help=person_help)
    parser.add_argument("--tenant", help="tenant of these people, if HERALD_ALLOWED_TENANTS lists several")
    after_help = "start time in ISO 8601, in UTC unless it has an offset (default: now)"
    parser.add_argument("--after", type=_instant, help=after_help)
    options = parser.parse_args(arguments)
    default_zone = os.environ.get("HERALD_DEFAULT_TIME_ZONE") or "UTC"
    people, notes = {}, []
    try:
        announcement = _announcement(options.file.read_bytes())
        own = zone_name_of(announcement) or default_zone
        if options.person:
            settings = load_settings(_as_development(os.environ))
            tenant = options.tenant or (min(settings.tenants) if len(settings.tenants) == 1 else "")
            if not tenant:
                parser.error("--tenant is required: HERALD_ALLOWED_TENANTS lists several tenants or none")
            for person, known in asyncio.run(load_references(options.person, settings, tenant.lower())).items():
                people[person] = known.zone(settings.default_time_zone).key if known else settings.default_time_zone
                if note := missing_zone_note(person, known, settings.default_time_zone):
                    notes.append(note)
        zones = list(dict.fromkeys([*options.zone, *people.values()]))
        zones = zones or [default_zone if own == RECIPIENT else own]
        found = preview(announcement, zones, options.count, options.after or datetime.now(UTC), own)
    except MessageRefused as refused:
        faults = [": ".join(filter(None, (fault.pointer, fault.message))) for fault in refused.faults]
        sys.stderr.write("".join(f"{options.file}: {fault}\n" for fault in faults or ["contains no announcement"]))
        return 1
    except AzureError as error:
        parser.error(f"the storage of AzureWebJobsStorage does not answer: {str(error).splitlines()[0]}")
    except (OSError, SettingsError, ValueError) as error:
        parser.error(str(error))
    sys.stdout.write("".join(f"{line}\n" for line in [*notes, *format_times(found, people)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
