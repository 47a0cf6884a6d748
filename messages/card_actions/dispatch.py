"""What somebody clicks on a card is done, and answered at once.

In a personal chat the answer is the card as it is then. In a group chat or channel the card is everybody's and stays as
it is: what is personal is done for the person who clicked, and they are told so in a line that only they see.

Sources: "Work with Universal Actions for Adaptive Cards" and "Universal Action Model", Microsoft Learn.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from messages.activity.verified import Event
from messages.card_actions.binding import Malformed, bind, read
from messages.card_actions.context import ActionContext, Answer, Refused, begin
from messages.card_actions.handlers import BUTTONS, record
from messages.card_actions.save_preferences import save, saved_before
from shared.cards import action_verbs, refreshed
from shared.cards.size import TooLarge
from shared.cards.texts import say
from shared.preferences.preferences import TooMany
from shared.services import Services
from shared.storage.markers import clicks

#: The kinds of answers to an Action.Execute.
CARD = "application/vnd.microsoft.card.adaptive"
MESSAGE = "application/vnd.microsoft.activity.message"
ERROR = "application/vnd.microsoft.error"

#: Buttons that change what somebody wants. All others do the same thing once by themselves.
_CHANGES = (action_verbs.SAVE, action_verbs.MUTE, action_verbs.TO_DIGEST, action_verbs.STOP, action_verbs.PAUSE)
_PERSON = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def act(services: Services, event: Event) -> tuple[int, dict[str, Any] | None]:
    """Do what an invoke asks for; returns the status and the body of the answer."""
    if event.incoming.name != "adaptiveCard/action":
        return HTTPStatus.NOT_IMPLEMENTED, None  # as botbuilder answers what a bot does not implement
    try:
        click = read(event.incoming.value)
    except Malformed:
        return _answered(ERROR, {"code": "BadRequest", "message": "this is no Action.Execute"}, HTTPStatus.BAD_REQUEST)
    press = await begin(services, event, click)
    try:
        answer = await _done(press)
    except Refused as refused:
        told = say(press.tongue, refused.key, **refused.values)
        answer = refreshed.only(told) if event.personal else told
    return _answered(MESSAGE if isinstance(answer, str) else CARD, answer)


def _answered(kind: str, value: object, status: int = HTTPStatus.OK) -> tuple[int, dict[str, Any]]:
    return HTTPStatus.OK, {"statusCode": int(status), "type": kind, "value": value}


async def _done(press: ActionContext) -> Answer:
    """Do what was clicked; raises `Refused`."""
    if not _PERSON.fullmatch(press.event.person):
        raise Refused("refused")
    changes = press.click.verb in _CHANGES
    repeat = changes and await _is_repeat(press)
    answer = await _pressed(press, repeat=repeat)
    if changes and not repeat and press.event.incoming.id:
        await press.services.markers.put(clicks(press.event.tenant, press.event.person), _click(press))
    return answer


async def _is_repeat(press: ActionContext) -> bool:
    """Whether this very activity was answered before: to do it again could undo something newer."""
    of, id_ = clicks(press.event.tenant, press.event.person), press.event.incoming.id
    return bool(id_) and await press.services.markers.has(of, _click(press))


def _click(press: ActionContext) -> str:
    return f"{press.event.incoming.conversation.id};{press.event.incoming.id}"


async def _pressed(press: ActionContext, *, repeat: bool) -> Answer:
    """Do what was clicked, but for a repeat, which only shows how things are."""
    try:
        if press.click.verb == action_verbs.SAVE:
            return await (saved_before(press) if repeat else save(press))
        bound = await bind(press.services, press.event, press.click)
        if bound is None:
            raise Refused("refused")
        if press.click.automatic:
            return await press.shown(bound)
        if repeat:
            return await press.told(bound, press.say("done.repeated"))
        return await BUTTONS.get(press.click.verb, record)(press, bound)
    except TooMany as many:
        raise Refused("refused.tooMany", reason=many) from None
    except TooLarge:  # the limit was lowered since
        raise Refused("refused") from None
