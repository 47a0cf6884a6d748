"""The queues on which the three parts of the app meet, and the messages that they pass there.

A message is thin: it names rows, and carries no content. It says its version `v`; whoever meets a newer one
than its own puts it back for a newer process. All messages live until they are done (`time_to_live=-1`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Self

from azure.core.exceptions import ResourceExistsError

from shared.contract import decode

if TYPE_CHECKING:
    from azure.storage.queue.aio import QueueClient, QueueServiceClient

NOTIFICATIONS = "notifications"
EXPANSIONS = "expansions"
DELIVERIES = "deliveries"
DELIVERIES_URGENT = "deliveries-urgent"
SWEEPS = "sweeps"
ALL = (NOTIFICATIONS, EXPANSIONS, DELIVERIES, DELIVERIES_URGENT, SWEEPS)

VERSION = 1
#: Longest delay of a message, in seconds: 7 days ("Put Message", Queue service REST reference).
LONGEST_DELAY = 7 * 24 * 3600
#: Seconds after which a message of a newer version is looked at again.
NEWER_VERSION_DELAY = 60

_COUNT = range(2**31)
#: What the fields of a message may be, by their names: they go into keys, filters and headers as they are.
_TEXTS = {
    "notification": re.compile(r"[0-9a-z]{1,64}"),
    "shard": re.compile(r"[0-9a-f]?"),
    "recipient": re.compile(r"[cut]:.{1,512}", re.DOTALL),
    "etag": re.compile(r"[!-~ ]{0,256}"),
    "after": re.compile(r"[^\x00-\x1f]{0,512}"),
}


class Newer(Exception):
    """The message has a newer version than this process reads."""


class Unreadable(Exception):
    """The message is none of ours."""


class Task(StrEnum):
    """What is to be done with a delivery, or with all of a notification's."""

    SEND = "send"
    RECALL = "recall"  #: take back what was sent
    EDIT = "edit"  #: bring what was sent to the notification's newest content
    REDRIVE = "redrive"  #: try again what has failed
    WATCH = "watch"  #: resume what stands still


@dataclass(frozen=True, slots=True)
class _Message:
    def encode(self) -> str:
        # In ASCII: a queue carries XML, which has no place for some characters that an id may hold.
        return json.dumps({"v": VERSION, **asdict(self)})

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """The message in `body`; raises `Newer` or `Unreadable`."""
        value = decode(body)
        try:
            if value["v"] > VERSION:
                raise Newer
            parts = {name: Task(part) if name == "task" else part for name, part in value.items() if name != "v"}
            message = cls(**parts)
        except (KeyError, TypeError, IndexError, ValueError):
            raise Unreadable from None
        if not all(_fits(field.name, getattr(message, field.name)) for field in fields(cls)):
            raise Unreadable
        return message


def _fits(name: str, value: object) -> bool:
    if name in _TEXTS:
        return isinstance(value, str) and _TEXTS[name].fullmatch(value) is not None
    if name == "turn":
        return isinstance(value, float)
    return isinstance(value, Task) or (type(value) is int and value in _COUNT)


@dataclass(frozen=True, slots=True)
class Expansion(_Message):
    """List page `page` (from 0) of the recipients of the notification with this key.

    `chances` counts how often it was put back after it had been poisonous. `turn` is when those before it are sent,
    in seconds since 1970, as far as is known.
    """

    notification: str
    page: int
    chances: int = 0
    turn: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivery(_Message):
    """Do `task` for one recipient of the notification with this key.

    `recipient` is `u:` and an Entra object id, or `c:` and a conversation id; `shard` names the partition of its
    row in Deliveries. `etag` and `attempts` are those of the row when the message was written: where the ETag
    still holds, the row need not be read. `chances` counts how often it was put back after it had been poisonous.
    """

    notification: str
    shard: str
    recipient: str
    etag: str
    attempts: int
    task: Task = Task.SEND
    chances: int = 0


@dataclass(frozen=True, slots=True)
class Sweep(_Message):
    """Go through the deliveries of a notification for `task`: those of `shard` after the row `after` ("" at first)."""

    notification: str
    task: Task
    shard: str
    after: str = ""
    chances: int = 0


#: What the messages of our own queues are.
MESSAGES: Mapping[str, type[Expansion | Delivery | Sweep]] = {
    EXPANSIONS: Expansion,
    DELIVERIES: Delivery,
    DELIVERIES_URGENT: Delivery,
    SWEEPS: Sweep,
}


class Queues:
    def __init__(self, service: QueueServiceClient) -> None:
        self._service = service
        self._client = cache(self._open)

    def _open(self, name: str) -> QueueClient:
        return self._service.get_queue_client(name)

    async def create(self, name: str) -> None:
        """Create the queue, where it is missing."""
        try:
            await self._client(name).create_queue()
        except ResourceExistsError:
            return

    async def put(self, name: str, text: str, delay: float = 0) -> None:
        """Put `text` on the queue, visible after `delay` seconds (rounded up: a queue knows whole seconds only)."""
        seconds = min(max(0, -int(-delay // 1)), LONGEST_DELAY)
        await self._client(name).send_message(text, visibility_timeout=seconds, time_to_live=-1)

    async def expand(self, message: Expansion, delay: float = 0) -> None:
        await self.put(EXPANSIONS, message.encode(), delay)

    async def deliver(self, message: Delivery, delay: float = 0, *, urgent: bool = False) -> None:
        await self.put(DELIVERIES_URGENT if urgent else DELIVERIES, message.encode(), delay)

    async def sweep(self, message: Sweep, delay: float = 0) -> None:
        await self.put(SWEEPS, message.encode(), delay)
