"""Handlers of commands: what each one changes, and what it answers.

A command is one function, found by its verb. A command that cannot be done raises `CommandRefused` with one line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from messages.commands.parser import COMMANDS, ChatCommand, Unknown, Verb, parse
from shared.cards import replies
from shared.cards.preferences import draw_preferences_card
from shared.cards.replies import CommandReply, ReplyLine, quote
from shared.cards.texts import format_time
from shared.preferences.delivery_rules import next_digest
from shared.preferences.digest_schedule import DigestSchedule
from shared.preferences.pause import parse_pause
from shared.preferences.preferences import FOREVER, Preferences, TooManyPreferences
from shared.preferences.quiet_hours import QuietHours
from shared.queue_messages import RecipientTask, Task
from shared.services import Services
from shared.states import ReferenceKind
from shared.time.localtime import load_zone

#: Longest topic, in characters: all of one's topics are kept in one row.
MAX_TOPIC_CHARS = 100
#: Most waiting messages that are counted.
MAX_COUNTED = 100

T = TypeVar("T")


class CommandRefused(Exception):
    """The command cannot be done; the text is one line that says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceSubject:
    """A command under way: `kind` and `id` say whose wishes it is about, `argument` is what follows its name.

    `seen_zone` and `locale` are those of the person's Teams client, "" where it is not known or there is no one person.
    """

    services: Services
    tenant: str
    kind: ReferenceKind
    id: str
    seen_zone: str = ""
    locale: str = ""
    argument: str = ""

    @property
    def recipient(self) -> str:
        """The same as deliveries and subscriptions name it."""
        return f"{'u' if self.kind is ReferenceKind.USER else 'c'}:{self.id}"

    def zone_of(self, preferences: Preferences) -> ZoneInfo:
        return load_zone(preferences.time_zone or self.seen_zone or self.services.settings.default_time_zone)

    def zone_from(self, preferences: Preferences) -> str:
        """Where the zone comes from, in words."""
        return "chosen here" if preferences.time_zone else "from Teams" if self.seen_zone else "default"

    async def preferences(self) -> Preferences:
        reference = await self.services.conversations.get(self.tenant, self.kind, self.id)
        return reference.preferences if reference else Preferences()

    async def change(self, change: Callable[[Preferences], Preferences]) -> Preferences:
        """Change what they want; raises `Conflict` if others changed it at each of many tries."""
        return await self.services.conversations.change_preferences(self.tenant, self.kind, self.id, change)

    async def prefer(self, change: Callable[[Preferences], Preferences]) -> Preferences:
        """The same, and have all that waits for them decided anew."""
        preferences = await self.change(change)
        await self.services.queues.enqueue_recipient(RecipientTask(self.tenant, self.recipient, Task.RECONSIDER))
        return preferences


async def do(subject: PreferenceSubject, text: str) -> dict[str, Any]:
    """Do the command in a text; the card that answers it."""
    order = parse(text)
    if isinstance(order, Unknown):
        return replies.draw_reply_card(_unknown(subject, order))
    if order.command.verb is Verb.PREFERENCES:
        return card_of(subject, await subject.preferences())
    try:
        reply = await _DO[order.command.verb](replace(subject, argument=order.argument))
    except (CommandRefused, TooManyPreferences) as refused:
        reply = CommandReply("Nothing was changed", [("", str(refused)), _help_line(order.command)])
    return replies.draw_reply_card(reply)


def _unknown(subject: PreferenceSubject, unknown: Unknown) -> CommandReply:
    meant = f" Did you mean {quote(unknown.meant)}?" if unknown.meant else ""
    written = ("", f"You wrote {quote(unknown.line)}.{meant}")
    return CommandReply("There is no such command", [written, *_help_lines(subject)])


def _help_lines(subject: PreferenceSubject) -> Sequence[ReplyLine]:
    here = ("", "Mention me with it. Here all of this is about this conversation, for everyone in it.")
    return [*map(_help_line, COMMANDS), *([here] if subject.kind is ReferenceKind.CONVERSATION else ())]


def _help_line(command: ChatCommand) -> ReplyLine:
    return command.usage, command.does


async def _help(subject: PreferenceSubject) -> CommandReply:
    return CommandReply("What you can write", _help_lines(subject))


