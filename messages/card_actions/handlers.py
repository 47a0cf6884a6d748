"""Handlers of card actions: one for each of Herald's own buttons, and one for those of upstream systems."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta

import orjson

from messages.card_actions.binding import BoundAction
from messages.card_actions.context import ActionAnswer, ActionContext, ActionRefused
from messages.card_actions.explain import explain, load_recipient_preferences
from messages.card_actions.responses import ResponseTooLong, record_and_report
from messages.card_actions.snooze import ExpiresTooSoon, send_sample, snooze
from shared import publishing
from shared.cards import action_verbs, refreshed
from shared.preferences.pause import parse_pause
from shared.preferences.preferences import Preferences
from shared.states import Mode, Purpose

MUTE_DURATION = timedelta(days=7)
#: When a snoozed message is sent again, by verb, in the form that `parse_pause` parses.
SNOOZE_TIMES = {action_verbs.SNOOZE_HOUR: "1h", action_verbs.SNOOZE_TOMORROW: "tomorrow"}
#: End of the pause that the button of the welcome card starts, in the same form.
WELCOME_PAUSE = "tomorrow"
#: The source of a preferences card that is sent to the chat of a person who asked for it elsewhere.
PREFERENCES_CARD_SOURCE = "/herald/preferences"


async def record_response(context: ActionContext, bound: BoundAction) -> ActionAnswer:
    """Handle Acknowledge and the buttons of upstream systems: record the response, and report it."""
    try:
        response, is_repeat = await record_and_report(context.services, context.verified, bound, context.action.verb)
    except ResponseTooLong:
        raise ActionRefused("refused.tooLong") from None
    is_personal = context.verified.is_personal
    if is_repeat:
        note = context.text("done.before", at=context.format_time(response.at))
        return await context.refresh_card(bound, note) if is_personal else note
    return await context.refresh_card(bound) if is_personal else context.describe_response(bound.title, response)


async def _show(context: ActionContext, bound: BoundAction) -> ActionAnswer:
    return await context.refresh_card(bound)


async def _explain(context: ActionContext, bound: BoundAction) -> ActionAnswer:
    preferences = await load_recipient_preferences(
        context.services, bound, context.verified.person_id, context.preferences
    )
    lines = await explain(context.services, bound, preferences, context.language)
    if context.verified.is_personal:
        return refreshed.draw_explanation_card(context.language, lines, bound.notification.key)
    return " ".join(lines)


async def _mute(context: ActionContext, bound: BoundAction) -> ActionAnswer:
    thread, now = bound.notification.content.thread, context.services.clock()
    assert thread  # a card without a thread has no such button
    key = thread.key

    def mute(preferences: Preferences) -> Preferences:
        # A second click does not prolong the mute.
        until = preferences.muted_until(key)
        return preferences if until and until > now else preferences.mute(key, now + MUTE_DURATION, now)

    until = (await context.subject.update(mute)).muted_until(key)
    text = context.text("done.mute", until=context.format_time(until or now + MUTE_DURATION))
    return await context.answer_privately(bound, text)


async def _set_mode(context: ActionContext, bound: BoundAction, mode: Mode, text_key: str) -> ActionAnswer:
    category = context.services.categories.of(bound.notification.content.category)
    await context.subject.update(lambda preferences: preferences.with_mode(category.name, mode))
    return await context.answer_privately(bound, context.text(text_key, category=category.label))


async def _move_to_digest(context: ActionContext, bound: BoundAction) -> ActionAnswer:
    return await _set_mode(context, bound, Mode.DIGEST, "done.toDigest")


async def _stop(context: ActionContext, bound: BoundAction) -> ActionAnswer:
    return await _set_mode(context, bound, Mode.OFF, "done.stop")


async def _snooze(context: ActionContext, bound: BoundAction) -> ActionAnswer:
    verb = context.action.verb
    time = parse_pause(SNOOZE_TIMES[verb], context.services.clock(), context.zone)
    try:
        due = await snooze(context.services, context.verified, bound, verb, time)
    except ExpiresTooSoon:
        raise ActionRefused("refused.expired") from None
    return await context.answer_privately(bound, context.text("done.snooze", at=context.format_time(due)))


async def _send_sample(context: ActionContext, bound: BoundAction) -> ActionAnswer:
    await send_sample(context.services, context.verified, bound, context.language)
    return await context.answer_privately(bound, context.text("done.sample"))


async def _pause(context: ActionContext, bound: BoundAction) -> ActionAnswer:
    until = parse_pause(WELCOME_PAUSE, context.services.clock(), context.zone)

    def pause(preferences: Preferences) -> Preferences:
        is_longer = preferences.paused_until and preferences.paused_until > until
        return preferences if is_longer else replace(preferences, paused_until=until)

    preferences = await context.subject.update(pause)
    text = context.text("done.pause", until=context.format_time(preferences.paused_until or until))
    return await context.answer_privately(bound, text)


async def _show_preferences(context: ActionContext, bound: BoundAction) -> ActionAnswer:
    """Show the preferences card in place of the message or, outside of a personal chat, send it to the person."""
    if context.verified.is_personal:
        return await context.subject.draw_card(context.preferences, key=bound.notification.key)
    activity, person = context.verified.activity, context.verified.person_id
    data = {
        "recipients": [{"user": person}],
        "category": publishing.CATEGORY,
        "card": await context.subject.draw_card(context.preferences),
    }
    await publishing.post(
        context.services,
        tenant=context.verified.tenant,
        recipient=f"u:{person}",
        source=PREFERENCES_CARD_SOURCE,
        identifier=f"{activity.conversation.id};{activity.id}",
        data=orjson.dumps(data, option=orjson.OPT_SORT_KEYS),
        purpose=Purpose.REPLY,
    )
    return context.text("preferences.sent")


#: By verb. A verb that is not listed belongs to an upstream system: `record_response` handles it.
BUTTON_HANDLERS: Mapping[str, Callable[[ActionContext, BoundAction], Awaitable[ActionAnswer]]] = {
    action_verbs.SHOW: _show,
    action_verbs.WHY: _explain,
    action_verbs.MUTE: _mute,
    action_verbs.TO_DIGEST: _move_to_digest,
    action_verbs.STOP: _stop,
    action_verbs.SNOOZE_HOUR: _snooze,
    action_verbs.SNOOZE_TOMORROW: _snooze,
    action_verbs.PREFERENCES: _show_preferences,
    action_verbs.SAMPLE: _send_sample,
    action_verbs.PAUSE: _pause,
}
