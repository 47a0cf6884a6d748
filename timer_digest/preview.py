"""When a recurring announcement comes for given people: `python -m timer_digest.preview FILE --zone Europe/Berlin`.

With `--person` the zone is that of somebody whom the app knows: it is read from the storage of `AzureWebJobsStorage`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import orjson
from azure.core.exceptions import AzureError

from shared.contract import RECIPIENT, Announcement, Command, Refused, decode, read
from shared.localtime import shown, zone
from shared.recurring import coming
from shared.settings import Settings, SettingsError, load
from shared.storage import open_storage
from shared.store.conversations import Conversations
from shared.store.table import Table


@dataclass(frozen=True, slots=True)
class Coming:
    """One time at which it comes: what clocks show there, the instant (UTC), and where a change of clocks moves it."""

    wall: datetime
    at: datetime
    note: str = ""


def preview(
    announcement: Announcement, zones: Sequence[str], count: int, after: datetime, default_zone: str = "UTC"
) -> dict[str, list[Coming]]:
    """The next `count` times after an instant at which it comes for people in each of `zones`, by their names."""
    own = announcement.time_zone or default_zone
    found = {
        name: _own_times(announcement, name, after) if own == RECIPIENT else _seen(announcement, own, name, after)
        for name in zones
    }
    return {name: list(islice(times, count)) for name, times in found.items()}


def _own_times(announcement: Announcement, name: str, after: datetime) -> Iterator[Coming]:
    place = zone(name)
    for each in coming(announcement, after, place):
        yield Coming(shown(each.at, place), each.at, each.note)


def _seen(announcement: Announcement, own: str, name: str, after: datetime) -> Iterator[Coming]:
    place, ahead = zone(name), None
    for each in coming(announcement, after, zone(own)):
        wall, notes = shown(each.at, place), [each.note] if each.note else []
        difference = wall - shown(each.at, zone(own))
        if ahead is not None and ahead != difference:
            notes.append(f"{_later(difference - ahead)} than before, as clocks changed in {name} or {own}")
        ahead = difference
        yield Coming(wall, each.at, "; ".join(notes))


def _later(by: timedelta) -> str:
    minutes = round(abs(by).total_seconds() / 60)
    return f"{minutes} minutes {'later' if by > timedelta() else 'earlier'}"


async def zones_of(people: Sequence[str], settings: Settings, tenant: str) -> dict[str, str]:
    """The zone by whose clocks each of these people (Entra object ids) is told, by its name."""
    queues, tables = open_storage()
    async with queues, tables:
        conversations = Conversations(Table(tables.get_table_client(f"{settings.table_prefix}Conversations")))
        known = [await conversations.of(tenant, f"u:{person.lower()}") for person in people]
    return {person: each.place(settings.default_time_zone).key for person, each in zip(people, known, strict=True)}


def lines(found: Mapping[str, Sequence[Coming]], people: Mapping[str, str]) -> Iterator[str]:
    """What `preview` found, as people read it; `people` says in which of the zones who lives."""
    for name, times in found.items():
        here = [person for person, place in people.items() if place == name]
        yield f"{name}: {', '.join(here)}" if here else name
        for each in times:
            yield f"  {each.wall:%a %Y-%m-%d %H:%M}  {each.at:%Y-%m-%dT%H:%MZ}  {each.note}".rstrip()
        if not times:
            yield "  no more"


def _announcement(body: bytes) -> Announcement:
    """The announcement in a command, or on its own; raises `Refused`."""
    value = decode(body)
    if isinstance(value, dict) and "rule" in value:
        body = orjson.dumps({"command": "schedule", "target": {"schedule": "preview"}, "announcement": value})
    command = read(body)
    if not isinstance(command, Command) or command.announcement is None:
        raise Refused("invalid", [])
    return command.announcement


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the times; returns the exit code: 1 where the file holds no valid announcement, 2 for other mistakes."""
    parser = argparse.ArgumentParser(prog="python -m timer_digest.preview", description=preview.__doc__)
    parser.add_argument("file", type=Path, help="the command `schedule`, or its announcement alone, in JSON")
    parser.add_argument("--count", type=int, default=5, help="how many times (default: 5)")
    parser.add_argument("--zone", action="append", default=[], help="where people are; may be said several times")
    parser.add_argument("--person", action="append", default=[], help="an Entra object id; may be said several times")
    parser.add_argument("--tenant", help="their tenant, where HERALD_ALLOWED_TENANTS names several")
    parser.add_argument("--after", type=datetime.fromisoformat, help="from when on, in ISO 8601 (default: now)")
    options = parser.parse_args(arguments)
    default_zone = os.environ.get("HERALD_DEFAULT_TIME_ZONE") or "UTC"
    after = options.after or datetime.now(UTC)
    try:
        announcement = _announcement(options.file.read_bytes())
        own, people = announcement.time_zone or default_zone, {}
        if options.person:
            settings = load()
            tenant = options.tenant or (min(settings.tenants) if len(settings.tenants) == 1 else "")
            if not tenant:
                parser.error("--tenant is required: HERALD_ALLOWED_TENANTS names several, or none")
            people = asyncio.run(zones_of(options.person, settings, tenant.lower()))
        zones = list(dict.fromkeys([*options.zone, *people.values()]))
        zones = zones or [default_zone if own == RECIPIENT else own]
        found = preview(announcement, zones, options.count, after if after.tzinfo else after.replace(tzinfo=UTC), own)
    except Refused as refused:
        faults = [f"{fault.pointer}: {fault.message}" for fault in refused.faults] or ["holds no announcement"]
        sys.stderr.write("".join(f"{options.file}: {fault}\n" for fault in faults))
        return 1
    except AzureError as error:
        parser.error(f"the storage of AzureWebJobsStorage does not answer: {str(error).splitlines()[0]}")
    except (OSError, SettingsError, ValueError) as error:
        parser.error(str(error))
    sys.stdout.write("".join(f"{line}\n" for line in lines(found, people)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
