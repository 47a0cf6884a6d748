"""Describe what pydantic finds wrong in a message as faults: one line each, in the words of the contract.

A fault says what was found only by its JSON type: it repeats no value of the message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

from shared.contract.faults import Fault, describe_type
from shared.contract.models import INSTANT, RECIPIENT_TAGS


def to_fault(error: Mapping[str, Any], root: type[BaseModel]) -> Fault:
    """Return the fault of one error of pydantic about a value that should be a `root`."""
    path: Sequence[int | str] = error["loc"]
    # pydantic adds the tag of the chosen recipient model, which is no part of the message.
    names = [str(part) for part in path if part not in RECIPIENT_TAGS]
    pointer = "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)
    return Fault(pointer, _describe(error, root))


def _describe(error: Mapping[str, Any], root: type[BaseModel]) -> str:
    kind: str = error["type"]
    limits: Mapping[str, Any] = error.get("ctx", {})
    found = describe_type(error["input"])
    match kind:
        case "value_error":
            return str(limits["error"])
        case "recipient_kind":
            return str(error["msg"])
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is not a field here" + _suggest(str(error["loc"][-1]), _models_at(root, error["loc"][:-1]))
        case "string_too_short" | "too_short":
            return "must not be empty"
        case "string_too_long":
            return f"must have at most {limits['max_length']} characters"
        case "too_long":
            return f"must have at most {limits['max_length']} entries, not {limits['actual_length']}"
        case "literal_error":
            # pydantic quotes texts as Python does, and names its constant True.
            expected = str(limits["expected"]).replace("'", '"').replace("True", "true")
            return f"must be {expected}"
        case "string_type":
            return f"must be a text, not {found}"
        case "bool_type":
            return f"must be true or false, not {found}"
        case "dict_type":
            return f"must be an object, not {found}"
        case "is_instance_of" | "sequence_str" | "list_type":
            return f"must be a list, not {found}"
        case "model_type" | "model_attributes_type":
            return f"must be {_describe_objects(_models_at(root, error['loc']))}, not {found}"
    return INSTANT if kind.startswith(("datetime", "timezone")) else f"cannot be {found} of this form"


def _describe_objects(models: Sequence[type[BaseModel]]) -> str:
    """Return what an object must have, such as "an object with url and altText"."""
    fields = {name: field.is_required() for model in models[:1] for name, field in _fields(model)}
    required = [name for name, is_required in fields.items() if is_required]
    if required:
        return f"an object with {_join(required)}"
    return f"an object that may have {_join(list(fields))}" if fields else "an object"


def _join(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _suggest(name: str, models: Sequence[type[BaseModel]]) -> str:
    """Return the end of a fault about an unknown field: the field that was probably meant, "" if none is similar."""
    here = {field.casefold(): field for model in models for field, _ in _fields(model)}
    if similar := get_close_matches(name.casefold(), here, n=1):
        return f"; did you mean {here[similar[0]]}?"
    inside = {
        inner.casefold(): field
        for model in models
        for field, info in _fields(model)
        for part in _models_in(info.annotation)
        for inner, _ in _fields(part)
    }
    owner = inside.get(name.casefold())
    return f"; did you mean it in {owner}?" if owner else ""


def _models_at(root: type[BaseModel], path: Sequence[int | str]) -> Sequence[type[BaseModel]]:
    """Return the models of the objects that are allowed at a location of pydantic."""
    models = [root]
    for part in path:
        if isinstance(part, int):
            continue
        if part in RECIPIENT_TAGS:
            models = [model for model in models if part[1:-1] in model.model_fields]
        else:
            models = [
                inner
                for model in models
                for name, field in _fields(model)
                if name == part
                for inner in _models_in(field.annotation)
            ]
    return models


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    return ((field.alias or name, field) for name, field in model.model_fields.items())


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in a type, such as the entries of a list or the alternatives of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
