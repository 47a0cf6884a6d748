"""Prepare a request: whether its turn in the rate lanes has come."""

from __future__ import annotations

import random
from dataclasses import replace

from notify.policy import Target
from shared.conversation_ids import channel_of
from shared.queue_messages import Delivery
from shared.records import StoredNotification
from shared.services import Services
from shared.teams.rate_limiter import RetryLater

#: Longest random addition to the delay of a delivery that is requeued because a rate lane is paused.
JITTER_SECONDS = 5.0


async def is_its_turn(services: Services, notification: StoredNotification, message: Delivery, lane: str) -> bool:
    """Return whether a request for the delivery may be sent now; if not, requeue its message for its turn.

    `lane` is the conversation, or the person whose chat is still to be created. Nothing is claimed while it waits.
    """
    tenant, urgent, limiter = notification.tenant, notification.urgent, services.rate_limiter
    if paused := limiter.paused_seconds(tenant):
        wait, reserved_turn = paused + random.uniform(0, min(paused, JITTER_SECONDS)), message.reserved_turn  # noqa: S311
    else:
        try:
            reserved_turn = await limiter.reserve_turn(tenant, channel_of(lane), message.reserved_turn, urgent=urgent)
            wait = limiter.seconds_until(reserved_turn)
        except RetryLater as later:
            wait, reserved_turn = later.seconds, 0.0
        else:
            if not reserved_turn:
                return True
    await services.queues.enqueue_delivery(replace(message, reserved_turn=reserved_turn), wait, urgent=urgent)
    return False


def lane_of(target: Target) -> str:
    """Return the conversation whose windows a message to the target keeps, or the person, if there is no chat yet."""
    return target.conversation or target.id
