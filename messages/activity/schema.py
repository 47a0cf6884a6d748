"""Validate the parts of an activity that Herald uses. This is the only place where the JSON of an activity is checked.

Names are those of the Bot Framework activity schema and of Teams' `channelData`. A missing or null value becomes the
empty value of its type. A value of another type is an error, as is an id that cannot be stored.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

#: `channelId` of every activity from Teams.
TEAMS_CHANNEL_ID = "msteams"
#: Longest id, in characters; Teams' own ids have up to about 200.
MAX_ID_CHARS = 1000
#: Deepest nesting of `value`, in lists and objects. JSON encoders fail on much deeper values (orjson at 255).
MAX_VALUE_DEPTH = 100

Id = Annotated[str, StringConstraints(max_length=MAX_ID_CHARS, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


def _parse_time(value: object) -> datetime | None:
    """Return the time in UTC, or None if it has no offset from UTC."""
    if not isinstance(value, str):
        raise ValueError("not a string")
    time = datetime.fromisoformat(value)
    try:
        return time.astimezone(UTC) if time.tzinfo else None
    except OverflowError:
        raise ValueError("out of range") from None


def _refuse_deep_nesting(value: object) -> object:
    level = [value]
    for _ in range(MAX_VALUE_DEPTH + 1):
        containers = [part for part in level if isinstance(part, dict | list)]
        if not containers:
            return value
        level = [part for each in containers for part in (each.values() if isinstance(each, dict) else each)]
    raise ValueError("nested too deeply")


Time = Annotated[datetime | None, BeforeValidator(_parse_time)]


class _ActivityPart(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", alias_generator=to_camel)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: object) -> object:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


class Account(_ActivityPart):
    """A person (the id starts with `29:`) or a bot (`28:`). Only a person has an `aad_object_id` (Entra object id)."""

    id: Id = ""
    aad_object_id: Id = ""
    name: str = ""


class Conversation(_ActivityPart):
    id: Id = ""
    tenant_id: Id = ""
    conversation_type: str = ""
    name: str = ""
    is_group: bool = False


class NamedObject(_ActivityPart):
    """A tenant or a channel."""

    id: Id = ""
    name: str = ""


class TeamData(NamedObject):
    aad_group_id: Id = ""


class InstallSettings(_ActivityPart):
    selected_channel: NamedObject = NamedObject()


class ChannelData(_ActivityPart):
    tenant: NamedObject = NamedObject()
    team: TeamData = TeamData()
    channel: NamedObject = NamedObject()
    event_type: str = ""
    settings: InstallSettings = InstallSettings()


class Activity(_ActivityPart):
    """One activity, validated. `attachments` and `local_timestamp` are not used: only their types are checked."""

    type: Annotated[str, StringConstraints(min_length=1)]
    id: Id = ""
    name: str = ""
    action: str = ""
    text: str = ""
    value: Annotated[Any, AfterValidator(_refuse_deep_nesting)] = None
    reply_to_id: Id = ""
    channel_id: str = ""
    service_url: Id = ""
    timestamp: Time = None
    local_timestamp: Time = None
    sender: Account = Field(Account(), alias="from")
    recipient: Account = Account()
    conversation: Conversation = Conversation()
    members_added: list[Account] = []
    members_removed: list[Account] = []
    channel_data: ChannelData = ChannelData()
    locale: str = ""
    local_timezone: str = ""
    entities: list[dict[str, Any]] = []
    attachments: list[dict[str, Any]] = []

    @property
    def tenant_id(self) -> str:
        """The tenant to which the conversation belongs, in lower case; "" if the activity contradicts itself.

        In a shared channel, `channelData` names the tenant of the sender, who may be from another one.
        """
        host, named = self.conversation.tenant_id.lower(), self.channel_data.tenant.id.lower()
        if host and named and host != named and not self.channel_data.team.id:
            return ""
        return host or named

    @property
    def is_from_another_tenant(self) -> bool:
        """Whether the sender belongs to another tenant than the conversation."""
        return self.channel_data.tenant.id.lower() not in ("", self.tenant_id)
