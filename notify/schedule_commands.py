"""Commands about recurring announcements: create, pause, resume and delete a schedule."""

from __future__ import annotations

import logging

from notify.validation import check_form
from shared.announcements import advance_schedule, announce_due, next_occurrence, schedule_zone, set_timer
from shared.contract.faults import Fault, MessageRefused
from shared.contract.models import Announcement, Command
from shared.contract.parsing import canonical_json
from shared.services import Services
from shared.states import ScheduleState
from shared.storage.schedules import StoredSchedule
from shared.storage.table import Conflict

log = logging.getLogger(__name__)


async def arrange(services: Services, command: Command, tenant: str, data: str) -> None:
    """Do what a command says about the schedule that is its target; raises `MessageRefused`.

    `data` is the JSON pointer to the command in its message.
    """
    if command.announcement:
        _check(services, command.announcement, tenant, f"{data}/announcement/notification")
    name, schedule = command.target.schedule or "", None
    while schedule is None:
        known = await services.schedules.get(tenant, name)
        if known and known.state is ScheduleState.ACTIVE and known.next_due <= services.clock():
            # What was due before this command goes by what was said until then.
            await announce_due(services, tenant, name)
            continue
        try:
            if command.announcement:
                schedule = await _set(services, command.announcement, tenant, name, known, data)
            elif known is None or (known.state is ScheduleState.DELETED and command.command != "deleteSchedule"):
                raise MessageRefused("unknown", [Fault(f"{data}/target/schedule", "there is no such schedule")])
            else:
                schedule = await _turn(services, command.command, known)
        except Conflict:
            continue
    # After the row, and also where that was so already: who wrote it may have died before this.
    await set_timer(services, schedule)
    log.info("%s: a schedule is %s", command.command, schedule.state)


def _check(services: Services, announcement: Announcement, tenant: str, pointer: str) -> None:
    notification = announcement.notification
    if notification.tenant and notification.tenant.lower() != tenant:
        raise MessageRefused("invalid", [Fault(f"{pointer}/tenant", "is not the tenant of the command")])
    check_form(notification, services.settings.max_activity_bytes, pointer)


async def _set(
    services: Services, announcement: Announcement, tenant: str, name: str, known: StoredSchedule | None, data: str
) -> StoredSchedule:
    """Store what recurs, with its next occurrence; raises `MessageRefused` where there is none, or `Conflict`."""
    told = announcement.model_dump(by_alias=True, mode="json", exclude_unset=True)
    wanted = canonical_json(told)
    if known and known.data == wanted and known.state is not ScheduleState.DELETED:
        return known
    zone = schedule_zone(announcement, services.settings.default_time_zone)
    found = next_occurrence(announcement, services.clock(), zone)
    if found is None:
        raise MessageRefused("invalid", [Fault(f"{data}/announcement/rule", "has no occurrence from now on")])
    if known is None:
        return await services.schedules.insert(
            StoredSchedule(
                tenant=tenant,
                name=name,
                data=wanted,
                state=ScheduleState.ACTIVE,
                next_due=found.at,
                occurrence=found.name,
            )
        )
    state = ScheduleState.PAUSED if known.state is ScheduleState.PAUSED else ScheduleState.ACTIVE
    return await services.schedules.change(known, data=wanted, state=state, next_due=found.at, occurrence=found.name)


async def _turn(services: Services, command: str, known: StoredSchedule) -> StoredSchedule:
    """Pause it, resume it with what comes from now on, or delete it; raises `Conflict`."""
    if command == "deleteSchedule":
        return await services.schedules.change(known, state=ScheduleState.DELETED)
    if command == "pauseSchedule" and known.state is ScheduleState.ACTIVE:
        return await services.schedules.change(known, state=ScheduleState.PAUSED)
    if command == "resumeSchedule" and known.state is ScheduleState.PAUSED:
        return await advance_schedule(services, known, services.clock())
    return known
