"""The names of the queues, and the messages that the parts of the app exchange on them.

A message only names rows, and has no content. It has a version, `v`; a worker that reads a newer version than its own
puts the message back for a newer worker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Self

from shared.contract.decoding import decode_json
from shared.time.longer_waits import LongerWaits

NOTIFICATIONS = "notifications"
EXPANSIONS = "expansions"
DELIVERIES = "deliveries"
DELIVERIES_URGENT = "deliveries-urgent"
SWEEPS = "sweeps"
RECIPIENTS = "recipients"
#: The queues whose messages the app handles.
WORK_QUEUES = (NOTIFICATIONS, EXPANSIONS, DELIVERIES, DELIVERIES_URGENT, SWEEPS, RECIPIENTS)
#: The responses of people, for the upstream systems.
RESPONSES = "responses"

VERSION = 3
#: The ETag in a message whose delivery has no row yet, since version 3: the row is inserted with the first write.
NO_ROW = "new"
#: Fields of version 2. An instance of an older version puts a message of a newer one back for a newer instance.
_FIELDS_OF_VERSION_2 = frozenset({"next_page", "reserved_turn", "tries", "since", "sent_digest"})
#: Delays before a message of a newer version is read again, which grow with the age of this process.
NEWER_VERSION_WAITS = LongerWaits(60, 900)


class NewerVersion(Exception):
    """The message has a newer version than this process can read."""


class Unreadable(Exception):
    """The message is not one of the app."""


class Task(StrEnum):
    """A task for a delivery, for all deliveries of a notification, or for all that are held for a recipient."""

    SEND = "send"
    CANCEL = "cancel"  #: end deliveries that are held or were never attempted
    RECALL = "recall"  #: the same, and delete sent messages
    EDIT = "edit"  #: update sent messages to the notification's current content
    REDRIVE = "redrive"  #: retry failed deliveries
    WATCHDOG = "watchdog"  #: resume deliveries that make no progress
    RELEASE = "release"  #: release held deliveries that are due, and send the digest that is due
    RECONSIDER = "reconsider"  #: re-evaluate all held deliveries against changed preferences
    DIGEST_NOW = "digestNow"  #: send a digest now, as the recipient asked


#: Patterns of the text fields, by name; these texts are used in keys, filters and headers.
_TEXTS = {
    "notification": re.compile(r"[0-9a-z]{1,64}"),
    "tenant": re.compile(r"[^\x00-\x1f/\\#?]{1,256}"),
    "shard": re.compile(r"[0-9a-fx]?"),
    "recipient": re.compile(r"[cut]:.{1,512}", re.DOTALL),
    "etag": re.compile(r'(W/"[ !#-~]{1,256}"|new)?'),
    "task": re.compile("|".join(Task)),
    "after": re.compile(r"[^\x00-\x1f]{0,512}"),
    "sent_digest": re.compile(r"[0-9a-z]{0,64}"),
}
#: Fields that are a time, in seconds since 1970.
_TIMES = ("due_called_at", "since", "reserved_turn")
#: Range of the other numbers: some are stored in 32 bits.
_COUNTS = range(2**31)


@dataclass(frozen=True, slots=True)
class _Message:
    def encode(self) -> str:
        # Only what is not the default: an instance of version 1 refuses fields that it does not know.
        values = {each.name: value for each in fields(self) if (value := getattr(self, each.name)) != each.default}
        version = 3 if values.get("etag") == NO_ROW else 2 if _FIELDS_OF_VERSION_2 & values.keys() else 1
        # In ASCII: a queue uses XML, which does not allow some characters that an id may contain.
        return json.dumps({"v": version, **values})

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Return the message in `body`; raise `NewerVersion` or `Unreadable`.

        Fields that this version does not know are ignored: a newer instance may have written them.
        """
        value = decode_json(body)
        if not isinstance(value, dict):
            raise Unreadable
        version = value.pop("v", None)
        if type(version) is int and version > VERSION:
            raise NewerVersion
        known = {each.name: value[each.name] for each in fields(cls) if each.name in value}
        if type(version) is not int or version < 1 or not all(_fits(name, part) for name, part in known.items()):
            raise Unreadable
        try:
            return cls(**{name: Task(part) if name == "task" else part for name, part in known.items()})
        except TypeError:  # a field is missing
            raise Unreadable from None


def _fits(name: str, part: object) -> bool:
    if name in _TEXTS:
        return isinstance(part, str) and _TEXTS[name].fullmatch(part) is not None
    return isinstance(part, float) if name in _TIMES else type(part) is int and part in _COUNTS


@dataclass(frozen=True, slots=True)
class Expansion(_Message):
    """List page `page` (from 0) of the recipients of the notification with this key.

    `poison_retries` counts how often the message was put back from its poison queue. `tries` counts how often Teams did
    not list the page, the first time at `since`, in seconds since 1970.
    """

    notification: str
    page: int
    poison_retries: int = 0
    tries: int = 0
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivery(_Message):
    """Do `task` for one recipient of the notification with this key.

    `recipient` is `u:` and an Entra object id, or `c:` and a conversation id (`notify.audience` has a third form).
    `shard` names the partition of its row in Deliveries. `etag` and `attempts` are those of the row when the message
    was written: while the row has this ETag, it need not be read; with `NO_ROW` there was none. `poison_retries` counts
    how often the message was put back from its poison queue. `due_called_at` is when the tick made the delivery due at
    its recipient's local time, in seconds since 1970; 0 for other deliveries. `next_page` is the page to expand as soon
    as this message is handled; 0 if none. `reserved_turn` is when the windows of its conversation allow it, in seconds
    since 1970; 0 if it has no turn yet.
    """

    notification: str
    shard: str
    recipient: str
    etag: str
    attempts: int
    task: Task = Task.SEND
    poison_retries: int = 0
    due_called_at: float = 0.0
    next_page: int = 0
    reserved_turn: float = 0.0

    @property
    def identity(self) -> tuple[str, str]:
        """The notification and the recipient, which identify a delivery."""
        return self.notification, self.recipient


@dataclass(frozen=True, slots=True)
class Sweep(_Message):
    """Do `task` for a page of a notification's deliveries: those of `shard` after the row `after` ("" at first)."""

    notification: str
    task: Task
    shard: str
    after: str = ""
    poison_retries: int = 0


@dataclass(frozen=True, slots=True)
class RecipientTask(_Message):
    """Do `task` with the deliveries held for one recipient (`Delivery.recipient`), after the row `after` ("" at first).

    `due_called_at` is when the tick enqueued the message, in seconds since 1970; 0 if another function did.
    `sent_digest` is the key of the recipient's digest if it was sent, and surely not twice: its delivery need not be
    read.
    """

    tenant: str
    recipient: str
    task: Task
    after: str = ""
    poison_retries: int = 0
    due_called_at: float = 0.0
    sent_digest: str = ""


#: The type of the messages on each internal queue.
MESSAGES: Mapping[str, type[Expansion | Delivery | Sweep | RecipientTask]] = {
    EXPANSIONS: Expansion,
    DELIVERIES: Delivery,
    DELIVERIES_URGENT: Delivery,
    SWEEPS: Sweep,
    RECIPIENTS: RecipientTask,
}
