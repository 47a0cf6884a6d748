"""A verified activity, as the parts of the bot receive it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from messages.activity.references import scope
from messages.activity.schema import Incoming


@dataclass(frozen=True, slots=True)
class Event:
    """A verified activity of `tenant` which happened at `at` (UTC)."""

    incoming: Incoming
    tenant: str
    at: datetime

    @property
    def person(self) -> str:
        """The Entra object id of who did it, in lower case; "" where Teams names none."""
        return self.incoming.sender.aad_object_id.lower()

    @property
    def personal(self) -> bool:
        """Whether it happened in somebody's own chat with the bot."""
        return scope(self.incoming) == "personal"
