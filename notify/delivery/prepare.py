"""Prepare a request: whether its turn in the rate lanes has come."""

from __future__ import annotations

import random
from dataclasses import replace

from shared.conversation_ids import channel_of
from shared.queue_messages import Delivery
from shared.records import StoredNotification
from shared.services import Services
from shared.teams.rate_limiter import RetryLater

#: Longest random addition to the delay of a delivery that is requeued because a rate lane is paused.
JITTER_SECONDS = 5.0
#: Longest time that a delivery of the direct path may wait for its slot and its turn.
MAX_DIRECT_WAIT_SECONDS = 0.25


async def find_delay(
    services: Services, notification: StoredNotification, message: Delivery
) -> tuple[float, Delivery] | None:
    """Return the delay in seconds after which the message has to come back, as returned, for its turn.

    None means that a request for the delivery may be sent now. Nothing is claimed while it waits.
    """
    tenant, urgent, limiter = notification.tenant, notification.urgent, services.rate_limiter
    if paused := limiter.paused_seconds(tenant):
        return paused + random.uniform(0, min(paused, JITTER_SECONDS)), message  # noqa: S311
    try:
        turn = message.reserved_turn
        reserved_turn = await limiter.reserve_turn(tenant, channel_of(message.recipient), turn, urgent=urgent)
    except RetryLater as later:
        return later.seconds, replace(message, reserved_turn=0.0)
    if reserved_turn:
        return limiter.seconds_until(reserved_turn), replace(message, reserved_turn=reserved_turn)
    return None


def would_wait(services: Services, notification: StoredNotification, recipient: str) -> bool:
    """Return whether a request would wait too long in the function that ingests its notification (`notify.direct`)."""
    limiter, tenant = services.rate_limiter, notification.tenant
    wait = limiter.seconds_until_free(tenant, channel_of(recipient), urgent=notification.urgent)
    return wait > MAX_DIRECT_WAIT_SECONDS
