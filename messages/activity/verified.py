"""The value on which all handlers of activities work."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from messages.activity.references import scope_of
from messages.activity.schema import Activity


@dataclass(frozen=True, slots=True)
class VerifiedActivity:
    """An activity whose sender was verified to be Teams: of `tenant`, at `occurred_at` (UTC)."""

    activity: Activity
    tenant: str
    occurred_at: datetime

    @property
    def person_id(self) -> str:
        """The Entra object id of the person who caused the activity, in lower case; "" if Teams does not name one."""
        return self.activity.sender.aad_object_id.lower()

    @property
    def is_personal(self) -> bool:
        """Whether the activity comes from a person's own chat with the bot."""
        return scope_of(self.activity) == "personal"
