"""The verbs of Herald's own card actions (Action.Execute).

The data of an action names, under `herald`, the notification that it belongs to. That is neither a secret nor a proof:
the handler checks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What the verbs and ids of our own begin with; no action or element of a caller's card does.
OWN = "herald."

ACKNOWLEDGE = "herald.acknowledge"
WHY = "herald.why"
MUTE = "herald.mute"
TO_DIGEST = "herald.digest"
STOP = "herald.stop"
SNOOZE_HOUR = "herald.snoozeHour"
SNOOZE_TOMORROW = "herald.snoozeTomorrow"
PREFERENCES = "herald.preferences"
SAVE = "herald.save"
SHOW = "herald.show"  #: back to the card of the notification
SAMPLE = "herald.sample"
PAUSE = "herald.pause"


def execute(title: str, verb: str, herald: Mapping[str, Any]) -> dict[str, Any]:
    """A button; `herald` is what it says of where it belongs. It sends nothing that was typed into the card."""
    data = {"herald": dict(herald)}
    return {"type": "Action.Execute", "title": title, "verb": verb, "data": data, "associatedInputs": "none"}


def verb_of(action: Mapping[str, Any]) -> str:
    """What an Action.Execute asks for, by its verb or else its id; "" for an action that has neither."""
    return str(action.get("verb") or action.get("id") or "")
