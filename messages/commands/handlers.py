"""Each command that somebody may write: what it changes, and what it answers.

A command is one function, found by its verb; what it cannot do it refuses with one line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from messages.commands.parser import COMMANDS, Command, Unknown, Verb, parse
from shared import early
from shared.cards import replies
from shared.cards.preferences import preferences_card
from shared.cards.replies import Line, Reply, echo, moment
from shared.preferences.delivery_rules import next_digest
from shared.preferences.digest_schedule import DigestRule
from shared.preferences.pause import pause_until
from shared.preferences.preferences import FOREVER, Preferences, TooMany
from shared.preferences.quiet_hours import QuietHours
from shared.queue_messages import RecipientTask, Task
from shared.services import Services
from shared.storage.conversations import Kind
from shared.time.localtime import zone

#: Longest topic, in characters: all of one's topics are kept in one row.
LONGEST_TOPIC = 100
#: Most waiting messages that are counted.
MOST_COUNTED = 100

T = TypeVar("T")


class Refused(Exception):
    """The command cannot be done; the text is one line that says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceSubject:
    """A command under way: `kind` and `id` say whose wishes it is about, `argument` is what follows its name.

    `seen_zone` and `locale` are those of the person's Teams client, "" where it is not known or there is no one person.
    """

    services: Services
    tenant: str
    kind: Kind
    id: str
    seen_zone: str = ""
    locale: str = ""
    argument: str = ""

    @property
    def recipient(self) -> str:
        """The same as deliveries and subscriptions name it."""
        return f"{'u' if self.kind is Kind.USER else 'c'}:{self.id}"

    def zone_of(self, wants: Preferences) -> ZoneInfo:
        return zone(wants.time_zone or self.seen_zone or self.services.settings.default_time_zone)

    def zone_from(self, wants: Preferences) -> str:
        """Where the zone comes from, in words."""
        return "chosen here" if wants.time_zone else "from Teams" if self.seen_zone else "default"

    async def wants(self) -> Preferences:
        reference = await self.services.conversations.get(self.tenant, self.kind, self.id)
        return reference.preferences if reference else Preferences()

    async def change(self, change: Callable[[Preferences], Preferences]) -> Preferences:
        """Change what they want; raises `Conflict` if others changed it at each of many tries."""
        return await self.services.conversations.prefer(self.tenant, self.kind, self.id, change)

    async def prefer(self, change: Callable[[Preferences], Preferences]) -> Preferences:
        """The same, and have all that waits for them decided anew."""
        wants = await self.change(change)
        await self.services.queues.wake(RecipientTask(self.tenant, self.recipient, Task.RECONSIDER))
        return wants


async def do(turn: PreferenceSubject, text: str) -> dict[str, Any]:
    """Do the command in a text; the card that answers it."""
    order = parse(text)
    if isinstance(order, Unknown):
        return replies.draw(_unknown(turn, order))
    if order.command.verb is Verb.PREFERENCES:
        return card_of(turn, await turn.wants())
    try:
        reply = await _DO[order.command.verb](replace(turn, argument=order.argument))
    except (Refused, TooMany) as refused:
        reply = Reply("Nothing was changed", [("", str(refused)), _help_line(order.command)])
    return replies.draw(reply)


def _unknown(turn: PreferenceSubject, unknown: Unknown) -> Reply:
    meant = f" Did you mean {echo(unknown.meant)}?" if unknown.meant else ""
    return Reply("There is no such command", [("", f"You wrote {echo(unknown.line)}.{meant}"), *_help_lines(turn)])


def _help_lines(turn: PreferenceSubject) -> Sequence[Line]:
    here = ("", "Mention me with it. Here all of this is about this conversation, for everyone in it.")
    return [*map(_help_line, COMMANDS), *([here] if turn.kind is Kind.CONVERSATION else ())]


def _help_line(command: Command) -> Line:
    return command.usage, command.does


async def _help(turn: PreferenceSubject) -> Reply:
    return Reply("What you can write", _help_lines(turn))


def card_of(turn: PreferenceSubject, wants: Preferences, **more: Any) -> dict[str, Any]:
    """The preferences card of whoever `turn` is about; `more` is what `preferences_card` takes beside that."""
    services = turn.services
    return preferences_card(
        wants,
        services.categories,
        zone=turn.zone_of(wants).key,
        zone_source=turn.zone_from(wants),
        digest=services.settings.default_digest,
        now=services.clock(),
        locale=turn.locale,
        **more,
    )


async def _status(turn: PreferenceSubject) -> Reply:
    services, wants = turn.services, await turn.wants()
    items = await services.held_deliveries.of(turn.tenant, turn.recipient, MOST_COUNTED)
    standing = replies.Standing(
        now=services.clock(),
        wants=wants,
        place=turn.zone_of(wants),
        place_from=turn.zone_from(wants),
        digest=services.settings.default_digest,
        next_digest=await _next_digest(turn, wants),
        waiting=len(items),
        more=len(items) == MOST_COUNTED,
    )
    return replies.status(standing, services.categories)


async def _subscribe(turn: PreferenceSubject) -> Reply:
    topic = _topic(turn)
    await turn.services.topics.subscribe(turn.tenant, topic, turn.recipient)
    try:
        await turn.change(lambda old: old if _like(old, topic) else old.with_topic(topic))
    except TooMany as many:
        await turn.services.topics.unsubscribe(turn.tenant, topic, turn.recipient)
        raise Refused(str(many)) from None
    return Reply("Subscribed", [("Topic", topic)])


