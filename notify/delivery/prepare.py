"""Prepare a request: whether its turn in the rate lanes has come."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from datetime import datetime

from shared.conversation_ids import channel_of
from shared.queue_messages import Delivery
from shared.records import StoredLane, StoredNotification
from shared.services import Services
from shared.teams.rate_limiter import RetryLater

#: Longest random addition to the delay of a delivery that is requeued because a rate lane is paused.
JITTER_SECONDS = 5.0


async def find_delay(
    services: Services,
    notification: StoredNotification,
    message: Delivery,
    lane: StoredLane,
    read_at: datetime,
    *,
    longest_wait: float = math.inf,
) -> tuple[float, Delivery] | None:
    """Return the delay in seconds after which the message has to come back, as returned, for its turn.

    None means that a request for the delivery may be sent now. Nothing is claimed while it waits. `lane` is the lane of
    its recipient, read at `read_at` or later, and `longest_wait` is that of `Sending`.
    """
    tenant, urgent, limiter = notification.tenant, notification.urgent, services.rate_limiter
    recipient = channel_of(message.recipient)
    limiter.learn(tenant, recipient, lane, read_at)
    if limiter.seconds_until_free(tenant, recipient, urgent=urgent) > longest_wait:
        return 0.0, message
    if paused := limiter.paused_seconds(tenant):
        return paused + random.uniform(0, min(paused, JITTER_SECONDS)), message  # noqa: S311
    try:
        reserved_turn = await limiter.reserve_turn(tenant, recipient, message.reserved_turn, urgent=urgent)
    except RetryLater as later:
        return later.seconds, replace(message, reserved_turn=0.0)
    if reserved_turn:
        return limiter.seconds_until(reserved_turn), replace(message, reserved_turn=reserved_turn)
    return None
