"""Bind a card action to the delivery it belongs to, and check that the delivered card has such a button.

Only the verified sender of an invoke is trusted. The invoke must name a notification of its tenant that was delivered
to the person, or to the conversation, from which the activity comes. The card, rendered again, must have the button,
with the data that the invoke carries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from messages.activity.verified import VerifiedActivity
from shared.cards.action_verbs import SHOW, verb_of
from shared.cards.actions import find_execute_actions
from shared.conversation_ids import channel_of
from shared.queue_messages import Delivery
from shared.records import DeliveryRecord, StoredNotification
from shared.rendering import render_notification
from shared.services import Services
from shared.states import DeliveryState
from shared.storage.deliveries import shard_of

_NOTIFICATION_KEY = re.compile(r"[0-9a-f]{64}")
_VISIBLE_STATES = (DeliveryState.SENT, DeliveryState.SENDING, DeliveryState.UNKNOWN)


class MalformedAction(Exception):
    """The value of the invoke is not that of an Action.Execute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardAction:
    """The Action.Execute of an invoke: Herald's own data in `herald_data`, all other data and inputs in `data`.

    `is_refresh` means that Teams refreshes the card by itself, and nobody clicked.
    """

    verb: str
    data: Mapping[str, Any]
    herald_data: Mapping[str, Any]
    is_refresh: bool = False

    @property
    def notification_key(self) -> str:
        """The key of the notification that the action names, "" if it names none."""
        key = self.herald_data.get("n")
        return key if isinstance(key, str) and _NOTIFICATION_KEY.fullmatch(key) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundAction:
    """A card action on the card of a delivery to `recipient`, from where the activity comes.

    `title` is that of the button, `inputs` are its data and the inputs of the card.
    """

    notification: StoredNotification
    recipient: str
    delivery: DeliveryRecord
    card: Mapping[str, Any]
    title: str = ""
    inputs: Mapping[str, Any]


def parse_card_action(value: object) -> CardAction:
    """Return the card action in the value of an invoke; raises `MalformedAction`."""
    action = value.get("action") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(action, dict) or action.get("type") != "Action.Execute":
        raise MalformedAction
    data = action.get("data") or {}
    verb = verb_of(action)
    if not isinstance(data, dict) or not isinstance(action.get("verb") or "", str):
        raise MalformedAction
    herald_data = data.get("herald")
    return CardAction(
        verb=verb,
        data={name: part for name, part in data.items() if name != "herald"},
        herald_data=herald_data if isinstance(herald_data, dict) else {},
        is_refresh=value.get("trigger") == "automatic",
    )


async def bind_action(services: Services, verified: VerifiedActivity, action: CardAction) -> BoundAction | None:
    """Return the action with its delivery and button, or None if there is no such delivery or button."""
    key = action.notification_key
    notification = await services.notifications.get(key) if key and verified.person_id else None
    if notification is None or notification.tenant != verified.tenant or notification.recalled:
        return None
    found = await _find_delivery(services, verified, notification)
    if found is None:
        return None
    recipient, delivery = found
    card = render_card(services, notification, recipient)
    bound = BoundAction(notification=notification, recipient=recipient, delivery=delivery, card=card, inputs={})
    if action.verb == SHOW or action.is_refresh:
        return bound
    button = _find_button(card, action)
    return replace(bound, title=button[0], inputs=button[1]) if button else None


def render_card(services: Services, notification: StoredNotification, recipient: str) -> Mapping[str, Any]:
    """Return the card of a notification as a recipient gets it; raises `TooLarge` if Teams would not accept it."""
    message = orjson.loads(render_notification(services, notification, recipient))
    card: Mapping[str, Any] = message["attachments"][0]["content"]
    return card


async def _find_delivery(
    services: Services, verified: VerifiedActivity, notification: StoredNotification
) -> tuple[str, DeliveryRecord] | None:
    """Return the recipient and the delivery of the card from which the activity comes, if the card may be visible."""
    if verified.is_personal:
        candidates = [f"u:{verified.person_id}"]
    else:
        # An invoke names the thread, but a delivery may name the channel: a post in a channel starts a thread.
        conversation = verified.activity.conversation.id
        candidates = list(dict.fromkeys((f"c:{conversation}", f"c:{channel_of(conversation)}")))
    activity_id = verified.activity.reply_to_id
    for recipient in candidates:
        shard = shard_of(recipient, notification.shards)
        delivery = await services.deliveries.get(Delivery(notification.key, shard, recipient, "", 0))
        if delivery is None or not _may_be_visible(delivery):
            continue
        if not delivery.activity_id or not activity_id or delivery.activity_id == activity_id:
            return recipient, delivery
    return None


def _may_be_visible(delivery: DeliveryRecord) -> bool:
    return delivery.state in _VISIBLE_STATES or (delivery.state is DeliveryState.QUEUED and delivery.maybe_twice)


def _find_button(card: Mapping[str, Any], action: CardAction) -> tuple[str, Mapping[str, Any]] | None:
    """Return the title of the action's button, and those of the action's data that belong to the card.

    Return None if no button of the card has that verb and those data. An input of the card may replace data.
    """
    input_ids = frozenset(_input_ids(card))
    for button in find_execute_actions(card):
        button_data = {name: part for name, part in button.get("data", {}).items() if name != "herald"}
        fixed = {name: part for name, part in button_data.items() if name not in input_ids}
        if verb_of(button) == action.verb and all(action.data.get(name) == part for name, part in fixed.items()):
            inputs = {name: part for name, part in action.data.items() if name in button_data or name in input_ids}
            return str(button.get("title") or action.verb), inputs
    return None


def _input_ids(part: Any) -> Iterator[str]:
    """Yield the id of every input in a card or in a part of it."""
    if isinstance(part, list):
        for each in part:
            yield from _input_ids(each)
    elif isinstance(part, dict):
        if str(part.get("type")).startswith("Input.") and isinstance(part.get("id"), str):
            yield part["id"]
        for each in part.values():
            yield from _input_ids(each)
