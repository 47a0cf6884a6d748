"""Handlers of commands: what each command changes, and what it answers.

Each command has one function, by its verb. A handler that refuses a command raises `CommandRefused`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from messages.commands.parser import COMMANDS, ChatCommand, UnknownCommand, Verb, parse_command
from messages.subject import PreferenceSubject
from shared.cards import replies
from shared.cards.replies import CommandReply, ReplyLine, quote
from shared.cards.texts import format_time
from shared.preferences.delivery_rules import next_digest
from shared.preferences.digest_schedule import DigestSchedule
from shared.preferences.pause import parse_pause
from shared.preferences.preferences import FOREVER, Preferences, TooManyPreferences
from shared.preferences.quiet_hours import QuietHours
from shared.queue_messages import RecipientTask, Task
from shared.states import ReferenceKind
from shared.time.localtime import load_zone

#: Longest topic, in characters: all topics of a subject are stored in one row.
MAX_TOPIC_CHARS = 100
#: Most held messages that `status` counts.
MAX_COUNTED_MESSAGES = 100

T = TypeVar("T")


class CommandRefused(Exception):
    """The command changes nothing. The text says why, in one line for the person."""


async def answer_command(subject: PreferenceSubject, text: str) -> dict[str, Any]:
    """Run the command in the text of a message, and return the card that answers it."""
    parsed = parse_command(text)
    if isinstance(parsed, UnknownCommand):
        return replies.draw_reply_card(_suggest_command(subject, parsed))
    command = parsed.command
    if command.verb is Verb.PREFERENCES:
        return subject.draw_card(await subject.preferences())
    try:
        reply = await _HANDLERS[command.verb](subject, parsed.argument)
    except (CommandRefused, TooManyPreferences) as refused:
        reply = CommandReply("Nothing was changed", [("", str(refused)), _help_line(command)])
    return replies.draw_reply_card(reply)


def _suggest_command(subject: PreferenceSubject, unknown: UnknownCommand) -> CommandReply:
    suggestion = f" Did you mean {quote(unknown.suggestion)}?" if unknown.suggestion else ""
    lines = [("", f"You wrote {quote(unknown.line)}.{suggestion}"), *_help_lines(subject)]
    return CommandReply("There is no such command", lines)


def _help_lines(subject: PreferenceSubject) -> Sequence[ReplyLine]:
    lines = [_help_line(command) for command in COMMANDS]
    if subject.kind is ReferenceKind.CONVERSATION:
        lines.append(("", "Mention me in the message. Commands here are about this conversation, for everyone in it."))
    return lines


def _help_line(command: ChatCommand) -> ReplyLine:
    return command.usage, command.description


async def _help(subject: PreferenceSubject, _: str) -> CommandReply:
    return CommandReply("What you can write", _help_lines(subject))


async def _status(subject: PreferenceSubject, _: str) -> CommandReply:
    services, preferences = subject.services, await subject.preferences()
    held = await services.held_deliveries.of(subject.tenant, subject.recipient, MAX_COUNTED_MESSAGES)
    status = replies.RecipientStatus(
        now=services.clock(),
        preferences=preferences,
        zone=subject.zone_of(preferences),
        zone_source=subject.describe_zone_source(preferences),
        default_digest=services.settings.default_digest,
        next_digest=await _find_next_digest(subject, preferences),
        held_count=len(held),
        has_more=len(held) == MAX_COUNTED_MESSAGES,
    )
    return replies.describe_status(status, services.categories)


async def _subscribe(subject: PreferenceSubject, argument: str) -> CommandReply:
    topic = _parse_topic(argument)
    # The subscription first: if the worker stops in between, the recipient gets the topic and can unsubscribe.
    await subject.services.topics.subscribe(subject.tenant, topic, subject.recipient)
    try:
        await subject.update(lambda old: old if _same_topics(old, topic) else old.with_topic(topic), reevaluate=False)
    except TooManyPreferences as too_many:
        await subject.services.topics.unsubscribe(subject.tenant, topic, subject.recipient)
        raise CommandRefused(str(too_many)) from None
    return CommandReply("Subscribed", [("Topic", topic)])


async def _unsubscribe(subject: PreferenceSubject, argument: str) -> CommandReply:
    topic, was_subscribed = _parse_topic(argument), False

    def remove_topic(old: Preferences) -> Preferences:
        nonlocal was_subscribed
        same = _same_topics(old, topic)
        was_subscribed = bool(same)
        return replace(old, topics=tuple(each for each in old.topics if each not in same))

    await subject.services.topics.unsubscribe(subject.tenant, topic, subject.recipient)
    await subject.update(remove_topic, reevaluate=False)
    if not was_subscribed:
        return CommandReply("You were not subscribed", [("Topic", topic), ("", "“topics” lists your subscriptions.")])
    return CommandReply("Unsubscribed", [("Topic", topic)])


def _parse_topic(argument: str) -> str:
    if not argument:
        raise CommandRefused("Which topic?")
    if len(argument) > MAX_TOPIC_CHARS:
        raise CommandRefused(f"A topic has at most {MAX_TOPIC_CHARS} characters.")
    return argument


def _same_topics(preferences: Preferences, topic: str) -> list[str]:
    """Return the subscribed topics that are equal to `topic` except for case."""
    return [each for each in preferences.topics if each.casefold() == topic.casefold()]


async def _topics(subject: PreferenceSubject, _: str) -> CommandReply:
    preferences = await subject.preferences()
    if not preferences.topics:
        return CommandReply("No topics", [("", "“subscribe TOPIC” adds one.")])
    return CommandReply(f"Topics: {len(preferences.topics)}", [("", topic) for topic in preferences.topics])


async def _pause(subject: PreferenceSubject, argument: str) -> CommandReply:
    now, until = subject.services.clock(), FOREVER

    def pause(old: Preferences) -> Preferences:
        nonlocal until
        if argument:
            until = _parse_argument(lambda text: parse_pause(text, now, subject.zone_of(old)), argument)
        return replace(old, paused_until=until)

    preferences = await subject.update(pause)
    return replies.describe_pause(until, subject.zone_of(preferences))


async def _resume(subject: PreferenceSubject, _: str) -> CommandReply:
    preferences = await subject.update(lambda old: replace(old, paused_until=None))
    note = [("", "Notifications are still off; “start” turns them on.")]
    return CommandReply("Resumed", note if preferences.stopped else ())


async def _quiet(subject: PreferenceSubject, argument: str) -> CommandReply:
    if argument:
        hours = _parse_argument(QuietHours.parse, argument)
        preferences = await subject.update(lambda old: replace(old, quiet=str(hours) if hours.spans else ""))
    else:
        preferences = await subject.preferences()
    return CommandReply(f"Quiet hours: {preferences.quiet or 'none'}", [_zone_line(subject, preferences)])


async def _timezone(subject: PreferenceSubject, argument: str) -> CommandReply:
    if argument:
        name = ""
        if argument.casefold() != "auto":
            # In a thread: the first unknown name loads the tables with which it is explained.
            name = (await asyncio.to_thread(_parse_argument, load_zone, argument)).key
        preferences = await subject.update(lambda old: replace(old, time_zone=name))
    else:
        preferences = await subject.preferences()
    zone = subject.zone_of(preferences)
    local_time = format_time(subject.services.clock(), zone, long=True)
    source = subject.describe_zone_source(preferences)
    return CommandReply(f"Time zone: {zone.key}", [("", f"It is {local_time}; this zone is {source}.")])


async def _digest(subject: PreferenceSubject, argument: str) -> CommandReply:
    if argument.casefold() == "now":
        return await _digest_now(subject)
    if argument:
        try:
            schedule = str(DigestSchedule.parse(argument))
        except ValueError as error:
            raise CommandRefused(
                f"{error}; “digest now” sends it now. “preferences” chooses which categories are in it."
            ) from None
        preferences = await subject.update(lambda old: replace(old, digest=schedule))
    else:
        preferences = await subject.preferences()
    schedule = preferences.digest or subject.services.settings.default_digest
    if schedule == "off":
        return CommandReply("Digest: off", [("", "Notifications for the digest are delivered immediately.")])
    next_time = await _find_next_digest(subject, preferences)
    lines = [_zone_line(subject, preferences)]
    if next_time:
        time = format_time(next_time, subject.zone_of(preferences), long=True)
        lines.insert(0, ("Next", f"{time}, unless it is empty"))
    return CommandReply(f"Digest: {schedule}", lines)


async def _find_next_digest(subject: PreferenceSubject, preferences: Preferences) -> datetime | None:
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


async def _stop(subject: PreferenceSubject, _: str) -> CommandReply:
    await subject.update(lambda old: replace(old, stopped=True))
    return replies.describe_stop(subject.services.categories)


async def _start(subject: PreferenceSubject, _: str) -> CommandReply:
    preferences = await subject.update(lambda old: replace(old, stopped=False))
    is_paused = preferences.paused_until and preferences.paused_until > subject.services.clock()
    return CommandReply(
        "Started", [("", "Notifications are still paused; “resume” ends the pause.")] if is_paused else ()
    )


def _zone_line(subject: PreferenceSubject, preferences: Preferences) -> ReplyLine:
    return "Time zone", f"{subject.zone_of(preferences).key} ({subject.describe_zone_source(preferences)})"


def _parse_argument(parse: Callable[[str], T], argument: str) -> T:
    """Return what `parse` returns; its `ValueError` becomes the refusal of the command."""
    try:
        return parse(argument)
    except ValueError as error:
        raise CommandRefused(str(error)) from None


_HANDLERS: Mapping[Verb, Callable[[PreferenceSubject, str], Awaitable[CommandReply]]] = {
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
