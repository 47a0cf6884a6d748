"""The names of the queues, and the messages that the parts of the app pass on them.

A message is thin: it names rows and carries no content. It has a version, `v`; a worker that meets a newer version than
its own puts the message back for a newer worker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Self

from shared.contract.parsing import decode_json

NOTIFICATIONS = "notifications"
EXPANSIONS = "expansions"
DELIVERIES = "deliveries"
DELIVERIES_URGENT = "deliveries-urgent"
SWEEPS = "sweeps"
RECIPIENTS = "recipients"
#: Those from which we take.
ALL = (NOTIFICATIONS, EXPANSIONS, DELIVERIES, DELIVERIES_URGENT, SWEEPS, RECIPIENTS)
#: What people answered, for upstream to take.
RESPONSES = "responses"

VERSION = 1
#: Seconds after which a message of a newer version is looked at again.
NEWER_VERSION_DELAY = 60


class Newer(Exception):
    """The message has a newer version than this process reads."""


class Unreadable(Exception):
    """The message is none of ours."""


class Task(StrEnum):
    """What is to be done with a delivery, with all of a notification's, or with all that waits for somebody."""

    SEND = "send"
    CANCEL = "cancel"  #: end what waits for its recipient
    RECALL = "recall"  #: the same, and take back what was sent
    EDIT = "edit"  #: bring what was sent to the notification's newest content
    REDRIVE = "redrive"  #: try again what has failed
    WATCH = "watch"  #: resume what stands still
    RELEASE = "release"  #: let go what a wish, or its local time, has held until now, and send the digest that is due
    RECONSIDER = "reconsider"  #: look at all of it anew, as the wishes have changed
    DIGEST_NOW = "digestNow"  #: send what waits for the digest, as its recipient asked for it


#: What the texts of a message may be, by the names of their fields: they go into keys, filters and headers.
_TEXTS = {
    "notification": re.compile(r"[0-9a-z]{1,64}"),
    "tenant": re.compile(r"[^\x00-\x1f/\\#?]{1,256}"),
    "shard": re.compile(r"[0-9a-fx]?"),
    "recipient": re.compile(r"[cut]:.{1,512}", re.DOTALL),
    "etag": re.compile(r'(W/"[ !#-~]{1,256}")?'),
    "task": re.compile("|".join(Task)),
    "after": re.compile(r"[^\x00-\x1f]{0,512}"),
}
#: Those that are a time, in seconds since 1970.
_TIMES = ("expected_start", "due_called_at")
#: What its numbers may be: some are stored in 32 bits.
_COUNTS = range(2**31)


@dataclass(frozen=True, slots=True)
class _Message:
    def encode(self) -> str:
        # In ASCII: a queue carries XML, which has no place for some characters that an id may hold.
        return json.dumps({"v": VERSION, **asdict(self)})

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """The message in `body`; raises `Newer` or `Unreadable`."""
        value = decode_json(body)
        if not isinstance(value, dict):
            raise Unreadable
        version = value.pop("v", None)
        if type(version) is int and version > VERSION:
            raise Newer
        if type(version) is not int or version < 1 or not all(_fits(name, part) for name, part in value.items()):
            raise Unreadable
        try:
            return cls(**{name: Task(part) if name == "task" else part for name, part in value.items()})
        except TypeError:  # a field too few, or too many
            raise Unreadable from None


def _fits(name: str, part: object) -> bool:
    if name in _TEXTS:
        return isinstance(part, str) and _TEXTS[name].fullmatch(part) is not None
    return isinstance(part, float) if name in _TIMES else type(part) is int and part in _COUNTS


@dataclass(frozen=True, slots=True)
class Expansion(_Message):
    """List page `page` (from 0) of the recipients of the notification with this key.

    `poison_retries` counts how often the message was put back from its poison queue. `expected_start` is the estimated
    time at which the pages before it have been sent, in seconds since 1970; 0 where it is not known.
    """

    notification: str
    page: int
    poison_retries: int = 0
    expected_start: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivery(_Message):
    """Do `task` for one recipient of the notification with this key.

    `recipient` is `u:` and an Entra object id, or `c:` and a conversation id (`notify.audience` has a third form).
    `shard` names the partition of its row in Deliveries. `etag` and `attempts` are those of the row when the message
    was written: while the ETag holds, the row need not be read. `poison_retries` counts how often the message was put
    back from its poison queue. `due_called_at` is when the tick made a delivery due that goes by its recipient's own
    time, in seconds since 1970; 0 for others.
    """

    notification: str
    shard: str
    recipient: str
    etag: str
    attempts: int
    task: Task = Task.SEND
    poison_retries: int = 0
    due_called_at: float = 0.0

    @property
    def identity(self) -> tuple[str, str]:
        """What tells a delivery from all others: its notification and its recipient."""
        return self.notification, self.recipient


@dataclass(frozen=True, slots=True)
class Sweep(_Message):
    """Go through the deliveries of a notification for `task`: those of `shard` after the row `after` ("" at first)."""

    notification: str
    task: Task
    shard: str
    after: str = ""
    poison_retries: int = 0


@dataclass(frozen=True, slots=True)
class RecipientTask(_Message):
    """Do `task` with what waits for one recipient (`Delivery.recipient`), after the item of the key `after`.

    `due_called_at` is when the tick called it, in seconds since 1970, 0 where something else did.
    """

    tenant: str
    recipient: str
    task: Task
    after: str = ""
    poison_retries: int = 0
    due_called_at: float = 0.0


#: What the messages of our own queues are.
MESSAGES: Mapping[str, type[Expansion | Delivery | Sweep | RecipientTask]] = {
    EXPANSIONS: Expansion,
    DELIVERIES: Delivery,
    DELIVERIES_URGENT: Delivery,
    SWEEPS: Sweep,
    RECIPIENTS: RecipientTask,
}
