"""Validate the structure of an Adaptive Card against the official JSON Schema 1.5, with Teams' additions.

The schema file beside this module is unchanged. This module replaces each `anyOf` by a choice according to the JSON
type and the `type` of the value. Therefore a fault points into the element that was meant, and the time of a check is
proportional to the size of the card. Properties that the schema does not know are allowed: clients ignore them, Teams
adds some, and Microsoft's own samples use some. Sources of the additions: the card model of Microsoft's Teams SDK (npm
`@microsoft/teams.cards` 2.1.0), and "Format cards in Teams" (Microsoft Learn) for the style `filtered`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from shared.contract.faults import Fault

SCHEMA_FILE = Path(__file__).with_name("adaptive-card-1.5.schema.json")

#: Types that Teams renders and the schema does not know; their properties are not checked.
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
#: Values that Teams accepts in addition to the schema's.
TEAMS_VALUES: Mapping[str, tuple[str, ...]] = {
    "ChoiceInputStyle": ("filtered",),
    "ImageStyle": ("roundedCorners",),
    "Spacing": ("extraSmall",),
    "TextBlockStyle": ("columnHeader",),
}

_TYPE_NAMES = {
    "array": "an array",
    "boolean": "true or false",
    "null": "null",
    "number": "a number",
    "object": "an object",
    "string": "a string",
}


def find_schema_faults(card: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield each violation of the schema; a message repeats no text of the card."""
    for error in _validator().iter_errors(card):
        yield Fault(json_pointer(*error.absolute_path), error.message)


def json_pointer(*path: str | int) -> str:
    """Return the JSON pointer (RFC 6901) of a path."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


@cache
def _validator() -> Any:
    from jsonschema import Draft6Validator  # slow to import, and few upstream systems send their own cards
    from jsonschema.validators import extend

    published = orjson.loads(SCHEMA_FILE.read_bytes())["definitions"]
    for name, values in TEAMS_VALUES.items():
        published[name]["anyOf"][0]["enum"] += values
    del published["TableCell"]["required"]  # Teams renders empty cells, and Microsoft's samples have some
    root: dict[str, Any] = {
        "required": ["type", "version"],  # only here: a card inside Action.ShowCard needs neither
        "allOf": [{"$ref": "#/definitions/AdaptiveCard"}],
        "definitions": {name: _without_any_of(part, published) for name, part in published.items()},
    }
    for name, types in TEAMS_TYPES.items():
        root["definitions"][name]["byJsonType"]["object"]["byType"] |= {each: {} for each in types}
    keywords = {
        "byJsonType": _by_json_type,
        "byType": _by_type,
        "enum": _enum,
        "required": _required,
        "type": _type,
    }
    return extend(Draft6Validator, keywords)(root)


def _without_any_of(part: Any, published: Mapping[str, Any]) -> Any:
    """Return `part` of the schema with `byJsonType` and `byType` instead of each `anyOf`; no property is forbidden."""
    if isinstance(part, list):
        return [_without_any_of(each, published) for each in part]
    if not isinstance(part, dict):
        return part
    if "anyOf" not in part:
        return {name: _without_any_of(each, published) for name, each in part.items() if each is not False}
    branches = part["anyOf"]
    if "pattern" in branches[-1]:  # the same values in any case; the pattern accepts too much
        return {"enum": branches[0]["enum"]}
    if "allOf" not in branches[0]:
        by_type = {kind: _without_any_of(each, published) for each in branches for kind in _json_types(each, published)}
        return {"byJsonType": by_type}
    references = [branch["allOf"][0] for branch in branches]
    json_types = [json_type for each in references for json_type in _json_types(each, published)]
    types = {each["$ref"].removeprefix("#/definitions/"): each for each in references}
    return {"byJsonType": {json_type: {} for json_type in json_types} | {"object": {"byType": types}}}


def _json_types(part: Mapping[str, Any], published: Mapping[str, Any]) -> list[str]:
    """Return the JSON types that `part` of the schema allows."""
    if "$ref" in part:
        return _json_types(published[part["$ref"].removeprefix("#/definitions/")], published)
    if "anyOf" in part:
        return [json_type for each in part["anyOf"] for json_type in _json_types(each, published)]
    if "allOf" in part and "type" not in part:
        return ["object"]
    return [part.get("type", "string")]


# The keywords. Parameters: the validator, the keyword's value, the value in the card, the schema around the keyword.


def _by_json_type(validator: Any, json_types: Mapping[str, Any], value: Any, schema: Any) -> Iterator[Any]:
    for json_type, branch in json_types.items():
        if validator.is_type(value, json_type):
            yield from validator.descend(value, branch)
            return
    yield _error("must be " + " or ".join(_TYPE_NAMES[json_type] for json_type in json_types))


def _by_type(validator: Any, types: Mapping[str, Any], value: Mapping[str, Any], schema: Any) -> Iterator[Any]:
    name = value.get("type")
    if name is None:
        yield _error("is missing", "type")
    elif isinstance(name, str) and name in types:
        yield from validator.descend(value, types[name])
    elif "fallback" in value:  # a client that does not know the type renders the fallback
        fallback = {"byJsonType": {"object": {"byType": types}, "string": {"enum": ["drop"]}}}
        yield from validator.descend(value["fallback"], fallback, path="fallback")
    else:
        noun = "action" if all(each.startswith("Action.") for each in types) else "element"
        yield _error(f"is not an {noun} of Adaptive Cards that is allowed here", "type")


def _enum(validator: Any, values: list[str], value: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(value, str) or value.lower() not in {each.lower() for each in values}:
        yield _error("must be one of " + ", ".join(values))


def _required(validator: Any, names: list[str], value: Any, schema: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name in names:
            if name not in value:
                yield _error("is missing", name)


def _type(validator: Any, json_type: str, value: Any, schema: Any) -> Iterator[Any]:
    if not validator.is_type(value, json_type):
        yield _error(f"must be {_TYPE_NAMES[json_type]}")


def _error(message: str, *path: str) -> Any:
    from jsonschema import ValidationError

    return ValidationError(message, path=path)
