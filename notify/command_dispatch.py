"""Run the commands of upstream systems: cancel, recall, edit, redrive and reschedule; all are safe to repeat.

Commands about recurring announcements are in `notify.schedule_commands`, and the pages of a command whose
cancellation key many notifications have are in `notify.command_pages`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import orjson

from notify.command_pages import continue_command, read_page, store_refusals
from notify.progress import finish, schedule_check, start_sweep
from notify.redrive import reopen, resume_expansion
from notify.schedule_commands import run_schedule_command
from notify.scheduling import check_expiry, compute_due
from notify.validation import check_content_off_loop
from shared.concurrency import gather_limited
from shared.contract.faults import Fault, MessageRefused
from shared.contract.identity import with_id
from shared.contract.models import Command, Content, DeadLetterSelection, Notification, ScheduleChange
from shared.contract.parsing import DEFAULT_SOURCE, canonical_json
from shared.queue_messages import (
    MESSAGES,
    NO_ROW,
    NOTIFICATIONS,
    Delivery,
    Expansion,
    NewerVersion,
    Task,
    Unreadable,
)
from shared.queues import to_text
from shared.records import StoredNotification, notification_key
from shared.services import Services
from shared.states import NotificationState
from shared.storage import timers
from shared.storage.markers import snoozes
from shared.storage.notifications import MAX_CACHE_SECONDS
from shared.storage.table import Conflict
from shared.storage.unreadable import SCHEDULES, TIMERS

#: Delay before a command's sweep. By then no worker uses a cached notification from before the command.
SWEEP_DELAY_SECONDS = 2 * MAX_CACHE_SECONDS
#: Dead letters that one command requeues.
MAX_DEAD_LETTERS = 1000

#: Advice, instead of a redrive, about rows that were set aside, by the table that their dead letters name.
_TABLE_ADVICE = {
    TIMERS: (
        "by what the timer was for, reschedule a scheduled notification (to the same time), redrive another, "
        "or send the command schedule again"
    ),
    SCHEDULES: "delete the row in that table, then send the command schedule again",
}

_NEVER_SENT = (NotificationState.CANCELLED, NotificationState.SKIPPED)

log = logging.getLogger(__name__)


async def run_command(services: Services, command: Command, tenant: str, pointer: str, body: bytes) -> None:
    """Run a command; raises `MessageRefused` if its target does not exist or no longer allows it.

    `pointer` is the JSON pointer to the command in its message, `body` is that message, with an id.
    """
    if command.target.dead_letters:
        await _redrive_dead_letters(services, command.target.dead_letters, pointer)
        return
    if command.target.schedule:
        await run_schedule_command(services, command, tenant, pointer)
        return
    target = command.target
    if target.cancellation_key:
        page = await read_page(services, tenant, target.cancellation_key, body)
        found, refusals = await _apply_all(services, command, page.keys, pointer)
        if not page.is_whole:
            if refusals:
                await store_refusals(services, page, refusals)
            await continue_command(services, page)
            return
    else:
        key = notification_key(tenant, target.source or DEFAULT_SOURCE, str(target.id))
        found, refusals = await _apply_all(services, command, [key], pointer)
    if not found:
        raise MessageRefused("unknown", [Fault(f"{pointer}/target", "names no notification that is stored")])
    if refusals:
        raise refusals[-1][1]


async def _apply_all(
    services: Services, command: Command, keys: Sequence[str], pointer: str
) -> tuple[int, Sequence[tuple[StoredNotification, MessageRefused]]]:
    """Apply the command to the notifications with these keys, and to their snoozed copies.

    Returns how many of them are stored, and those that refused it. One that refuses it does not stop the others.
    """
    if command.command != "reschedule":
        # A snoozed copy shows the same content: apply the command to it as to its original.
        copies = await gather_limited(keys, lambda key: services.markers.list(snoozes(key)))
        keys = [*keys, *(copy for of_key in copies for copy in of_key)]
    stored = [each for each in await gather_limited(keys, services.notifications.get) if each]

    refusals: list[tuple[StoredNotification, MessageRefused]] = []

    async def apply(notification: StoredNotification) -> None:
        try:
            await _apply(services, command, notification, pointer)
        except MessageRefused as refused:
            refusals.append((notification, refused))

    await gather_limited(stored, apply)
    return len(stored), refusals


async def _apply(services: Services, command: Command, notification: StoredNotification, pointer: str) -> None:
    key = notification.key
    if command.command == "redrive":
        if notification.state in _NEVER_SENT or notification.recalled:
            return
        await schedule_check(services, key)
        await resume_expansion(services, key)
        await start_sweep(services, notification, Task.REDRIVE)
    elif command.command == "edit":
        content = _dump_sent(command.content) if command.content else None

        async def edit(current: StoredNotification) -> Mapping[str, object]:
            data = _replace_fields(current.data, content=content, card=command.card)
            # Not as what is stored: that reader fails on a card that is nested too deeply, before the check.
            new = Notification.model_validate(orjson.loads(data), extra="ignore")
            await check_content_off_loop(new, services.settings.max_activity_bytes, pointer)
            return {} if new == current.content else {"data": data, "revision": current.revision + 1}

        notification = await _change(services, notification, edit)
        await start_sweep(services, notification, Task.EDIT, SWEEP_DELAY_SECONDS)
    elif command.schedule:
        await _reschedule(services, command.schedule, notification, pointer)
    else:
        recall = command.command == "recall"

        async def cancel(current: StoredNotification) -> Mapping[str, object]:
            ended = current.state in (*_NEVER_SENT, NotificationState.FINISHED)
            changes: dict[str, object] = {} if ended else {"state": NotificationState.CANCELLED}
            return changes | ({"recalled": True} if recall and not current.recalled else {})

        notification = await _change(services, notification, cancel)
        await finish(services, key)
        if recall:
            await schedule_check(services, key)  # recalled messages change the stored counts; the check updates these
            await start_sweep(services, notification, Task.RECALL, SWEEP_DELAY_SECONDS)
        elif notification.state is NotificationState.CANCELLED:
            await start_sweep(services, notification, Task.CANCEL, SWEEP_DELAY_SECONDS)
    log.info("Command %s was applied to notification %s (%s)", command.command, key, notification.identity)


async def _reschedule(
    services: Services, change: ScheduleChange, notification: StoredNotification, pointer: str
) -> None:
    """Change when a scheduled notification is due; raises `MessageRefused` if its expansion has begun.

    What `change` does not name stays as it was, such as the time zone.
    """
    now = services.clock()

    async def move(current: StoredNotification) -> Mapping[str, object]:
        known = current.content.schedule
        schedule = change.apply_to(known) if known else None
        if schedule is not None and schedule == known:
            return {}
        if schedule is None or current.state is not NotificationState.SCHEDULED:
            fault = f"can be rescheduled only while it is scheduled; its state is {current.state}"
            raise MessageRefused("begun", [Fault(f"{pointer}/target", fault)])
        due_time = compute_due(schedule, services.settings.default_time_zone, now)
        check_expiry(due_time, current.expires, f"{pointer}/schedule/at")
        state = NotificationState.SCHEDULED if due_time.due else NotificationState.ACCEPTED
        return {
            "data": _replace_fields(current.data, schedule=schedule.model_dump(by_alias=True, mode="json")),
            "state": NotificationState.SKIPPED if due_time.skip else state,
            "due": due_time.due or now,
            "rescheduled": now,
        }

    notification = await _change(services, notification, move)
    # After the row is written: the timer for the former time then finds the new time, or that expansion has begun.
    if notification.state is NotificationState.SCHEDULED and notification.due:
        await services.timers.put(notification.due, timers.NOTIFICATION, notification.key)
    elif notification.state is NotificationState.ACCEPTED:
        await services.queues.enqueue_expansion(Expansion(notification.key, notification.page))


def _dump_sent(content: Content) -> Mapping[str, object]:
    """Return the fields that the upstream system sent: an older instance may not know the others."""
    return content.model_dump(by_alias=True, mode="json", exclude_unset=True)


def _replace_fields(data: bytes, **fields: object) -> bytes:
    """Return a notification's canonical JSON with these fields replaced; raises `MessageRefused` if it is too large."""
    return canonical_json(orjson.loads(data) | fields)


