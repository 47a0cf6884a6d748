"""Times that clients show to each reader in their own zone and format, for cards that several people see.

Such a time is a function in the text of a text block, `{{DATE(2026-11-29T10:00:00Z, SHORT)}}` or `{{TIME(...)}}` ("Text
features", Adaptive Cards documentation). Other texts show it as it is written: text runs, toasts, the chat list.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo

from shared.texts import escape_markdown

_FUNCTION = re.compile(r"\{\{(DATE|TIME)\((\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|[+-]\d\d:\d\d))(?:, ?[A-Z]+)?\)\}\}")


def reader_time(at: datetime) -> str:
    """Return the functions that show an instant to the minute, for the text of a text block."""
    instant = f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return f"{{{{DATE({instant}, SHORT)}}}} {{{{TIME({instant})}}}}"


def has_reader_time(text: str) -> bool:
    return _FUNCTION.search(text) is not None


def with_local_times(text: str, zone: tzinfo = UTC) -> str:
    """Return `text` with local times in `zone` instead of functions: `2026-11-29 10:00 UTC`, in other zones no name."""

    def local(found: re.Match[str]) -> str:
        try:
            at = datetime.fromisoformat(found[2]).astimezone(zone)
        except ValueError:  # a date or time that does not exist; a client shows the function as it is
            return found[0]
        return f"{at:%Y-%m-%d}" if found[1] == "DATE" else f"{at:%H:%M}{' UTC' if zone is UTC else ''}"

    return _FUNCTION.sub(local, text)


def escape_around_times(text: str) -> str:
    """Return `text` so that a text block shows it as it is, without Markdown and mentions, but with its functions."""
    parts, end = [], 0
    for found in _FUNCTION.finditer(text):
        parts += [escape_markdown(text[end : found.start()]), found[0]]
        end = found.end()
    return "".join([*parts, escape_markdown(text[end:])])
