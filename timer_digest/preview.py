"""When a recurring announcement comes for given people: `python -m timer_digest.preview FILE --zone Europe/Berlin`.

With `--person` the zone is that of somebody whom the app knows: it is read from the storage of `AzureWebJobsStorage`.
A mistake in what it is asked is one line, and exit code 2.
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

from shared.announcements import occurrences, recipient_occurrences
from shared.contract.faults import MessageRefused
from shared.contract.models import RECIPIENT, Announcement, Command
from shared.contract.parsing import decode_json, parse_message
from shared.records import ConversationReference
from shared.settings import Settings, load_settings
from shared.states import ReferenceKind, SettingsError
from shared.storage.clients import open_storage
from shared.storage.conversations import Conversations
from shared.storage.table import Table
from shared.time.localtime import load_zone, to_wall_time
from shared.time.recurrence import YEARS, Occurrence

#: Most times that are printed for each zone.
MAX_TIMES = 1000


def preview(
    announcement: Announcement, zones: Sequence[str], count: int, after: datetime, default_zone: str = "UTC"
) -> dict[str, list[Occurrence]]:
    """The next `count` times after an instant at which it comes for people in each of `zones`, by their names.

    The wall time of each is what clocks show there, and its note says where a change of clocks moves it.
    """
    own = announcement.time_zone or default_zone
    found = {
        name: _own_times(announcement, name, after) if own == RECIPIENT else _seen(announcement, own, name, after)
        for name in zones
    }
    return {name: list(islice(times, count)) for name, times in found.items()}


def _own_times(announcement: Announcement, name: str, after: datetime) -> Iterator[Occurrence]:
    zone = load_zone(name)
    for each in recipient_occurrences(announcement, after, zone):
        yield Occurrence(to_wall_time(each.at, zone), each.at, each.note)


def _seen(announcement: Announcement, own: str, name: str, after: datetime) -> Iterator[Occurrence]:
    zone, home, before = load_zone(name), load_zone(own), None
    for each in occurrences(announcement, after, home):
        wall, notes = to_wall_time(each.at, zone), []
        if each.note:
            notes.append(each.note if zone == home else f"in {home.key} {each.note}")
        if before and (later := (wall - each.wall) - (to_wall_time(before.at, zone) - before.wall)) and zone != home:
            changed = [where.key for where in (zone, home) if _offset(before, where) != _offset(each, where)]
            # Without any, the one before came at the end of a gap.
            notes.append(f"{_later(later)} than before, as clocks changed in {' and '.join(changed or [home.key])}")
        before = each
        yield Occurrence(wall, each.at, "; ".join(notes))


def _offset(each: Occurrence, zone: ZoneInfo) -> timedelta | None:
    return each.at.astimezone(zone).utcoffset()


def _later(by: timedelta) -> str:
    minutes = round(abs(by).total_seconds() / 60)
    return f"{minutes} minutes {'later' if by > timedelta() else 'earlier'}"


async def known_of(people: Sequence[str], settings: Settings, tenant: str) -> dict[str, ConversationReference | None]:
    """What the app knows of each of these people (Entra object ids)."""
    queues, tables = open_storage()
    async with queues, tables:
        conversations = Conversations(Table(tables.get_table_client(f"{settings.table_prefix}Conversations")))
        return {person: await conversations.get(tenant, ReferenceKind.USER, person.lower()) for person in people}


def without_zone(person: str, known: ConversationReference | None, default_zone: str) -> str:
    """By whose clocks somebody is told of whom no zone is known, and why, in one line; "" for whom one is known."""
    if known and (known.preferences.time_zone or known.time_zone):
        return ""
    why = f"{person} has told no time zone" if known else f"Nobody is known whose Entra object id is {person}"
    return f"{why}: by HERALD_DEFAULT_TIME_ZONE, {default_zone}"


def lines(found: Mapping[str, Sequence[Occurrence]], people: Mapping[str, str]) -> Iterator[str]:
    """What `preview` found, as people read it; `people` says in which of the zones who lives."""
    for name, times in found.items():
        here = [person for person, zone in people.items() if zone == name]
        yield f"{name}: {', '.join(here)}" if here else name
        for each in times:
            yield f"  {each.wall:%a %Y-%m-%d %H:%M}  {each.at:%Y-%m-%dT%H:%MZ}  {each.note}".rstrip()
        if not times:
            yield "  no more"


def _announcement(body: bytes) -> Announcement:
    """The announcement in a command, or on its own; raises `MessageRefused`."""
    value = decode_json(body)
    if isinstance(value, dict) and "rule" in value:
        body = orjson.dumps({"command": "schedule", "target": {"schedule": "preview"}, "announcement": value})
    command = parse_message(body)
    if not isinstance(command, Command) or command.announcement is None:
        raise MessageRefused("invalid", [])
    return command.announcement


def _as_reader(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The settings for who only reads, wherever that is: without an app id, too."""
    hosted = ("WEBSITE_SITE_NAME", "CONTAINER_NAME")
    given = {name: value for name, value in environ.items() if name.upper() not in hosted}
    return given | {"AZURE_FUNCTIONS_ENVIRONMENT": "Development"}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_TIMES:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {MAX_TIMES}, and not {text!r}")
    return int(text)


