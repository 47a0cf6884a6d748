"""Finish a notification when its last delivery has ended, and resume one that makes no progress (the watchdog)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta

import orjson

from shared.queue_messages import Expansion, Sweep, Task
from shared.records import StoredNotification
from shared.services import Services
from shared.states import DeliveryState, NotificationState
from shared.storage import timers
from shared.storage.deliveries import shard_names
from shared.storage.delivery_counts import FEW_SHARD
from shared.storage.table import Conflict

#: Delay before the watchdog's first check of a notification, and the longest interval between later ones. A check adds
#: copies of messages that may still be on their queues, so the interval grows: it is half the notification's age.
FIRST_CHECK_DELAY = timedelta(minutes=10)
MAX_CHECK_INTERVAL = timedelta(days=1)

_EXPANDING = (NotificationState.ACCEPTED, NotificationState.EXPANDING)
_EXPANDED = (NotificationState.EXPANDED, NotificationState.CANCELLED, NotificationState.FINISHED)

log = logging.getLogger(__name__)


async def schedule_check(services: Services, key: str, delay: timedelta = FIRST_CHECK_DELAY) -> None:
    """Set a timer for the watchdog's check of a notification; checks repeat until the notification is finished."""
    await services.timers.put(services.clock() + delay, timers.WATCHDOG, key)


async def finish(services: Services, key: str) -> bool:
    """Store the final counts if all recipients are listed and no delivery is open; return whether these changed."""
    # A cached row is enough if the write that follows depends on its ETag.
    notification = await services.notifications.recent(key)
    if not notification or notification.state is not NotificationState.EXPANDED or notification.counts:
        notification = await services.notifications.get(key)
    while notification and notification.state in _EXPANDED:
        final = await services.deliveries.final_counts(key, notification.shards)
        if final is None or _lacks_rows(notification, final[0]):
            return False
        if (_encode(final[0]), final[1]) == (notification.counts, notification.refused_changes):
            return False
        try:
            await _store_counts(services, notification, *final)
        except Conflict:
            notification = await services.notifications.get(key)
            continue
        return True
    return False


def _lacks_rows(notification: StoredNotification, counts: Counter[str]) -> bool:
    """Return whether deliveries of the direct path have no row yet."""
    is_direct = not notification.shards and notification.state is NotificationState.EXPANDED
    return is_direct and counts.total() < (notification.total or 0)


async def finish_directly(
    services: Services, notification: StoredNotification, ended: Mapping[str, DeliveryState]
) -> None:
    """Finish a notification of the direct path, unless deliveries are open.

    `ended` has the final states by recipient.
    """
    if len(ended) == notification.total:
        with suppress(Conflict):  # a command changed it meanwhile
            await _store_counts(services, notification, Counter(state.count_name for state in ended.values()))
            return
    if ended:  # deliveries that were enqueued may have ended before these
        await finish(services, notification.key)


async def finish_after(services: Services, notification: StoredNotification, shard: str, state: DeliveryState) -> None:
    """Finish a notification, unless deliveries are open: the last one of a partition has ended in `state`."""
    is_single = notification.total == 1 and shard == FEW_SHARD
    if is_single and notification.state is NotificationState.EXPANDED and not notification.counts:
        with suppress(Conflict):  # the delivery may have been reopened
            await _store_counts(services, notification, Counter([state.count_name]))
            return
    await finish(services, notification.key)


async def _store_counts(
    services: Services, notification: StoredNotification, counts: Counter[str], refused: int = 0
) -> None:
    changes: dict[str, object] = {"counts": _encode(counts), "total": counts.total()}
    if refused != notification.refused_changes:
        changes["refused_changes"] = refused
    if notification.state is NotificationState.EXPANDED:
        changes["state"] = NotificationState.FINISHED
    await services.notifications.advance(notification, **changes)


def _encode(counts: Counter[str]) -> str:
    return orjson.dumps(+counts, option=orjson.OPT_SORT_KEYS).decode()


async def mark_unfinished(services: Services, key: str) -> None:
    """Clear the final counts of a notification with reopened deliveries.

    The write changes its ETag, so that a worker which counted before cannot finish it.
    """
    notification = await services.notifications.get(key)
    while notification:
        finished = notification.state is NotificationState.FINISHED
        state = NotificationState.EXPANDED if finished else notification.state
        try:
            await services.notifications.advance(notification, state=state, counts="")
        except Conflict:
            notification = await services.notifications.get(key)
            continue
        return


async def resume_stalled(services: Services, key: str) -> None:
    """Repeat the messages of an unfinished notification, and schedule its next check.

    Repeated messages are harmless if the notification was not stalled.
    """
    notification = await services.notifications.get(key)
    if notification is None:
        return
    if notification.state in _EXPANDING:
        log.warning(
            "Notification %s (%s) is still being expanded: its page %d was enqueued again",
            key,
            notification.identity,
            notification.page,
        )
        await services.queues.enqueue_expansion(Expansion(key, notification.page))
    elif notification.state in _EXPANDED:
        changed = await finish(services, key)
        if await services.deliveries.final_counts(key, notification.shards) is None:
            await start_sweep(services, notification, Task.WATCHDOG)
        elif not changed:
            return
    else:
        return
    age = services.clock() - (notification.due or notification.created)
    await schedule_check(services, key, min(MAX_CHECK_INTERVAL, max(FIRST_CHECK_DELAY, age / 2)))


async def start_sweep(services: Services, notification: StoredNotification, task: Task, delay: float = 0) -> None:
    """Enqueue the first page of a sweep of the notification's deliveries, visible in `delay` seconds."""
    await services.queues.enqueue_sweep(Sweep(notification.key, task, shard_names(notification.shards)[0]), delay)
