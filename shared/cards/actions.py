"""Find the actions of a card that call the bot (Action.Execute), wherever they are on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.cards.action_verbs import verb_of

#: Properties whose values are the bot's, not the card's.
OPAQUE = frozenset({"data", "metadata", "msteams", "requires"})


def executed(part: Any) -> list[dict[str, Any]]:
    """Every one of a part of a card."""
    if isinstance(part, list):
        return [action for each in part for action in executed(each)]
    if not isinstance(part, dict):
        return []
    own = [part] if part.get("type") == "Action.Execute" else []
    return own + [action for name, each in part.items() if name not in OPAQUE for action in executed(each)]


def bound(part: Any, key: str) -> Any:
    """A part of a card, each action with the notification of this key in its data."""
    if isinstance(part, list):
        return [bound(each, key) for each in part]
    if not isinstance(part, dict):
        return part
    inside = {name: value if name in OPAQUE else bound(value, key) for name, value in part.items()}
    if part.get("type") != "Action.Execute":
        return inside
    data = part.get("data", {})
    # A text has no place for a member of ours.
    return inside | {"data": (data if isinstance(data, dict) else {"data": data}) | {"herald": {"n": key}}}


def without(part: Any, verbs: frozenset[str]) -> Any:
    """A part of a card without the actions of these verbs, and without the sets that are empty then."""
    if isinstance(part, list):
        kept = [without(each, verbs) for each in part if not (isinstance(each, dict) and _does(each, verbs))]
        return [each for each in kept if not (isinstance(each, dict) and _is_empty(each))]
    if not isinstance(part, dict):
        return part
    return {
        name: value if name in OPAQUE else without(value, verbs)
        for name, value in part.items()
        if not (isinstance(value, dict) and _does(value, verbs))
    }


def _does(action: Mapping[str, Any], verbs: frozenset[str]) -> bool:
    return action.get("type") == "Action.Execute" and verb_of(action) in verbs


def _is_empty(element: Mapping[str, Any]) -> bool:
    return element.get("type") == "ActionSet" and not element.get("actions")
