"""Dispatch a card action to its handler, and answer it at once.

In a personal chat the answer is the refreshed card. In a group chat or channel the card belongs to everyone and does
not change: a personal action applies to the person who clicked, and is confirmed in a line that only they see.

Sources: "Work with Universal Actions for Adaptive Cards" and "Universal Action Model", Microsoft Learn.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from messages.activity.verified import VerifiedActivity
from messages.card_actions.binding import MalformedAction, bind_action, parse_card_action
from messages.card_actions.context import ActionAnswer, ActionContext, ActionRefused, build_context
from messages.card_actions.handlers import BUTTON_HANDLERS, record_response
from messages.card_actions.save_preferences import save_preferences, show_preferences
from shared.cards import action_verbs, refreshed
from shared.cards.size import TooLarge
from shared.conversation_ids import OBJECT_ID
from shared.preferences.preferences import TooManyPreferences
from shared.services import Services
from shared.storage.markers import clicks
from shared.texts import text_of

#: The types of an answer to an Action.Execute.
CARD_TYPE = "application/vnd.microsoft.card.adaptive"
MESSAGE_TYPE = "application/vnd.microsoft.activity.message"
ERROR_TYPE = "application/vnd.microsoft.error"

#: Actions that change preferences, and are therefore not repeated. All others have the same effect only once anyway.
_PREFERENCE_VERBS = (
    action_verbs.SAVE, action_verbs.MUTE, action_verbs.TO_DIGEST, action_verbs.STOP, action_verbs.PAUSE,
)  # fmt: skip


async def dispatch_card_action(services: Services, verified: VerifiedActivity) -> tuple[int, dict[str, Any] | None]:
    """Run the card action of an invoke, and return the status and the body of the answer."""
    if verified.activity.name != "adaptiveCard/action":
        return HTTPStatus.NOT_IMPLEMENTED, None  # botbuilder's answer to an invoke that a bot does not implement
    try:
        action = parse_card_action(verified.activity.value)
    except MalformedAction:
        error = {"code": "BadRequest", "message": "this is not an Action.Execute"}
        return _build_answer(ERROR_TYPE, error, HTTPStatus.BAD_REQUEST)
    context = await build_context(services, verified, action)
    try:
        answer = await _run_once(context)
    except ActionRefused as refused:
        text = text_of(context.language, refused.key, **refused.values)
        answer = refreshed.draw_line_card(text) if verified.is_personal else text
    return _build_answer(MESSAGE_TYPE if isinstance(answer, str) else CARD_TYPE, answer)


def _build_answer(kind: str, value: object, status: int = HTTPStatus.OK) -> tuple[int, dict[str, Any]]:
    # The HTTP status is always 200; the status of the action is in the body.
    return HTTPStatus.OK, {"statusCode": int(status), "type": kind, "value": value}


async def _run_once(context: ActionContext) -> ActionAnswer:
    """Run the action, and mark its activity if a repetition must not run again; raises `ActionRefused`."""
    person, activity = context.verified.person_id, context.verified.activity
    if not OBJECT_ID.fullmatch(person) or (
        activity.is_from_another_tenant and context.action.verb in _PREFERENCE_VERBS
    ):
        raise ActionRefused("refused")
    services, name = context.services, clicks(context.verified.tenant, person)
    marker = f"{activity.conversation.id};{activity.id}"
    is_marked = bool(activity.id) and context.action.verb in _PREFERENCE_VERBS
    # A repetition must not undo a newer change.
    is_repeat = is_marked and await services.markers.has(name, marker)
    answer = await _run(context, is_repeat=is_repeat)
    if is_marked and not is_repeat:
        await services.markers.put(name, marker)
    return answer


async def _run(context: ActionContext, *, is_repeat: bool) -> ActionAnswer:
    """Run the action and return its answer. For a repetition, only show the card as it is now."""
    action = context.action
    try:
        if action.verb == action_verbs.SAVE:
            return await (show_preferences(context) if is_repeat else save_preferences(context))
        bound = await bind_action(context.services, context.verified, action)
        if bound is None:
            raise ActionRefused("refused")
        if action.is_refresh:
            return await context.refresh_card(bound)
        if is_repeat:
            return await context.answer_privately(bound, context.text("done.repeated"))
        return await BUTTON_HANDLERS.get(action.verb, record_response)(context, bound)
    except TooManyPreferences as too_many:
        raise ActionRefused("refused.tooMany", reason=too_many.explain(context.language)) from None
    except TooLarge:  # the size limit was lowered after the card was sent
        raise ActionRefused("refused") from None
