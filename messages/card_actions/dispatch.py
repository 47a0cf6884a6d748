"""Dispatch a click on a card to its handler, and answer it at once.

In a personal chat the answer is the refreshed card. In a group chat or channel the card belongs to everybody and stays
as it is: a personal action is done for the person who clicked, and confirmed in a line that only they see.

Sources: "Work with Universal Actions for Adaptive Cards" and "Universal Action Model", Microsoft Learn.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from messages.activity.verified import Event
from messages.card_actions.binding import Malformed, bind, read_click
from messages.card_actions.context import ActionContext, Answer, ClickRefused, begin
from messages.card_actions.handlers import BUTTONS, record
from messages.card_actions.save_preferences import save, saved_before
from shared.cards import action_verbs, refreshed
from shared.cards.size import TooLarge
from shared.cards.texts import text_of
from shared.preferences.preferences import TooManyPreferences
from shared.services import Services
from shared.storage.markers import clicks

#: The kinds of answers to an Action.Execute.
CARD = "application/vnd.microsoft.card.adaptive"
MESSAGE = "application/vnd.microsoft.activity.message"
ERROR = "application/vnd.microsoft.error"

#: Buttons that change what somebody wants. All others do the same thing once by themselves.
_CHANGES = (action_verbs.SAVE, action_verbs.MUTE, action_verbs.TO_DIGEST, action_verbs.STOP, action_verbs.PAUSE)
_PERSON = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def dispatch_click(services: Services, event: Event) -> tuple[int, dict[str, Any] | None]:
    """Do what an invoke asks for; returns the status and the body of the answer."""
    if event.incoming.name != "adaptiveCard/action":
        return HTTPStatus.NOT_IMPLEMENTED, None  # as botbuilder answers what a bot does not implement
    try:
        click = read_click(event.incoming.value)
    except Malformed:
        return _answered(ERROR, {"code": "BadRequest", "message": "this is no Action.Execute"}, HTTPStatus.BAD_REQUEST)
    context = await begin(services, event, click)
    try:
        answer = await _done(context)
    except ClickRefused as refused:
        told = text_of(context.language, refused.key, **refused.values)
        answer = refreshed.draw_line_card(told) if event.personal else told
    return _answered(MESSAGE if isinstance(answer, str) else CARD, answer)


def _answered(kind: str, value: object, status: int = HTTPStatus.OK) -> tuple[int, dict[str, Any]]:
    return HTTPStatus.OK, {"statusCode": int(status), "type": kind, "value": value}


async def _done(context: ActionContext) -> Answer:
    """Do what was clicked; raises `ClickRefused`."""
    if not _PERSON.fullmatch(context.event.person):
        raise ClickRefused("refused")
    changes = context.click.verb in _CHANGES
    repeat = changes and await _is_repeat(context)
    answer = await _pressed(context, repeat=repeat)
    if changes and not repeat and context.event.incoming.id:
        await context.services.markers.put(clicks(context.event.tenant, context.event.person), _click(context))
    return answer


async def _is_repeat(context: ActionContext) -> bool:
    """Whether this very activity was answered before: to do it again could undo something newer."""
    of, id_ = clicks(context.event.tenant, context.event.person), context.event.incoming.id
    return bool(id_) and await context.services.markers.has(of, _click(context))


def _click(context: ActionContext) -> str:
    return f"{context.event.incoming.conversation.id};{context.event.incoming.id}"


async def _pressed(context: ActionContext, *, repeat: bool) -> Answer:
    """Do what was clicked, but for a repeat, which only shows how things are."""
    try:
        if context.click.verb == action_verbs.SAVE:
            return await (saved_before(context) if repeat else save(context))
        bound = await bind(context.services, context.event, context.click)
        if bound is None:
            raise ClickRefused("refused")
        if context.click.automatic:
            return await context.shown(bound)
        if repeat:
            return await context.told(bound, context.text("done.repeated"))
        return await BUTTONS.get(context.click.verb, record)(context, bound)
    except TooManyPreferences as many:
        raise ClickRefused("refused.tooMany", reason=many) from None
    except TooLarge:  # the limit was lowered since
        raise ClickRefused("refused") from None