def _object_id(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an Entra object id (a UUID), and not {text!r}") from None


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        written = "2027-03-27, 2027-03-27T18:00 (both in UTC) or 2027-03-27T18:00+01:00"
        raise argparse.ArgumentTypeError(f"must be a date or an instant such as {written}, and not {text!r}") from None
    if not YEARS[0] <= at.year <= YEARS[1]:
        raise argparse.ArgumentTypeError(f"must be in the years {YEARS[0]} to {YEARS[1]}")
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the times; returns the exit code: 1 where the file holds no valid announcement, 2 for other mistakes."""
    parser = _Parser(prog="python -m timer_digest.preview", description=preview.__doc__)
    parser.add_argument("file", type=Path, help="the command `schedule`, or its announcement alone, in JSON")
    parser.add_argument("--count", type=_count, default=5, help="how many times (default: 5)")
    parser.add_argument("--zone", action="append", default=[], help="where people are; may be said several times")
    person = "an Entra object id; may be said several times"
    parser.add_argument("--person", type=_object_id, action="append", default=[], help=person)
    parser.add_argument("--tenant", help="their tenant, where HERALD_ALLOWED_TENANTS names several")
    after = "from when on, in ISO 8601; what names no offset is in UTC (default: now)"
    parser.add_argument("--after", type=_instant, help=after)
    options = parser.parse_args(arguments)
    default_zone = os.environ.get("HERALD_DEFAULT_TIME_ZONE") or "UTC"
    people, notes = {}, []
    try:
        announcement = _announcement(options.file.read_bytes())
        own = announcement.time_zone or default_zone
        if options.person:
            settings = load_settings(_as_reader(os.environ))
            tenant = options.tenant or (min(settings.tenants) if len(settings.tenants) == 1 else "")
            if not tenant:
                parser.error("--tenant is required: HERALD_ALLOWED_TENANTS names several, or none")
            for person, known in asyncio.run(known_of(options.person, settings, tenant.lower())).items():
                people[person] = known.zone(settings.default_time_zone).key if known else settings.default_time_zone
                if note := without_zone(person, known, settings.default_time_zone):
                    notes.append(note)
        zones = list(dict.fromkeys([*options.zone, *people.values()]))
        zones = zones or [default_zone if own == RECIPIENT else own]
        found = preview(announcement, zones, options.count, options.after or datetime.now(UTC), own)
    except MessageRefused as refused:
        faults = [": ".join(filter(None, (fault.pointer, fault.message))) for fault in refused.faults]
        sys.stderr.write("".join(f"{options.file}: {fault}\n" for fault in faults or ["holds no announcement"]))
        return 1
    except AzureError as error:
        parser.error(f"the storage of AzureWebJobsStorage does not answer: {str(error).splitlines()[0]}")
    except (OSError, SettingsError, ValueError) as error:
        parser.error(str(error))
    sys.stdout.write("".join(f"{line}\n" for line in [*notes, *lines(found, people)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
