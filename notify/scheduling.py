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
    """When to send a notification (UTC): None is now. `skip` means never."""

    due: datetime | None = None
    skip: bool = False


def compute_due(schedule: Schedule | None, default_zone: str, set_at: datetime) -> DueTime:
    """Return when a notification's expansion is due by a schedule that was set at `set_at`.

    A time before that follows `ifPast`. At each recipient's own time, expansion is due when clocks in the easternmost
    zone show that time.
    """
    if schedule is None:
        return DueTime()
    if schedule.time_zone != RECIPIENT:
        return _compute_in_zone(schedule, load_zone(schedule.time_zone or default_zone), set_at)
    first = datetime.fromisoformat(schedule.at).replace(tzinfo=UTC) - FIRST_ZONE_OFFSET
    return DueTime(first if first >= set_at else None)


def check_expiry(due_time: DueTime, expires: datetime | None, pointer: str) -> None:
    """Raise `MessageRefused`, with the JSON pointer to the due time, if the notification expires before it is due."""
    if due_time.due and expires and expires <= due_time.due:
        raise MessageRefused("invalid", [Fault(pointer, f"must be before the expiry, {expires:%Y-%m-%dT%H:%MZ}")])


def compute_local_due(schedule: Schedule | None, zone: ZoneInfo, set_at: datetime) -> DueTime:
    """Return when a delivery in `zone` is due: now, unless the schedule is at each recipient's own time."""
    if schedule is None or schedule.time_zone != RECIPIENT:
        return DueTime()
    return _compute_in_zone(schedule, zone, set_at)


def _compute_in_zone(schedule: Schedule, zone: ZoneInfo, set_at: datetime) -> DueTime:
    wall_time = datetime.fromisoformat(schedule.at)
    at = to_utc(wall_time, zone)
    if at >= set_at:
        return DueTime(at)
    if schedule.if_past == "skip":
        return DueTime(skip=True)
    if schedule.if_past == "send":
        return DueTime()
    today = set_at.astimezone(zone).date()
    at = to_utc(datetime.combine(today, wall_time.time()), zone)
    if at < set_at:
        at = to_utc(datetime.combine(today + timedelta(days=1), wall_time.time()), zone)
    return DueTime(at)
