"""Compute when a notification is due by its schedule: at one instant, or at each recipient's own time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from shared.contract.faults import Fault, MessageRefused
from shared.contract.models import RECIPIENT, Schedule
from shared.time.localtime import FIRST_ZONE_OFFSET, load_zone, to_utc


@dataclass(frozen=True, slots=True)
class DueTime:
    """When a notification is to be sent: `due` is None for at once; `skip` says never."""

    due: datetime | None = None
    skip: bool = False


def planned(schedule: Schedule | None, default_zone: str, told: datetime) -> DueTime:
    """When to begin by `schedule`, told at an instant; a time that had passed then goes by its `ifPast`.

    One in each recipient's own zone begins when clocks show its time in the first of all places.
    """
    if schedule is None:
        return DueTime()
    if schedule.time_zone != RECIPIENT:
        return _in(schedule, load_zone(schedule.time_zone or default_zone), told)
    begins = datetime.fromisoformat(schedule.at).replace(tzinfo=UTC) - FIRST_ZONE_OFFSET
    return DueTime(begins if begins >= told else None)


def check_expiry(plan: DueTime, expires: datetime | None, pointer: str) -> None:
    """Raise `MessageRefused`, with a pointer to the time, where the notification would expire before it is due."""
    if plan.due and expires and expires <= plan.due:
        raise MessageRefused("invalid", [Fault(pointer, f"is not before the expiry, {expires:%Y-%m-%dT%H:%MZ}")])


def in_zone(schedule: Schedule | None, zone: ZoneInfo, told: datetime) -> DueTime:
    """When it is the time of `schedule` for a recipient in `zone`, where each has their own; else at once."""
    return _in(schedule, zone, told) if schedule and schedule.time_zone == RECIPIENT else DueTime()


def _in(schedule: Schedule, zone: ZoneInfo, told: datetime) -> DueTime:
    wall = datetime.fromisoformat(schedule.at)
    at = to_utc(wall, zone)
    if at >= told:
        return DueTime(at)
    if schedule.if_past == "skip":
        return DueTime(skip=True)
    if schedule.if_past == "send":
        return DueTime()
    today = told.astimezone(zone).date()
    at = to_utc(datetime.combine(today, wall.time()), zone)
    return DueTime(at if at >= told else to_utc(datetime.combine(today + timedelta(days=1), wall.time()), zone))