async def _change(
    services: Services,
    notification: StoredNotification,
    change: Callable[[StoredNotification], Awaitable[Mapping[str, object]]],
) -> StoredNotification:
    """Write the columns that `change` returns for the current row, if any, and return the notification."""
    while changes := await change(notification):
        try:
            return await services.notifications.advance(notification, **changes)
        except Conflict:
            found = await services.notifications.get(notification.key)
            if found is None:
                raise MessageRefused("unknown", [Fault("", "names a notification that was deleted")]) from None
            notification = found
    return notification


async def _redrive_dead_letters(services: Services, selection: DeadLetterSelection, pointer: str) -> None:
    if advice := _TABLE_ADVICE.get(selection.queue):
        fault = f"{selection.queue} is a table, not a queue: its rows cannot be put back; {advice}"
        raise MessageRefused("invalid", [Fault(f"{pointer}/target/deadLetters/queue", fault)])
    letters = await services.dead_letters.find(selection.queue, selection.key, selection.reason, MAX_DEAD_LETTERS)
    if not letters:
        raise MessageRefused("unknown", [Fault(f"{pointer}/target/deadLetters", "selects no dead letter")])
    for letter in letters:
        # Requeue first: a worker that dies between the two writes leaves a duplicate, which is harmless.
        body = services.dead_letters.body(letter)
        if letter["queue"] == NOTIFICATIONS:
            body = with_id(body, letter.get("message_id", ""))
        await _requeue(services, letter["queue"], body)
        await services.dead_letters.delete(letter)
    log.info("%d dead letters were requeued on %s", len(letters), selection.queue)


async def _requeue(services: Services, queue: str, body: bytes) -> None:
    """Requeue a dead letter with all its poison retries, and reopen the delivery or expansion that failed with it."""
    try:
        message = MESSAGES[queue].decode(body)
    except (KeyError, NewerVersion, Unreadable, MessageRefused):  # a message of an upstream system, or of no known form
        await services.queues.put(queue, to_text(body))
        return
    if isinstance(message, Delivery):
        known = await services.deliveries.get(message)
        if known:
            await reopen(services, message.notification, [(message, known)])
        has_no_row = known is None and message.etag == NO_ROW
        message = replace(message, etag=NO_ROW if has_no_row else "")
    elif isinstance(message, Expansion):
        await resume_expansion(services, message.notification)
    await services.queues.put(queue, replace(message, poison_retries=0).encode())
