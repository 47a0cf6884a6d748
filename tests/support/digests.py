"""Who waits for a digest, and what came of it, as tests of digests ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from local.fake_teams.api import PersonView, Received
from shared.queue_messages import RecipientTask, Task
from shared.states import Mode, ReferenceKind
from shared.storage.notifications import StoredNotification
from tests.support.herald import Herald, user

#: What a person wants in these tests, where nothing else is said: builds in the digest, at 9 in Berlin.
WANTS: dict[str, Any] = {"categories": {"builds": Mode.DIGEST}, "digest": "daily 09:00", "time_zone": "Europe/Berlin"}


async def go_to(herald: Herald, when: str) -> None:
    """Let it be this time (UTC), and do all that it is time for then."""
    at = datetime.fromisoformat(when).replace(tzinfo=UTC)
    await herald.wait((at - herald.clock()).total_seconds())


async def see_to(herald: Herald, recipient: str, task: Task) -> None:
    """Have somebody seen to, with all that follows at once."""
    await herald.services.queues.enqueue_recipient(RecipientTask(herald.tenant, recipient, task))
    await herald.send()


async def one(herald: Herald, when: str, **preferences: Any) -> PersonView:
    """A new person who wants this, at this time (UTC)."""
    herald.clock.moved += datetime.fromisoformat(when).replace(tzinfo=UTC) - herald.clock()
    [person] = (await herald.grow(people=1)).people
    await herald.know(person)
    await prefer(herald, person, **(WANTS | preferences))
    return person


async def prefer(herald: Herald, person: PersonView, **preferences: Any) -> None:
    await herald.services.conversations.change_preferences(
        herald.tenant, ReferenceKind.USER, person.object_id, lambda old: replace(old, **preferences)
    )


async def ask(herald: Herald, person: PersonView, title: str = "Build 1", **data: Any) -> StoredNotification:
    """A notification of this title, as far as it gets at once."""
    content = {"title": title} | data.pop("content", {})
    asked = await herald.ask(user(person), content=content, **data)
    await herald.send()
    return asked


async def came(herald: Herald, person: PersonView) -> list[Received]:
    """What the person received."""
    return await herald.teams.received(person=person.object_id)


def texts(received: Received) -> list[str]:
    """All that its card says, in order."""
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