def card_of(subject: PreferenceSubject, preferences: Preferences, **more: Any) -> dict[str, Any]:
    """The preferences card of whoever `subject` is about; `more` is what `draw_preferences_card` takes beside that."""
    services = subject.services
    return draw_preferences_card(
        preferences,
        services.categories,
        zone=subject.zone_of(preferences).key,
        zone_source=subject.zone_from(preferences),
        default_digest=services.settings.default_digest,
        now=services.clock(),
        locale=subject.locale,
        **more,
    )


async def _status(subject: PreferenceSubject) -> CommandReply:
    services, preferences = subject.services, await subject.preferences()
    items = await services.held_deliveries.of(subject.tenant, subject.recipient, MAX_COUNTED)
    standing = replies.RecipientStatus(
        now=services.clock(),
        preferences=preferences,
        zone=subject.zone_of(preferences),
        zone_source=subject.zone_from(preferences),
        default_digest=services.settings.default_digest,
        next_digest=await _next_digest(subject, preferences),
        held_count=len(items),
        has_more=len(items) == MAX_COUNTED,
    )
    return replies.describe_status(standing, services.categories)


async def _subscribe(subject: PreferenceSubject) -> CommandReply:
    topic = _topic(subject)
    await subject.services.topics.subscribe(subject.tenant, topic, subject.recipient)
    try:
        await subject.change(lambda old: old if _like(old, topic) else old.with_topic(topic))
    except TooManyPreferences as many:
        await subject.services.topics.unsubscribe(subject.tenant, topic, subject.recipient)
        raise CommandRefused(str(many)) from None
    return CommandReply("Subscribed", [("Topic", topic)])


async def _unsubscribe(subject: PreferenceSubject) -> CommandReply:
    topic, dropped = _topic(subject), False

    def without(old: Preferences) -> Preferences:
        nonlocal dropped
        dropped = bool(like := _like(old, topic))
        return replace(old, topics=tuple(each for each in old.topics if each not in like))

    await subject.services.topics.unsubscribe(subject.tenant, topic, subject.recipient)
    await subject.change(without)
    if not dropped:
        hint = ("", "“topics” lists those that there are.")
        return CommandReply("There was no such subscription", [("Topic", topic), hint])
    return CommandReply("Not subscribed any more", [("Topic", topic)])


def _topic(subject: PreferenceSubject) -> str:
    if not subject.argument:
        raise CommandRefused("Which topic?")
    if len(subject.argument) > MAX_TOPIC_CHARS:
        raise CommandRefused(f"A topic has at most {MAX_TOPIC_CHARS} characters.")
    return subject.argument


def _like(preferences: Preferences, topic: str) -> list[str]:
    """The topics that differ from this one at most in case."""
    return [each for each in preferences.topics if each.casefold() == topic.casefold()]


async def _topics(subject: PreferenceSubject) -> CommandReply:
    preferences = await subject.preferences()
    if not preferences.topics:
        return CommandReply("No topics", [("", "“subscribe TOPIC” adds one.")])
    return CommandReply(f"Topics: {len(preferences.topics)}", [("", topic) for topic in preferences.topics])


async def _pause(subject: PreferenceSubject) -> CommandReply:
    now, ends = subject.services.clock(), FOREVER

    def pause(old: Preferences) -> Preferences:
        nonlocal ends
        if subject.argument:
            ends = _read(lambda text: parse_pause(text, now, subject.zone_of(old)), subject.argument)
        return replace(old, paused_until=ends)

    preferences = await subject.prefer(pause)
    return replies.describe_pause(ends, subject.zone_of(preferences))


async def _resume(subject: PreferenceSubject) -> CommandReply:
    preferences = await subject.prefer(lambda old: replace(old, paused_until=None))
    return CommandReply(
        "Not paused any more", [("", "Messages are still stopped; “start” switches them on.")] * preferences.stopped
    )


async def _quiet(subject: PreferenceSubject) -> CommandReply:
    if subject.argument:
        hours = _read(QuietHours.parse, subject.argument)
        preferences = await subject.prefer(lambda old: replace(old, quiet=str(hours) if hours.spans else ""))
    else:
        preferences = await subject.preferences()
    return CommandReply(f"Quiet hours: {preferences.quiet or 'none'}", [_place(subject, preferences)])


