"""Edit or recall a sent message in the same steps as it was sent: decide, prepare, send, record."""

from __future__ import annotations

import logging
import random
from contextlib import suppress
from dataclasses import replace

from notify import policy, threads
from notify.delivery.prepare import find_delay
from notify.progress import schedule_check
from notify.recipients import resolve, store_host
from shared.queue_messages import Delivery, Task
from shared.records import DeliveryRecord, StoredNotification
from shared.rendering import render_notification
from shared.services import Services
from shared.states import DeliveryState, Reason
from shared.storage.outages import outlast_faults
from shared.storage.table import Conflict
from shared.teams.connector import Route
from shared.teams.outcome import Outcome, Verdict

#: Delay before a delivery is looked at again that another worker is sending.
SENDING_DELAY_SECONDS = 10.0
#: Attempts per change. With the waits of `policy.backoff` between them, they take about a day.
MAX_ATTEMPTS = 100

log = logging.getLogger(__name__)


async def edit_or_recall(services: Services, notification: StoredNotification, message: Delivery) -> None:
    """Edit or recall one delivery, by the message's task, if it was sent; safe to repeat."""
    # Decide
    known = await services.deliveries.get(message)
    if known is None:
        return
    if known.state is DeliveryState.SENDING:
        await services.queues.enqueue_delivery(message, SENDING_DELAY_SECONDS, urgent=notification.urgent)
        return
    if known.state is not DeliveryState.SENT or not known.activity_id:
        return
    if message.task is Task.EDIT and known.revision >= notification.revision:
        return
    now, recipient = services.real_time(), await resolve(services, notification.tenant, message.recipient)
    target = recipient.target
    if isinstance(target, Reason):
        await _refuse(services, notification, message, known, target)
        return
    # Prepare
    if delayed := await find_delay(services, notification, message, recipient.lane, now):
        delay, message = delayed
        await services.queues.enqueue_delivery(message, delay, urgent=notification.urgent)
        return
    # Send
    route = Route(notification.tenant, target.service_url, notification.urgent, message.recipient)
    outcome = await _send(services, notification, message, known, route)
    # Record
    await _record(services, notification, message, known, outcome)
    await store_host(services, notification.tenant, target, outcome)


async def _send(
    services: Services, notification: StoredNotification, message: Delivery, known: DeliveryRecord, route: Route
) -> Outcome:
    """Edit or delete the message in Teams, or leave it if its card shows a newer notification of the thread."""
    recipient, activity_id = message.recipient, known.activity_id
    if await threads.find_newer(services, notification, recipient, activity_id):
        # An earlier attempt of this edit may have replaced the newer notification.
        if message.attempts and message.task is Task.EDIT:
            return await threads.show_newest(services, notification, recipient, route)
        return Outcome(Verdict.DONE)
    if message.task is Task.RECALL:
        outcome = await services.connector.delete(route, known.conversation_id, activity_id)
        is_gone = outcome.reason is Reason.CONVERSATION_GONE
        return Outcome(Verdict.DONE) if is_gone else outcome
    activity = render_notification(services, notification, recipient)
    outcome = await services.connector.update(route, known.conversation_id, activity_id, activity)
    # If the storage fails now, only this worker knows that its request may have replaced a newer notification.
    if await outlast_faults(lambda: threads.find_newer(services, notification, recipient, activity_id)):
        return await threads.show_newest(services, notification, recipient, route)
    return outcome


async def _record(
    services: Services, notification: StoredNotification, message: Delivery, known: DeliveryRecord, outcome: Outcome
) -> None:
    """Record that the message was changed or why not, or requeue it for another try."""
    may_retry = outcome.verdict in (Verdict.RETRY, Verdict.UNKNOWN)
    if outcome.verdict is Verdict.DONE:
        try:
            await _record_change(services, notification, message, known)
        except Conflict:  # another command changed the row: start again
            await services.queues.enqueue_delivery(message, urgent=notification.urgent)
    elif may_retry and message.attempts < MAX_ATTEMPTS:
        attempts = message.attempts + (outcome.reason not in policy.UNCOUNTED_REASONS)
        wait = policy.backoff(attempts, random.random()) if outcome.retry_after is None else outcome.retry_after  # noqa: S311
        again = replace(message, attempts=attempts, reserved_turn=0.0)
        await services.queues.enqueue_delivery(again, wait, urgent=notification.urgent)
    else:
        reason = Reason.EXHAUSTED if may_retry else outcome.reason or Reason.SERVICE_ERROR
        await _refuse(services, notification, message, known, reason)


async def _refuse(
    services: Services, notification: StoredNotification, message: Delivery, known: DeliveryRecord, reason: Reason
) -> None:
    """Record why a sent message stays as it is, unless another command changes the row at the same time."""
    log.warning(
        "A message of notification %s (%s) stays as it is: its %s was refused: %s",
        notification.key,
        notification.identity,
        message.task,
        reason,
    )
    await schedule_check(services, message.notification)  # it stores the number of refused changes
    with suppress(Conflict):
        await services.deliveries.refuse_change(message, known, reason)


async def _record_change(
    services: Services, notification: StoredNotification, message: Delivery, known: DeliveryRecord
) -> None:
    """Record that the message shows the notification's revision, or that it was recalled; raises `Conflict`."""
    if message.task is Task.RECALL or known.refused_change:
        # The final counts may be stored already. The check counts again, however late this change is.
        await schedule_check(services, message.notification)
    if message.task is Task.RECALL:
        await services.deliveries.recall(message, known, services.real_time())
    else:
        await services.deliveries.revise(message, known, notification.revision)
