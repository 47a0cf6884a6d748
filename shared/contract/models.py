"""What an upstream system may send: CloudEvents 1.0 in structured JSON, or only the `data`, as pydantic models.

The models are the source of `docs/contract.schema.json`. Names in JSON are in camelCase.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
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

from shared.contract.urls import IMAGE_SCHEMES, find_url_fault
from shared.time.holidays import Holidays
from shared.time.localtime import load_chosen_zone
from shared.time.recurrence import check_rule, check_span

#: The value of `timeZone` that stands for the own zone of each recipient.
RECIPIENT = "recipient"
#: Most links of one content, `link` and `links` together, and most images; most people that it mentions.
MAX_LINKS = MAX_IMAGES = 5
MAX_MENTIONS = 20
#: A date for checks whose result does not depend on the date.
ANY_DATE = date(2026, 1, 1)

#: The id of a message in the conversation id of its thread. The length keeps ids of digests within their limit.
_MESSAGE_ID = re.compile(r"[A-Za-z0-9._~-]{1,32}")
_JSON_MEDIA_TYPE = re.compile(r"[^\s/]+/[^\s/]+\+json")
_NUMBER = re.compile(r"\s*[-+.\d_eE]+\s*")
#: A user principal name or mail address, as far as Entra ID and Exchange allow one (at most 113 and 320 characters).
_ADDRESS = re.compile(r"[^\s\x00-\x1f\x7f<>@/\\]{1,64}@[^\s\x00-\x1f\x7f<>@/\\]{1,255}")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
#: An id of Teams, such as 19:team@thread.tacv2: a type, a colon, and text without spaces. A display name is none.
_TEAMS_ID = re.compile(r"\d+:\S+")

Text = Annotated[str, StringConstraints(min_length=1)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
#: The upstream system's own text about a notification.
Reference = Annotated[str, StringConstraints(min_length=1, max_length=128)]
#: Shorter than a name, because it is a part of the source of the schedule's notifications.
ScheduleName = Annotated[str, StringConstraints(min_length=1, max_length=200)]


def _web_link(text: str) -> str:
    if fault := find_url_fault(text):
        raise ValueError(fault)
    return text


def _image_link(text: str) -> str:
    if fault := find_url_fault(text, IMAGE_SCHEMES):
        raise ValueError(
            f"{fault}: Teams loads pictures over https only" if text.lower().startswith("http:") else fault
        )
    return text


def _person(text: str) -> str:
    if not _UUID.fullmatch(text) and not _ADDRESS.fullmatch(text):
        raise ValueError("must be an Entra object id (a UUID), a user principal name or a mail address, not a name")
    return text.lower()


def _group(text: str) -> str:
    if not _UUID.fullmatch(text):
        raise ValueError("must be the object id of an Entra group (a UUID), not its name")
    return text.lower()


def _mentioned_user(text: str) -> str:
    if not _UUID.fullmatch(text) and not _ADDRESS.fullmatch(text):
        raise ValueError("must be an Entra object id (a UUID) or a user principal name, such as ada@contoso.example")
    return text


def _mentioned_name(text: str) -> str:
    if not text.strip() or text.splitlines() != [text] or "<" in text or ">" in text:
        raise ValueError("must be a name on one line, without < and >")
    return text


def _zone_name(text: str) -> str:
    if text != RECIPIENT:
        try:
            load_chosen_zone(text)
        except ValueError as unknown:
            known = f"IANA and Windows names are known; {RECIPIENT}, in lower case, means each recipient's own zone"
            raise ValueError(f"{unknown} ({known})") from None
    return text


def _date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError("must be a date, such as 2026-12-25") from None


def _calendar(text: str) -> str:
    Holidays(text, ANY_DATE)  # raises a ValueError that says what is wrong
    return text


def _conversation(text: str) -> str:
    _, thread, message = text.partition(";messageid=")
    if thread and not _MESSAGE_ID.fullmatch(message):
        raise ValueError("must have the id of a message after ;messageid=: at most 32 letters, digits and . _ ~ -")
    return text


def _team(text: str) -> str:
    if not _TEAMS_ID.fullmatch(text) and not _UUID.fullmatch(text):
        raise ValueError(
            "must be the id of a team, such as 19:…@thread.tacv2, or of its Entra group (a UUID), not a name"
        )
    return text


def _channel(text: str) -> str:
    if not _TEAMS_ID.fullmatch(text):
        raise ValueError("must be the id of a channel, such as 19:…@thread.tacv2, not its name")
    return text


def _topic(text: str) -> str:
    if not text.strip():
        raise ValueError("must be a topic: it has only spaces")
    return text


def _adaptive_card(card: dict[str, Any]) -> dict[str, Any]:
    if card.get("type") != "AdaptiveCard":
        raise ValueError("must be an Adaptive Card: an object with the type AdaptiveCard")
    return card


def _json_media_type(text: str) -> str:
    # Media types have no case, and parameters may follow (RFC 9110, section 8.3.1).
    kind = text.partition(";")[0].strip().lower()
    if kind not in ("application/json", "text/json") and not _JSON_MEDIA_TYPE.fullmatch(kind):
        raise ValueError("must be the media type of JSON: application/json, or leave it out")
    return text


def _wall_time(text: str) -> str:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        why = "" if "isoformat" in str(error) else f": {error}"
        raise ValueError(f"must be a wall time, such as 2026-12-01T09:00{why}") from None
    if parsed.tzinfo is not None:
        raise ValueError("must be a wall time without an offset, such as 2026-12-01T09:00; put the zone into timeZone")
    if "T" not in text:
        raise ValueError("must be a date with a time of day, such as 2026-12-01T09:00")
    _check_year(parsed)
    return text


def _only_true(value: Any) -> Any:
    return value if value is True else None  # in Python, 1 equals True


def _no_number(value: Any) -> Any:
    # Nobody can know whether a number means seconds or milliseconds; pydantic guesses.
    if isinstance(value, int | float) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        raise ValueError(INSTANT)
    return value


def _check_year(time: datetime) -> datetime:
    if not 2000 <= time.year <= 9000:
        raise ValueError("must be in the years 2000 to 9000")  # years 1 and 9999 overflow in other time zones
    return time


INSTANT = "must be a time with an offset, such as 2026-12-01T09:00:00Z"
WebLink = Annotated[Text, AfterValidator(_web_link)]
ImageLink = Annotated[Text, AfterValidator(_image_link)]
Card = Annotated[dict[str, Any], AfterValidator(_adaptive_card)]
WallTime = Annotated[str, AfterValidator(_wall_time)]
ZoneName = Annotated[str, AfterValidator(_zone_name)]
Instant = Annotated[AwareDatetime, BeforeValidator(_no_number), AfterValidator(_check_year)]


class _Model(BaseModel):
    # Building a validator takes 3 ms, and most models are only used as parts of others: build it at the first use.
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, defer_build=True)


class UserRecipient(_Model):
    """One person, by Entra object id, user principal name or mail address."""

    user: Annotated[str, AfterValidator(_person)]


class ChannelId(_Model):
    team_id: Annotated[Name, AfterValidator(_team)]
    channel_id: Annotated[Name, AfterValidator(_channel)]


class ChannelRecipient(_Model):
    """A channel of a team, as a new thread."""

    channel: ChannelId


class ConversationRecipient(_Model):
    """A personal chat, a group chat, a channel, or a thread (with `;messageid=`), by its conversation id."""

    conversation: Annotated[Name, AfterValidator(_conversation)]


class TeamRecipient(_Model):
    """The members of a team, one by one, by its thread id or Entra group id."""

    team: Annotated[Name, AfterValidator(_team)]


class TopicRecipient(_Model):
    """The subscribers of a topic."""

    topic: Annotated[Name, AfterValidator(_topic)]


class GroupRecipient(_Model):
    """The members of an Entra group, and of the groups in it, one by one, by its object id."""

    group: Annotated[str, AfterValidator(_group)]


class AllRecipient(_Model):
    """Everyone in the tenant: who has a personal chat with the bot (`known`), or every enabled member account."""

    all: Annotated[Literal[True], BeforeValidator(_only_true)]
    of: Literal["known", "tenant"] = "known"


_KINDS = ("user", "channel", "conversation", "team", "topic", "group", "all")
#: The tags of the recipients' models, which are part of the locations of pydantic.
RECIPIENT_TAGS = frozenset(f"<{kind}>" for kind in _KINDS)


def _kind(value: Any) -> str | None:
    if isinstance(value, _Model):
        return "<" + next(iter(type(value).model_fields)) + ">"
    kinds = [name for name in _KINDS if isinstance(value, dict) and name in value]
    return f"<{kinds[0]}>" if kinds else None


Recipient = Annotated[
    Annotated[UserRecipient, Tag("<user>")]
    | Annotated[ChannelRecipient, Tag("<channel>")]
    | Annotated[ConversationRecipient, Tag("<conversation>")]
    | Annotated[TeamRecipient, Tag("<team>")]
    | Annotated[TopicRecipient, Tag("<topic>")]
    | Annotated[GroupRecipient, Tag("<group>")]
    | Annotated[AllRecipient, Tag("<all>")],
    Discriminator(
        _kind,
        custom_error_type="recipient_kind",
        custom_error_message="must have one of the fields user, channel, conversation, team, topic, group, all",
    ),
]


class Fact(_Model):
    title: Text
    value: str


class Actor(_Model):
    """Who or what triggered the event; `user` is an Entra object id."""

    name: Text
    user: Name | None = None


class Link(_Model):
    title: Text
    url: WebLink


class Image(_Model):
    url: ImageLink
    alt_text: Text


class Mention(_Model):
    """A person, by Entra object id or user principal name, whom a text of the content mentions as `<at>name</at>`."""

    name: Annotated[Name, AfterValidator(_mentioned_name)]
    user: Annotated[Name, AfterValidator(_mentioned_user)]


class Action(_Model):
    id: Name
    title: Text


class Content(_Model):
    """What happened (`title`, `text`, `facts`), the `result`, the `actor` who triggered it, and possible `actions`.

    `link` and `image` are the short forms of the first of `links` and `images`.
    """

    title: Text
    text: str = ""
    facts: Sequence[Fact] = ()
    result: str = ""
    actor: Actor | None = None
    link: Link | None = None
    links: Annotated[Sequence[Link], Field(max_length=MAX_LINKS)] = ()
    image: Image | None = None
    images: Annotated[Sequence[Image], Field(max_length=MAX_IMAGES)] = ()
    mentions: Annotated[Sequence[Mention], Field(max_length=MAX_MENTIONS)] = ()
    actions: Annotated[Sequence[Action], Field(max_length=6)] = ()

    @field_validator("links", "images")
    @classmethod
    def _has_room_for_short_form(cls, found: Sequence[Any], info: ValidationInfo) -> Sequence[Any]:
        short_form = str(info.field_name).removesuffix("s")
        limit = MAX_LINKS if short_form == "link" else MAX_IMAGES
        if info.data.get(short_form) and len(found) == limit:
            raise ValueError(f"must have at most {limit - 1} entries beside {short_form}")
        return found

    @property
    def all_links(self) -> Sequence[Link]:
        """Return `link`, if there is one, and `links`."""
        return [self.link, *self.links] if self.link else self.links

    @property
    def all_images(self) -> Sequence[Image]:
        """Return `image`, if there is one, and `images`."""
        return [self.image, *self.images] if self.image else self.images


class Schedule(_Model):
    """When to send: a wall time in a zone, given by its IANA or Windows name, or `recipient` for each recipient's own.

    The default is the default zone of the settings.
    """

    at: WallTime
    time_zone: ZoneName | None = None
    if_past: Literal["send", "skip", "nextDay"] = "send"


class ScheduleChange(_Model):
    """A new time: what it does not name, or names as null, stays as it was."""

    at: WallTime | None = None
    time_zone: ZoneName | None = None
    if_past: Literal["send", "skip", "nextDay"] | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if (self.at, self.time_zone, self.if_past) == (None, None, None):
            raise ValueError("must have at least one of at, timeZone, ifPast")
        return self

    def apply_to(self, schedule: Schedule) -> Schedule:
        """Return the schedule with what this names."""
        return schedule.model_copy(update={name: value for name, value in self if value is not None})


class Digest(_Model):
    mode: Literal["auto"] = "auto"
    key: Name | None = None


class Thread(_Model):
    key: Name
    on_repeat: Literal["update", "reply", "new"] = "new"


class Notification(_Model):
    """A notification: the `data` of a CloudEvent."""

    recipients: Annotated[Sequence[Recipient], Field(min_length=1)]
    category: Name
    content: Content | None = None
    card: Card | None = None
    tenant: Name | None = None
    priority: Literal["normal", "urgent"] = "normal"
    locale: Name | None = None
    expires_at: Instant | None = None
    schedule: Schedule | None = None
    digest: Digest | None = None
    thread: Thread | None = None
    on_missing: Literal["install", "hold", "suppress"] = "suppress"
    on_unknown: Literal["resend", "stop"] | None = None
    cancellation_key: Name | None = None
    reference: Reference | None = None
    simulate: StrictBool = False

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.content is None) == (self.card is None):
            raise ValueError("must have exactly one of content and card")
        return self


class Announcement(_Model):
    """A recurring notification; `rule` is a cron expression of 5 fields, or an RRULE that counts from `start`.

    `start` and `end` are wall times in `timeZone`, both included. There is no occurrence on the dates of `skip`, nor on
    those of `holidays`, the text of an iCalendar file.
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
    def _valid_span(cls, at: str | None, info: ValidationInfo) -> str | None:
        values = info.data | {str(info.field_name): at}
        check_span(*(datetime.fromisoformat(wall) if (wall := values.get(name)) else None for name in ("start", "end")))
        return at

    @field_validator("rule")
    @classmethod
    def _valid_rule(cls, text: str, info: ValidationInfo) -> str:
        # A field that is invalid is missing here, and has its own fault.
        start = info.data.get("start", None if "DTSTART" in text.upper() else ANY_DATE.isoformat())
        end, zone = info.data.get("end"), info.data.get("time_zone")
        first, last = (datetime.fromisoformat(at) if at else None for at in (start, end))
        check_rule(text, first, last, zone, is_recipient_time=zone == RECIPIENT)
        return text

    @field_validator("notification")
    @classmethod
    def _has_no_time(cls, notification: Notification) -> Notification:
        if notification.schedule or notification.expires_at:
            raise ValueError("must not have schedule or expiresAt: it is sent at each occurrence of the rule")
        return notification


