"""The structure of an Adaptive Card, by the official JSON Schema of version 1.5 and what Teams adds to it.

The schema lies beside this module as published. Its `anyOf` lists are turned into a question with one answer
(which JSON type, which `type`), so that a fault is told inside the element that was meant, and a card costs time
in proportion to its size. Properties that the schema does not know pass: a client ignores them, Teams adds to them,
and Microsoft's own samples have some. Sources of the additions: the card model of Microsoft's Teams SDK (npm
`@microsoft/teams.cards` 2.1.0), and "Format cards in Teams" (Microsoft Learn) for the style `filtered`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from shared.contract.faults import Fault

SCHEMA = Path(__file__).with_name("adaptive-card-1.5.schema.json")

#: Types that Teams renders and the schema does not know; their insides are not checked.
TEAMS_TYPES: Mapping[str, tuple[str, ...]] = {
    "ImplementationsOf.Element": (
        "Badge",
        "Carousel",
        "Chart.Donut",
        "Chart.Gauge",
        "Chart.HorizontalBar",
        "Chart.HorizontalBar.Stacked",
        "Chart.Line",
        "Chart.Pie",
        "Chart.VerticalBar",
        "Chart.VerticalBar.Grouped",
        "CodeBlock",
        "Component",
        "CompoundButton",
        "Icon",
        "Input.Rating",
        "ProgressBar",
        "ProgressRing",
        "Rating",
    ),
    "ImplementationsOf.Action": ("Action.OpenUrlDialog", "Action.Popover", "Action.ResetInputs"),
    "ImplementationsOf.ISelectAction": ("Action.OpenUrlDialog", "Action.Popover", "Action.ResetInputs"),
    "ImplementationsOf.Inline": ("IconRun", "ImageRun"),
}
#: Values that Teams knows beyond the schema's.
TEAMS_VALUES: Mapping[str, tuple[str, ...]] = {
    "ChoiceInputStyle": ("filtered",),
    "ImageStyle": ("roundedCorners",),
    "Spacing": ("extraSmall",),
    "TextBlockStyle": ("columnHeader",),
}

_NAMES = {
    "array": "an array",
    "boolean": "true or false",
    "null": "null",
    "number": "a number",
    "object": "an object",
    "string": "a string",
}


def faults(card: Mapping[str, Any]) -> Iterator[Fault]:
    """Where `card` departs from the schema, lazily; a message repeats no text of the card."""
    for error in _validator().iter_errors(card):
        yield Fault(pointer(*error.absolute_path), error.message)


def pointer(*path: str | int) -> str:
    """The JSON pointer (RFC 6901) of a path."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


@cache
def _validator() -> Any:
    from jsonschema import Draft6Validator  # slow to import, and few callers send a card of their own
    from jsonschema.validators import extend

    published = orjson.loads(SCHEMA.read_bytes())["definitions"]
    for name, values in TEAMS_VALUES.items():
        published[name]["anyOf"][0]["enum"] += values
    del published["TableCell"]["required"]  # Teams renders an empty cell, and Microsoft's samples have some
    root: dict[str, Any] = {
        "required": ["type", "version"],  # a card inside Action.ShowCard needs neither
        "allOf": [{"$ref": "#/definitions/AdaptiveCard"}],
        "definitions": {name: _decided(part, published) for name, part in published.items()},
    }
    for name, types in TEAMS_TYPES.items():
        root["definitions"][name]["byKind"]["object"]["byType"] |= {each: {} for each in types}
    keywords = {
        "byKind": _by_kind,
        "byType": _by_type,
        "enum": _enum,
        "required": _required,
        "type": _type,
    }
    return extend(Draft6Validator, keywords)(root)


def _decided(part: Any, published: Mapping[str, Any]) -> Any:
    """`part` of the schema, each `anyOf` replaced by what tells its branches apart; no property is forbidden."""
    if isinstance(part, list):
        return [_decided(each, published) for each in part]
    if not isinstance(part, dict):
        return part
    if "anyOf" not in part:
        return {name: _decided(each, published) for name, each in part.items() if each is not False}
    branches = part["anyOf"]
    if "pattern" in branches[-1]:  # the same values in any case, of which the pattern takes too much
        return {"enum": branches[0]["enum"]}
    if "allOf" not in branches[0]:
        return {"byKind": {kind: _decided(each, published) for each in branches for kind in _kinds(each, published)}}
    references = [branch["allOf"][0] for branch in branches]
    kinds = [kind for each in references for kind in _kinds(each, published)]
    types = {each["$ref"].removeprefix("#/definitions/"): each for each in references}
    return {"byKind": {kind: {} for kind in kinds} | {"object": {"byType": types}}}


def _kinds(part: Mapping[str, Any], published: Mapping[str, Any]) -> list[str]:
    """The JSON types that `part` of the schema takes."""
    if "$ref" in part:
        return _kinds(published[part["$ref"].removeprefix("#/definitions/")], published)
    if "anyOf" in part:
        return [kind for each in part["anyOf"] for kind in _kinds(each, published)]
    if "allOf" in part and "type" not in part:
        return ["object"]
    return [part.get("type", "string")]


# The keywords: each takes the validator, its value in the schema, the part of the card, and the schema around it.


def _by_kind(validator: Any, kinds: Mapping[str, Any], value: Any, schema: Any) -> Iterator[Any]:
    for kind, branch in kinds.items():
        if validator.is_type(value, kind):
            yield from validator.descend(value, branch)
            return
    yield _error("must be " + " or ".join(_NAMES[kind] for kind in kinds))


def _by_type(validator: Any, types: Mapping[str, Any], value: Mapping[str, Any], schema: Any) -> Iterator[Any]:
    name = value.get("type")
    if name is None:
        yield _error("is missing", "type")
    elif isinstance(name, str) and name in types:
        yield from validator.descend(value, types[name])
    elif "fallback" in value:  # a client that does not know the type renders the fallback
        fallback = {"byKind": {"object": {"byType": types}, "string": {"enum": ["drop"]}}}
        yield from validator.descend(value["fallback"], fallback, path="fallback")
    else:
        noun = "action" if all(each.startswith("Action.") for each in types) else "element"
        yield _error(f"is no {noun} of Adaptive Cards that may stand here", "type")


def _enum(validator: Any, values: list[str], value: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(value, str) or value.lower() not in {each.lower() for each in values}:
        yield _error("must be one of " + ", ".join(values))


def _required(validator: Any, names: list[str], value: Any, schema: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name in names:
            if name not in value:
                yield _error("is missing", name)


def _type(validator: Any, kind: str, value: Any, schema: Any) -> Iterator[Any]:
    if not validator.is_type(value, kind):
        yield _error(f"must be {_NAMES[kind]}")


def _error(message: str, *path: str) -> Any:
    from jsonschema import ValidationError

    return ValidationError(message, path=path)
