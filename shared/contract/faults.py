"""The faults of a message from an upstream system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a message: where it is (a JSON pointer; "" is the whole message), and what is wrong."""

    pointer: str
    message: str


class MessageRefused(Exception):
    """The message is refused; the reasons are described in `docs/contract.md`."""

    def __init__(
        self, reason: Literal["unreadable", "invalid", "reused", "unknown", "begun"], faults: Sequence[Fault]
    ) -> None:
        super().__init__(reason)
        self.reason, self.faults = reason, faults
