"""Run the commands about recurring announcements: create or change, pause, resume and delete a schedule."""

from __future__ import annotations

import asyncio
import logging

from notify.validation import check_content_off_loop
from shared.announcements import advance_schedule, announce_due, next_occurrence, schedule_zone, set_timer
from shared.contract.faults import Fault, MessageRefused
from shared.contract.models import Announcement, Command
from shared.contract.parsing import canonical_json
from shared.services import Services
from shared.states import ScheduleState
from shared.storage.schedules import StoredSchedule
from shared.storage.table import Conflict
from shared.storage.unreadable import SCHEDULES, UnreadableRow

log = logging.getLogger(__name__)


async def run_schedule_command(services: Services, command: Command, tenant: str, pointer: str) -> None:
    """Apply a command to the schedule that it targets; safe to repeat.

    Raises `MessageRefused`, and `UnreadableRow` if only a newer instance can read the schedule. `pointer` is the JSON
    pointer to the command in its message.
    """
    if command.announcement:
        await _check(services, command.announcement, tenant, f"{pointer}/announcement/notification")
    name, schedule = command.target.schedule or "", None
    while schedule is None:
        known = await _read(services, tenant, name, pointer)
        if known and known.state is ScheduleState.ACTIVE and known.next_due <= services.clock():
            # The command does not affect occurrences that were due before it.
            await announce_due(services, tenant, name)
            continue
        try:
            if command.announcement:
                schedule = await _save(services, command.announcement, tenant, name, known, pointer)
            elif known is None or (known.state is ScheduleState.DELETED and command.command != "deleteSchedule"):
                raise MessageRefused("unknown", [Fault(f"{pointer}/target/schedule", "names no schedule that exists")])
            else:
                schedule = await _change_state(services, command.command, known)
        except Conflict:
            continue
    # After the row, and also if it did not change: the worker that wrote it may have died before it set the timer.
    await set_timer(services, schedule)
    log.info("Schedule command %s was applied: the schedule is %s", command.command, schedule.state)


async def _read(services: Services, tenant: str, name: str, pointer: str) -> StoredSchedule | None:
    try:
        return await services.schedules.get(tenant, name)
    except UnreadableRow as row:
        if row.is_newer:
            raise
        fault = (
            f"names a row of table {SCHEDULES} that {row.fault}: delete it there, then send the command schedule again"
        )
        raise MessageRefused("invalid", [Fault(f"{pointer}/target/schedule", fault)]) from None


async def _check(services: Services, announcement: Announcement, tenant: str, pointer: str) -> None:
    notification = announcement.notification
    if notification.tenant and notification.tenant.lower() != tenant:
        raise MessageRefused("invalid", [Fault(f"{pointer}/tenant", "is not the tenant of the command")])
    await check_content_off_loop(notification, services.settings.max_activity_bytes, pointer)


async def _save(
    services: Services, announcement: Announcement, tenant: str, name: str, known: StoredSchedule | None, pointer: str
) -> StoredSchedule:
    """Store an announcement and its next occurrence; raises `MessageRefused` if there is none, or `Conflict`."""
    data = canonical_json(announcement.model_dump(by_alias=True, mode="json", exclude_unset=True))
    if known and known.data == data and known.state is not ScheduleState.DELETED:
        return known
    zone = schedule_zone(announcement, services.settings.default_time_zone)
    # In a thread: to follow the rules of a calendar takes up to a second.
    occurrence = await asyncio.to_thread(next_occurrence, announcement, services.clock(), zone)
    if occurrence is None:
        raise MessageRefused("invalid", [Fault(f"{pointer}/announcement/rule", "has no occurrence from now on")])
    if known is None:
        return await services.schedules.insert(
            StoredSchedule(
                tenant=tenant,
                name=name,
                data=data,
                state=ScheduleState.ACTIVE,
                next_due=occurrence.at,
                occurrence=occurrence.name,
            )
        )
    state = ScheduleState.PAUSED if known.state is ScheduleState.PAUSED else ScheduleState.ACTIVE
    return await services.schedules.change(
        known, data=data, state=state, next_due=occurrence.at, occurrence=occurrence.name
    )


async def _change_state(services: Services, command: str, known: StoredSchedule) -> StoredSchedule:
    """Pause, resume or delete a schedule. It resumes with the first occurrence after now. Raises `Conflict`."""
    if command == "deleteSchedule":
        return await services.schedules.change(known, state=ScheduleState.DELETED)
    if command == "pauseSchedule" and known.state is ScheduleState.ACTIVE:
        return await services.schedules.change(known, state=ScheduleState.PAUSED)
    if command == "resumeSchedule" and known.state is ScheduleState.PAUSED:
        return await advance_schedule(services, known, services.clock())
    return known
