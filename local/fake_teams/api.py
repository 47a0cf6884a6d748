"""The models of the control API under ``/_fake/``, camelCase in JSON, shared by the server and its client."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

#: The operations of the fake, by which faults are selected and requests are counted.
Operation = Literal[
    "create", "send", "reply", "update", "delete",
    "members", "pagedMembers", "member", "team", "channels",
    "discovery", "token", "metadata", "keys",
    "user", "users", "groupMembers", "catalogue", "mailboxSettings", "batch",
    "installedApps", "installApp", "teamInstalledApps", "installAppInTeam",
]  # fmt: skip

#: The permissions of Microsoft Graph that the fake knows, of the kind "application".
GraphPermission = Literal[
    "User.ReadBasic.All", "User.Read.All", "GroupMember.Read.All", "AppCatalog.Read.All", "MailboxSettings.Read",
    "TeamsAppInstallation.ReadWriteSelfForUser.All", "TeamsAppInstallation.ReadWriteSelfForTeam.All",
]  # fmt: skip

#: The team events of Teams that carry only an `eventType` (Teams, "Conversation events").
TeamEventType = Literal[
    "channelCreated", "channelRenamed", "channelDeleted", "channelRestored",
    "teamRenamed", "teamDeleted", "teamHardDeleted", "teamRestored", "teamArchived", "teamUnarchived",
]  # fmt: skip

#: The events that the fake posts to the app; `raw` posts `activity` unchanged.
EventKind = Literal[
    "install", "uninstall", "membersAdded", "membersRemoved", "teamEvent",
    "message", "cardAction", "reaction", "raw",
]  # fmt: skip


class ApiModel(BaseModel):
    """A model of the control API; unknown fields are refused, to detect typing errors."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    def to_json(self) -> dict[str, Any]:
        """Return the model as JSON values, without unset fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Growth(ApiModel):
    """People, teams, chats and groups to add to a tenant; an unknown tenant is created, without an id a new one.

    `members` is the size of each new team, chat and group, filled with the tenant's people in turn. A group has the
    people and groups `memberIds` instead, if there are any, and also `devices`. `guests`, `enabled`, `usesTeams`
    (false: never opened it), `appBlocked` (a policy forbids the app), `mailDomain` (default: the UPN is the mail
    address), `mailbox` and `mailboxTimeZone` (default: the Windows name of `timeZone`) apply to all new people.
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
    guests: bool = False
    enabled: bool = True
    uses_teams: bool = True
    app_blocked: bool = False
    mail_domain: str | None = None
    mailbox: bool = True
    mailbox_time_zone: str | None = None
    groups: int = Field(default=0, ge=0, le=10_000)
    group_kind: Literal["security", "unified"] = "security"
    member_ids: list[str] = []
    devices: int = Field(default=0, ge=0, le=1_000)


class PersonView(ApiModel):
    tenant: str
    object_id: str
    id: str
    conversation: str
    name: str
    user_principal_name: str
    mail: str
    locale: str
    time_zone: str
    installed: bool
    enabled: bool
    guest: bool


class ChannelView(ApiModel):
    id: str
    name: str | None
    deleted: bool


class TeamView(ApiModel):
    tenant: str
    id: str
    name: str
    group_id: str
    channels: list[ChannelView]
    members: list[str]
    installed: bool


class ChatView(ApiModel):
    tenant: str
    id: str
    name: str
    members: list[str]
    installed: bool


class GroupView(ApiModel):
    tenant: str
    id: str
    name: str
    kind: Literal["security", "unified"]
    members: list[str]


class WorldView(ApiModel):
    """Part of the world; members are Entra object ids. `groups` has no groups of teams."""

    tenants: list[str]
    people: list[PersonView]
    teams: list[TeamView]
    chats: list[ChatView]
    groups: list[GroupView]


