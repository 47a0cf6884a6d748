"""Save the fields that were changed on a preferences card, or show the card again."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from messages.card_actions.context import ActionAnswer, ActionContext
from messages.card_actions.preferences_form import (
    InvalidFields,
    apply_fields,
    find_changed_fields,
    find_removed_topics,
)
from messages.subject import PreferenceSubject
from shared.conversation_ids import channel_of
from shared.preferences.preferences import Preferences
from shared.states import ReferenceKind
from shared.texts import text_of, to_sentence


async def save_preferences(context: ActionContext) -> ActionAnswer:
    """Save the changed fields, and return the card with a note.

    If a field cannot be read, save nothing, and return the card with the errors and everything that was typed.
    """
    services, subject, action = context.services, _card_subject(context), context.action
    was = action.herald_data.get("was")
    shown = was if isinstance(was, dict) else {}
    changed = find_changed_fields(action.data, shown)
    default_zone, categories = subject.zone_of(Preferences()).key, await subject.categories()

    def apply_changes(stored: Preferences) -> Preferences:
        return apply_fields(stored, changed, shown, categories, now=services.clock(), default_zone=default_zone)

    try:
        removed_topics = find_removed_topics(changed)
        if removed_topics or "time_zone" in changed:
            # Check all fields before any subscription is removed; in a thread, because the first unknown zone name
            # loads large tables.
            await asyncio.to_thread(apply_changes, await subject.preferences())
        for topic in removed_topics:
            await services.topics.unsubscribe(subject.tenant, topic, subject.recipient)
        preferences = await subject.update(apply_changes)
    except InvalidFields as invalid:
        typed = {name: value for name, value in action.data.items() if isinstance(value, str)}
        preferences = await subject.preferences()
        language = subject.language_of(preferences)
        return await subject.draw_card(
            preferences,
            key=action.notification_key,
            initial_values=shown,
            typed_values=typed,
            errors={name: to_sentence(error.explain(language)) for name, error in invalid.errors.items()},
        )
    return await _draw_card(context, subject, preferences, "preferences.saved" if changed else "preferences.unchanged")


async def show_preferences(context: ActionContext) -> ActionAnswer:
    """Return the card as it is now, for an activity that was answered before."""
    subject = _card_subject(context)
    return await _draw_card(context, subject, await subject.preferences(), "done.repeated")


async def _draw_card(
    context: ActionContext, subject: PreferenceSubject, preferences: Preferences, note_key: str
) -> ActionAnswer:
    note = text_of(subject.language_of(preferences), note_key)
    return await subject.draw_card(preferences, key=context.action.notification_key, note=note)


def _card_subject(context: ActionContext) -> PreferenceSubject:
    """Return the subject of the card: the person or, outside of their own chat, the conversation."""
    if context.verified.is_personal:
        return context.subject
    conversation = channel_of(context.verified.activity.conversation.id)
    return replace(context.subject, kind=ReferenceKind.CONVERSATION, id=conversation, teams_zone="")
