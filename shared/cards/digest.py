"""Render the card of a digest: held notifications by category, the most urgent first.

The first lines of a category are visible, the others after a click without a request: the card holds the whole digest.
Texts of upstream systems are cut to one line and shown in text runs, which no client reads as Markdown ("TextRun",
Adaptive Cards schema).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from shared.cards.elements import block, card, heading
from shared.cards.replies import one_line
from shared.cards.texts import moment, plain, text_of, unmarked

#: Lines of a category that are shown at once.
SHOWN = 5
#: Longest text of the toast, in characters.
MAX_TOAST_CHARS = 100
#: Longest title and detail of a line, and longest name of a category, in characters.
MAX_TITLE_CHARS = 120
MAX_DETAIL_CHARS = 120
MAX_NAME_CHARS = 60
#: Longest address of a link, in characters; a line with a longer one has none.
MAX_LINK_CHARS = 500

#: A time stays on one line: with a blank and hyphens at which no line is broken.
_UNBROKEN = str.maketrans(" -", "\u00a0\u2011")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a digest: the newest of `times` notifications about one subject, from `at` (with a zone).

    `category` is its label, `link` the address that the title leads to, "" for none.
    """

    category: str
    title: str
    detail: str = ""
    link: str = ""
    at: datetime
    urgent: bool = False
    times: int = 1


def draw(lines: Sequence[Line], zone: ZoneInfo, language: str, more: int = 0, *, held: bool = False) -> dict[str, Any]:
    """The Adaptive Card of these lines in a language, with times as clocks in `zone` show them.

    `more` notifications did not fit, and wait for the next digest. `held` says that its reader has no digests, and that
    these were only held together.
    """
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.category, []).append(line)
    count = sum(line.times for line in lines)
    title = text_of(language, "digest.many" if count > 1 else "digest.one", count=count)
    body: list[dict[str, Any]] = [heading(title)]
    for number, (category, found) in enumerate(groups.items()):
        body += _group(f"more{number}", category, found, zone, language)
    if more:
        body.append(block(text_of(language, "digest.more", count=more), separator=True))
    how = text_of(language, "digest.held" if held else "digest.how", zone=zone.key)
    body.append(block(how, size="Small", isSubtle=True, separator=not more))
    titles = ", ".join(unmarked(line.title) for line in lines)
    return card(body) | {"fallbackText": one_line(f"{title}: {titles}", MAX_TOAST_CHARS)}


def _group(name: str, category: str, lines: Sequence[Line], zone: ZoneInfo, language: str) -> list[dict[str, Any]]:
    count = sum(line.times for line in lines)
    named = f"{plain(one_line(category, MAX_NAME_CHARS))} ({count})"
    drawn = [
        block(named, size="Medium", weight="Bolder", spacing="Large"),
        *(_line(line, zone, language) for line in lines[:SHOWN]),
    ]
    rest = [_line(line, zone, language) for line in lines[SHOWN:]]
    if not rest:
        return drawn
    hidden = {"type": "Container", "id": name, "isVisible": False, "items": rest}
    title = text_of(language, "digest.rest", count=len(rest))
    button = f"{name}.button"
    toggle = {"type": "Action.ToggleVisibility", "title": title, "targetElements": [name, button]}
    return [*drawn, hidden, {"type": "ActionSet", "id": button, "actions": [toggle]}]


def _line(line: Line, zone: ZoneInfo, language: str) -> dict[str, Any]:
    title: dict[str, Any] = {"type": "TextRun", "text": one_line(unmarked(line.title), MAX_TITLE_CHARS)}
    if line.link and len(line.link) <= MAX_LINK_CHARS:
        title["selectAction"] = {"type": "Action.OpenUrl", "url": line.link}
    urgent = {"type": "TextRun", "text": text_of(language, "digest.urgent"), "color": "Attention", "weight": "Bolder"}
    said = (
        one_line(unmarked(line.detail), MAX_DETAIL_CHARS),
        text_of(language, "digest.updates", count=line.times) if line.times > 1 else "",
        moment(line.at, zone).translate(_UNBROKEN),
    )
    about = {"type": "TextRun", "text": "".join(f" · {part}" for part in said if part), "isSubtle": True}
    return {"type": "RichTextBlock", "inlines": [*([urgent] if line.urgent else []), title, about], "spacing": "Small"}