class DeadLetterSelection(_Model):
    """Dead letters of a queue: the one with this row key, or all with this reason."""

    queue: Name
    key: Name | None = None
    reason: Name | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.key is None) == (self.reason is None):
            raise ValueError("must have exactly one of key and reason")
        return self


class CommandTarget(_Model):
    """The target of a command: one notification, all with a cancellation key, a schedule, or dead letters."""

    source: Name | None = None
    id: Name | None = None
    cancellation_key: Name | None = None
    schedule: ScheduleName | None = None
    dead_letters: DeadLetterSelection | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        targets = [self.id, self.cancellation_key, self.schedule, self.dead_letters]
        if targets.count(None) != len(targets) - 1 or (self.source and not self.id):
            raise ValueError("must have exactly one of id (with source), cancellationKey, schedule, deadLetters")
        return self


#: The field that a command requires besides its target, or one of them, and that no other command may have.
_REQUIRED_FIELDS = {"edit": ("content", "card"), "reschedule": ("schedule",), "schedule": ("announcement",)}
_SCHEDULE_COMMANDS = ("schedule", "pauseSchedule", "resumeSchedule", "deleteSchedule")


class Command(_Model):
    """A command about notifications that were sent before, or about a schedule.

    It ends deliveries that are not sent (cancel), deletes sent messages, too (recall), changes their content (edit),
    retries failed deliveries (redrive), or moves a due time (reschedule). Other commands create a recurring
    announcement (schedule), or pause, resume or delete it (pauseSchedule, resumeSchedule, deleteSchedule).
    """

    command: Literal[
        "cancel", "recall", "edit", "redrive", "reschedule",
        "schedule", "pauseSchedule", "resumeSchedule", "deleteSchedule",
    ]  # fmt: skip
    target: CommandTarget
    content: Content | None = None
    card: Card | None = None
    schedule: ScheduleChange | None = None
    announcement: Announcement | None = None
    tenant: Name | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for command, fields in _REQUIRED_FIELDS.items():
            found = [field for field in fields if getattr(self, field) is not None]
            if self.command == command and len(found) != 1:
                raise ValueError(f"{command} requires {' or '.join(fields)}" + (", not both" if found else ""))
            if self.command != command and found:
                raise ValueError(f"{found[0]} is allowed only with the command {command}")
        if self.command in _SCHEDULE_COMMANDS and self.target.schedule is None:
            raise ValueError(f"{self.command} requires a target with schedule")
        if self.command not in _SCHEDULE_COMMANDS and self.target.schedule is not None:
            raise ValueError(f"a target with schedule is allowed only with {', '.join(_SCHEDULE_COMMANDS)}")
        if self.target.dead_letters and self.command != "redrive":
            raise ValueError("a target with deadLetters is allowed only with redrive")
        return self


class BareNotification(Notification):
    """A notification without an envelope, with its identity inside."""

    id: Name | None = None
    source: Name | None = None


class BareCommand(Command):
    """A command without an envelope; its identity has no effect, because a repeated command changes nothing."""

    id: Name | None = None
    source: Name | None = None


class _Envelope(BaseModel):
    """The envelope of CloudEvents 1.0 (cloudevents.io, JSON format 1.0.2); extension attributes are allowed."""

    model_config = ConfigDict(extra="allow", frozen=True, defer_build=True)

    specversion: Literal["1.0"]
    type: Name
    source: Name
    id: Name
    time: Instant | None = None
    datacontenttype: Annotated[str, AfterValidator(_json_media_type)] | None = None
    expirytime: Instant | None = None
    traceparent: str | None = None


class CloudEvent(_Envelope):
    """A notification in its envelope."""

    data: Notification


class CommandEvent(_Envelope):
    """A command in its envelope."""

    data: Command


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of all accepted messages."""
    from pydantic import TypeAdapter

    messages: Any = TypeAdapter(CloudEvent | BareNotification | CommandEvent | BareCommand)
    definitions: dict[str, Any] = messages.json_schema(by_alias=True)
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": "Messages on the queue notifications", **definitions}
