"""What is wrong with a message from an upstream system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a message: where (JSON pointer; "" is the whole) and what."""

    pointer: str
    message: str


class MessageRefused(Exception):
    """A message that is not taken; `reason` is `unreadable`, `invalid`, `reused`, `unknown` or `begun`."""

    def __init__(
        self, reason: Literal["unreadable", "invalid", "reused", "unknown", "begun"], faults: Sequence[Fault]
    ) -> None:
        super().__init__(reason)
        self.reason, self.faults = reason, faults
