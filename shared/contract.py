"""What upstream may send: CloudEvents 1.0 in structured JSON, or its bare `data`.

The models are the source of `docs/contract.schema.json`. Names in JSON are in camelCase. `read` turns the
bytes of a queue message into a `Request`, or raises `Refused` with a JSON pointer (RFC 6901) to each fault.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StringConstraints,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from shared.time.holidays import Holidays
from shared.time.localtime import zone
from shared.time.recurrence import Recurrence, check_span

#: The source of a notification that names none.
DEFAULT_SOURCE = "/queues/notifications"
#: The zone of a schedule that means each recipient's own.
RECIPIENT = "recipient"
#: Longest `data` that is stored, in bytes of canonical JSON: a binary column of a table holds no more ("Understanding
#: the Table service data model", Microsoft Learn).
LONGEST_DATA = 64 * 1024
_BOM = b"\xef\xbb\xbf"
#: Where it does not matter which.
SOME_DAY = date(2026, 1, 1)

#: What Teams calls a message in the id of its thread; shorter than a digest has place for.
_MESSAGE_ID = re.compile(r"[A-Za-z0-9._~-]{1,32}")

Text = Annotated[str, StringConstraints(min_length=1)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
#: Shorter, as it is a part of the source of what the schedule sends.
ScheduleName = Annotated[str, StringConstraints(min_length=1, max_length=200)]


def _web_link(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("must be a URL beginning with https:// or http://")
    return text


def _object_id(text: str) -> str:
    compact = text.replace("-", "")
    if len(text) != 36 or len(compact) != 32 or not set(compact.lower()) <= set("0123456789abcdef"):
        raise ValueError("must be an Entra object id; a user principal name cannot be looked up yet")
    return text.lower()


def _zone_name(text: str) -> str:
    if text != RECIPIENT:
        try:
            zone(text)
        except ValueError as unknown:
            raise ValueError(f"{unknown} ({RECIPIENT}, in lower case, is taken too: everybody's own)") from None
    return text


def _date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError("must be a date, such as 2026-12-25") from None


def _calendar(text: str) -> str:
    Holidays(text, SOME_DAY)  # raises what is wrong with it
    return text


def _conversation(text: str) -> str:
    _, thread, message = text.partition(";messageid=")
    if thread and not _MESSAGE_ID.fullmatch(message):
        raise ValueError(
            "must end, after ;messageid=, with the id of a message: letters, digits and . _ ~ -, at most 32"
        )
    return text


def _wall_time(text: str) -> str:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        why = "" if "isoformat" in str(error) else f": {error}"
        raise ValueError(f"must be a wall time, such as 2026-12-01T09:00{why}") from None
    if parsed.tzinfo is not None:
        raise ValueError("must be a wall time without an offset, such as 2026-12-01T09:00; the zone is timeZone")
    if "T" not in text:
        raise ValueError("must be a date with a time of day, such as 2026-12-01T09:00")
    _near(parsed)
    return text


def _near(time: datetime) -> datetime:
    if not 2000 <= time.year <= 9000:
        raise ValueError("must be in the years 2000 to 9000")  # the ends of the calendar overflow in other zones
    return time


_INSTANT = "must be a time with an offset, such as 2026-12-01T09:00:00Z"

M = TypeVar("M", bound=BaseModel)
WebLink = Annotated[Text, AfterValidator(_web_link)]
WallTime = Annotated[str, AfterValidator(_wall_time)]
ZoneName = Annotated[str, AfterValidator(_zone_name)]
Instant = Annotated[AwareDatetime, AfterValidator(_near)]


class _Model(BaseModel):
    # Validators are built when a model first reads something (3 ms): most of them are only ever parts of another's.
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, defer_build=True)


class UserRecipient(_Model):
    """One person, by Entra object id."""

    user: Annotated[str, AfterValidator(_object_id)]


class ChannelId(_Model):
    team_id: Name
    channel_id: Name


class ChannelRecipient(_Model):
    """A channel of a team, as a new thread."""

    channel: ChannelId


class ConversationRecipient(_Model):
    """A personal chat, a group chat, a channel, or (with `;messageid=`) a thread, by its conversation id."""

    conversation: Annotated[Name, AfterValidator(_conversation)]


class TeamRecipient(_Model):
    """The members of a team, one by one, by its thread id or Entra group id."""

    team: Name


class TopicRecipient(_Model):
    """Who has subscribed to a topic."""

    topic: Name


class AllRecipient(_Model):
    """Everyone of the tenant who has the bot in a personal chat."""

    all: Literal[True]


_KINDS = ("user", "channel", "conversation", "team", "topic", "all")


def _kind(value: Any) -> str | None:
    if isinstance(value, _Model):
        return "<" + next(iter(type(value).model_fields)) + ">"
    named = [name for name in _KINDS if isinstance(value, dict) and name in value]
    return f"<{named[0]}>" if named else None


Recipient = Annotated[
    Annotated[UserRecipient, Tag("<user>")]
    | Annotated[ChannelRecipient, Tag("<channel>")]
    | Annotated[ConversationRecipient, Tag("<conversation>")]
    | Annotated[TeamRecipient, Tag("<team>")]
    | Annotated[TopicRecipient, Tag("<topic>")]
    | Annotated[AllRecipient, Tag("<all>")],
    Discriminator(
        _kind,
        custom_error_type="recipient_kind",
        custom_error_message="must name one of user, channel, conversation, team, topic, all",
    ),
]


class Fact(_Model):
    title: Text
    value: str


class Actor(_Model):
    """Who or what set it off; `user` is an Entra object id."""

    name: Text
    user: Name | None = None


class Link(_Model):
    title: Text
    url: WebLink


class Image(_Model):
    url: WebLink
    alt_text: Text


class Action(_Model):
    id: Name
    title: Text


class Content(_Model):
    """What happened (`title`, `text`, `facts`), what resulted, who set it off, and what one can do."""

    title: Text
    text: str = ""
    facts: Sequence[Fact] = ()
    result: str = ""
    actor: Actor | None = None
    link: Link | None = None
    image: Image | None = None
    actions: Annotated[Sequence[Action], Field(max_length=6)] = ()


class Schedule(_Model):
    """When: a wall time and the zone it is meant in, by its IANA or Windows name, or `recipient`: each one's own.

    Where none is named it is the default zone of the settings.
    """

    at: WallTime
    time_zone: ZoneName | None = None
    if_past: Literal["send", "skip", "nextDay"] = "send"


class Digest(_Model):
    mode: Literal["auto"] = "auto"
    key: Name | None = None


class Thread(_Model):
    key: Name
    on_repeat: Literal["update", "reply", "new"] = "new"


class Notification(_Model):
    """What to tell whom, when, and in which form: the `data` of a CloudEvent."""

    recipients: Annotated[Sequence[Recipient], Field(min_length=1)]
    category: Name
    content: Content | None = None
    card: dict[str, Any] | None = None
    tenant: Name | None = None
    priority: Literal["normal", "urgent"] = "normal"
    locale: Name | None = None
    expires_at: Instant | None = None
    schedule: Schedule | None = None
    digest: Digest | None = None
    thread: Thread | None = None
    on_missing: Literal["hold", "suppress"] = "suppress"
    on_unknown: Literal["resend", "stop"] | None = None
    cancellation_key: Name | None = None
    simulate: StrictBool = False

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.content is None) == (self.card is None):
            raise ValueError("needs exactly one of content and card")
        if self.card is not None and self.card.get("type") != "AdaptiveCard":
            raise ValueError("card must be an Adaptive Card: an object whose type is AdaptiveCard")
        return self


class Announcement(_Model):
    """A notification that recurs, by a cron expression of 5 fields or an RRULE that counts from `start`.

    `start` and `end` are wall times in the zone of `timeZone`, as in a `Schedule`, both included. It is not announced
    on the dates of `skip`, nor on those of `holidays`, the text of an iCalendar file.
    """

    time_zone: ZoneName | None = None
    start: WallTime | None = None
    end: WallTime | None = None
    skip: Sequence[Annotated[str, AfterValidator(_date)]] = ()
    holidays: Annotated[str, AfterValidator(_calendar)] | None = None
    rule: Text
    notification: Notification

    @field_validator("start", "end")
    @classmethod
    def _spans(cls, at: str | None, info: ValidationInfo) -> str | None:
        known = info.data | {str(info.field_name): at}
        check_span(*(datetime.fromisoformat(wall) if (wall := known.get(name)) else None for name in ("start", "end")))
        return at

    @field_validator("rule")
    @classmethod
    def _recurs(cls, text: str, info: ValidationInfo) -> str:
        start = info.data.get("start", SOME_DAY.isoformat())  # any, where its own is wrong: that is told there
        Recurrence(text, datetime.fromisoformat(start) if start else None)
        return text

    @field_validator("notification")
    @classmethod
    def _comes_again(cls, notification: Notification) -> Notification:
        if notification.schedule or notification.expires_at:
            raise ValueError("must have no schedule and no expiresAt: it is sent at each occurrence of the rule")
        return notification


class DeadLetters(_Model):
    """Dead letters of a queue: the one of this row key, or all that have this reason."""

    queue: Name
    key: Name | None = None
    reason: Name | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.key is None) == (self.reason is None):
            raise ValueError("needs exactly one of key and reason")
        return self


class Target(_Model):
    """What a command is about: one notification, all that share a cancellation key, a schedule, or dead letters."""

    source: Name | None = None
    id: Name | None = None
    cancellation_key: Name | None = None
    schedule: ScheduleName | None = None
    dead_letters: DeadLetters | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        named = [self.id, self.cancellation_key, self.schedule, self.dead_letters]
        if named.count(None) != len(named) - 1 or (self.source and not self.id):
            raise ValueError("needs id (with source), or cancellationKey, or schedule, or deadLetters")
        return self


#: What a command needs besides its target, and no other has.
_NEEDED = {"edit": "content", "reschedule": "schedule", "schedule": "announcement"}
_OF_SCHEDULES = ("schedule", "pauseSchedule", "resumeSchedule", "deleteSchedule")


class Command(_Model):
    """Call off what was not sent (cancel), take back what was (recall), change it (edit), or try it again (redrive).

    Send what waits for its time at another one (reschedule). Have a notification recur (schedule), let that rest
    (pauseSchedule, resumeSchedule), or end it (deleteSchedule).
    """

    command: Literal[
        "cancel", "recall", "edit", "redrive", "reschedule",
        "schedule", "pauseSchedule", "resumeSchedule", "deleteSchedule",
    ]  # fmt: skip
    target: Target
    content: Content | None = None
    schedule: Schedule | None = None
    announcement: Announcement | None = None
    tenant: Name | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for command, part in _NEEDED.items():
            if (self.command == command) != (getattr(self, part) is not None):
                raise ValueError(f"{part} belongs to {command}, and {command} needs it")
        if (self.target.schedule is not None) != (self.command in _OF_SCHEDULES):
            raise ValueError(f"a schedule is the target of {', '.join(_OF_SCHEDULES)}, and of nothing else")
        if self.target.dead_letters and self.command != "redrive":
            raise ValueError("dead letters can only be redriven")
        return self


class BareNotification(Notification):
    """A notification on its own, with its identity inside."""

    id: Name | None = None
    source: Name | None = None


class BareCommand(Command):
    """A command on its own; its identity has no effect, as to do it again changes nothing."""

    id: Name | None = None
    source: Name | None = None


class _Envelope(BaseModel):
    """The envelope of CloudEvents 1.0 (cloudevents.io, JSON format 1.0.2); extension attributes may be present."""

    model_config = ConfigDict(extra="allow", frozen=True, defer_build=True)

    specversion: Literal["1.0"]
    type: Name
    source: Name
    id: Name
    time: Instant | None = None
    datacontenttype: Annotated[str, StringConstraints(pattern=r"^application/([\w.+-]+\+)?json(;.*)?$")] | None = None
    expirytime: Instant | None = None
    traceparent: str | None = None


class CloudEvent(_Envelope):
    """A notification in its envelope."""

    data: Notification


class CommandEvent(_Envelope):
    """A command in its envelope."""

    data: Command


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a message: where (JSON pointer; "" is the whole) and what."""

    pointer: str
    message: str


