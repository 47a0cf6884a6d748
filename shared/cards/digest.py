"""Draw the card of a digest: its notifications by category, the most urgent first.

The card holds the whole digest: the first lines of a category are visible, and a button shows the others without a
request. Texts of upstream systems are cut to one line, and shown without Markdown: in text runs, which clients do not
render as Markdown ("TextRun", Adaptive Cards schema), or escaped, if several people see the card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from shared.cards.elements import adaptive_card, heading, markdown_text
from shared.cards.reader_times import escape_around_times, reader_time, with_local_times
from shared.cards.replies import to_one_line
from shared.texts import escape_markdown, format_time, strip_markdown, text_of

#: Most lines of a category that are visible without a click.
MAX_VISIBLE_LINES = 5
#: Longest text of the toast, in characters.
MAX_TOAST_CHARS = 100
#: Longest title and detail of a line, and longest label of a category, in characters.
MAX_TITLE_CHARS = 120
MAX_DETAIL_CHARS = 120
MAX_CATEGORY_CHARS = 60
#: Longest address of a link, in characters; a longer one is left out.
MAX_LINK_CHARS = 500

#: Non-breaking space and hyphens, so that clients do not break a time over two lines.
_NON_BREAKING = str.maketrans(" -", "\u00a0\u2011")
#: A parenthesis would end the address of a Markdown link.
_URL_PARENTHESES = str.maketrans({"(": "%28", ")": "%29"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestLine:
    """The newest of `times` notifications in one thread, with the aware time `at`.

    `category` is the category's label, and `link` the address behind the title, "" for none.
    """

    category: str
    title: str
    detail: str = ""
    link: str = ""
    at: datetime
    urgent: bool = False
    times: int = 1


def draw_digest_card(
    lines: Sequence[DigestLine], zone: ZoneInfo | None, language: str, more: int = 0, *, held: bool = False
) -> dict[str, Any]:
    """Return the Adaptive Card of these lines in a language, with local times in `zone`.

    Without a zone, several people see the card, and each sees the times as their own.
    `more` notifications did not fit and will be in the next digest. `held`: the reader has no digests, but several
    notifications were held for them.
    """
    categories: dict[str, list[DigestLine]] = {}
    for line in lines:
        categories.setdefault(line.category, []).append(line)
    count = sum(line.times for line in lines)
    title = text_of(language, "digest.many" if count > 1 else "digest.one", count=count)
    body: list[dict[str, Any]] = [heading(title)]
    for number, (category, category_lines) in enumerate(categories.items()):
        body += _category_elements(f"more{number}", category, category_lines, zone, language)
    if more:
        body.append(markdown_text(text_of(language, "digest.more", count=more), separator=True))
    note = text_of(language, "digest.held" if held else "digest.how")
    if zone:
        note = f"{text_of(language, 'digest.zone', zone=zone.key)} {note}"
    body.append(markdown_text(note, size="Small", isSubtle=True, separator=not more))
    titles = ", ".join(_visible_text(line.title, zone) for line in lines)
    return adaptive_card(body) | {"fallbackText": to_one_line(f"{title}: {titles}", MAX_TOAST_CHARS)}


def _category_elements(
    hidden_id: str, category: str, lines: Sequence[DigestLine], zone: ZoneInfo | None, language: str
) -> list[dict[str, Any]]:
    count = sum(line.times for line in lines)
    label = escape_markdown(to_one_line(category, MAX_CATEGORY_CHARS))
    elements = [_line_element(line, zone, language) for line in lines]
    visible = [
        markdown_text(f"{label} ({count})", size="Medium", weight="Bolder", spacing="Large"),
        *elements[:MAX_VISIBLE_LINES],
    ]
    rest = elements[MAX_VISIBLE_LINES:]
    if not rest:
        return visible
    hidden = {"type": "Container", "id": hidden_id, "isVisible": False, "items": rest}
    title = text_of(language, "digest.rest", count=len(rest))
    button_id = f"{hidden_id}.button"
    toggle = {"type": "Action.ToggleVisibility", "title": title, "targetElements": [hidden_id, button_id]}
    return [*visible, hidden, {"type": "ActionSet", "id": button_id, "actions": [toggle]}]


def _line_element(line: DigestLine, zone: ZoneInfo | None, language: str) -> dict[str, Any]:
    title = to_one_line(_visible_text(line.title, zone), MAX_TITLE_CHARS)
    link = line.link if len(line.link) <= MAX_LINK_CHARS else ""
    urgent = text_of(language, "digest.urgent") if line.urgent else ""
    details = (
        to_one_line(_visible_text(line.detail, zone), MAX_DETAIL_CHARS),
        text_of(language, "digest.updates", count=line.times) if line.times > 1 else "",
        format_time(language, line.at, zone).translate(_NON_BREAKING) if zone else reader_time(line.at),
    )
    detail = "".join(f" · {part}" for part in details if part)
    if zone is None:  # text runs have no times for each reader
        shown = escape_markdown(title)
        text = f"{urgent}{f'[{shown}]({link.translate(_URL_PARENTHESES)})' if link else shown}"
        return markdown_text(text + escape_around_times(detail), spacing="Small")
    run: dict[str, Any] = {"type": "TextRun", "text": title}
    if link:
        run["selectAction"] = {"type": "Action.OpenUrl", "url": link}
    inlines = [run, {"type": "TextRun", "text": detail, "isSubtle": True}]
    if urgent:
        inlines.insert(0, {"type": "TextRun", "text": urgent, "color": "Attention", "weight": "Bolder"})
    return {"type": "RichTextBlock", "inlines": inlines, "spacing": "Small"}


def _visible_text(text: str, zone: ZoneInfo | None) -> str:
    """Return what a client would show for the Markdown of an upstream system, with local times in `zone`, or UTC."""
    return strip_markdown(with_local_times(text, zone or UTC))
