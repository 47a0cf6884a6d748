"""Edit sent messages, or delete them."""

from __future__ import annotations

import logging
import random
from dataclasses import replace

from notify import policy, threads
from notify.progress import watch
from notify.recipients import resolve
from shared.queue_messages import Delivery, Task
from shared.records import DeliveryRecord
from shared.rendering import render_notification
from shared.services import Services
from shared.states import DeliveryState, Reason
from shared.storage.notifications import StoredNotification
from shared.storage.table import Conflict
from shared.teams.connector import Route
from shared.teams.outcome import Outcome, Verdict

#: Seconds after which a delivery is looked at again that is being sent just now.
SENDING_DELAY_SECONDS = 10.0
#: How often a change is tried, with those waits between that `policy.backoff` gives: about a day.
MAX_ATTEMPTS = 100

_DONE = Outcome(Verdict.DONE)

log = logging.getLogger(__name__)


async def amend(services: Services, notification: StoredNotification, message: Delivery) -> None:
    """Recall or edit one delivery that was sent; to do so twice changes nothing."""
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
        log.info("A message of notification %s cannot be changed any more: %s", notification.key, target)
        return
    route = Route(notification.tenant, target.service_url, notification.urgent)
    where, what = known.conversation_id, known.activity_id
    if await threads.newer(services, notification, message.recipient, what):
        # The card shows something newer of the thread by now. That stays, also where an edit of ours came last.
        again = message.attempts > 0 and not recall
        outcome = await threads.show_again(services, notification, message.recipient, route) if again else _DONE
    elif recall:
        outcome = await services.connector.delete(route, where, what)
    else:
        activity = render_notification(services, notification)
        outcome = await services.connector.update(route, where, what, activity)
        if await threads.newer(services, notification, message.recipient, what):
            outcome = await threads.show_again(services, notification, message.recipient, route)
    if outcome.verdict in (Verdict.RETRY, Verdict.UNKNOWN) and message.attempts < MAX_ATTEMPTS:
        attempts = message.attempts + (outcome.reason not in policy.NOT_ITS_MAKING)
        wait = policy.backoff(attempts, random.random()) if outcome.retry_after is None else outcome.retry_after  # noqa: S311
        await services.queues.enqueue_delivery(replace(message, attempts=attempts), wait, urgent=notification.urgent)
    elif outcome.verdict is Verdict.DONE or (recall and outcome.reason is Reason.CONVERSATION_GONE):
        try:
            await _note(services, message, known, None if recall else notification.revision)
        except Conflict:  # another command changes it too: it is looked at anew
            await services.queues.enqueue_delivery(message, urgent=notification.urgent)
    else:
        log.warning("Teams does not change a message of notification %s: %s", notification.key, outcome.reason)


async def _note(services: Services, message: Delivery, known: DeliveryRecord, revision: int | None) -> None:
    """Write down that it shows this revision, or, for None, that it was taken back; raises `Conflict`."""
    if revision is None:
        now, was = services.real_time(), DeliveryState.SENT
        # The stored counts of what has ended do not know of this: the watch counts anew, however late it is.
        await watch(services, message.notification)
        await services.deliveries.settle(message, known.etag, DeliveryState.RECALLED, previous=was, now=now)
    else:
        await services.deliveries.revise(message, known.etag, revision)
