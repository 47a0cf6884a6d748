"""Record a person's response to a notification, and report it to the upstream system on the queue `responses`.

The row is inserted first, then the message is enqueued, then the row is marked as reported. If the worker stops in
between, the person gets no answer. Their next click enqueues the message with the same id, so that the upstream system
can drop a duplicate.
"""

from __future__ import annotations

import json
from datetime import datetime

from messages.activity.verified import VerifiedActivity
from messages.card_actions.binding import BoundAction
from messages.card_actions.snooze import SAMPLE_SOURCE, find_original
from shared.keys import hash_of
from shared.queue_messages import RESPONSES
from shared.records import StoredNotification
from shared.services import Services
from shared.storage.responses import Response

#: Type and source of the CloudEvent of a response.
RESPONSE_EVENT_TYPE, RESPONSE_EVENT_SOURCE = "herald.response.v1", "/herald"
#: Longest message, in bytes: a queue accepts 64 KiB ("Put Message", Queue service REST reference).
MAX_MESSAGE_BYTES = 64 * 1024


class ResponseTooLong(Exception):
    """The inputs of a response do not fit into a queue message."""


async def record_and_report(
    services: Services, verified: VerifiedActivity, bound: BoundAction, action: str
) -> tuple[Response, bool]:
    """Record a response and report it, once. Return the recorded response, and whether it was reported before.

    Raises `ResponseTooLong`.
    """
    original = await find_original(services, bound.notification)
    person, conversation = verified.person_id, verified.activity.conversation.id
    # Before anything is recorded: this raises if the message is too long.
    encode_response(original, verified, bound, action, services.clock())
    async with services.responses.lock(original.key, person):
        response = await services.responses.record(original.key, person, action, conversation, services.clock())
        if response.reported:
            return response, True
        if original.source != SAMPLE_SOURCE:
            message = encode_response(original, verified, bound, action, response.at)
            await services.queues.put(RESPONSES, message)
        await services.responses.mark_reported(original.key, person, response)
    return response, False


def encode_response(
    original: StoredNotification, verified: VerifiedActivity, bound: BoundAction, action: str, time: datetime
) -> str:
    """Return the CloudEvent of a response, as JSON in ASCII; raises `ResponseTooLong`."""
    reference = {"reference": original.reference} if original.reference else {}
    event = {
        "specversion": "1.0",
        "type": RESPONSE_EVENT_TYPE,
        "source": RESPONSE_EVENT_SOURCE,
        "id": hash_of(original.key, verified.person_id, action),
        "subject": original.key,
        "time": time.isoformat(),
        "datacontenttype": "application/json",
        "data": {
            "tenant": original.tenant,
            "notification": {"source": original.source, "id": original.id, **reference},
            "action": action,
            "user": {"id": verified.person_id},
            "conversation": {"id": verified.activity.conversation.id},
            "inputs": bound.inputs,
        },
    }
    text = json.dumps(event)  # ASCII: the queue service carries XML, in which some characters are not allowed
    if len(text) > MAX_MESSAGE_BYTES:
        raise ResponseTooLong
    return text
