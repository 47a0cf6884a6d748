"""The value on which all handlers of activities work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from messages.activity.references import scope_of
from messages.activity.schema import Activity
from shared.records import ConversationReference


@dataclass(frozen=True, slots=True)
class VerifiedActivity:
    """An activity whose sender was verified to be Teams: of `tenant`, at `occurred_at` (UTC).

    `people` has the references of people that it has changed or confirmed, as stored now, by Entra object id.
    """

    activity: Activity
    tenant: str
    occurred_at: datetime
    people: Mapping[str, ConversationReference] = field(default_factory=dict)

    @property
    def sender(self) -> ConversationReference | None:
        """The reference of the person who caused the activity, None if it was not read with it."""
        return self.people.get(self.person_id)

    @property
    def person_id(self) -> str:
        """The Entra object id of the person who caused the activity, in lower case; "" if Teams does not name one."""
        return self.activity.sender.aad_object_id.lower()

    @property
    def is_personal(self) -> bool:
        """Whether the activity comes from a person's own chat with the bot."""
        return scope_of(self.activity) == "personal"