async def _timezone(subject: PreferenceSubject) -> CommandReply:
    if subject.argument:
        # Off the loop: the first name that is no zone loads the tables by which it is explained.
        auto = subject.argument.casefold() == "auto"
        name = "" if auto else (await asyncio.to_thread(_read, load_zone, subject.argument)).key
        preferences = await subject.prefer(lambda old: replace(old, time_zone=name))
    else:
        preferences = await subject.preferences()
    zone = subject.zone_of(preferences)
    there = format_time(subject.services.clock(), zone, long=True)
    return CommandReply(
        f"Time zone: {zone.key}", [("", f"It is {there}; this zone is {subject.zone_from(preferences)}.")]
    )


async def _digest(subject: PreferenceSubject) -> CommandReply:
    if subject.argument.casefold() == "now":
        return await _digest_now(subject)
    if subject.argument:
        try:
            rule = str(DigestSchedule.parse(subject.argument))
        except ValueError as error:
            raise CommandRefused(
                f"{error}; now sends it early. What goes into it is chosen by “preferences”."
            ) from None
        preferences = await subject.prefer(lambda old: replace(old, digest=rule))
    else:
        preferences = await subject.preferences()
    rule = preferences.digest or subject.services.settings.default_digest
    if rule == "off":
        return CommandReply("Digest: off", [("", "What is meant for the digest comes at once.")])
    coming = await _next_digest(subject, preferences)
    following = []
    if coming:
        at = format_time(coming, subject.zone_of(preferences), long=True)
        following = [("Next", f"{at}, if something waits for it")]
    return CommandReply(f"Digest: {rule}", [*following, _place(subject, preferences)])


async def _next_digest(subject: PreferenceSubject, preferences: Preferences) -> datetime | None:
    services, zone = subject.services, subject.zone_of(preferences)
    last = (await services.held_deliveries.digest(subject.tenant, subject.recipient)).last
    return next_digest(preferences, services.settings.default_digest, services.clock(), zone, last)


async def _digest_now(subject: PreferenceSubject) -> CommandReply:
    services, recipient = subject.services, (subject.tenant, subject.recipient)
    state = await services.held_deliveries.digest(*recipient)
    if not state.included and not await services.held_deliveries.for_digest(*recipient, limit=1):
        return CommandReply("Nothing is waiting for a digest")
    await services.queues.enqueue_recipient(RecipientTask(*recipient, Task.DIGEST_NOW))
    newer = [("", "Newer notifications will be in your next digest.")]
    return CommandReply("Your digest is on its way", newer if state.included else ())


async def _stop(subject: PreferenceSubject) -> CommandReply:
    await subject.prefer(lambda old: replace(old, stopped=True))
    return replies.describe_stop(subject.services.categories)


async def _start(subject: PreferenceSubject) -> CommandReply:
    preferences = await subject.prefer(lambda old: replace(old, stopped=False))
    paused = preferences.paused_until and preferences.paused_until > subject.services.clock()
    return CommandReply("Started", [("", "Messages are still paused; “resume” ends that.")] if paused else ())


def _place(subject: PreferenceSubject, preferences: Preferences) -> ReplyLine:
    return "Time zone", f"{subject.zone_of(preferences).key} ({subject.zone_from(preferences)})"


def _read(reader: Callable[[str], T], text: str) -> T:
    """What `reader` makes of a text; what it says of a wrong one is the refusal."""
    try:
        return reader(text)
    except ValueError as error:
        raise CommandRefused(str(error)) from None


_DO: Mapping[Verb, Callable[[PreferenceSubject], Awaitable[CommandReply]]] = {
    Verb.HELP: _help,
    Verb.STATUS: _status,
    Verb.SUBSCRIBE: _subscribe,
    Verb.UNSUBSCRIBE: _unsubscribe,
    Verb.TOPICS: _topics,
    Verb.PAUSE: _pause,
    Verb.RESUME: _resume,
    Verb.QUIET: _quiet,
    Verb.TIMEZONE: _timezone,
    Verb.DIGEST: _digest,
    Verb.STOP: _stop,
    Verb.START: _start,
}
