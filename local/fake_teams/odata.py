"""The query options of OData that Graph knows, as far as the fake supports them: $select, $filter, $top, $skiptoken."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from local.fake_teams.errors import GraphError

#: The default and the maximal number of objects of a page ("Paging Microsoft Graph data in your app").
DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 100, 999

#: Reads a property of an object.
Getters = Mapping[str, Callable[[Any], Any]]

_CONDITION = re.compile(r"\s*([\w/]+)\s+(eq|ne)\s+('(?:[^']|'')*'|[\w.-]+)\s*")
_LITERALS = {"true": True, "false": False, "null": None}


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a property; texts are compared without case, as the directory does."""

    name: str
    equal: bool
    value: str | bool | None

    def matches(self, found: Any) -> bool:
        found = found.lower() if isinstance(found, str) else found
        return (found == self.value) is self.equal


@dataclass(frozen=True, slots=True)
class Filter:
    """Alternatives, each of which is a list of conditions."""

    alternatives: tuple[tuple[Condition, ...], ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(condition.name for conditions in self.alternatives for condition in conditions)

    @property
    def is_advanced(self) -> bool:
        """Return whether it is one of the "advanced queries": `ne` is, `eq` is not."""
        return any(not condition.equal for conditions in self.alternatives for condition in conditions)

    def compile(self, getters: Getters) -> Callable[[Any], bool]:
        """Return the predicate of an object."""
        compiled = [[(getters[each.name], each) for each in conditions] for conditions in self.alternatives]
        return lambda item: any(all(each.matches(get(item)) for get, each in conditions) for conditions in compiled)

    def list_values(self, names: frozenset[str]) -> list[str] | None:
        """Return the values of which a matching object has one in a property of `names`; None if it needs none."""
        values: list[str] = []
        for conditions in self.alternatives:
            found = [each.value for each in conditions if each.equal and each.name in names]
            if not found or not isinstance(found[0], str):
                return None
            values.append(found[0])
        return values


def parse_filter(text: str, getters: Getters) -> Filter:
    """Parse comparisons with `and` and `or`, without parentheses; raises `GraphError` 400."""
    alternatives: list[list[Condition]] = [[]]
    position = 0
    while True:
        found = _CONDITION.match(text, position)
        if found is None:
            raise GraphError(400, message=f"Invalid filter clause: {text[position:]!r}.")
        name, operator, literal = found.groups()
        if name not in getters:
            raise GraphError(400, message=f"Could not find a property named '{name}'.")
        if literal not in _LITERALS and not literal.startswith("'"):
            raise GraphError(400, message=f"Invalid filter clause: unknown literal {literal!r}.")
        value = _LITERALS[literal] if literal in _LITERALS else literal[1:-1].replace("''", "'").lower()
        alternatives[-1].append(Condition(name, operator == "eq", value))
        position = found.end()
        if position == len(text):
            return Filter(tuple(map(tuple, alternatives)))
        if text.startswith("or ", position):
            alternatives.append([])
            position += 3
        elif text.startswith("and ", position):
            position += 4
        else:
            raise GraphError(400, message=f"Invalid filter clause: {text[position:]!r}.")


def parse_select(query: Mapping[str, str], getters: Getters, default: tuple[str, ...]) -> tuple[str, ...]:
    """Return the selected names; raises `GraphError` 400 for an unknown one."""
    names = tuple(name.strip() for name in query["$select"].split(",")) if "$select" in query else default
    for name in names:
        if name not in getters:
            text = f"Parsing OData Select and Expand failed: Could not find a property named '{name}'."
            raise GraphError(400, message=text)
    return names


def parse_top(query: Mapping[str, str]) -> int:
    """Return the size of a page; raises `GraphError` 400."""
    text = query.get("$top", str(DEFAULT_PAGE_SIZE))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_PAGE_SIZE:
        message = f"Invalid page size specified: '{text}'. Must be between 1 and {MAX_PAGE_SIZE} inclusive."
        raise GraphError(400, "Request_UnsupportedQuery", message)
    return int(text)


def encode_skip_token(position: int, generation: int, query: str) -> str:
    """Return the opaque token of the page from this position on; it is valid for this query only."""
    return base64.urlsafe_b64encode(f"{generation}.{position}.{_digest(query)}".encode()).decode().rstrip("=")


def decode_skip_token(token: str, generation: int, query: str) -> int:
    """Return the position of a token; raises `GraphError` 400 for one that is expired, of another query, or broken."""
    try:
        made, position, digest = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode().split(".")
        if digest != _digest(query):
            raise ValueError(token)
        start = int(position)
    except ValueError:
        raise GraphError(400, message="The specified page token value is not valid for this request.") from None
    if made != str(generation):
        text = "The specified page token value has expired and can no longer be included in your request."
        raise GraphError(400, "Directory_ExpiredPageToken", text)
    return start


def _digest(query: str) -> str:
    return hashlib.blake2b(query.encode(), digest_size=8).hexdigest()
