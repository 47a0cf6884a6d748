"""Validate the part of an activity on which Herald and botbuilder rely, before anything reads it.

The names are those of the Bot Framework activity schema and of Teams' `channelData`. A missing or null value is empty;
any other has the right type, and an id has a length and characters that can be stored.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

#: Longest id, in characters; those of Teams have up to some 200.
MAX_ID_CHARS = 1000

Id = Annotated[str, StringConstraints(max_length=MAX_ID_CHARS, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


def _instant(value: object) -> datetime | None:
    """The time in UTC, or None where it names no zone."""
    if not isinstance(value, str):
        raise ValueError("is no text")
    at = datetime.fromisoformat(value)
    try:
        return at.astimezone(UTC) if at.tzinfo else None
    except OverflowError:
        raise ValueError("is out of range") from None


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", alias_generator=to_camel)

    @model_validator(mode="before")
    @classmethod
    def _null_is_missing(cls, value: object) -> object:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


class Account(_Part):
    """A person (`29:`) or a bot (`28:`); `aad_object_id` is a person's Entra object id."""

    id: Id = ""
    aad_object_id: Id = ""
    name: str = ""


class Conversation(_Part):
    id: Id = ""
    tenant_id: Id = ""
    conversation_type: str = ""
    name: str = ""
    is_group: bool = False


class Named(_Part):
    """A tenant or a channel."""

    id: Id = ""
    name: str = ""


class TeamData(Named):
    aad_group_id: Id = ""


class InstallSettings(_Part):
    selected_channel: Named = Named()


class ChannelData(_Part):
    tenant: Named = Named()
    team: TeamData = TeamData()
    channel: Named = Named()
    event_type: str = ""
    settings: InstallSettings = InstallSettings()


class Incoming(_Part):
    type: Annotated[str, StringConstraints(min_length=1)]
    id: Id = ""
    name: str = ""
    action: str = ""
    text: str = ""
    value: Any = None
    reply_to_id: Id = ""
    channel_id: str = ""
    service_url: Id = ""
    timestamp: Annotated[datetime | None, BeforeValidator(_instant)] = None
    sender: Account = Field(Account(), alias="from")
    recipient: Account = Account()
    conversation: Conversation = Conversation()
    members_added: list[Account] = []
    members_removed: list[Account] = []
    channel_data: ChannelData = ChannelData()
    locale: str = ""
    local_timezone: str = ""
    entities: list[dict[str, Any]] = []

    @property
    def tenants(self) -> set[str]:
        """The tenants that the activity names, in lower case: one, where it does not contradict itself."""
        named = {self.conversation.tenant_id, self.channel_data.tenant.id}
        return {tenant.lower() for tenant in named if tenant}
