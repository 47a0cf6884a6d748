"""People before the app's real endpoint: they write and click, and signed activities come in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from local.fake_teams.api import PersonView, TeamsEvent
from messages.commands.dispatch import SOURCE
from messages.endpoint import open_endpoint
from shared.cards.validation import find_faults
from shared.preferences.preferences import Preferences
from shared.publishing import CATEGORY
from shared.queue_messages import RESPONSES
from shared.states import Purpose, ReferenceKind
from shared.storage.notifications import StoredNotification, notification_key
from tests.support.herald import Herald, user

CONTENT = {"title": "Build 42 failed", "actions": [{"id": "retry", "title": "Retry"}]}
CARD, MESSAGE = "application/vnd.microsoft.card.adaptive", "application/vnd.microsoft.activity.message"


@asynccontextmanager
async def endpoint(herald: Herald) -> AsyncIterator[str]:
    """The URL of the endpoint on these services."""
    receiver = open_endpoint(herald.services)

    async def receive(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        answer = await receiver.receive(headers, await request.read())
        return web.Response(status=answer.status, body=answer.body)

    app = web.Application()
    app.router.add_post("/api/messages", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/api/messages"
    finally:
        await runner.cleanup()


@dataclass
class Chat:
    """Somebody who writes to the app: in their own chat, or where `place` says."""

    herald: Herald
    endpoint: str
    person: PersonView
    place: dict[str, Any]

    async def write(self, text: str, *, repeat: int = 1, **changes: Any) -> list[dict[str, Any]]:
        """Write `text`; returns the activities that Teams sent for it."""
        event = TeamsEvent(
            kind="message",
            person=self.person.object_id,
            text=text,
            endpoint=self.endpoint,
            repeat=repeat,
            changes=changes,
            **self.place,
        )
        answers = await self.herald.teams.send_event(event)
        assert [(answer.status, answer.body) for answer in answers] == [(200, "")] * repeat
        return [answer.activity for answer in answers]

    async def again(self, activity: dict[str, Any]) -> None:
        answer = await self.herald.teams.post(activity, endpoint=self.endpoint)
        assert answer.status == 200

    async def told(self, activity: dict[str, Any]) -> StoredNotification | None:
        """The answer to an activity, or None."""
        identifier = f"{activity['conversation']['id']};{activity['id']}"
        return await self.herald.services.notifications.get(notification_key(self.herald.tenant, SOURCE, identifier))

    async def ask(self, text: str, **changes: Any) -> Sequence[str]:
        """Write `text`; returns the lines of the card that answers, the title first."""
        [activity] = await self.write(text, **changes)
        told = await self.told(activity)
        assert told
        assert told.purpose is Purpose.REPLY
        assert told.content.category == CATEGORY
        assert told.content.card
        assert find_faults(told.content.card) == []
        return lines(told.content.card)

    async def preferences(self) -> Preferences:
        found = await self.herald.services.conversations.get(
            self.herald.tenant, ReferenceKind.USER, self.person.object_id
        )
        assert found
        return found.preferences

    async def prefer(self, preferences: Preferences) -> None:
        await self.herald.services.conversations.change_preferences(
            self.herald.tenant, ReferenceKind.USER, self.person.object_id, lambda _: preferences
        )


@dataclass
class Desk:
    """Somebody before a card, in their own chat or where `place` says."""

    herald: Herald
    endpoint: str
    person: PersonView
    place: dict[str, Any] = field(default_factory=dict)

    async def invoke(self, verb: str, data: dict[str, Any], reply_to: str | None = None, **more: Any) -> dict[str, Any]:
        """The body of the answer to a click."""
        event = TeamsEvent(
            kind="cardAction",
            person=self.person.object_id,
            verb=verb,
            data=data,
            reply_to=reply_to,
            endpoint=self.endpoint,
            **self.place,
            **more,
        )
        answers = await self.herald.teams.send_event(event)
        assert {answer.status for answer in answers} == {200}
        bodies = [json.loads(answer.body) for answer in answers]
        assert all(body["statusCode"] == 200 for body in bodies)
        for body in bodies:
            if body["type"] == CARD:
                assert find_faults(body["value"]) == []
        return dict(bodies[-1])

    async def click(self, card: dict[str, Any], verb: str, *, typed: Any = None, **more: Any) -> dict[str, Any]:
        """Click the button of a card, with what was typed; the card that answers."""
        body = await self.invoke(verb, button(card, verb)["data"] | (typed or {}), **more)
        assert body["type"] == CARD
        return dict(body["value"])

    async def preferences(self) -> Preferences:
        return await preferences(self.herald, self.person)

    async def get(self, **data: Any) -> tuple[StoredNotification, dict[str, Any]]:
        """Be sent a notification; returns it and the card that came."""
        asked = await self.herald.ask(user(self.person), **({"content": CONTENT} | data))
        await self.herald.send()
        return asked, (await self.cards())[-1]

    async def cards(self) -> Sequence[dict[str, Any]]:
        """The cards in the person's own chat, oldest first."""
        received = await self.herald.teams.received(person=self.person.object_id)
        return [each.activity["attachments"][0]["content"] for each in received]


def lines(card: dict[str, Any]) -> Sequence[str]:
    """What one reads on a card of text blocks and text runs."""
    return [
        each["text"] if each["type"] == "TextBlock" else "".join(run["text"] for run in each["inlines"])
        for each in card["body"]
    ]


def button(card: dict[str, Any], verb: str) -> dict[str, Any]:
    [found] = [each for each in buttons(card) if each.get("verb") == verb]
    return found


def buttons(part: Any) -> list[dict[str, Any]]:
    if isinstance(part, list):
        return [found for each in part for found in buttons(each)]
    if not isinstance(part, dict):
        return []
    own = [part] if str(part.get("type")).startswith("Action.") else []
    return own + [found for each in part.values() for found in buttons(each)]


def has(card: dict[str, Any], verb: str) -> bool:
    return any(each.get("verb") == verb for each in buttons(card))


def text(card: dict[str, Any]) -> str:
    """All that can be read on a card."""
    return json.dumps(card, ensure_ascii=False)


async def preferences(herald: Herald, person: PersonView) -> Preferences:
    found = await herald.services.conversations.get(herald.tenant, ReferenceKind.USER, person.object_id)
    assert found
    return found.preferences


async def responses(herald: Herald) -> list[dict[str, Any]]:
    queue = herald.outside_queues.get_queue_client(RESPONSES)
    return [json.loads(each.content) for each in await queue.peek_messages(32)]
