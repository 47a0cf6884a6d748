"""Commands on the queue: cancel, recall, edit, redrive. To do one again changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import orjson

from notify.form import check_form
from notify.progress import finish, sweep
from shared.contract import DEFAULT_SOURCE, Command, DeadLetters, Fault, Refused, Target, stored
from shared.queues import Expansion, Task
from shared.services import Services
from shared.states import NotificationState
from shared.store.marks import cancellation
from shared.store.notifications import MAX_AGE, Notification, notification_key
from shared.store.table import Conflict

#: Seconds until all processes have seen what became of a notification, with what they had begun to send.
SETTLED = 2 * MAX_AGE
#: Dead letters that one command puts back.
MOST_LETTERS = 1000

log = logging.getLogger(__name__)


async def control(services: Services, command: Command, tenant: str, data: str) -> None:
    """Do what a command says; raises `Refused` where there is nothing that it is about.

    `data` is the JSON pointer to the command in its message.
    """
    if command.target.dead_letters:
        await _redrive_letters(services, command.target.dead_letters, data)
        return
    keys = await _meant(services, command.target, tenant)
    found = [each for key in keys if (each := await services.notifications.get(key))]
    if not found:
        raise Refused("unknown", [Fault(f"{data}/target", "there is no such notification")])
    for notification in found:
        await _apply(services, command, notification, data)


async def _meant(services: Services, target: Target, tenant: str) -> Sequence[str]:
    if target.cancellation_key:
        return await services.marks.of(cancellation(tenant, target.cancellation_key))
    return [notification_key(tenant, target.source or DEFAULT_SOURCE, str(target.id))]


async def _apply(services: Services, command: Command, notification: Notification, inside: str) -> None:
    key = notification.key
    if command.command == "redrive":
        if notification.state is NotificationState.FAILED:
            notification = await _change(services, key, state=NotificationState.EXPANDING)
            await services.queues.expand(Expansion(key, notification.page))
        if notification.state is NotificationState.FINISHED:
            notification = await _change(services, key, state=NotificationState.EXPANDED, counts="")
        await sweep(services, notification, Task.REDRIVE)
    elif command.command == "edit":
        assert command.content
        value = orjson.loads(notification.data) | {"content": command.content.model_dump(by_alias=True, mode="json")}
        value.pop("card", None)
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        check_form(stored(data), services.settings.max_activity_bytes, inside)
        if stored(data) != stored(notification.data):
            notification = await _change(services, key, data=data, revision=notification.revision + 1)
        await sweep(services, notification, Task.EDIT, SETTLED)
    else:
        recall = command.command == "recall"
        if notification.state is not NotificationState.FINISHED:
            changes: dict[str, object] = {"state": NotificationState.CANCELLED}
            notification = await _change(services, key, **changes)
            await finish(services, key)
        if recall:
            await sweep(services, notification, Task.RECALL, SETTLED)
    log.info("Notification %s: %s", key, command.command)


async def _change(services: Services, key: str, **changes: object) -> Notification:
    while True:
        notification = await services.notifications.get(key)
        if notification is None:
            raise Refused("unknown", [Fault("", "is about a notification that is gone")])
        try:
            return await services.notifications.advance(notification, **changes)
        except Conflict:
            continue


async def _redrive_letters(services: Services, asked: DeadLetters, data: str) -> None:
    letters = await services.dead_letters.of(asked.queue, asked.key, asked.reason, MOST_LETTERS)
    if not letters:
        raise Refused("unknown", [Fault(f"{data}/target/deadLetters", "there is no such dead letter")])
    for letter in letters:
        # First back on the queue, then forgotten: a death between the two puts it there twice, which does no harm.
        await services.queues.put(letter["queue"], bytes(letter["body"]).decode())
        await services.dead_letters.delete(letter)
    log.info("%d dead letters of %s are back on their queue", len(letters), asked.queue)
