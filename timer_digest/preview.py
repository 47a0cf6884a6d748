"""When a recurring announcement comes for given people: `python -m timer_digest.preview FILE --zone Europe/Berlin`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import orjson

from shared.contract import RECIPIENT, Announcement, Command, Refused, decode, read
from shared.localtime import shown, zone
from shared.recurring import coming


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


def lines(found: dict[str, list[Coming]]) -> Iterator[str]:
    """What `preview` found, as people read it."""
    for name, times in found.items():
        yield name
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
    parser.add_argument("--after", type=datetime.fromisoformat, help="from when on, in ISO 8601 (default: now)")
    options = parser.parse_args(arguments)
    default_zone = os.environ.get("HERALD_DEFAULT_TIME_ZONE") or "UTC"
    after = options.after or datetime.now(UTC)
    try:
        announcement = _announcement(options.file.read_bytes())
        own = announcement.time_zone or default_zone
        zones = options.zone or [default_zone if own == RECIPIENT else own]
        found = preview(announcement, zones, options.count, after if after.tzinfo else after.replace(tzinfo=UTC), own)
    except Refused as refused:
        faults = [f"{fault.pointer}: {fault.message}" for fault in refused.faults] or ["holds no announcement"]
        sys.stderr.write("".join(f"{options.file}: {fault}\n" for fault in faults))
        return 1
    except (OSError, ValueError) as error:
        parser.error(str(error))
    sys.stdout.write("".join(f"{line}\n" for line in lines(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
