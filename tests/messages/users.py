"""People who use the app through its real endpoint: they write messages and click on cards, as signed activities."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from local.fake_teams.api import PersonView, TeamsEvent
from messages.commands.dispatch import ANSWER_SOURCE
from messages.endpoint import open_endpoint
from shared.cards.validation import find_faults
from shared.preferences.preferences import Preferences
from shared.publishing import CATEGORY
from shared.queue_messages import RESPONSES
from shared.records import StoredNotification, notification_key
from shared.states import Purpose, ReferenceKind
from tests.support.herald import Herald, user

CONTENT = {"title": "Build 42 failed", "actions": [{"id": "retry", "title": "Retry"}]}
CARD, MESSAGE = "application/vnd.microsoft.card.adaptive", "application/vnd.microsoft.activity.message"


@asynccontextmanager
async def serve_endpoint(herald: Herald) -> AsyncIterator[str]:
    """Serve the endpoint of these services; yields its URL."""
    endpoint = open_endpoint(herald.services)

    async def receive(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        answer = await endpoint.receive(headers, await request.read())
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
class ChatUser:
    """A person who writes to the app: in their own chat, or where `location` (parts of a `TeamsEvent`) says."""

    herald: Herald
    endpoint: str
    person: PersonView
    location: dict[str, Any]

    async def write(self, text: str, *, repeat: int = 1, **changes: Any) -> list[dict[str, Any]]:
        """Write a message; returns the activities that Teams sent for it."""
        event = TeamsEvent(
            kind="message",
            person=self.person.object_id,
            text=text,
            endpoint=self.endpoint,
            repeat=repeat,
            changes=changes,
            **self.location,
        )
        answers = await self.herald.teams.send_event(event)
        assert [(answer.status, answer.body) for answer in answers] == [(200, "")] * repeat
        return [answer.activity for answer in answers]

    async def repeat(self, activity: dict[str, Any]) -> None:
        answer = await self.herald.teams.post(activity, endpoint=self.endpoint)
        assert answer.status == 200

    async def find_answer(self, activity: dict[str, Any]) -> StoredNotification | None:
        identifier = f"{activity['conversation']['id']};{activity['id']}"
        key = notification_key(self.herald.tenant, ANSWER_SOURCE, identifier)
        return await self.herald.services.notifications.get(key)

    async def run_command(self, text: str, **changes: Any) -> Sequence[str]:
        """Write a command; returns the lines of the card that answers it, the title first."""
        [activity] = await self.write(text, **changes)
        answer = await self.find_answer(activity)
        assert answer
        assert answer.purpose is Purpose.REPLY
        assert answer.content.category == CATEGORY
        assert answer.content.card
        assert find_faults(answer.content.card) == []
        return card_lines(answer.content.card)

    async def load_preferences(self) -> Preferences:
        return await load_preferences(self.herald, self.person)

    async def store_preferences(self, preferences: Preferences) -> None:
        await self.herald.services.conversations.change_preferences(
            self.herald.tenant, ReferenceKind.USER, self.person.object_id, lambda _: preferences
        )


@dataclass
class CardUser:
    """A person who clicks on cards: in their own chat, or where `location` (parts of a `TeamsEvent`) says."""

    herald: Herald
    endpoint: str
    person: PersonView
    location: dict[str, Any] = field(default_factory=dict)

    async def invoke(self, verb: str, data: dict[str, Any], reply_to: str | None = None, **more: Any) -> dict[str, Any]:
        """Send the invoke of a click; returns the body of the answer."""
        event = TeamsEvent(
            kind="cardAction",
            person=self.person.object_id,
            verb=verb,
            data=data,
            reply_to=reply_to,
            endpoint=self.endpoint,
            **self.location,
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
        """Click a button of a card, with the inputs `typed`; returns the card that answers."""
        body = await self.invoke(verb, find_button(card, verb)["data"] | (typed or {}), **more)
        assert body["type"] == CARD
        return dict(body["value"])

    async def load_preferences(self) -> Preferences:
        return await load_preferences(self.herald, self.person)

    async def receive_notification(self, **data: Any) -> tuple[StoredNotification, dict[str, Any]]:
        """Have the app send the person a notification; returns it and its card."""
        notification = await self.herald.submit(user(self.person), **({"content": CONTENT} | data))
        await self.herald.handle_messages()
        return notification, (await self.received_cards())[-1]

    async def received_cards(self) -> Sequence[dict[str, Any]]:
        """The cards in the person's own chat, oldest first."""
        received = await self.herald.teams.received(person=self.person.object_id)
        return [each.activity["attachments"][0]["content"] for each in received]


def card_lines(card: dict[str, Any]) -> Sequence[str]:
    """The lines of a card that consists of text blocks and text runs."""
    return [
        each["text"] if each["type"] == "TextBlock" else "".join(run["text"] for run in each["inlines"])
        for each in card["body"]
    ]


def find_button(card: dict[str, Any], verb: str) -> dict[str, Any]:
    [button] = [each for each in find_buttons(card) if each.get("verb") == verb]
    return button


def find_buttons(part: Any) -> list[dict[str, Any]]:
    if isinstance(part, list):
        return [button for each in part for button in find_buttons(each)]
    if not isinstance(part, dict):
        return []
    buttons = [part] if str(part.get("type")).startswith("Action.") else []
    return buttons + [button for each in part.values() for button in find_buttons(each)]


def has_button(card: dict[str, Any], verb: str) -> bool:
    return any(each.get("verb") == verb for each in find_buttons(card))


def card_text(card: dict[str, Any]) -> str:
    """The card as JSON, for assertions about its text."""
    return json.dumps(card, ensure_ascii=False)


async def load_preferences(herald: Herald, person: PersonView) -> Preferences:
    reference = await herald.services.conversations.get(herald.tenant, ReferenceKind.USER, person.object_id)
    assert reference
    return reference.preferences


async def reported_responses(herald: Herald) -> list[dict[str, Any]]:
    queue = herald.outside_queues.get_queue_client(RESPONSES)
    return [json.loads(each.content) for each in await queue.peek_messages(32)]
