"""The shapes of the control API under ``/_fake/``: camelCase on the wire, shared by the server and its client."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

#: What a request to the fake can be; a fault or a count names one of these.
Operation = Literal[
    "create", "send", "reply", "update", "delete",
    "members", "pagedMembers", "member", "team", "channels",
    "discovery", "token", "metadata", "keys",
]  # fmt: skip

#: The team events of Teams that carry only an `eventType` (Teams, "Conversation events").
TeamEvent = Literal[
    "channelCreated", "channelRenamed", "channelDeleted", "channelRestored",
    "teamRenamed", "teamDeleted", "teamHardDeleted", "teamRestored", "teamArchived", "teamUnarchived",
]  # fmt: skip

#: What can happen in Teams that the app is told about; `raw` posts `activity` as it is.
EventKind = Literal[
    "install", "uninstall", "membersAdded", "membersRemoved", "teamEvent",
    "message", "cardAction", "reaction", "raw",
]  # fmt: skip


class Shape(BaseModel):
    """A shape of the wire: an unknown field is refused, so that a typing error shows."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    def wire(self) -> dict[str, Any]:
        """The shape as JSON values, without what was not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Growth(Shape):
    """What to add to a tenant; a tenant that is not there yet comes into being, without an id a new one.

    `members` is the size of each new team and chat, taken from the tenant's people in turn.
    """

    tenant: str | None = None
    people: int = Field(default=0, ge=0, le=1_000_000)
    teams: int = Field(default=0, ge=0, le=10_000)
    channels: int = Field(default=1, ge=0, le=1_000)
    chats: int = Field(default=0, ge=0, le=10_000)
    members: int = Field(default=3, ge=0)
    installed: bool = True
    locale: str = "en-US"
    time_zone: str = "Europe/Berlin"


class PersonView(Shape):
    tenant: str
    object_id: str
    id: str
    conversation: str
    name: str
    user_principal_name: str
    locale: str
    time_zone: str
    installed: bool


class ChannelView(Shape):
    id: str
    name: str | None
    deleted: bool


class TeamView(Shape):
    tenant: str
    id: str
    name: str
    group_id: str
    channels: list[ChannelView]
    members: list[str]
    installed: bool


class ChatView(Shape):
    tenant: str
    id: str
    name: str
    members: list[str]
    installed: bool


class WorldView(Shape):
    """Part of the world; members are Entra object ids."""

    tenants: list[str]
    people: list[PersonView]
    teams: list[TeamView]
    chats: list[ChatView]


class Installed(Shape):
    """Sets, without telling the app, for whom it is installed; `ids` are object ids, team ids, chat ids."""

    ids: list[str]
    installed: bool = True


class Behaviour(Shape):
    """How the fake behaves; times are seconds.

    `endpoint` is the messaging endpoint of the app. `latency` passes before each answer of the Bot
    Connector. `retryAfter` says whether a 429 of the limits carries the header.
    """

    endpoint: str | None = None
    latency: float = Field(default=0, ge=0)
    token_latency: float = Field(default=0, ge=0)
    token_lifetime: int = Field(default=3600, ge=1)
    enforce_limits: bool = True
    retry_after: bool = True
    tenant_rate: int = Field(default=50, ge=1)


class Fault(Shape):
    """One fault and whom it meets; among several that match, the first one acts.

    Who: all of `operation`, `tenant`, `person` (object id), `conversation` that are given; without an
    operation, any of the Bot Connector's. When: from `after` seconds on, for `seconds`, at most `count`
    times, for the share `share` of the requests, chosen by `seed` and the conversation alone.
    What: an HTTP `status` (with `code`, `message`, `shape`, `retryAfter`), or `drop` of the connection, either
    after `delay` seconds; or only the delay. `accept` says that the request takes effect first.
    """

    operation: Operation | None = None
    tenant: str | None = None
    person: str | None = None
    conversation: str | None = None
    share: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0
    count: int | None = Field(default=None, ge=1)
    after: float = Field(default=0, ge=0)
    seconds: float | None = Field(default=None, gt=0)
    status: int | None = Field(default=None, ge=400, le=599)
    code: str | None = None
    message: str | None = None
    shape: Literal["error", "nested", "html", "empty"] = "error"
    retry_after: int | str | None = None
    drop: bool = False
    delay: float = Field(default=0, ge=0)
    accept: bool = False

    @model_validator(mode="after")
    def _does_one_thing(self) -> Self:
        answers = self.status is not None
        if (answers and self.drop) or not (answers or self.drop or self.delay):
            raise ValueError("a fault has a status, or drop, or only a delay")
        if self.status == 403 and self.shape in ("error", "nested") and not self.code:
            raise ValueError("a 403 needs its code, such as ConversationBlockedByUser")
        return self


class Forgery(Shape):
    """What is wrong with the token of an activity.

    `key`: `unknown` is not published, `impostor` is not published and claims the current key's id,
    `unendorsed` and `otherChannel` are published (from the first such request, or from `add_key`) but not
    endorsed for msteams, `retired` is the key before the last rotation. `claims` replaces claims, null takes
    one away. `authorization` replaces the whole header, and takes it away when it is empty. `tamper` changes the
    claims after they were signed. `body` is posted instead of the activity.
    """

    key: Literal["current", "unknown", "impostor", "unendorsed", "otherChannel", "retired"] = "current"
    algorithm: Literal["RS256", "none", "HS256"] = "RS256"
    claims: dict[str, Any] = {}
    expires_in: int = 3600
    valid_in: int = -300
    authorization: str | None = None
    tamper: bool = False
    body: str | None = None


class Event(Shape):
    """Something that happens in Teams and is told to the app.

    `person` is the Entra object id of who does it. Where: `team` (with `channel`, and `thread`, the id of a root
    message), or `chat`, or else the person's own chat. `people` are object ids added or removed. `changes` is merged
    into each activity (RFC 7396). `repeat` posts the same activity as often, as Teams does after a slow answer.
    """

    kind: EventKind
    person: str | None = None
    people: list[str] = []
    team: str | None = None
    channel: str | None = None
    thread: str | None = None
    chat: str | None = None
    event: TeamEvent | None = None
    name: str | None = None
    text: str = ""
    value: Any = None
    verb: str | None = None
    data: dict[str, Any] = {}
    reply_to: str | None = None
    reaction: str = "like"
    removed: bool = False
    activity: dict[str, Any] | None = None
    changes: dict[str, Any] = {}
    forgery: Forgery | None = None
    endpoint: str | None = None
    repeat: int = Field(default=1, ge=1, le=100)


class Answer(Shape):
    """What the app answered to one activity; `status` is null when it gave none, and `error` says why."""

    activity: dict[str, Any]
    status: int | None
    body: str
    seconds: float
    error: str | None = None


class Change(Shape):
    at: str
    activity: dict[str, Any]


class Received(Shape):
    """A message that Teams accepted; `updates` holds what it was before each update, oldest first.

    `number` counts accepted messages; `changed` grows with each change of any message and is the cursor of `since`.
    `receivedAt` is UTC, `monotonic` seconds of the fake's clock.
    """

    number: int
    changed: int
    tenant: str
    person: str | None
    conversation: str
    id: str
    reply_to: str | None
    activity: dict[str, Any]
    received_at: str
    monotonic: float
    updates: list[Change]
    deleted_at: str | None
    connection: int
    token: int


class Page(Shape):
    """Messages of `changed` above `since`; `next` is the following `since`, `more` says that there are others."""

    messages: list[Received]
    next: int
    more: bool


class Violation(Shape):
    """A request over a limit: `limit` is `requests/seconds`, `conversation` null for the tenant's own limit."""

    tenant: str
    conversation: str | None
    limit: str
    monotonic: float


class Stats(Shape):
    """Counts since the last reset.

    `requests`: operation, HTTP status (`dropped` for none), count of the answered ones. `connections`: distinct TCP
    connections by `connector`, `login`, `openid`. `peaks`: the most requests of a tenant in any second, refused ones
    too. `perConversation`: how many conversations hold how many messages. `duplicates`: messages whose body equals
    an earlier one of the same conversation. `span` is seconds from the first accepted message to the last.
    """

    requests: dict[str, dict[str, int]]
    connections: dict[str, int]
    tokens_issued: int
    tokens_used: int
    peaks: dict[str, int]
    violation_count: int
    violations: list[Violation]
    messages: int
    conversations: int
    per_conversation: dict[int, int]
    duplicates: int
    span: float

    def count(self, operation: Operation) -> int:
        """How many requests of this operation were answered, however."""
        return sum(self.requests.get(operation, {}).values())
