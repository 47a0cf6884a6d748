"""The messages that each conversation received, with their times and changes; readers can wait for new ones."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson

from local.fake_teams.world import World


@dataclass(slots=True)
class Message:
    """One accepted message; `body` is its activity as JSON, `changed` the position of its last change in the log."""

    number: int
    conversation: str
    id: str
    reply_to: str | None
    body: bytes
    at: float
    monotonic: float
    connection: int
    token: int
    changed: int = 0
    updates: list[tuple[float, bytes]] = field(default_factory=list)
    deleted_at: float | None = None


class Inbox:
    """Messages by conversation and id, and a log with one entry for each change of a message."""

    def __init__(self) -> None:
        self._wakeup: asyncio.Future[None] | None = None
        self.closed = False
        self.clear()

    def clear(self) -> None:
        self._messages: dict[str, dict[str, Message]] = {}
        self._log: list[Message] = []
        self._bodies: dict[bytes, bytes] = {}
        self.count = 0

    def add(
        self,
        conversation: str,
        message_id: str,
        body: bytes,
        *,
        reply_to: str | None,
        connection: int,
        token: int,
    ) -> Message:
        # The content of a broadcast is stored only once.
        body = self._bodies.setdefault(body, body)
        self.count += 1
        message = Message(
            self.count,
            conversation,
            message_id,
            reply_to,
            body,
            time.time(),
            time.monotonic(),
            connection,
            token,
        )
        self._messages.setdefault(_base_id(conversation), {})[message_id] = message
        self._log_change(message)
        return message

    def find(self, conversation: str, message_id: str) -> Message | None:
        """Return the message, or None if it does not exist or was deleted."""
        message = self._messages.get(_base_id(conversation), {}).get(message_id)
        return None if message is None or message.deleted_at is not None else message

    def update(self, message: Message, body: bytes) -> None:
        message.updates.append((time.time(), message.body))
        message.body = body
        self._log_change(message)

    def delete(self, message: Message) -> None:
        message.deleted_at = time.time()
        self._log_change(message)

    def close(self) -> None:
        """End all waits."""
        self.closed = True
        self._notify_waiters()

    async def wait(self, since: int, conversations: frozenset[str] | None, count: int, seconds: float) -> None:
        """Wait until `count` messages have changed after `since`, at most `seconds`."""
        deadline = time.monotonic() + seconds
        matched: set[int] = set()
        position = since
        while True:
            # After a reset, the log is shorter.
            position = min(position, len(self._log))
            for message in self._log[position:]:
                if conversations is None or _base_id(message.conversation) in conversations:
                    matched.add(message.number)
            position = len(self._log)
            left = deadline - time.monotonic()
            if len(matched) >= count or left <= 0 or self.closed:
                return
            if self._wakeup is None or self._wakeup.done():
                self._wakeup = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._wakeup], timeout=left)

    def changes(self, since: int, conversations: frozenset[str] | None, limit: int) -> tuple[list[Message], int, bool]:
        """Return at most `limit` messages changed after `since`, the next `since`, and whether more follow."""
        found: list[Message] = []
        for position in range(since, len(self._log)):
            message = self._log[position]
            if message.changed != position + 1:
                continue
            if conversations is None or _base_id(message.conversation) in conversations:
                if len(found) == limit:
                    return found, position, True
                found.append(message)
        return found, len(self._log), False

    def count_per_conversation(self) -> Counter[int]:
        """Return how many conversations hold how many messages."""
        return Counter(len(messages) for messages in self._messages.values())

    def count_duplicates(self) -> int:
        """Return how many messages equal an earlier one of the same conversation."""
        total = 0
        for messages in self._messages.values():
            bodies = {message.updates[0][1] if message.updates else message.body for message in messages.values()}
            total += len(messages) - len(bodies)
        return total

    def span(self) -> float:
        """Return the seconds from the first accepted message to the last."""
        times = [message.monotonic for messages in self._messages.values() for message in messages.values()]
        return max(times) - min(times) if times else 0.0

    def _log_change(self, message: Message) -> None:
        self._log.append(message)
        message.changed = len(self._log)
        self._notify_waiters()

    def _notify_waiters(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)


def to_received(message: Message, world: World) -> dict[str, Any]:
    """Return the message as the JSON of `api.Received`."""
    conversation = world.conversations[_base_id(message.conversation)]
    return {
        "number": message.number,
        "changed": message.changed,
        "tenant": conversation.tenant,
        "person": conversation.person,
        "conversation": message.conversation,
        "id": message.id,
        "replyTo": message.reply_to,
        "activity": orjson.Fragment(message.body),
        "receivedAt": _iso(message.at),
        "monotonic": message.monotonic,
        "updates": [{"at": _iso(at), "activity": orjson.Fragment(body)} for at, body in message.updates],
        "deletedAt": None if message.deleted_at is None else _iso(message.deleted_at),
        "connection": message.connection,
        "token": message.token,
    }


def _base_id(conversation: str) -> str:
    return conversation.partition(";messageid=")[0]


def _iso(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds")