async def _unsubscribe(turn: PreferenceSubject) -> Reply:
    topic, dropped = _topic(turn), False

    def without(old: Preferences) -> Preferences:
        nonlocal dropped
        dropped = bool(like := _like(old, topic))
        return replace(old, topics=tuple(each for each in old.topics if each not in like))

    await turn.services.topics.unsubscribe(turn.tenant, topic, turn.recipient)
    await turn.change(without)
    if not dropped:
        return Reply("There was no such subscription", [("Topic", topic), ("", "“topics” lists those that there are.")])
    return Reply("Not subscribed any more", [("Topic", topic)])


def _topic(turn: PreferenceSubject) -> str:
    if not turn.argument:
        raise Refused("Which topic?")
    if len(turn.argument) > LONGEST_TOPIC:
        raise Refused(f"A topic has at most {LONGEST_TOPIC} characters.")
    return turn.argument


def _like(wants: Preferences, topic: str) -> list[str]:
    """The topics that differ from this one at most in case."""
    return [each for each in wants.topics if each.casefold() == topic.casefold()]


async def _topics(turn: PreferenceSubject) -> Reply:
    wants = await turn.wants()
    if not wants.topics:
        return Reply("No topics", [("", "“subscribe TOPIC” adds one.")])
    return Reply(f"Topics: {len(wants.topics)}", [("", topic) for topic in wants.topics])


async def _pause(turn: PreferenceSubject) -> Reply:
    now, ends = turn.services.clock(), FOREVER

    def pause(old: Preferences) -> Preferences:
        nonlocal ends
        if turn.argument:
            ends = _read(lambda text: pause_until(text, now, turn.zone_of(old)), turn.argument)
        return replace(old, paused_until=ends)

    wants = await turn.prefer(pause)
    return replies.paused(ends, turn.zone_of(wants))


async def _resume(turn: PreferenceSubject) -> Reply:
    wants = await turn.prefer(lambda old: replace(old, paused_until=None))
    return Reply("Not paused any more", [("", "Messages are still stopped; “start” switches them on.")] * wants.stopped)


async def _quiet(turn: PreferenceSubject) -> Reply:
    if turn.argument:
        hours = _read(QuietHours.parse, turn.argument)
        wants = await turn.prefer(lambda old: replace(old, quiet=str(hours) if hours.spans else ""))
    else:
        wants = await turn.wants()
    return Reply(f"Quiet hours: {wants.quiet or 'none'}", [_place(turn, wants)])


async def _timezone(turn: PreferenceSubject) -> Reply:
    if turn.argument:
        # Off the loop: the first name that is no zone loads the tables by which it is explained.
        auto = turn.argument.casefold() == "auto"
        name = "" if auto else (await asyncio.to_thread(_read, zone, turn.argument)).key
        wants = await turn.prefer(lambda old: replace(old, time_zone=name))
    else:
        wants = await turn.wants()
    place = turn.zone_of(wants)
    there = moment(turn.services.clock(), place)
    return Reply(f"Time zone: {place.key}", [("", f"It is {there}; this zone is {turn.zone_from(wants)}.")])


async def _digest(turn: PreferenceSubject) -> Reply:
    if turn.argument.casefold() == "now":
        return await _digest_now(turn)
    if turn.argument:
        try:
            rule = str(DigestRule.parse(turn.argument))
        except ValueError as error:
            raise Refused(f"{error}; now sends it early. What goes into it is chosen by “preferences”.") from None
        wants = await turn.prefer(lambda old: replace(old, digest=rule))
    else:
        wants = await turn.wants()
    rule = wants.digest or turn.services.settings.default_digest
    if rule == "off":
        return Reply("Digest: off", [("", "What is meant for the digest comes at once.")])
    coming = await _next_digest(turn, wants)
    following = [("Next", f"{moment(coming, turn.zone_of(wants))}, if something waits for it")] if coming else []
    return Reply(f"Digest: {rule}", [*following, _place(turn, wants)])


async def _next_digest(turn: PreferenceSubject, wants: Preferences) -> datetime | None:
    services, place = turn.services, turn.zone_of(wants)
    last = (await services.held_deliveries.digest(turn.tenant, turn.recipient)).last
    return next_digest(wants, services.settings.default_digest, services.clock(), place, last)


async def _digest_now(turn: PreferenceSubject) -> Reply:
    services, wants = turn.services, await turn.wants()
    state = await services.held_deliveries.digest(turn.tenant, turn.recipient)
    whose = (turn.tenant, turn.recipient, wants, turn.zone_of(wants))
    if not state.told and not await early.digest_now_items(services, *whose, most=1, over=False):
        return Reply("Nothing waits for a digest")
    await services.queues.wake(RecipientTask(turn.tenant, turn.recipient, Task.DIGEST_NOW))
    after = [("", "What came after it was made is not in it: ask for that once it is here.")]
    return Reply("The digest is on its way", after if state.told else ())


async def _stop(turn: PreferenceSubject) -> Reply:
    await turn.prefer(lambda old: replace(old, stopped=True))
    return replies.stopped(turn.services.categories)


async def _start(turn: PreferenceSubject) -> Reply:
    wants = await turn.prefer(lambda old: replace(old, stopped=False))
    paused = wants.paused_until and wants.paused_until > turn.services.clock()
    return Reply("Started", [("", "Messages are still paused; “resume” ends that.")] if paused else ())


def _place(turn: PreferenceSubject, wants: Preferences) -> Line:
    return "Time zone", f"{turn.zone_of(wants).key} ({turn.zone_from(wants)})"


def _read(reader: Callable[[str], T], text: str) -> T:
    """What `reader` makes of a text; what it says of a wrong one is the refusal."""
    try:
        return reader(text)
    except ValueError as error:
        raise Refused(str(error)) from None


_DO: Mapping[Verb, Callable[[PreferenceSubject], Awaitable[Reply]]] = {
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
