"""Send a person a message that they asked for with a button: a snoozed notification, or a sample."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from messages.activity.verified import VerifiedActivity
from messages.card_actions.binding import BoundAction
from shared import publishing
from shared.records import StoredNotification, notification_key
from shared.services import Services
from shared.states import Purpose
from shared.storage.markers import snoozes
from shared.texts import text_of

#: The source of snoozed copies. Their id begins with the key of the original notification.
SNOOZE_SOURCE = "/herald/snoozes"
SAMPLE_SOURCE = "/herald/samples"
SAMPLE_CATEGORY = "samples"

#: Fields that a snoozed copy does not have: it has its own due time, and is a message of its own, in no digest.
_NOT_COPIED = ("schedule", "digest", "thread", "expiresAt", "cancellationKey", "onMissing")


class ExpiresTooSoon(Exception):
    """The notification expires before it would be sent again."""


async def find_original(services: Services, notification: StoredNotification) -> StoredNotification:
    """Return the notification of the upstream system of which `notification` is a snoozed copy, or itself."""
    if notification.source != SNOOZE_SOURCE:
        return notification
    return await services.notifications.get(notification.id.partition(";")[0]) or notification


async def snooze(
    services: Services, verified: VerifiedActivity, bound: BoundAction, verb: str, time: datetime
) -> datetime:
    """Schedule a copy of the notification for the person at `time`, and return when the copy is due.

    Each delivered card is copied once for each `verb`: a repeated click returns the due time of the existing copy.
    Raises `ExpiresTooSoon`.
    """
    original, person = await find_original(services, bound.notification), verified.person_id
    if original.expires and original.expires <= time:
        raise ExpiresTooSoon
    identifier = ";".join((original.key, bound.notification.key, person, verb))
    # Before the copy is stored, so that cancelling or editing the original always finds it.
    await services.markers.put(snoozes(original.key), notification_key(verified.tenant, SNOOZE_SOURCE, identifier))
    data = {name: part for name, part in orjson.loads(original.data).items() if name not in _NOT_COPIED}
    key = await _post(services, verified, SNOOZE_SOURCE, identifier, data, time)
    copy = await services.notifications.get(key)
    return copy.due if copy and copy.due else time


async def send_sample(services: Services, verified: VerifiedActivity, bound: BoundAction, language: str) -> None:
    """Send the person a sample notification, once for each card with that button."""
    data = {
        "category": SAMPLE_CATEGORY,
        "locale": language,
        "thread": {"key": SAMPLE_CATEGORY},
        "content": {
            "title": text_of(language, "sample.title"),
            "text": text_of(language, "sample.text"),
            "result": text_of(language, "sample.result"),
            "actor": {"name": text_of(language, "sample.actor")},
        },
    }
    await _post(services, verified, SAMPLE_SOURCE, f"{bound.notification.key};{verified.person_id}", data)


async def _post(
    services: Services,
    verified: VerifiedActivity,
    source: str,
    identifier: str,
    data: dict[str, Any],
    time: datetime | None = None,
) -> str:
    return await publishing.post(
        services,
        tenant=verified.tenant,
        recipient=f"u:{verified.person_id}",
        source=source,
        identifier=identifier,
        data=orjson.dumps(data | {"recipients": [{"user": verified.person_id}]}, option=orjson.OPT_SORT_KEYS),
        purpose=Purpose.SNOOZE,
        at=time,
    )
