"""Retry failed and missed deliveries."""

from __future__ import annotations

from collections.abc import Sequence

from notify.progress import unfinish
from shared.concurrency import gather_limited
from shared.queue_messages import Delivery, Expansion
from shared.records import DeliveryRecord
from shared.services import Services
from shared.states import DIGESTS, DeliveryState, NotificationState
from shared.storage.table import Conflict

_FAILED = (DeliveryState.FAILED, DeliveryState.UNKNOWN, DeliveryState.MISSED)
_UNLISTED = (NotificationState.FAILED, NotificationState.MISSED)


async def reopen(services: Services, key: str, found: Sequence[tuple[Delivery, DeliveryRecord]]) -> Sequence[Delivery]:
    """Open the failed deliveries of a notification again, and return messages for all that are open.

    Deliveries that were open before are among them: the worker that opened them may have crashed before it enqueued
    their messages. A digest is not opened again: what it included is redriven instead.
    """
    notification = await services.notifications.recent(key)
    if notification is None or notification.purpose in DIGESTS:
        return []

    async def one(pair: tuple[Delivery, DeliveryRecord]) -> None:
        try:
            await services.deliveries.reopen(*pair, services.real_time())
        except Conflict:
            return  # somebody else was faster

    await gather_limited([pair for pair in found if pair[1].state in _FAILED], one)
    todo = [delivery for delivery, state in found if state.state in _FAILED or not state.state.final]
    if todo:
        await unfinish(services, key)
    return todo


async def list_again(services: Services, key: str) -> None:
    """Go on listing the recipients of a notification where that had failed, or was not even begun."""
    notification = await services.notifications.get(key)
    while notification and notification.state in _UNLISTED:
        try:
            await services.notifications.advance(notification, state=NotificationState.EXPANDING)
        except Conflict:
            notification = await services.notifications.get(key)
            continue
        await services.queues.enqueue_expansion(Expansion(key, notification.page))
        return
