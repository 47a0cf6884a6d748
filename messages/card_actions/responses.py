"""Record a person's response to a notification, and publish it on the queue `responses` for the upstream system.

The row is written first, then the message, then the row records that the message was sent. If a worker dies in between,
the person gets no answer, and their next click publishes the message, with the same id, by which the upstream system
drops a duplicate.
"""

from __future__ import annotations

import json
from datetime import datetime

from messages.activity.verified import Event
from messages.card_actions.binding import BoundAction
from messages.card_actions.snooze import SAMPLES, origin
from shared.keys import hash_of
from shared.queue_messages import RESPONSES
from shared.services import Services
from shared.storage.notifications import StoredNotification
from shared.storage.responses import Response

#: The type and source of the CloudEvents that tell of it.
TYPE, SOURCE = "herald.response.v1", "/herald"
#: Longest message, in bytes: a queue takes 64 KiB ("Put Message", Queue service REST reference).
MAX_MESSAGE_BYTES = 64 * 1024


class TooLong(Exception):
    """What somebody typed does not fit into a message."""


async def respond(services: Services, event: Event, bound: BoundAction, action: str) -> tuple[Response, bool]:
    """Record an action, and tell upstream; returns what is recorded, and whether it was before.

    Raises `TooLong`.
    """
    of, person, here = await origin(services, bound.notification), event.person, event.incoming.conversation.id
    encoded(of, event, bound, action, services.clock())
    async with services.responses.lock(of.key, person):
        response = await services.responses.record(of.key, person, action, here, services.clock())
        if response.reported:
            return response, True
        if of.source != SAMPLES:
            await services.queues.put(RESPONSES, encoded(of, event, bound, action, response.at))
        await services.responses.mark_reported(of.key, person, response)
    return response, False


def encoded(of: StoredNotification, event: Event, bound: BoundAction, action: str, at: datetime) -> str:
    """The CloudEvent (JSON in ASCII) of an action of `event.person`; raises `TooLong`."""
    whole = {
        "specversion": "1.0",
        "type": TYPE,
        "source": SOURCE,
        "id": hash_of(of.key, event.person, action),
        "subject": of.key,
        "time": at.isoformat(),
        "datacontenttype": "application/json",
        "data": {
            "tenant": of.tenant,
            "notification": {"source": of.source, "id": of.id},
            "action": action,
            "user": {"id": event.person},
            "conversation": {"id": event.incoming.conversation.id},
            "inputs": bound.inputs,
        },
    }
    text = json.dumps(whole)  # in ASCII: a queue carries XML, which has no place for some characters
    if len(text) > MAX_MESSAGE_BYTES:
        raise TooLong
    return text
