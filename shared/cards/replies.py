"""Render the small cards that answer a command.

Text that a person wrote is shown in text runs, which no client reads as Markdown ("TextRun", Adaptive Cards schema): it
can hold no link, no image and no mention.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from shared.preferences.categories import DEFAULT, Categories
from shared.preferences.preferences import FOREVER, Preferences
from shared.states import Mode
from shared.time.localtime import to_wall_time

#: Longest text in one line, in characters, and longest piece of it that a person wrote.
MAX_LINE_CHARS = 1000
MAX_ECHO_CHARS = 100
#: Most values that are listed in one line.
MAX_LISTED = 20

#: A line of a reply: its label, "" for none, and its text.
Line = tuple[str, str]

_LIKE_MARKUP = str.maketrans("<>", "‹›")
_SOFT_HYPHEN = "\xad"
#: What joins, or parts, the letters of some scripts and the signs of an emoji (ZWNJ, ZWJ): unseen, and no blank.
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True, slots=True)
class Reply:
    """`title` says what came of it, in our own words alone; `lines` say more."""

    title: str
    lines: Sequence[Line] = ()


def draw(reply: Reply) -> dict[str, Any]:
    """The Adaptive Card of a reply."""
    heading = {"type": "TextBlock", "text": reply.title, "wrap": True, "weight": "Bolder", "style": "heading"}
    return {
        "type": "AdaptiveCard",
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": "1.5",
        "fallbackText": reply.title,
        "body": [heading, *map(_drawn, reply.lines)],
    }


def _drawn(line: Line) -> dict[str, Any]:
    label, text = line
    runs = [{"type": "TextRun", "text": f"{one_line(label)}  ", "weight": "Bolder"}] if label else []
    return {
        "type": "RichTextBlock",
        "inlines": [*runs, {"type": "TextRun", "text": one_line(text)}],
        "spacing": "Small",
    }


def one_line(text: str, longest: int = MAX_LINE_CHARS) -> str:
    """`text` in one line of printable characters, cut to `longest`, without what looks like markup."""
    text = text.replace(_SOFT_HYPHEN, "")
    printable = "".join(character if character.isprintable() or character in _JOINERS else " " for character in text)
    line = " ".join(printable.split()).translate(_LIKE_MARKUP)
    return line if len(line) <= longest else line[: longest - 1] + "…"


def echo(text: str) -> str:
    """What a person wrote, as part of a line."""
    return f"“{one_line(text, MAX_ECHO_CHARS)}”"


def moment(at: datetime, zone: ZoneInfo) -> str:
    """A time as clocks in `zone` show it: `Mon 30 Nov 2026, 09:00 (Europe/Berlin)`."""
    return f"{to_wall_time(at, zone):%a %d %b %Y, %H:%M} ({zone.key})"


def listed(values: Iterable[str]) -> str:
    """Values in one line; after the first `MAX_LISTED` how many more there are."""
    every = [one_line(each, MAX_ECHO_CHARS) for each in values]
    more = f" and {len(every) - MAX_LISTED} more" if len(every) > MAX_LISTED else ""
    return ", ".join(every[:MAX_LISTED]) + more


def paused(until: datetime, zone: ZoneInfo) -> Reply:
    if until >= FOREVER:
        return Reply("Paused", [("", "Messages wait until you write “resume”.")])
    return Reply(
        f"Paused until {moment(until, zone)}", [("", "Messages wait until then; “resume” sends them earlier.")]
    )


def stopped(categories: Categories) -> Reply:
    """What `stop` says: also which categories stay, as they are mandatory."""
    dropped = "What waited for you is not sent either."
    lines = [
        ("", f"Nothing is sent any more but answers to what you write. “start” switches messages on again. {dropped}")
    ]
    if stays := mandatory(categories):
        lines.append(("Mandatory, cannot be switched off:", listed(stays)))
    return Reply("Stopped", lines)


def mandatory(categories: Categories) -> Sequence[str]:
    """What people see of the categories that nobody can switch off."""
    named = [category.label for category in categories.declared if category.mandatory]
    return [*named, "all other categories"] if categories.of(DEFAULT).mandatory else named


def modes(preferences: Preferences, categories: Categories) -> Mapping[str, Mode]:
    """The categories, by what people see of them, of which somebody is told otherwise than declared."""
    chosen = replace(preferences, stopped=False)
    names = dict.fromkeys((*(category.name for category in categories.declared), *preferences.categories))
    every = [categories.of(name) for name in names]
    return {each.label: chosen.mode(each) for each in every if chosen.mode(each) is not each.default}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How things stand with somebody at `now`: `waiting` messages do, `more` than those too.

    `zone` is their zone and `zone_from` says where that comes from; `digest` is the rule of who chose none, and
    `next_digest` when the next one comes, if one does.
    """

    now: datetime
    preferences: Preferences
    zone: ZoneInfo
    zone_from: str
    digest: str
    next_digest: datetime | None
    waiting: int
    more: bool


def status(standing: Standing, categories: Categories) -> Reply:
    """What is set, and how many messages wait."""
    preferences, zone = standing.preferences, standing.zone
    differing = [f"{label} {mode}" for label, mode in modes(preferences, categories).items()]
    if preferences.default:
        differing.append(f"all others {preferences.default}")
    waiting = f"{standing.waiting}{' or more' if standing.more else ''}"
    return Reply(
        "Status",
        [
            ("Messages", _messages(standing)),
            ("Quiet hours", preferences.quiet or "none"),
            ("Time zone", f"{zone.key} ({standing.zone_from})"),
            ("Digest", preferences.digest or f"{standing.digest} (default)"),
            *([("Next digest", moment(standing.next_digest, zone))] if standing.next_digest else ()),
            ("Categories", listed(differing) or "as they are by default"),
            ("Topics", listed(preferences.topics) or "none"),
            ("Waiting", waiting if standing.waiting else "none"),
        ],
    )


def _messages(standing: Standing) -> str:
    preferences = standing.preferences
    if preferences.stopped:
        return "stopped, but for what is mandatory; “start” switches them on"
    if preferences.paused_until is None or preferences.paused_until <= standing.now:
        return "on"
    if preferences.paused_until >= FOREVER:
        return "paused until you write “resume”"
    return f"paused until {moment(preferences.paused_until, standing.zone)}"
