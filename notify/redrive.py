"""Retry failed and missed deliveries, and expansions that failed."""

from __future__ import annotations

from collections.abc import Sequence

from notify.progress import mark_unfinished
from shared.concurrency import gather_limited
from shared.queue_messages import Delivery, Expansion
from shared.records import DeliveryRecord
from shared.services import Services
from shared.states import DIGESTS, DeliveryState, NotificationState
from shared.storage.table import Conflict

_FAILED = (DeliveryState.FAILED, DeliveryState.UNKNOWN, DeliveryState.MISSED)
_NOT_EXPANDED = (NotificationState.FAILED, NotificationState.MISSED)


async def reopen(services: Services, key: str, page: Sequence[tuple[Delivery, DeliveryRecord]]) -> Sequence[Delivery]:
    """Reopen the failed deliveries of a notification, and return messages for all deliveries that are open.

    Deliveries that were open before are among them: the worker that reopened them may have died before it enqueued
    their messages. A digest is not reopened: the deliveries that it included are redriven instead.
    """
    notification = await services.notifications.recent(key)
    if notification is None or notification.purpose in DIGESTS:
        return []

    async def reopen_one(pair: tuple[Delivery, DeliveryRecord]) -> None:
        try:
            await services.deliveries.reopen(*pair, services.real_time())
        except Conflict:
            return  # another worker reopened it

    await gather_limited([pair for pair in page if pair[1].state in _FAILED], reopen_one)
    opened = [delivery for delivery, known in page if known.state in _FAILED or not known.state.final]
    if opened:
        await mark_unfinished(services, key)
    return opened


async def resume_expansion(services: Services, key: str) -> None:
    """Resume the expansion of a notification that failed or was missed, at the page where it stopped."""
    notification = await services.notifications.get(key)
    while notification and notification.state in _NOT_EXPANDED:
        try:
            await services.notifications.advance(notification, state=NotificationState.EXPANDING)
        except Conflict:
            notification = await services.notifications.get(key)
            continue
        await services.queues.enqueue_expansion(Expansion(key, notification.page))
        return