class Refused(Exception):
    """A message that is not taken; `reason` is `unreadable`, `invalid`, `reused`, `unknown` or `begun`."""

    def __init__(
        self, reason: Literal["unreadable", "invalid", "reused", "unknown", "begun"], faults: Sequence[Fault]
    ) -> None:
        super().__init__(reason)
        self.reason, self.faults = reason, faults


@dataclass(frozen=True, slots=True)
class Request:
    """A valid message: its identity, its `data` as canonical JSON, and the same as a model.

    `id` is None where the caller gave none, `time` where it did not say when it happened. `expires_at` is the
    earlier of the envelope's and the data's.
    """

    source: str
    id: str | None
    data: bytes
    notification: Notification
    expires_at: datetime | None
    time: datetime | None = None

    @property
    def content_hash(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def decode(body: bytes) -> Any:
    """The JSON value of a queue message, raw or base64; raises `Refused`."""
    text = body.removeprefix(_BOM)
    if text.lstrip()[:1] not in (b"{", b"["):
        try:
            text = base64.b64decode(text.strip(), validate=True).removeprefix(_BOM)
        except (binascii.Error, ValueError):
            said = "is neither a JSON object, which begins with {, nor base64 of one"
            raise Refused("unreadable", [Fault("", said)]) from None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        said = f"is no JSON in UTF-8: {_fault_of_json(text, error)}"
        raise Refused("unreadable", [Fault("", said)]) from None


def _fault_of_json(text: bytes, error: orjson.JSONDecodeError) -> str:
    """What is wrong, and in which line and column; nothing of the text itself."""
    try:
        text.decode()
    except UnicodeDecodeError as wrong:  # whose place orjson does not tell
        before = text[: wrong.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return f"{wrong.reason} in line {line}, column {column}"
    return f"{error.msg} in line {error.lineno}, column {error.colno}"


def read(body: bytes) -> Request | Command:
    """The notification or the command in the body of a queue message; raises `Refused`."""
    value = decode(body)
    if not isinstance(value, dict):
        raise Refused("invalid", [Fault("", "must be a JSON object")])
    if "specversion" in value:
        return _read_event(value)
    if "command" in value:
        return _validated(BareCommand, value)
    bare = _validated(BareNotification, value)
    data = {name: part for name, part in value.items() if name not in ("id", "source")}
    return Request(bare.source or DEFAULT_SOURCE, bare.id, canonical(data), bare, bare.expires_at)


def _read_event(value: dict[str, Any]) -> Request | Command:
    if "data" not in value and isinstance(value.get("data_base64"), str):
        try:
            value = value | {"data": orjson.loads(base64.b64decode(value["data_base64"], validate=True))}
        except ValueError:
            raise Refused("invalid", [Fault("/data_base64", "is no base64 of JSON")]) from None
    if isinstance(value.get("data"), dict) and "command" in value["data"]:
        return _validated(CommandEvent, value).data
    event = _validated(CloudEvent, value)
    ends = [end for end in (event.expirytime, event.data.expires_at) if end]
    return Request(event.source, event.id, canonical(value["data"]), event.data, min(ends, default=None), event.time)


def inside(request: Request | Command) -> str:
    """The JSON pointer to the `data` of what was read: "" where it came bare."""
    model = request.notification if isinstance(request, Request) else request
    return "" if isinstance(model, BareNotification | BareCommand) else "/data"


def stored(data: bytes) -> Notification:
    """The notification whose canonical `data` was stored."""
    return Notification.model_validate_json(data)


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of both forms."""
    from pydantic import TypeAdapter

    either: Any = TypeAdapter(CloudEvent | BareNotification | CommandEvent | BareCommand)
    described: dict[str, Any] = either.json_schema(by_alias=True)
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": "What Herald takes on its queue", **described}


def canonical(data: Any) -> bytes:
    """The canonical JSON of a value of JSON; raises `Refused` where it cannot be stored."""
    try:
        text = orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        raise Refused("invalid", [Fault("", "is nested too deep")]) from None
    if len(text) > LONGEST_DATA:
        raise Refused("invalid", [Fault("", f"has {len(text)} bytes of JSON, and {LONGEST_DATA} is the limit")])
    return text


#: What is said of a fault instead of pydantic's own words, by its type.
_SAID = {
    "extra_forbidden": "is no field here",
    "missing": "is required",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "datetime_parsing": _INSTANT,
    "datetime_from_date_parsing": _INSTANT,
    "datetime_object_invalid": _INSTANT,
    "timezone_aware": _INSTANT,
}


def _validated(model: type[M], value: Any) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise Refused("invalid", [_fault(item) for item in error.errors(include_input=False)]) from None


def _fault(item: Any) -> Fault:
    path = [str(part) for part in item["loc"] if not str(part).startswith("<")]
    escaped = (part.replace("~", "~0").replace("/", "~1") for part in path)
    said = _SAID.get(item["type"]) or item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden" and (meant := _likest(path[-1])):
        said += f"; did you mean {meant}?"
    return Fault("".join(f"/{part}" for part in escaped), said)


def _likest(name: str) -> str:
    """The name of a field that is most like this one, "" for none."""
    from difflib import get_close_matches

    models = (CloudEvent, BareNotification, Content, Schedule, Thread, Announcement, BareCommand, Target)
    names = {field.alias or name: None for model in models for name, field in model.model_fields.items()}
    by_letters = {each.casefold(): each for each in names}
    return next((by_letters[each] for each in get_close_matches(name.casefold(), by_letters, n=1)), "")