class PeopleUpdate(ApiModel):
    """Change the given fields of the people `ids` (object ids), see `Growth`; a null time zone removes the mailbox."""

    ids: list[str]
    enabled: bool = True
    guest: bool = False
    uses_teams: bool = True
    app_blocked: bool = False
    mailbox_time_zone: str | None = None


class GraphSettings(ApiModel):
    """Set what Graph permits the app in a tenant (None: all permissions), and whether the tenant's catalogue has it."""

    tenant: str
    permissions: list[GraphPermission] | None = None
    catalogue: bool = True


class FederatedCredential(ApiModel):
    """An issuer that the app's registration trusts, and its public keys as a JSON Web Key Set."""

    issuer: str
    subject: str
    audience: str = "api://AzureADTokenExchange"
    keys: dict[str, Any]


class Credentials(ApiModel):
    """The proofs of the app's identity: certificates (PEM), federated credentials, and whether its secret is one."""

    certificates: list[str] = []
    federated: list[FederatedCredential] = []
    secret: bool = True


class InstallationUpdate(ApiModel):
    """Set for whom the app is installed, without an event; `ids` are object ids, team ids and chat ids."""

    ids: list[str]
    installed: bool = True


class Behaviour(ApiModel):
    """The behaviour of the fake; times are seconds.

    `endpoint` is the messaging endpoint of the app. `latency` is the delay of each response of the Bot Connector,
    `graphLatency` of Graph. `retryAfter` is whether a 429 of the rate limits has the header, `graphRetryAfter` how a
    429 of Graph names the seconds. `installEvents` is when the activities of an installation through Graph are posted,
    and `installEventDelay` how much later; `twice` is now and later.
    """

    endpoint: str | None = None
    latency: float = Field(default=0, ge=0)
    token_latency: float = Field(default=0, ge=0)
    token_lifetime: int = Field(default=3600, ge=1)
    enforce_limits: bool = True
    retry_after: bool = True
    tenant_rate: int = Field(default=50, ge=1)
    graph_latency: float = Field(default=0, ge=0)
    graph_retry_after: Literal["whole", "fractional", "missing"] = "whole"
    install_events: Literal["now", "late", "twice", "never"] = "now"
    install_event_delay: float = Field(default=1, ge=0)


class TeamsFault(ApiModel):
    """A fault to inject, and the requests that it matches; of several matching faults, the first one applies.

    Requests: those that match all given fields of `operation`, `tenant`, `person` (object id), `group` (of Graph, also
    the group of a team) and `conversation`; without an operation, those to the Bot Connector. Time: from `after`
    seconds on, for `seconds`, at most `count` times, for the share `share` of the requests, which depends only on
    `seed` and the conversation. Effect: an HTTP `status` (with `code`, `message`, `shape`, `retryAfter`), or `drop` of
    the connection, either after `delay` seconds; or only the delay. With `accept`, the request takes effect first.
    """

    operation: Operation | None = None
    tenant: str | None = None
    person: str | None = None
    group: str | None = None
    conversation: str | None = None
    share: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0
    count: int | None = Field(default=None, ge=1)
    after: float = Field(default=0, ge=0)
    seconds: float | None = Field(default=None, gt=0)
    status: int | None = Field(default=None, ge=300, le=599)
    code: str | None = None
    message: str | None = None
    shape: Literal["error", "nested", "html", "empty"] = "error"
    retry_after: int | float | str | None = None
    drop: bool = False
    delay: float = Field(default=0, ge=0)
    accept: bool = False

    @model_validator(mode="after")
    def _has_one_effect(self) -> Self:
        has_status = self.status is not None
        if (has_status and self.drop) or not (has_status or self.drop or self.delay):
            raise ValueError("a fault needs a status, or drop, or only a delay")
        if self.status == 403 and self.shape in ("error", "nested") and not self.code:
            raise ValueError("a 403 needs a code, such as ConversationBlockedByUser")
        return self


