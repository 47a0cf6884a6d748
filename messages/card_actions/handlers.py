"""Handlers of card actions: one for each of Herald's own buttons, and one for those of upstream systems."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta

import orjson

from messages.card_actions.binding import BoundAction
from messages.card_actions.context import ActionContext, Answer, ClickRefused
from messages.card_actions.explain import why, wishes_of
from messages.card_actions.responses import TooLong, respond
from messages.card_actions.snooze import TooLate, sample, snooze
from messages.commands.handlers import card_of
from shared import publishing
from shared.cards import action_verbs, refreshed
from shared.preferences.pause import parse_pause
from shared.preferences.preferences import Preferences
from shared.states import Mode, Purpose

#: How long a thread is muted.
MUTED_FOR = timedelta(days=7)
#: When what is snoozed comes again, by the button (`shared.preferences.pause`).
SNOOZES = {action_verbs.SNOOZE_HOUR: "1h", action_verbs.SNOOZE_TOMORROW: "tomorrow"}
#: Until when the welcome's button pauses.
WELCOME_PAUSE = "tomorrow"
#: The source of preferences cards that are sent to somebody who asked for theirs elsewhere.
SOURCE = "/herald/preferences"


async def record(context: ActionContext, bound: BoundAction) -> Answer:
    """Handle Acknowledge and the buttons of upstream systems: record the response, and publish it."""
    try:
        response, before = await respond(context.services, context.event, bound, context.click.verb)
    except TooLong:
        raise ClickRefused("refused.tooLong") from None
    if before:
        note = context.text("done.before", at=context.moment(response.at))
        return await context.shown(bound, note) if context.event.personal else note
    return await context.shown(bound) if context.event.personal else context.recorded(bound.title, response)


async def _show(context: ActionContext, bound: BoundAction) -> Answer:
    return await context.shown(bound)


async def _why(context: ActionContext, bound: BoundAction) -> Answer:
    wishes = await wishes_of(context.services, bound, context.event.person, context.preferences)
    lines = await why(context.services, bound, wishes, context.language)
    if context.event.personal:
        return refreshed.draw_explanation_card(context.language, lines, bound.notification.key)
    return " ".join(lines)


async def _mute(context: ActionContext, bound: BoundAction) -> Answer:
    thread, now = bound.notification.content.thread, context.services.clock()
    assert thread  # or the card has no such button
    key = thread.key

    def muted(preferences: Preferences) -> Preferences:
        # A second click does not move the end.
        known = preferences.muted_until(key)
        return preferences if known and known > now else preferences.mute(key, now + MUTED_FOR, now)

    until = (await context.subject.prefer(muted)).muted_until(key)
    return await context.told(bound, context.text("done.mute", until=context.moment(until or now + MUTED_FOR)))


async def _choose(context: ActionContext, bound: BoundAction, mode: Mode, done: str) -> Answer:
    category = context.services.categories.of(bound.notification.content.category)
    await context.subject.prefer(lambda preferences: preferences.with_mode(category.name, mode))
    return await context.told(bound, context.text(done, category=category.label))


async def _to_digest(context: ActionContext, bound: BoundAction) -> Answer:
    return await _choose(context, bound, Mode.DIGEST, "done.toDigest")


async def _stop(context: ActionContext, bound: BoundAction) -> Answer:
    return await _choose(context, bound, Mode.OFF, "done.stop")


async def _snooze(context: ActionContext, bound: BoundAction) -> Answer:
    at = parse_pause(SNOOZES[context.click.verb], context.services.clock(), context.zone)
    try:
        comes = await snooze(context.services, context.event, bound, context.click.verb, at)
    except TooLate:
        raise ClickRefused("refused.expired") from None
    return await context.told(bound, context.text("done.snooze", at=context.moment(comes)))


async def _sample(context: ActionContext, bound: BoundAction) -> Answer:
    await sample(context.services, context.event, bound, context.language)
    return await context.told(bound, context.text("done.sample"))


async def _pause(context: ActionContext, bound: BoundAction) -> Answer:
    until = parse_pause(WELCOME_PAUSE, context.services.clock(), context.zone)

    def paused(preferences: Preferences) -> Preferences:
        longer = preferences.paused_until and preferences.paused_until > until
        return preferences if longer else replace(preferences, paused_until=until)

    preferences = await context.subject.prefer(paused)
    ends = context.moment(preferences.paused_until or until)
    return await context.told(bound, context.text("done.pause", until=ends))


async def _preferences(context: ActionContext, bound: BoundAction) -> Answer:
    if context.event.personal:
        return card_of(context.subject, context.preferences, key=bound.notification.key)
    incoming, person = context.event.incoming, context.event.person
    data = {
        "recipients": [{"user": person}],
        "category": publishing.CATEGORY,
        "card": card_of(context.subject, context.preferences),
    }
    await publishing.post(
        context.services,
        tenant=context.event.tenant,
        recipient=f"u:{person}",
        source=SOURCE,
        identifier=f"{incoming.conversation.id};{incoming.id}",
        data=orjson.dumps(data, option=orjson.OPT_SORT_KEYS),
        purpose=Purpose.REPLY,
    )
    return context.text("preferences.sent")


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
