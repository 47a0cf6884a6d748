"""Run commands of upstream systems: cancel, recall, edit, redrive, reschedule, and those about schedules.

Each is safe to repeat.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import orjson

from notify.progress import finish, sweep, watch
from notify.redrive import list_again, reopen
from notify.schedule_commands import arrange
from notify.scheduling import check_expiry, planned
from notify.validation import check_form
from shared.contract.faults import Fault, MessageRefused
from shared.contract.models import Command, CommandTarget, DeadLetterSelection, Schedule
from shared.contract.parsing import DEFAULT_SOURCE, canonical_json, parse_stored
from shared.queue_messages import MESSAGES, Delivery, Expansion, NewerVersion, Task, Unreadable
from shared.services import Services
from shared.states import NotificationState
from shared.storage import timers
from shared.storage.markers import cancellation, snoozes
from shared.storage.notifications import MAX_CACHE_SECONDS, StoredNotification, notification_key
from shared.storage.table import Conflict

#: Seconds until all processes have seen what became of a notification, with what they had begun to send.
SETTLED = 2 * MAX_CACHE_SECONDS
#: Dead letters that one command puts back.
MAX_DEAD_LETTERS = 1000

_CALLED_OFF = (NotificationState.CANCELLED, NotificationState.SKIPPED)

log = logging.getLogger(__name__)


async def control(services: Services, command: Command, tenant: str, data: str) -> None:
    """Do what a command says; raises `MessageRefused` where there is nothing that it is about.

    `data` is the JSON pointer to the command in its message.
    """
    if command.target.dead_letters:
        await _redrive_letters(services, command.target.dead_letters, data)
        return
    if command.target.schedule:
        await arrange(services, command, tenant, data)
        return
    keys = await _meant(services, command.target, tenant)
    if command.command != "reschedule":
        # Whoever asked to see it again is not to see what was called off, or is not true any more.
        keys = [*keys, *[copy for key in keys for copy in await services.markers.list(snoozes(key))]]
    found = [each for key in keys if (each := await services.notifications.get(key))]
    if not found:
        raise MessageRefused("unknown", [Fault(f"{data}/target", "there is no such notification")])
    refused = None
    for notification in found:
        try:
            await _apply(services, command, notification, data)
        except MessageRefused as why:  # the others are seen to all the same
            refused = why
    if refused:
        raise refused


async def _meant(services: Services, target: CommandTarget, tenant: str) -> Sequence[str]:
    if target.cancellation_key:
        return await services.markers.list(cancellation(tenant, target.cancellation_key))
    return [notification_key(tenant, target.source or DEFAULT_SOURCE, str(target.id))]


async def _apply(services: Services, command: Command, notification: StoredNotification, pointer: str) -> None:
    key = notification.key
    if command.command == "redrive":
        if notification.state in _CALLED_OFF or notification.recalled:
            return
        await watch(services, key)
        await list_again(services, key)
        await sweep(services, notification, Task.REDRIVE)
    elif command.command == "edit":
        assert command.content
        content = command.content

        def edited(now: StoredNotification) -> Mapping[str, object]:
            data = _replaced(now.data, content=content.model_dump(by_alias=True, mode="json"), card=None)
            new = parse_stored(data)
            check_form(new, services.settings.max_activity_bytes, pointer)
            return {} if new == now.content else {"data": data, "revision": now.revision + 1}

        notification = await _change(services, notification, edited)
        await sweep(services, notification, Task.EDIT, SETTLED)
    elif command.schedule:
        await _reschedule(services, command.schedule, notification, pointer)
    else:
        recall = command.command == "recall"

        def called_off(now: StoredNotification) -> Mapping[str, object]:
            ended = now.state in (*_CALLED_OFF, NotificationState.FINISHED)
            changes: dict[str, object] = {} if ended else {"state": NotificationState.CANCELLED}
            return changes | ({"recalled": True} if recall and not now.recalled else {})

        notification = await _change(services, notification, called_off)
        await finish(services, key)
        if recall:
            await watch(services, key)  # the stored counts are brought up to date then
            await sweep(services, notification, Task.RECALL, SETTLED)
        elif notification.state is NotificationState.CANCELLED:
            await sweep(services, notification, Task.CANCEL, SETTLED)
    log.info("Notification %s: %s", key, command.command)


async def _reschedule(services: Services, schedule: Schedule, notification: StoredNotification, pointer: str) -> None:
    """Send what waits for its time at another; raises `MessageRefused` where it has begun."""
    now = services.clock()
    plan = planned(schedule, services.settings.default_time_zone, now)
    check_expiry(plan, notification.expires, f"{pointer}/schedule/at")
    state = NotificationState.SCHEDULED if plan.due else NotificationState.ACCEPTED

    def moved(known: StoredNotification) -> Mapping[str, object]:
        if known.content.schedule == schedule:
            return {}
        if known.state is not NotificationState.SCHEDULED:
            raise MessageRefused(
                "begun", [Fault(f"{pointer}/target", f"does not wait for its time any more: {known.state}")]
            )
        return {
            "data": _replaced(known.data, schedule=schedule.model_dump(by_alias=True, mode="json")),
            "state": NotificationState.SKIPPED if plan.skip else state,
            "due": plan.due or now,
            "rescheduled": now,
        }

    notification = await _change(services, notification, moved)
    # After the row: what wakes at the time that it had before finds that it is too early, or that it has begun.
    if notification.state is NotificationState.SCHEDULED and notification.due:
        await services.timers.put(notification.due, timers.NOTIFICATION, notification.key)
    elif notification.state is NotificationState.ACCEPTED:
        await services.queues.enqueue_expansion(Expansion(notification.key, notification.page))


def _replaced(data: bytes, **parts: object) -> bytes:
    """The canonical `data` of a notification with these parts instead of its own; raises `MessageRefused`."""
    return canonical_json(orjson.loads(data) | parts)


async def _change(
    services: Services, notification: StoredNotification, change: Callable[[StoredNotification], Mapping[str, object]]
) -> StoredNotification:
    """Change the columns that `change` names of the notification as it is now, maybe none; returns it after that."""
    while changes := change(notification):
        try:
            return await services.notifications.advance(notification, **changes)
        except Conflict:
            found = await services.notifications.get(notification.key)
            if found is None:
                raise MessageRefused("unknown", [Fault("", "is about a notification that is gone")]) from None
            notification = found
    return notification


async def _redrive_letters(services: Services, asked: DeadLetterSelection, data: str) -> None:
    letters = await services.dead_letters.find(asked.queue, asked.key, asked.reason, MAX_DEAD_LETTERS)
    if not letters:
        raise MessageRefused("unknown", [Fault(f"{data}/target/deadLetters", "there is no such dead letter")])
    for letter in letters:
        # First back on the queue, then forgotten: a death between the two puts it there twice, which does no harm.
        await _put_back(services, letter["queue"], services.dead_letters.body(letter))
        await services.dead_letters.delete(letter)
    log.info("%d dead letters of %s are back on their queue", len(letters), asked.queue)


async def _put_back(services: Services, queue: str, body: bytes) -> None:
    """Put what was given up back on its queue, with all its chances; what it had led to is taken back before."""
    try:
        message = MESSAGES[queue].decode(body)
    except (KeyError, NewerVersion, Unreadable, MessageRefused):  # upstream's, or none of ours
        await services.queues.put(queue, body.decode())
        return
    if isinstance(message, Delivery):
        known = await services.deliveries.get(message)
        if known:
            await reopen(services, message.notification, [(message, known)])
        message = replace(message, etag="")
    elif isinstance(message, Expansion):
        await list_again(services, message.notification)
    await services.queues.put(queue, replace(message, poison_retries=0).encode())
