"""What goes on in the app while somebody dies, from a message on the queue to what is to come of it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from local.fake_teams.api import PersonView, TeamsFault
from notify.ingest import ingest
from shared.queue_messages import DELIVERIES
from shared.storage.notifications import notification_key
from tests.support.crashes import Host
from tests.support.herald import notification, user

OLD, NEW = {"title": "Build 42 failed"}, {"title": "Build 42 is mended"}


@dataclass(frozen=True, kw_only=True)
class Story:
    """What goes on while somebody dies: a message on the queue, and what is to come of the notification `key`.

    The people of `to` all get a row, unless it is `cut` short; the row ends in one of the states `ends`, and what was
    sent shows `title`. `unsure` says that it may come twice although nobody dies.
    """

    key: str
    to: Sequence[PersonView]
    body: bytes
    ends: Sequence[str] = ("sent",)
    title: str = OLD["title"]
    unsure: bool = False
    cut: bool = False


async def people(host: Host, count: int) -> list[PersonView]:
    """So many new people, who are known."""
    found = (await host.grow(people=count)).people
    await asyncio.gather(*map(host.know, found))
    return found


def ask(*recipients: dict[str, Any], **data: Any) -> bytes:
    return notification(*recipients, **({"content": OLD, "source": "/ci"} | data))


def key_of(host: Host, body: bytes) -> str:
    return notification_key(host.tenant, "/ci", json.loads(body)["id"])


def order(command: str, body: bytes, **more: Any) -> bytes:
    """A command about the notification that `body` asked for."""
    target = {"source": "/ci", "id": json.loads(body)["id"]}
    return json.dumps({"command": command, "target": target, **more}).encode()


async def topic(host: Host, subscribers: Sequence[PersonView]) -> dict[str, str]:
    """A new topic that these have subscribed to."""
    name = uuid.uuid4().hex
    for each in subscribers:
        await host.services.topics.subscribe(host.tenant, name, f"u:{each.object_id}")
    return {"topic": name}


async def to_one(host: Host) -> Story:
    [ada] = await people(host, 1)
    body = ask(user(ada))
    return Story(key=key_of(host, body), to=[ada], body=body)


async def that_teams_puts_off(host: Host) -> Story:
    story = await to_one(host)
    await host.teams.inject(
        TeamsFault(operation="send", person=story.to[0].object_id, status=412, code="PreconditionFailed", count=1)
    )
    return story


async def whose_answer_is_lost(host: Host) -> Story:
    story = await to_one(host)
    await host.teams.inject(TeamsFault(operation="send", person=story.to[0].object_id, drop=True, accept=True, count=1))
    return replace(story, unsure=True)


async def that_is_not_sent_twice_whatever_happens(host: Host) -> Story:
    [ada] = await people(host, 1)
    body = ask(user(ada), onUnknown="stop")
    return Story(key=key_of(host, body), to=[ada], body=body, ends=("sent", "unknown"))


async def to_who_has_blocked_us(host: Host) -> Story:
    story = await to_one(host)
    await host.teams.inject(
        TeamsFault(operation="send", person=story.to[0].object_id, status=403, code="ConversationBlockedByUser")
    )
    return replace(story, ends=("suppressed",))


async def to_who_has_no_chat(host: Host) -> Story:
    await host.know_tenant()
    [ada] = (await host.grow(people=1)).people
    body = ask(user(ada))
    return Story(key=key_of(host, body), to=[ada], body=body)


async def to_two_pages(host: Host) -> Story:
    everyone = await people(host, 3)
    body = ask(*map(user, everyone))
    return Story(key=key_of(host, body), to=everyone, body=body)


async def to_a_topic(host: Host) -> Story:
    """Its subscribers make two pages in several partitions; one of them is named beside."""
    everyone = await people(host, 3)
    body = ask(user(everyone[-1]), await topic(host, everyone))
    return Story(key=key_of(host, body), to=everyone, body=body)


async def that_updates_a_card(host: Host) -> Story:
    story = await to_one(host)
    await host.put(ask(user(story.to[0]), content={"title": "Before"}, thread={"key": story.key, "onRepeat": "update"}))
    await host.send()
    body = ask(user(story.to[0]), thread={"key": story.key, "onRepeat": "update"})
    return replace(story, key=key_of(host, body), body=body)


async def that_waits_for_its_time(host: Host) -> Story:
    [ada] = await people(host, 1)
    at = (host.clock() + timedelta(hours=1)).replace(tzinfo=None).isoformat(timespec="minutes")
    body = ask(user(ada), schedule={"at": at, "timeZone": "UTC"})
    return Story(key=key_of(host, body), to=[ada], body=body)


async def that_is_cancelled(host: Host) -> Story:
    """One was sent, one waits for its next try."""
    ada, bob = await people(host, 2)
    await host.teams.inject(
        TeamsFault(
            operation="send", person=bob.object_id, status=412, code="PreconditionFailed", retry_after=60, count=1
        )
    )
    body = ask(user(ada), user(bob))
    await host.put(body)
    await host.send()
    return Story(key=key_of(host, body), to=[ada, bob], body=order("cancel", body), ends=("sent", "cancelled"))


async def that_is_cancelled_in_the_middle(host: Host) -> Story:
    story = await _half_sent(host)
    return replace(story, body=order("cancel", story.body), ends=("sent", "cancelled"), cut=True)


async def that_is_recalled(host: Host) -> Story:
    story = await _half_sent(host)
    return replace(story, body=order("recall", story.body), ends=("recalled", "cancelled"), cut=True)


async def that_is_edited(host: Host) -> Story:
    story = await _half_sent(host)
    return replace(story, body=order("edit", story.body, content=NEW), title=NEW["title"])


async def _half_sent(host: Host) -> Story:
    """The first of two pages is sent."""
    everyone = await people(host, 3)
    body = ask(*map(user, everyone))
    await host.put(body)
    await host.send()
    return Story(key=key_of(host, body), to=everyone, body=body)


async def that_is_redriven(host: Host) -> Story:
    ada, bob = await people(host, 2)
    await host.teams.inject(
        TeamsFault(operation="send", person=bob.object_id, status=400, code="Bad Argument", count=1)
    )
    body = ask(user(ada), user(bob))
    await host.put(body)
    await host.send()
    return Story(key=key_of(host, body), to=[ada, bob], body=order("redrive", body))


async def whose_message_was_lost(host: Host) -> Story:
    """It is the watch that finds it, and repeats what was there."""
    story = await to_one(host)
    await ingest(host.services, story.body, "m1")
    await host.lose(DELIVERIES)
    host.watchdog_enabled = True
    return replace(story, body=b"")


Telling = Callable[[Host], Awaitable[Story]]

STORIES: Sequence[Telling] = (
    to_one,
    that_teams_puts_off,
    whose_answer_is_lost,
    that_is_not_sent_twice_whatever_happens,
    to_who_has_blocked_us,
    to_who_has_no_chat,
    to_two_pages,
    to_a_topic,
    that_updates_a_card,
    that_waits_for_its_time,
    that_is_cancelled,
    that_is_cancelled_in_the_middle,
    that_is_recalled,
    that_is_edited,
    that_is_redriven,
    whose_message_was_lost,
)
