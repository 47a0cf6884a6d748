"""Handlers of commands: what each command changes, and what it answers.

Each command has one function, by its verb. A handler that refuses a command raises `CommandRefused`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

from messages.commands.parser import COMMANDS, ChatCommand, UnknownCommand, Verb, parse_command
from messages.subject import PreferenceSubject
from shared.cards import replies
from shared.cards.replies import CommandReply, ReplyLine, quote
from shared.preferences.categories import Category
from shared.preferences.delivery_rules import next_digest
from shared.preferences.digest_schedule import DigestSchedule
from shared.preferences.pause import parse_pause
from shared.preferences.preferences import FOREVER, Preferences, TooManyPreferences
from shared.preferences.quiet_hours import QuietHours
from shared.queue_messages import RecipientTask, Task
from shared.states import Mode
from shared.texts import InputError, format_long_time, text_of, to_sentence, translate_words
from shared.time.localtime import load_chosen_zone
from shared.time.spellings import normalize

#: Longest topic, in characters: all topics of a subject are stored in one row.
MAX_TOPIC_CHARS = 100
#: Most held messages that `status` counts.
MAX_COUNTED_MESSAGES = 100

T = TypeVar("T")

#: Arguments of `stop` and `start` that mean everything, like no argument.
_EVERYTHING = ("all", "everything", "alles", "alle")


class CommandRefused(Exception):
    """The command changes nothing. The text says why, in one line for the person."""


@dataclass(frozen=True, slots=True)
class Request:
    """A command of a subject, with its argument. `preferences` are those before it; `text` translates."""

    subject: PreferenceSubject
    preferences: Preferences
    argument: str

    @property
    def language(self) -> str:
        return self.subject.language_of(self.preferences)

    def text(self, key: str, **values: object) -> str:
        return text_of(self.language, key, **values)

    def parse(self, parse: Callable[[str], T]) -> T:
        """Return what `parse` returns for the argument; its `InputError` becomes the refusal of the command."""
        try:
            return parse(self.argument)
        except InputError as error:
            raise CommandRefused(error.explain(self.language)) from None

    def format_time(self, at: datetime, preferences: Preferences) -> str:
        zone, is_shared = self.subject.zone_of(preferences), self.subject.is_shared
        return replies.format_reply_time(self.language, at, zone, is_shared=is_shared)


async def answer_command(subject: PreferenceSubject, text: str) -> dict[str, Any]:
    """Run the command in the text of a message, and return the card that answers it."""
    preferences = await subject.preferences()
    parsed = parse_command(text)
    if isinstance(parsed, UnknownCommand):
        request = Request(subject, preferences, parsed.line)
        return replies.draw_reply_card(_suggest_command(request, parsed.suggestion))
    command, request = parsed.command, Request(subject, preferences, parsed.argument)
    if command.verb is Verb.PREFERENCES:
        return await subject.draw_card(preferences)
    try:
        reply = await _HANDLERS[command.verb](request)
    except CommandRefused as refused:
        lines = [("", to_sentence(str(refused))), _help_line(request, command)]
        reply = CommandReply(request.text("reply.refused"), lines)
    except TooManyPreferences as too_many:
        reply = CommandReply(request.text("reply.refused"), [("", to_sentence(too_many.explain(request.language)))])
    return replies.draw_reply_card(reply)


def _suggest_command(request: Request, suggestion: str) -> CommandReply:
    line = quote(request.language, request.argument)
    said = request.text("reply.unknown.line", line=line)
    if suggestion:
        said = request.text("reply.unknown.suggestion", line=line, suggestion=quote(request.language, suggestion))
    return CommandReply(request.text("reply.unknown"), [("", said), *_help_lines(request)])


def _help_lines(request: Request) -> Sequence[ReplyLine]:
    lines = [_help_line(request, command) for command in COMMANDS]
    if request.subject.is_shared:
        lines.append(("", request.text("reply.help.here")))
    return lines


def _help_line(request: Request, command: ChatCommand) -> ReplyLine:
    return command.usage(request.language), command.description(request.language)


async def _help(request: Request) -> CommandReply:
    return CommandReply(request.text("reply.help"), _help_lines(request))


async def _status(request: Request) -> CommandReply:
    subject, preferences = request.subject, request.preferences
    services = subject.services
    held = await services.held_deliveries.list(subject.tenant, subject.recipient, MAX_COUNTED_MESSAGES)
    status = replies.RecipientStatus(
        now=services.clock(),
        preferences=preferences,
        zone=subject.zone_of(preferences),
        zone_source=subject.describe_zone_source(preferences),
        default_digest=services.settings.default_digest,
        next_digest=await _find_next_digest(subject, preferences),
        held_count=len(held),
        has_more=len(held) == MAX_COUNTED_MESSAGES,
        is_shared=subject.is_shared,
    )
    return replies.describe_status(request.language, status, services.categories)


async def _subscribe(request: Request) -> CommandReply:
    subject, topic = request.subject, _parse_topic(request)
    # The subscription first: if the worker stops in between, the recipient gets the topic and can unsubscribe.
    await subject.services.topics.subscribe(subject.tenant, topic, subject.recipient)
    try:
        await subject.update(lambda old: old if _same_topics(old, topic) else old.with_topic(topic), reevaluate=False)
    except TooManyPreferences:
        await subject.services.topics.unsubscribe(subject.tenant, topic, subject.recipient)
        raise
    return CommandReply(request.text("reply.subscribed"), [(request.text("reply.topic"), topic)])


async def _unsubscribe(request: Request) -> CommandReply:
    subject, topic, was_subscribed = request.subject, _parse_topic(request), False

    def remove_topic(old: Preferences) -> Preferences:
        nonlocal was_subscribed
        same = _same_topics(old, topic)
        was_subscribed = bool(same)
        return replace(old, topics=tuple(each for each in old.topics if each not in same))

    await subject.services.topics.unsubscribe(subject.tenant, topic, subject.recipient)
    await subject.update(remove_topic, reevaluate=False)
    lines = [(request.text("reply.topic"), topic)]
    if not was_subscribed:
        lines.append(("", request.text("reply.notSubscribed.topics")))
    return CommandReply(request.text("reply.unsubscribed" if was_subscribed else "reply.notSubscribed"), lines)


def _parse_topic(request: Request) -> str:
    if not request.argument:
        raise CommandRefused(request.text("reply.topic.missing"))
    if len(request.argument) > MAX_TOPIC_CHARS:
        raise CommandRefused(request.text("reply.topic.long", count=MAX_TOPIC_CHARS))
    return request.argument


def _same_topics(preferences: Preferences, topic: str) -> list[str]:
    """Return the subscribed topics that are equal to `topic` except for case."""
    return [each for each in preferences.topics if each.casefold() == topic.casefold()]


async def _topics(request: Request) -> CommandReply:
    topics = request.preferences.topics
    if not topics:
        return CommandReply(request.text("reply.topics.none"), [("", request.text("reply.topics.add"))])
    return CommandReply(request.text("reply.topics", count=len(topics)), [("", topic) for topic in topics])


async def _pause(request: Request) -> CommandReply:
    subject, until = request.subject, FOREVER
    now = subject.services.clock()

    def pause(old: Preferences) -> Preferences:
        nonlocal until
        if request.argument:
            until = request.parse(lambda text: parse_pause(text, now, subject.zone_of(old)))
        return replace(old, paused_until=until)

    preferences = await subject.update(pause)
    return replies.describe_pause(request.language, until, subject.zone_of(preferences), is_shared=subject.is_shared)


async def _resume(request: Request) -> CommandReply:
    preferences = await request.subject.update(lambda old: replace(old, paused_until=None))
    lines = [("", request.text("reply.resumed.stopped"))] if preferences.stopped else []
    now, zone = request.subject.services.clock(), request.subject.zone_of(preferences)
    quiet_until = QuietHours.parse(preferences.quiet).find_end(now, zone) if preferences.quiet else None
    if quiet_until:
        until = request.format_time(quiet_until, preferences)
        lines.append(("", request.text("reply.resumed.quiet", until=until)))
    return CommandReply(request.text("reply.resumed"), lines)


async def _quiet(request: Request) -> CommandReply:
    preferences = request.preferences
    if request.argument:
        hours = request.parse(QuietHours.parse)
        preferences = await request.subject.update(lambda old: replace(old, quiet=str(hours) if hours.spans else ""))
    shown = translate_words(request.language, preferences.quiet) or request.text("reply.none")
    return CommandReply(request.text("reply.quiet", hours=shown), [_zone_line(request, preferences)])


async def _timezone(request: Request) -> CommandReply:
    preferences, argument = request.preferences, request.argument.casefold()
    if argument:
        name = ""
        if argument != "auto":
            # In a thread: the first unknown name loads the tables with which it is explained.
            name = (await asyncio.to_thread(request.parse, load_chosen_zone)).key
        preferences = await request.subject.update(lambda old: replace(old, time_zone=name))
    source = request.subject.describe_zone_source(preferences)
    zone = request.subject.zone_of(preferences)
    local_time = format_long_time(request.language, request.subject.services.clock(), zone)
    title = request.text("reply.zone", zone=zone.key)
    return CommandReply(title, [("", request.text("reply.zone.now", time=local_time, source=source))])


async def _digest(request: Request) -> CommandReply:
    preferences = request.preferences
    if normalize(request.argument) == "now":
        return await _digest_now(request)
    if request.argument:
        try:
            schedule = str(request.parse(DigestSchedule.parse))
        except CommandRefused as refused:
            raise CommandRefused(request.text("reply.digest.hint", error=refused)) from None
        preferences = await request.subject.update(lambda old: replace(old, digest=schedule))
    schedule = preferences.digest or request.subject.services.settings.default_digest
    title = request.text("reply.digest", schedule=translate_words(request.language, schedule))
    if schedule == "off":
        return CommandReply(title, [("", request.text("reply.digest.off"))])
    lines = [_zone_line(request, preferences)]
    if next_time := await _find_next_digest(request.subject, preferences):
        time = request.text("reply.digest.nextTime", time=request.format_time(next_time, preferences))
        lines.insert(0, (request.text("reply.digest.next"), time))
    return CommandReply(title, lines)


async def _find_next_digest(subject: PreferenceSubject, preferences: Preferences) -> datetime | None:
    services, zone = subject.services, subject.zone_of(preferences)
    last = (await services.held_deliveries.digest_state(subject.tenant, subject.recipient)).last_date
    return next_digest(preferences, services.settings.default_digest, services.clock(), zone, last)


async def _digest_now(request: Request) -> CommandReply:
    subject = request.subject
    services, recipient = subject.services, (subject.tenant, subject.recipient)
    state = await services.held_deliveries.digest_state(*recipient)
    if not state.included and not await services.held_deliveries.list_for_digest(*recipient, limit=1):
        return CommandReply(request.text("reply.digestNow.empty"))
    await services.queues.enqueue_recipient(RecipientTask(*recipient, Task.DIGEST_NOW))
    newer = [("", request.text("reply.digestNow.newer"))]
    return CommandReply(request.text("reply.digestNow"), newer if state.included else ())


async def _stop(request: Request) -> CommandReply:
    if request.argument and request.argument.casefold() not in _EVERYTHING:
        category = await _find_category(request)
        if category.mandatory:
            raise CommandRefused(request.text("reply.category.mandatory", category=category.label))
        await request.subject.update(lambda old: old.with_mode(category.name, Mode.OFF))
        return CommandReply(request.text("reply.category.off", category=category.label))
    await request.subject.update(lambda old: replace(old, stopped=True))
    return replies.describe_stop(request.language, request.subject.services.categories)


async def _start(request: Request) -> CommandReply:
    if request.argument and request.argument.casefold() not in _EVERYTHING:
        category = await _find_category(request)
        mode = Mode.IMMEDIATE if category.default is Mode.OFF else category.default
        preferences = await request.subject.update(lambda old: old.with_mode(category.name, mode))
        title = request.text("reply.category.on", category=category.label)
    else:
        preferences = await request.subject.update(lambda old: replace(old, stopped=False))
        title = request.text("reply.started")
    lines = []
    if preferences.stopped:
        lines.append(("", request.text("reply.resumed.stopped")))
    if preferences.paused_until and preferences.paused_until > request.subject.services.clock():
        lines.append(("", request.text("reply.started.paused")))
    return CommandReply(title, lines)


async def _find_category(request: Request) -> Category:
    """Return the category that the argument names, by its name or title; raises `CommandRefused`."""
    categories = await request.subject.categories()
    names = dict.fromkeys([*(each.name for each in categories.declared), *request.preferences.categories])
    known = [categories.of(name) for name in names]
    wanted = request.argument.casefold()
    for category in known:
        if wanted in (category.name.casefold(), category.label.casefold()):
            return category
    refusal = request.text("reply.category.unknown", text=request.argument)
    if known:
        listed = replies.list_values(request.language, [category.label for category in known])
        refusal += f" {request.text('reply.category.list')}: {listed}"
    raise CommandRefused(refusal)


def _zone_line(request: Request, preferences: Preferences) -> ReplyLine:
    zone = request.subject.zone_of(preferences).key
    return request.text("reply.zone.label"), f"{zone} ({request.subject.describe_zone_source(preferences)})"


_HANDLERS: Mapping[Verb, Callable[[Request], Awaitable[CommandReply]]] = {
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
