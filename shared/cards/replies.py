"""Draw the small cards that answer a command.

Texts that a person wrote are shown in text runs, which clients do not render as Markdown ("TextRun", Adaptive Cards
schema): they can contain no link, image or mention.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from shared.cards.texts import format_time
from shared.preferences.categories import DEFAULT, Categories
from shared.preferences.preferences import FOREVER, Preferences
from shared.states import Mode

#: Longest line, and longest part of a line that a person wrote, in characters.
MAX_LINE_CHARS = 1000
MAX_QUOTE_CHARS = 100
#: Most values listed in one line.
MAX_LISTED_VALUES = 20

#: A line of a reply: its label, "" for none, and its text.
ReplyLine = tuple[str, str]

_ANGLE_BRACKETS = str.maketrans("<>", "‹›")
_SOFT_HYPHEN = "\xad"
#: Zero-width characters (ZWNJ, ZWJ) that join or separate the letters of some scripts and the parts of an emoji.
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True, slots=True)
class CommandReply:
    """`title` is the result in Herald's own words, without any text of a person; `lines` give the details."""

    title: str
    lines: Sequence[ReplyLine] = ()


def draw_reply_card(reply: CommandReply) -> dict[str, Any]:
    heading = {"type": "TextBlock", "text": reply.title, "wrap": True, "weight": "Bolder", "style": "heading"}
    return {
        "type": "AdaptiveCard",
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": "1.5",
        "fallbackText": reply.title,
        "body": [heading, *map(_line_element, reply.lines)],
    }


def _line_element(line: ReplyLine) -> dict[str, Any]:
    label, text = line
    runs = [{"type": "TextRun", "text": f"{to_one_line(label)}  ", "weight": "Bolder"}] if label else []
    return {
        "type": "RichTextBlock",
        "inlines": [*runs, {"type": "TextRun", "text": to_one_line(text)}],
        "spacing": "Small",
    }


def to_one_line(text: str, max_chars: int = MAX_LINE_CHARS) -> str:
    """Return `text` as one line of printable characters, without angle brackets, cut to `max_chars`."""
    text = text.replace(_SOFT_HYPHEN, "")
    printable = "".join(character if character.isprintable() or character in _JOINERS else " " for character in text)
    line = " ".join(printable.split()).translate(_ANGLE_BRACKETS)
    return line if len(line) <= max_chars else line[: max_chars - 1] + "…"


def quote(text: str) -> str:
    """Return a text that a person wrote in quotation marks, as part of a line."""
    return f"“{to_one_line(text, MAX_QUOTE_CHARS)}”"


def list_values(values: Iterable[str]) -> str:
    """Return values in one line: the first `MAX_LISTED_VALUES`, and the number of the others."""
    lines = [to_one_line(each, MAX_QUOTE_CHARS) for each in values]
    more = f" and {len(lines) - MAX_LISTED_VALUES} more" if len(lines) > MAX_LISTED_VALUES else ""
    return ", ".join(lines[:MAX_LISTED_VALUES]) + more


def describe_pause(until: datetime, zone: ZoneInfo) -> CommandReply:
    if until >= FOREVER:
        return CommandReply("Paused", [("", "Your notifications are held until you write “resume”.")])
    return CommandReply(
        f"Paused until {format_time(until, zone, long=True)}",
        [("", "Your notifications are held until then. Write “resume” to get them earlier.")],
    )


def describe_stop(categories: Categories) -> CommandReply:
    """Return the reply to `stop`, which also lists the mandatory categories: `stop` does not end those."""
    held = "Notifications held for you will not be sent."
    lines = [("", f"You will only get answers to your commands. {held} Write “start” to turn notifications on again.")]
    if labels := mandatory_labels(categories):
        lines.append(("Mandatory, cannot be turned off:", list_values(labels)))
    return CommandReply("Stopped", lines)


def mandatory_labels(categories: Categories) -> Sequence[str]:
    """Return the labels of the categories that people cannot turn off."""
    labels = [category.label for category in categories.declared if category.mandatory]
    return [*labels, "all other categories"] if categories.of(DEFAULT).mandatory else labels


def chosen_modes(preferences: Preferences, categories: Categories) -> Mapping[str, Mode]:
    """Return the modes that differ from the categories' defaults, by the categories' labels."""
    chosen = replace(preferences, stopped=False)
    names = dict.fromkeys((*(category.name for category in categories.declared), *preferences.categories))
    every = [categories.of(name) for name in names]
    return {each.label: chosen.mode(each) for each in every if chosen.mode(each) is not each.default}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientStatus:
    """The settings of a recipient at `now`, and the number of their held deliveries.

    `zone_source` says in words where `zone` comes from. `default_digest` is the digest schedule of people who chose
    none. `next_digest` is None if no digest is due. If `has_more`, more than `held_count` may be held.
    """

    now: datetime
    preferences: Preferences
    zone: ZoneInfo
    zone_source: str
    default_digest: str
    next_digest: datetime | None
    held_count: int
    has_more: bool


def describe_status(status: RecipientStatus, categories: Categories) -> CommandReply:
    """Return the reply to `status`: the settings, and the number of held notifications."""
    preferences, zone = status.preferences, status.zone
    chosen = [f"{label}: {mode}" for label, mode in chosen_modes(preferences, categories).items()]
    if preferences.default:
        chosen.append(f"all others: {preferences.default}")
    held = f"{status.held_count}{' or more' if status.has_more else ''}"
    next_digest = format_time(status.next_digest, zone, long=True) if status.next_digest else ""
    return CommandReply(
        "Status",
        [
            ("Notifications", _describe_delivery(status)),
            ("Quiet hours", preferences.quiet or "none"),
            ("Time zone", f"{zone.key} ({status.zone_source})"),
            ("Digest", preferences.digest or f"{status.default_digest} (default)"),
            *([("Next digest", next_digest)] if next_digest else ()),
            ("Categories", list_values(chosen) or "defaults"),
            ("Topics", list_values(preferences.topics) or "none"),
            ("Held notifications", held if status.held_count else "none"),
        ],
    )


def _describe_delivery(status: RecipientStatus) -> str:
    preferences = status.preferences
    if preferences.stopped:
        return "stopped, except mandatory ones; write “start” to turn them on"
    if preferences.paused_until is None or preferences.paused_until <= status.now:
        return "on"
    if preferences.paused_until >= FOREVER:
        return "paused until you write “resume”"
    return f"paused until {format_time(preferences.paused_until, status.zone, long=True)}"
