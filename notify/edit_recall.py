"""Edit or recall sent messages."""

from __future__ import annotations

import logging
import random
from contextlib import suppress
from dataclasses import replace

from notify import policy, threads
from notify.progress import schedule_check
from notify.recipients import resolve
from shared.queue_messages import Delivery, Task
from shared.records import DeliveryRecord, StoredNotification
from shared.rendering import render_notification
from shared.services import Services
from shared.states import DeliveryState, Reason
from shared.storage.table import Conflict
from shared.teams.connector import Route
from shared.teams.outcome import Outcome, Verdict

#: Delay before a delivery is looked at again that another worker is sending.
SENDING_DELAY_SECONDS = 10.0
#: Attempts per change. With the waits of `policy.backoff` between them, they take about a day.
MAX_ATTEMPTS = 100

_DONE = Outcome(Verdict.DONE)

log = logging.getLogger(__name__)


async def edit_or_recall(services: Services, notification: StoredNotification, message: Delivery) -> None:
    """Edit or recall one delivery, by the message's task, if it was sent; safe to repeat."""
    known = await services.deliveries.get(message)
    if known is None:
        return
    if known.state is DeliveryState.SENDING:
        await services.queues.enqueue_delivery(message, SENDING_DELAY_SECONDS, urgent=notification.urgent)
        return
    if known.state is not DeliveryState.SENT or not known.activity_id:
        return
    recall = message.task is Task.RECALL
    if not recall and known.revision >= notification.revision:
        return
    target = (await resolve(services, notification.tenant, message.recipient)).target
    if isinstance(target, Reason):
        log.info(
            "A message of notification %s (%s) stays unchanged: its recipient is %s",
            notification.key,
            notification.identity,
            target,
        )
        await _record_refusal(services, message, known, target)
        return
    route = Route(notification.tenant, target.service_url, notification.urgent)
    conversation, activity_id = known.conversation_id, known.activity_id
    if await threads.find_newer(services, notification, message.recipient, activity_id):
        # The card shows a newer notification of the thread and must keep it. An earlier attempt of this edit may have
        # replaced it.
        again = message.attempts > 0 and not recall
        outcome = await threads.show_newest(services, notification, message.recipient, route) if again else _DONE
    elif recall:
        outcome = await services.connector.delete(route, conversation, activity_id)
    else:
        activity = render_notification(services, notification)
        outcome = await services.connector.update(route, conversation, activity_id, activity)
        if await threads.find_newer(services, notification, message.recipient, activity_id):
            outcome = await threads.show_newest(services, notification, message.recipient, route)
    if outcome.verdict in (Verdict.RETRY, Verdict.UNKNOWN) and message.attempts < MAX_ATTEMPTS:
        attempts = message.attempts + (outcome.reason not in policy.UNCOUNTED_REASONS)
        wait = policy.backoff(attempts, random.random()) if outcome.retry_after is None else outcome.retry_after  # noqa: S311
        await services.queues.enqueue_delivery(replace(message, attempts=attempts), wait, urgent=notification.urgent)
    elif outcome.verdict is Verdict.DONE or (recall and outcome.reason is Reason.CONVERSATION_GONE):
        try:
            await _record_change(services, message, known, None if recall else notification.revision)
        except Conflict:  # another command changed the row: start again
            await services.queues.enqueue_delivery(message, urgent=notification.urgent)
    else:
        log.warning(
            "Teams refused to %s a message of notification %s (%s): %s",
            message.task,
            notification.key,
            notification.identity,
            outcome.reason,
        )
        has_retried = outcome.verdict in (Verdict.RETRY, Verdict.UNKNOWN)
        reason = Reason.EXHAUSTED if has_retried else outcome.reason or Reason.SERVICE_ERROR
        await _record_refusal(services, message, known, reason)


async def _record_refusal(services: Services, message: Delivery, known: DeliveryRecord, reason: Reason) -> None:
    """Record why a sent message stays as it is, unless another command changes the row at the same time."""
    await schedule_check(services, message.notification)  # it stores the number of refused changes
    with suppress(Conflict):
        await services.deliveries.refuse_change(message, known, reason)


async def _record_change(services: Services, message: Delivery, known: DeliveryRecord, revision: int | None) -> None:
    """Record that the message shows `revision`, or that it was recalled (None); raises `Conflict`."""
    if revision is None or known.refused_change:
        # The final counts may be stored already. The check counts again, however late this change is.
        await schedule_check(services, message.notification)
    if revision is None:
        await services.deliveries.recall(message, known, services.real_time())
    else:
        await services.deliveries.revise(message, known, revision)