class Forgery(ApiModel):
    """How the token of an activity differs from a genuine one.

    `key`: `unknown` is not published, `impostor` is not published and has the current key's id, `unendorsed` and
    `otherChannel` are published (from the first such request, or from `add_key`) but not endorsed for msteams,
    `retired` is the key before the last rotation. `claims` replaces claims, null removes one. `authorization` replaces
    the whole header; an empty one removes it. `tamper` changes the claims after signing. `body` replaces the activity.
    """

    key: Literal["current", "unknown", "impostor", "unendorsed", "otherChannel", "retired"] = "current"
    algorithm: Literal["RS256", "none", "HS256"] = "RS256"
    claims: dict[str, Any] = {}
    expires_in: int = 3600
    valid_in: int = -300
    authorization: str | None = None
    tamper: bool = False
    body: str | None = None


class TeamsEvent(ApiModel):
    """An event in Teams, which is posted to the app.

    `person` is the Entra object id of its sender. Its conversation is that of `team` (with `channel`, and `thread`, the
    id of a root message) or `chat`, or else the person's own chat. `people` are object ids added or removed. `changes`
    is merged into each activity (RFC 7396). `repeat` is how often the same activity is posted, as Teams does after a
    slow response.
    """

    kind: EventKind
    person: str | None = None
    people: list[str] = []
    team: str | None = None
    channel: str | None = None
    thread: str | None = None
    chat: str | None = None
    event: TeamEventType | None = None
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


class AppResponse(ApiModel):
    """The response of the app to one activity; without a response, `status` is null and `error` the reason."""

    activity: dict[str, Any]
    status: int | None
    body: str
    seconds: float
    error: str | None = None


class PreviousVersion(ApiModel):
    """The activity of a message until it was updated at `at`."""

    at: str
    activity: dict[str, Any]


class Received(ApiModel):
    """A message that Teams accepted; `updates` holds its versions before each update, oldest first.

    `number` counts accepted messages; `changed` grows with each change of any message and is the cursor of `since`.
    `receivedAt` is UTC, `monotonic` is seconds of the fake's clock.
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
    updates: list[PreviousVersion]
    deleted_at: str | None
    connection: int
    token: int


class ReceivedPage(ApiModel):
    """Messages with `changed` above `since`; `next` is the next `since`, `more` whether more messages follow."""

    messages: list[Received]
    next: int
    more: bool


class Violation(ApiModel):
    """A request over a limit: `limit` is `requests/seconds`, `conversation` null for the tenant's own limit.

    Of Graph, `limit` begins with the operation, and `conversation` is the id of a team's group.
    """

    tenant: str
    conversation: str | None
    limit: str
    monotonic: float


class Stats(ApiModel):
    """Counts since the last reset.

    `requests`: counts by operation and HTTP status (`dropped` without a response); a part of a Graph batch counts as a
    request. `connections`: distinct TCP connections by `connector`, `graph`, `login`, `openid`. `tokensByCredential`:
    tokens issued for a `secret`, `certificate` or `federated` credential. `peaks`: the most requests of a tenant in any
    second, including refused ones; `graphPeaks`: the same by operation of Graph. `perConversation`: how many
    conversations hold how many messages. `duplicates`: messages whose body equals an earlier one of the same
    conversation. `span`: seconds from the first accepted message to the last.
    """

    requests: dict[str, dict[str, int]]
    connections: dict[str, int]
    tokens_issued: int
    tokens_used: int
    tokens_by_credential: dict[str, int]
    peaks: dict[str, int]
    violation_count: int
    violations: list[Violation]
    graph_peaks: dict[str, dict[str, int]]
    graph_violation_count: int
    graph_violations: list[Violation]
    messages: int
    conversations: int
    per_conversation: dict[int, int]
    duplicates: int
    span: float

    def count(self, operation: Operation) -> int:
        """Return the number of requests of this operation, with any status."""
        return sum(self.requests.get(operation, {}).values())
