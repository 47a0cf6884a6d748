"""Bind a click on a card to the delivery that it belongs to, and check that the delivered card has such a button.

Nothing in an invoke is trusted except its verified sender. It must name a notification of its tenant that was delivered
to the person, or to the conversation, from which the activity comes; and the card as it was rendered must have the
button, with the data that the click carries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from messages.activity.verified import Event
from shared.cards.action_verbs import SHOW, verb_of
from shared.cards.actions import find_execute_actions
from shared.conversation_ids import channel_of
from shared.queue_messages import Delivery
from shared.records import DeliveryRecord
from shared.rendering import render_notification
from shared.services import Services
from shared.states import DeliveryState
from shared.storage.deliveries import shard_of
from shared.storage.notifications import StoredNotification

_KEY = re.compile(r"[0-9a-f]{64}")
_SEEN = (DeliveryState.SENT, DeliveryState.SENDING, DeliveryState.UNKNOWN)


class Malformed(Exception):
    """The value of an invoke is not that of an Action.Execute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardAction:
    """What a click says: `data` is all that came with it, `herald` what is ours of that.

    `automatic` says that nobody clicked: Teams refreshes a card.
    """

    verb: str
    data: Mapping[str, Any]
    herald: Mapping[str, Any]
    automatic: bool = False

    @property
    def key(self) -> str:
        """The key of the notification that it names, or ""."""
        named = self.herald.get("n")
        return named if isinstance(named, str) and _KEY.fullmatch(named) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundAction:
    """A click on a card that was delivered where it comes from: `recipient` got it, and `card` has the button.

    `title` is what the button says, `inputs` what its data and the inputs of the card say.
    """

    notification: StoredNotification
    recipient: str
    known: DeliveryRecord
    card: Mapping[str, Any]
    title: str = ""
    inputs: Mapping[str, Any]


def read_click(value: object) -> CardAction:
    """The click of an invoke's value; raises `Malformed`."""
    action = value.get("action") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(action, dict) or action.get("type") != "Action.Execute":
        raise Malformed
    data = action.get("data") or {}
    verb = verb_of(action)
    if not isinstance(data, dict) or not isinstance(action.get("verb") or "", str):
        raise Malformed
    own = data.get("herald")
    return CardAction(
        verb=verb,
        data={name: part for name, part in data.items() if name != "herald"},
        herald=own if isinstance(own, dict) else {},
        automatic=value.get("trigger") == "automatic",
    )


async def bind(services: Services, event: Event, click: CardAction) -> BoundAction | None:
    """The delivery and the button that a click belongs to, or None where there is none."""
    notification = await services.notifications.get(click.key) if click.key and event.person else None
    if notification is None or notification.tenant != event.tenant or notification.recalled:
        return None
    found = await _delivered(services, event, notification)
    if found is None:
        return None
    recipient, known = found
    card = sent_card(services, notification)
    if click.verb == SHOW or click.automatic:
        return BoundAction(notification=notification, recipient=recipient, known=known, card=card, inputs={})
    pressed = _pressed(card, click)
    if pressed is None:
        return None
    title, inputs = pressed
    return BoundAction(
        notification=notification, recipient=recipient, known=known, card=card, title=title, inputs=inputs
    )


def sent_card(services: Services, notification: StoredNotification) -> Mapping[str, Any]:
    """The card of a notification, as it is sent; raises `TooLarge` where Teams would not take it any more."""
    message = orjson.loads(render_notification(services, notification))
    card: Mapping[str, Any] = message["attachments"][0]["content"]
    return card


async def _delivered(
    services: Services, event: Event, notification: StoredNotification
) -> tuple[str, DeliveryRecord] | None:
    """Who of the notification's recipients the event comes from, with the delivery, where that was or may be seen."""
    here = event.incoming.conversation.id
    # A message to a channel is named by the channel, one in a thread by the thread; a click names the thread in both.
    candidates = [f"u:{event.person}"] if event.personal else dict.fromkeys((f"c:{here}", f"c:{channel_of(here)}"))
    shown = event.incoming.reply_to_id
    for recipient in candidates:
        shard = shard_of(recipient, notification.shards)
        known = await services.deliveries.get(Delivery(notification.key, shard, recipient, "", 0))
        if known and _was_seen(known) and not (known.activity_id and shown and known.activity_id != shown):
            return recipient, known
    return None


def _was_seen(known: DeliveryRecord) -> bool:
    """Whether the card is, or may be, before somebody's eyes."""
    return known.state in _SEEN or (known.state is DeliveryState.QUEUED and known.maybe_twice)


def _pressed(card: Mapping[str, Any], click: CardAction) -> tuple[str, Mapping[str, Any]] | None:
    """The title of the button that was clicked, and what the click brought of its data and of the card's inputs.

    None where no button of the card has that verb and those data.
    """
    fields = frozenset(_inputs(card))
    for button in find_execute_actions(card):
        given = {name: part for name, part in button.get("data", {}).items() if name != "herald"}
        fixed = {name: part for name, part in given.items() if name not in fields}
        if verb_of(button) == click.verb and all(click.data.get(name) == part for name, part in fixed.items()):
            clicked = {name: part for name, part in click.data.items() if name in given or name in fields}
            return str(button.get("title") or click.verb), clicked
    return None


def _inputs(part: Any) -> Iterator[str]:
    """The ids of the inputs of a card."""
    if isinstance(part, list):
        for each in part:
            yield from _inputs(each)
    elif isinstance(part, dict):
        if str(part.get("type")).startswith("Input.") and isinstance(part.get("id"), str):
            yield part["id"]
        for each in part.values():
            yield from _inputs(each)
