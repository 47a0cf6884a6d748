"""Finish a notification when its last delivery has ended, and resume one that makes no progress."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from datetime import timedelta

import orjson

from shared.queue_messages import Expansion, Sweep, Task
from shared.services import Services
from shared.states import DeliveryState, NotificationState
from shared.storage import timers
from shared.storage.deliveries import shard_names
from shared.storage.notifications import StoredNotification
from shared.storage.table import Conflict

#: When a notification that is under way is looked at for the first time, and how rarely at least after that: each look
#: adds copies of messages that may only wait, so the next one comes after half the time since it was to be sent.
WATCH_AFTER = timedelta(minutes=10)
WATCH_EACH = timedelta(days=1)

_LISTING = (NotificationState.ACCEPTED, NotificationState.EXPANDING)
_LISTED = (NotificationState.EXPANDED, NotificationState.CANCELLED, NotificationState.FINISHED)

log = logging.getLogger(__name__)


async def watch(services: Services, key: str, after: timedelta = WATCH_AFTER) -> None:
    """Have the notification looked at in a while, and again until it is finished."""
    await services.timers.put(services.clock() + after, timers.WATCH, key)


async def finish(services: Services, key: str) -> bool:
    """Store the final counts, where all recipients are listed and no delivery is open; whether that changed them."""
    # One that may be old serves where only a write by its ETag can follow.
    notification = await services.notifications.recent(key)
    if not notification or notification.state is not NotificationState.EXPANDED or notification.counts:
        notification = await services.notifications.get(key)
    while notification and notification.state in _LISTED:
        counts = await services.deliveries.final_counts(key, notification.shards)
        if counts is None or _final(counts) == notification.counts:
            return False
        try:
            await _store(services, notification, counts)
        except Conflict:
            notification = await services.notifications.get(key)
            continue
        return True
    return False


async def finish_single(services: Services, notification: StoredNotification, state: DeliveryState) -> None:
    """The same where there is one delivery, which ended in `state` after `notification` was read."""
    if notification.state is NotificationState.EXPANDED and not notification.counts:
        with suppress(Conflict):  # it may have been opened again
            await _store(services, notification, Counter([state.count_name]))
            return
    await finish(services, notification.key)


async def _store(services: Services, notification: StoredNotification, counts: Counter[str]) -> None:
    changes: dict[str, object] = {"counts": _final(counts), "total": counts.total()}
    if notification.state is NotificationState.EXPANDED:
        changes["state"] = NotificationState.FINISHED
    await services.notifications.advance(notification, **changes)


def _final(counts: Counter[str]) -> str:
    return orjson.dumps(+counts, option=orjson.OPT_SORT_KEYS).decode()


async def unfinish(services: Services, key: str) -> None:
    """Say that deliveries are open again; whoever counted them before that does not finish the notification."""
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
    """Resume a notification that may stand still: whatever is repeated changes nothing where it does not."""
    notification = await services.notifications.get(key)
    if notification is None:
        return
    if notification.state in _LISTING:
        log.warning("Notification %s is still being listed, at page %d: resumed", key, notification.page)
        await services.queues.enqueue_expansion(Expansion(key, notification.page))
    elif notification.state in _LISTED:
        changed = await finish(services, key)
        if await services.deliveries.final_counts(key, notification.shards) is None:
            await sweep(services, notification, Task.WATCH)
        elif not changed:
            return
    else:
        return
    age = services.clock() - (notification.due or notification.created)
    await watch(services, key, min(WATCH_EACH, max(WATCH_AFTER, age / 2)))


async def sweep(services: Services, notification: StoredNotification, task: Task, delay: float = 0) -> None:
    """Go through all deliveries of a notification for `task`, beginning in `delay` seconds."""
    await services.queues.enqueue_sweep(Sweep(notification.key, task, shard_names(notification.shards)[0]), delay)
