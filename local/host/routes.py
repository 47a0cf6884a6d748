"""Route templates of HTTP triggers, as ASP.NET matches them: `items/{id}` and `files/{*path}`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_PARAMETER = re.compile(r"\{(\*?)(\w[\w-]*)\}")
#: Ranks of a segment; a lower one is more specific.
_LITERAL, _NAMED, _CATCH_ALL = range(3)


@dataclass(frozen=True)
class RouteTemplate:
    """One template: routes are tried by ascending `rank`; no `methods` means any method."""

    template: str
    methods: frozenset[str]
    rank: tuple[int, ...]
    _names: tuple[str, ...]
    _pattern: re.Pattern[str]

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """Return the route parameters if the route serves `method` on `path`, else None."""
        if self.methods and method not in self.methods:
            return None
        found = self._pattern.fullmatch(path)
        if found is None:
            return None
        return {name: value for name, value in zip(self._names, found.groups(), strict=True) if value}


def compile_route(template: str, methods: Iterable[str]) -> RouteTemplate:
    """Return the route of `template`, which includes the prefix; raises `ValueError` for an unsupported parameter."""
    names: list[str] = []
    rank: list[int] = []
    pattern = ""
    for segment in filter(None, template.split("/")):
        parameter = _PARAMETER.fullmatch(segment)
        if _CATCH_ALL in rank or (parameter is None and ("{" in segment or "}" in segment)):
            raise ValueError(f"route {template!r} is not supported: use {{name}}, or {{*path}} as the last segment")
        if parameter is None:
            rank.append(_LITERAL)
            pattern += f"/{re.escape(segment)}"
            continue
        names.append(parameter[2])
        rank.append(_CATCH_ALL if parameter[1] else _NAMED)
        pattern += "(?:/(.*))?" if parameter[1] else "/([^/]+)"
    return RouteTemplate(
        template=template,
        methods=frozenset(method.upper() for method in methods),
        rank=tuple(rank),
        _names=tuple(names),
        _pattern=re.compile(pattern + "/?", re.IGNORECASE),
    )
