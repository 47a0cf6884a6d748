"""Messages that a person asks for with a button: a snoozed notification, or a sample."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from messages.activity.verified import Event
from messages.card_actions.binding import BoundAction
from shared import publishing
from shared.cards.texts import text_of
from shared.services import Services
from shared.states import Purpose
from shared.storage.markers import snoozes
from shared.storage.notifications import StoredNotification, notification_key

#: The sources of what is posted here. The id of a snooze begins with the key of what upstream sent.
SNOOZES, SAMPLES = "/herald/snoozes", "/herald/samples"
#: The category of samples.
SAMPLE = "samples"

#: What a copy for one person does not have: it comes at its own time, as a message of its own, and not in a digest.
_NOT_COPIED = ("schedule", "digest", "thread", "expiresAt", "cancellationKey", "onMissing")


class TooLate(Exception):
    """The message expires before it would come again."""


async def origin(services: Services, notification: StoredNotification) -> StoredNotification:
    """What upstream sent of which a notification is a copy for one person, or the notification itself."""
    if notification.source != SNOOZES:
        return notification
    return await services.notifications.get(notification.id.partition(";")[0]) or notification


async def snooze(services: Services, event: Event, bound: BoundAction, verb: str, at: datetime) -> datetime:
    """Have the message come to the person again at `at`; returns when it comes, or came.

    `verb` is the button: by each, a card that was delivered comes again once. Raises `TooLate`.
    """
    first, person = await origin(services, bound.notification), event.person
    if first.expires and first.expires <= at:
        raise TooLate
    identifier = ";".join((first.key, bound.notification.key, person, verb))
    # Before the row: what is called off or edited is so for those too who wanted to see it again.
    await services.markers.put(snoozes(first.key), notification_key(event.tenant, SNOOZES, identifier))
    data = {name: part for name, part in orjson.loads(first.data).items() if name not in _NOT_COPIED}
    key = await _post(services, event, SNOOZES, identifier, data, at)
    posted = await services.notifications.get(key)
    return posted.due if posted and posted.due else at


async def sample(services: Services, event: Event, bound: BoundAction, language: str) -> None:
    """Send the person a notification to try things out on; once for the card on which they asked."""
    data = {
        "category": SAMPLE,
        "locale": language,
        "thread": {"key": SAMPLE},
        "content": {
            "title": text_of(language, "sample.title"),
            "text": text_of(language, "sample.text"),
            "result": text_of(language, "sample.result"),
            "actor": {"name": text_of(language, "sample.actor")},
        },
    }
    await _post(services, event, SAMPLES, f"{bound.notification.key};{event.person}", data)


async def _post(
    services: Services, event: Event, source: str, identifier: str, data: dict[str, Any], at: datetime | None = None
) -> str:
    whole = data | {"recipients": [{"user": event.person}]}
    return await publishing.post(
        services,
        tenant=event.tenant,
        recipient=f"u:{event.person}",
        source=source,
        identifier=identifier,
        data=orjson.dumps(whole, option=orjson.OPT_SORT_KEYS),
        purpose=Purpose.SNOOZE,
        at=at,
    )
