"""The faults of a message from an upstream system."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

#: Characters that could break a line, or hide, where a fault is shown.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a message: where it is (a JSON pointer; "" is the whole message), and what is wrong.

    Both are one line: white space in the message becomes single spaces, and control characters are escaped as in JSON
    (RFC 6901, section 5).
    """

    pointer: str
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "pointer", escape_controls(self.pointer))
        object.__setattr__(self, "message", escape_controls(" ".join(self.message.split())))


class MessageRefused(Exception):
    """The message is refused; the reasons are described in `docs/contract.md`."""

    def __init__(
        self, reason: Literal["unreadable", "invalid", "reused", "unknown", "begun"], faults: Sequence[Fault]
    ) -> None:
        super().__init__(reason)
        self.reason, self.faults = reason, faults


def describe_type(value: Any) -> str:
    """Return the JSON type of a value in words, for a fault; nothing of the value itself."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return "a text" if value else "an empty text"
    if isinstance(value, int | float):
        return "a number"
    return "an object" if isinstance(value, dict) else "a list" if value else "an empty list"


def escape_controls(text: str) -> str:
    """Return the text as one line, with its control characters escaped as in JSON."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def unknown_notification() -> MessageRefused:
    """Return the refusal of a message whose notification is not stored."""
    return MessageRefused("unknown", [Fault("", "names a notification that is not stored")])
