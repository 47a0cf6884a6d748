"""The verbs of Herald's own card actions (Action.Execute).

The data of an action names the action's notification under `herald`. Clients can forge it: the handler verifies it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Prefix of Herald's own verbs and ids. Cards of upstream systems must not use it.
RESERVED_PREFIX = "herald."

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


def action_button(title: str, verb: str, herald: Mapping[str, Any]) -> dict[str, Any]:
    """Return a button with `herald` in its data; a click does not send the inputs of the card."""
    data = {"herald": dict(herald)}
    return {"type": "Action.Execute", "title": title, "verb": verb, "data": data, "associatedInputs": "none"}


def verb_of(action: Mapping[str, Any]) -> str:
    """Return the verb of an Action.Execute, or else its id; "" for an action that has neither."""
    return str(action.get("verb") or action.get("id") or "")
