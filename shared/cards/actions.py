"""Find, bind and remove the actions of a card that call the bot (Action.Execute), at any depth.

A `part` is any JSON value inside a card, or the whole card.
"""

from __future__ import annotations

from typing import Any

from shared.cards.action_verbs import verb_of

#: Properties with data for the bot or for Teams. They contain no elements or actions, whatever they look like.
OPAQUE_PROPERTIES = frozenset({"data", "metadata", "msteams", "requires"})


def find_execute_actions(part: Any) -> list[dict[str, Any]]:
    """Return every Action.Execute in a part of a card."""
    if isinstance(part, list):
        return [action for each in part for action in find_execute_actions(each)]
    if not isinstance(part, dict):
        return []
    found = [part] if part.get("type") == "Action.Execute" else []
    inner = (value for name, value in part.items() if name not in OPAQUE_PROPERTIES)
    return found + [action for value in inner for action in find_execute_actions(value)]


def bind_actions(part: Any, key: str) -> Any:
    """Return a part of a card with the notification's key in the data of each Action.Execute."""
    if isinstance(part, list):
        return [bind_actions(each, key) for each in part]
    if not isinstance(part, dict):
        return part
    inner = {name: value if name in OPAQUE_PROPERTIES else bind_actions(value, key) for name, value in part.items()}
    if part.get("type") != "Action.Execute":
        return inner
    data = part.get("data", {})
    # Teams routes a click by its verb. The schema also allows a string as data, which cannot carry the key.
    return inner | {
        "verb": verb_of(part),
        "data": (data if isinstance(data, dict) else {"data": data}) | {"herald": {"n": key}},
    }


def remove_actions(part: Any, verbs: frozenset[str]) -> Any:
    """Return a part of a card without the actions of these verbs, and without action sets that this empties."""
    if isinstance(part, list):
        remaining = [remove_actions(each, verbs) for each in part if not _is_action_of(each, verbs)]
        return [each for each in remaining if not _is_empty_set(each)]
    if not isinstance(part, dict):
        return part
    return {
        name: value if name in OPAQUE_PROPERTIES else remove_actions(value, verbs)
        for name, value in part.items()
        if not _is_action_of(value, verbs)
    }


def _is_action_of(part: Any, verbs: frozenset[str]) -> bool:
    return isinstance(part, dict) and part.get("type") == "Action.Execute" and verb_of(part) in verbs


def _is_empty_set(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "ActionSet" and not part.get("actions")
