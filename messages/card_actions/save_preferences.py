"""Show the preferences card of a person, group chat or channel, and save what was changed on it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from messages.card_actions.context import ActionContext, Answer
from messages.card_actions.preferences_form import Wrong, applied, changed, left
from messages.commands.handlers import PreferenceSubject, card_of
from shared.cards.texts import language_of, text_of
from shared.conversation_ids import channel_of
from shared.preferences.preferences import Preferences
from shared.states import ReferenceKind


async def save(context: ActionContext) -> Answer:
    """Apply what was changed on a preferences card to the person, or, outside of their chat, to the conversation."""
    services, subject, click = context.services, _turn(context), context.click
    named = click.herald.get("was")
    was = named if isinstance(named, dict) else {}
    new = changed(click.data, was)
    zone = subject.zone_of(Preferences()).key

    def saved(old: Preferences) -> Preferences:
        return applied(old, new, was, services.categories, now=services.clock(), default_zone=zone)

    try:
        gone = left(new)
        if gone or "time_zone" in new:
            # Before any subscription is changed, and off the loop: the first name that is no zone loads large tables.
            await asyncio.to_thread(saved, await subject.preferences())
        for topic in gone:
            await services.topics.unsubscribe(subject.tenant, topic, subject.recipient)
        preferences = await subject.prefer(saved)
    except Wrong as wrong:
        typed = {name: value for name, value in click.data.items() if isinstance(value, str)}
        preferences = await subject.preferences()
        return card_of(subject, preferences, key=click.key, initial_values=was, typed_values=typed, errors=wrong.errors)
    note_key = "preferences.saved" if new else "preferences.unchanged"
    note = text_of(language_of(preferences.locale, subject.locale), note_key)
    return card_of(subject, preferences, key=click.key, note=note)


async def saved_before(context: ActionContext) -> Answer:
    """The card as it is now, for a click that was answered before."""
    subject = _turn(context)
    preferences = await subject.preferences()
    note = text_of(language_of(preferences.locale, subject.locale), "done.repeated")
    return card_of(subject, preferences, key=context.click.key, note=note)


def _turn(context: ActionContext) -> PreferenceSubject:
    """Whose preferences the card is about: the person's, or outside of their chat the conversation's."""
    if context.event.personal:
        return context.subject
    here = channel_of(context.event.incoming.conversation.id)
    return replace(context.subject, kind=ReferenceKind.CONVERSATION, id=here, seen_zone="")
