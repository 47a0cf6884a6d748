"""People whose notifications are held for a digest, and the digests that they received."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

from local.fake_teams.api import PersonView, Received
from shared.queue_messages import RECIPIENTS, Delivery, RecipientTask, Task
from shared.records import StoredNotification
from shared.states import Mode, ReferenceKind
from tests.support.herald import Herald, user
from timer_digest.release_held import release

#: Preferences of a person in these tests: builds in the digest, daily at 09:00 in Berlin.
DIGEST_PREFERENCES: dict[str, Any] = {
    "categories": {"builds": Mode.DIGEST},
    "digest": "daily 09:00",
    "time_zone": "Europe/Berlin",
}


async def advance_to(herald: Herald, when: str) -> None:
    """Move the clock to this time (UTC), and do all work that is due."""
    at = datetime.fromisoformat(when).replace(tzinfo=UTC)
    await herald.advance_clock((at - herald.clock()).total_seconds())


async def run_task(herald: Herald, recipient: str, task: Task) -> None:
    """Enqueue a task for a recipient, and do all work that follows at once."""
    await herald.services.queues.enqueue_recipient(RecipientTask(herald.tenant, recipient, task))
    await herald.handle_messages()


async def run_recipient_tasks(herald: Herald) -> None:
    """Do the tasks on the queue of recipients, and not what follows from them."""
    await herald.handle_batch(RECIPIENTS, lambda body: release(herald.services, RecipientTask.decode(body)))


@contextmanager
def slots_taken() -> Iterator[None]:
    """Let every delivery wait for a slot, so that the card of a digest goes to the queue of deliveries."""

    async def find_delay(_services: Any, _notification: Any, message: Delivery, *_: Any, **__: Any) -> Any:
        return 0.0, message

    with patch("notify.delivery.deliver.find_delay", find_delay):
        yield


async def add_person(herald: Herald, when: str, **preferences: Any) -> PersonView:
    """Move the clock to this time (UTC), and return a new person with `DIGEST_PREFERENCES` and these."""
    herald.clock.offset += datetime.fromisoformat(when).replace(tzinfo=UTC) - herald.clock()
    [person] = (await herald.grow(people=1)).people
    await herald.store_reference(person)
    await set_preferences(herald, person, **(DIGEST_PREFERENCES | preferences))
    return person


async def set_preferences(herald: Herald, person: PersonView, **preferences: Any) -> None:
    await herald.services.conversations.change_preferences(
        herald.tenant, ReferenceKind.USER, person.object_id, lambda old: replace(old, **preferences)
    )


async def send_to(herald: Herald, person: PersonView, title: str = "Build 1", **data: Any) -> StoredNotification:
    """Send a notification with this title to a person, and do all work that follows at once."""
    content = {"title": title} | data.pop("content", {})
    notification = await herald.submit(user(person), content=content, **data)
    await herald.handle_messages()
    return notification


async def received_by(herald: Herald, person: PersonView) -> list[Received]:
    """Return the messages that a person received."""
    return await herald.teams.received(person=person.object_id)


def card_texts(received: Received) -> list[str]:
    """Return all texts of a message's card, in order."""
    return list(_texts(received.activity["attachments"][0]["content"]["body"]))


def _texts(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        for each in part:
            yield from _texts(each)
    elif isinstance(part, dict):
        if isinstance(part.get("text"), str):
            yield part["text"]
        for name in ("items", "inlines"):
            yield from _texts(part.get(name))
