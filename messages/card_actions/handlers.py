"""What each button of a card does, and what it answers: one function for each of Herald's own, one for a caller's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta

import orjson

from messages.card_actions.binding import BoundAction
from messages.card_actions.context import ActionContext, Answer, Refused
from messages.card_actions.explain import why, wishes_of
from messages.card_actions.responses import TooLong, respond
from messages.card_actions.snooze import TooLate, sample, snooze
from messages.commands.handlers import card_of
from shared import publishing
from shared.cards import action_verbs, refreshed
from shared.preferences.pause import pause_until
from shared.preferences.preferences import Mode, Preferences
from shared.states import Purpose

#: How long a thread is muted.
MUTED_FOR = timedelta(days=7)
#: When what is snoozed comes again, by the button (`shared.preferences.pause`).
SNOOZES = {action_verbs.SNOOZE_HOUR: "1h", action_verbs.SNOOZE_TOMORROW: "tomorrow"}
#: Until when the welcome's button pauses.
PAUSE = "tomorrow"
#: The source of preferences cards that are sent to somebody who asked for theirs elsewhere.
SOURCE = "/herald/preferences"


async def record(press: ActionContext, bound: BoundAction) -> Answer:
    """What a caller's own button does, and Acknowledge: it is recorded, and upstream is told."""
    try:
        response, before = await respond(press.services, press.event, bound, press.click.verb)
    except TooLong:
        raise Refused("refused.tooLong") from None
    if before:
        note = press.say("done.before", at=press.moment(response.at))
        return await press.shown(bound, note) if press.event.personal else note
    return await press.shown(bound) if press.event.personal else press.recorded(bound.title, response)


async def _show(press: ActionContext, bound: BoundAction) -> Answer:
    return await press.shown(bound)


async def _why(press: ActionContext, bound: BoundAction) -> Answer:
    wishes = await wishes_of(press.services, bound, press.event.person, press.wants)
    lines = await why(press.services, bound, wishes, press.tongue)
    if press.event.personal:
        return refreshed.reasons(press.tongue, lines, bound.notification.key)
    return " ".join(lines)


async def _mute(press: ActionContext, bound: BoundAction) -> Answer:
    thread, now = bound.notification.content.thread, press.services.clock()
    assert thread  # or the card has no such button
    key = thread.key

    def muted(wants: Preferences) -> Preferences:
        # A second click does not move the end.
        known = wants.muted_until(key)
        return wants if known and known > now else wants.mute(key, now + MUTED_FOR, now)

    until = (await press.turn.prefer(muted)).muted_until(key)
    return await press.told(bound, press.say("done.mute", until=press.moment(until or now + MUTED_FOR)))


async def _choose(press: ActionContext, bound: BoundAction, mode: Mode, done: str) -> Answer:
    category = press.services.categories.of(bound.notification.content.category)
    await press.turn.prefer(lambda wants: wants.with_mode(category.name, mode))
    return await press.told(bound, press.say(done, category=category.label))


async def _to_digest(press: ActionContext, bound: BoundAction) -> Answer:
    return await _choose(press, bound, Mode.DIGEST, "done.toDigest")


async def _stop(press: ActionContext, bound: BoundAction) -> Answer:
    return await _choose(press, bound, Mode.OFF, "done.stop")


async def _snooze(press: ActionContext, bound: BoundAction) -> Answer:
    at = pause_until(SNOOZES[press.click.verb], press.services.clock(), press.place)
    try:
        comes = await snooze(press.services, press.event, bound, press.click.verb, at)
    except TooLate:
        raise Refused("refused.expired") from None
    return await press.told(bound, press.say("done.snooze", at=press.moment(comes)))


async def _sample(press: ActionContext, bound: BoundAction) -> Answer:
    await sample(press.services, press.event, bound, press.tongue)
    return await press.told(bound, press.say("done.sample"))


async def _pause(press: ActionContext, bound: BoundAction) -> Answer:
    until = pause_until(PAUSE, press.services.clock(), press.place)

    def paused(wants: Preferences) -> Preferences:
        longer = wants.paused_until and wants.paused_until > until
        return wants if longer else replace(wants, paused_until=until)

    wants = await press.turn.prefer(paused)
    return await press.told(bound, press.say("done.pause", until=press.moment(wants.paused_until or until)))


async def _preferences(press: ActionContext, bound: BoundAction) -> Answer:
    if press.event.personal:
        return card_of(press.turn, press.wants, key=bound.notification.key)
    incoming, person = press.event.incoming, press.event.person
    data = {
        "recipients": [{"user": person}],
        "category": publishing.CATEGORY,
        "card": card_of(press.turn, press.wants),
    }
    await publishing.post(
        press.services,
        tenant=press.event.tenant,
        recipient=f"u:{person}",
        source=SOURCE,
        identifier=f"{incoming.conversation.id};{incoming.id}",
        data=orjson.dumps(data, option=orjson.OPT_SORT_KEYS),
        purpose=Purpose.REPLY,
    )
    return press.say("preferences.sent")


#: By verb; what is not here is a caller's own.
BUTTONS: Mapping[str, Callable[[ActionContext, BoundAction], Awaitable[Answer]]] = {
    action_verbs.SHOW: _show,
    action_verbs.WHY: _why,
    action_verbs.MUTE: _mute,
    action_verbs.TO_DIGEST: _to_digest,
    action_verbs.STOP: _stop,
    action_verbs.SNOOZE_HOUR: _snooze,
    action_verbs.SNOOZE_TOMORROW: _snooze,
    action_verbs.PREFERENCES: _preferences,
    action_verbs.SAMPLE: _sample,
    action_verbs.PAUSE: _pause,
}
