"""Route templates of HTTP triggers, as ASP.NET reads them: `items/{id:int?}`, `files/{*path}`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: The constraints that are understood, as the text that they allow.
CONSTRAINTS: Mapping[str, str] = {
    "alpha": r"[A-Za-z]+",
    "bool": r"true|false",
    "decimal": r"[+-]?\d+(?:\.\d+)?",
    "double": r"[+-]?\d+(?:\.\d+)?",
    "float": r"[+-]?\d+(?:\.\d+)?",
    "guid": r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}",
    "int": r"[+-]?\d{1,10}",
    "long": r"[+-]?\d{1,19}",
}
_PARAMETER = re.compile(r"\{(\*{0,2})(\w[\w-]*)(?::(\w+))?(\?)?\}")
_LITERAL, _CONSTRAINED, _FREE, _REST = range(4)


@dataclass(frozen=True)
class Route:
    """One template: `rank` orders the more specific first, `methods` is empty where any method will do."""

    template: str
    methods: frozenset[str]
    rank: tuple[int, ...]
    _names: tuple[str, ...]
    _pattern: re.Pattern[str]

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """The route's parameters where it serves `method` on `path`, else None."""
        if self.methods and method not in self.methods:
            return None
        found = self._pattern.fullmatch(path)
        if found is None:
            return None
        return {name: value for name, value in zip(self._names, found.groups(), strict=True) if value}


def compile_route(template: str, methods: Iterable[str]) -> Route:
    """The route of `template` (with its prefix, without a leading slash); raises `ValueError` if it is unreadable."""
    names: list[str] = []
    rank: list[int] = []
    pattern = ""
    segments = [segment for segment in template.split("/") if segment]
    for position, segment in enumerate(segments):
        last = position == len(segments) - 1
        text, kind, optional = "", _LITERAL, False
        end = 0
        for match in _PARAMETER.finditer(segment):
            star, name, constraint, question = match.groups()
            if constraint and constraint not in CONSTRAINTS:
                raise ValueError(f"route {template!r}: the constraint {constraint!r} is not supported locally")
            if (star or question) and not (last and match.group() == segment):
                raise ValueError(f"route {template!r}: {match.group()} must be the whole last segment")
            text += _literal(template, segment[end : match.start()])
            text += f"({CONSTRAINTS[constraint]})" if constraint else "(.*)" if star else "([^/]+)"
            kind = max(kind, _REST if star else _CONSTRAINED if constraint else _FREE)
            optional = bool(star or question)
            names.append(name)
            end = match.end()
        text += _literal(template, segment[end:])
        pattern += f"(?:/{text})?" if optional else f"/{text}"
        rank.append(kind)
    return Route(
        template=template,
        methods=frozenset(method.upper() for method in methods),
        rank=tuple(rank),
        _names=tuple(names),
        _pattern=re.compile(pattern + "/?", re.IGNORECASE),
    )


def _literal(template: str, text: str) -> str:
    if "{" in text or "}" in text:
        raise ValueError(f"route {template!r} has a parameter of a form that is not supported locally")
    return re.escape(text)
