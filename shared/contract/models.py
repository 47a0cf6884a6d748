"""What an upstream system may send: CloudEvents 1.0 in structured JSON, or its bare `data`, as pydantic models.

The models are the source of `docs/contract.schema.json`. Names in JSON are in camelCase.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

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
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from shared.time.holidays import Holidays
from shared.time.localtime import load_zone
from shared.time.recurrence import Recurrence, check_span

#: The zone of a schedule that means each recipient's own.
RECIPIENT = "recipient"
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
            load_zone(text)
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


INSTANT = "must be a time with an offset, such as 2026-12-01T09:00:00Z"
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


class DeadLetterSelection(_Model):
    """Dead letters of a queue: the one of this row key, or all that have this reason."""

    queue: Name
    key: Name | None = None
    reason: Name | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.key is None) == (self.reason is None):
            raise ValueError("needs exactly one of key and reason")
        return self


class CommandTarget(_Model):
    """What a command is about: one notification, all that share a cancellation key, a schedule, or dead letters."""

    source: Name | None = None
    id: Name | None = None
    cancellation_key: Name | None = None
    schedule: ScheduleName | None = None
    dead_letters: DeadLetterSelection | None = None

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
    target: CommandTarget
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


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of both forms."""
    from pydantic import TypeAdapter

    either: Any = TypeAdapter(CloudEvent | BareNotification | CommandEvent | BareCommand)
    described: dict[str, Any] = either.json_schema(by_alias=True)
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": "What Herald takes on its queue", **described}
