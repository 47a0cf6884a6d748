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

from shared.cards.elements import markdown_text
from shared.cards.reader_times import escape_around_times, has_reader_time, reader_time, with_local_times
from shared.preferences.categories import DEFAULT, Categories
from shared.preferences.preferences import FOREVER, Preferences
from shared.states import Mode
from shared.texts import escape_markdown, format_long_time, text_of, translate_words

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
        "fallbackText": with_local_times(reply.title),
        "body": [heading, *map(_line_element, reply.lines)],
    }


def _line_element(line: ReplyLine) -> dict[str, Any]:
    label, text = line
    if has_reader_time(text):
        bold = f"**{escape_markdown(to_one_line(label))}**  " if label else ""
        return markdown_text(bold + escape_around_times(to_one_line(text)), spacing="Small")
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


def quote(language: str, text: str) -> str:
    """Return a text that a person wrote in quotation marks, as part of a line."""
    return text_of(language, "quote", text=to_one_line(text, MAX_QUOTE_CHARS))


def list_values(language: str, values: Iterable[str]) -> str:
    """Return values in one line: the first `MAX_LISTED_VALUES`, and the number of the others."""
    lines = [to_one_line(each, MAX_QUOTE_CHARS) for each in values]
    first = ", ".join(lines[:MAX_LISTED_VALUES])
    if len(lines) <= MAX_LISTED_VALUES:
        return first
    return text_of(language, "list.more", values=first, count=len(lines) - MAX_LISTED_VALUES)


def format_reply_time(language: str, at: datetime, zone: ZoneInfo, *, is_shared: bool) -> str:
    """Return an instant as local time in `zone`; on a card that several people see, as the local time of each."""
    return reader_time(at) if is_shared else format_long_time(language, at, zone)


def describe_pause(language: str, until: datetime, zone: ZoneInfo, *, is_shared: bool) -> CommandReply:
    if until >= FOREVER:
        return CommandReply(
            text_of(language, "reply.pausedForever"), [("", text_of(language, "reply.pausedForever.hint"))]
        )
    time = format_reply_time(language, until, zone, is_shared=is_shared)
    title = text_of(language, "reply.paused", until=time)
    return CommandReply(title, [("", text_of(language, "reply.paused.hint"))])


def describe_stop(language: str, categories: Categories) -> CommandReply:
    """Return the reply to `stop`, which also lists the mandatory categories: `stop` does not end those."""
    lines = [("", text_of(language, "reply.stopped.hint"))]
    if labels := mandatory_labels(language, categories):
        lines.append((text_of(language, "reply.mandatory"), list_values(language, labels)))
    return CommandReply(text_of(language, "reply.stopped"), lines)


def mandatory_labels(language: str, categories: Categories) -> Sequence[str]:
    """Return the labels of the categories that people cannot turn off."""
    labels = [category.label for category in categories.declared if category.mandatory]
    others = text_of(language, "reply.mandatory.others")
    return [*labels, others] if categories.of(DEFAULT).mandatory else labels


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
    none. `next_digest` is None if no digest is due. If `has_more`, more than `held_count` may be held. `is_shared`:
    several people see the reply.
    """

    now: datetime
    preferences: Preferences
    zone: ZoneInfo
    zone_source: str
    default_digest: str
    next_digest: datetime | None
    held_count: int
    has_more: bool
    is_shared: bool

    def format_time(self, language: str, at: datetime) -> str:
        return format_reply_time(language, at, self.zone, is_shared=self.is_shared)


def describe_status(language: str, status: RecipientStatus, categories: Categories) -> CommandReply:
    """Return the reply to `status`: the settings, and the number of held notifications."""
    preferences, zone = status.preferences, status.zone
    none = text_of(language, "reply.none")

    def mode_text(mode: Mode) -> str:
        return text_of(language, f"preferences.mode.{mode}")

    modes = [f"{label}: {mode_text(mode)}" for label, mode in chosen_modes(preferences, categories).items()]
    if preferences.default:
        modes.append(f"{text_of(language, 'status.others')}: {mode_text(preferences.default)}")
    held = str(status.held_count)
    schedule = translate_words(language, preferences.digest or status.default_digest)
    if not preferences.digest:
        schedule = text_of(language, "status.digest.default", schedule=schedule)
    values = {
        "status.delivery": _describe_delivery(language, status),
        "status.quiet": translate_words(language, preferences.quiet) or none,
        "reply.zone.label": f"{zone.key} ({status.zone_source})",
        "status.digest": schedule,
        "status.nextDigest": status.format_time(language, status.next_digest) if status.next_digest else "",
        "status.categories": list_values(language, modes) or text_of(language, "status.categories.defaults"),
        "status.topics": list_values(language, preferences.topics) or none,
        "status.held": text_of(language, "status.held.more", count=held) if status.has_more else held,
    }
    if not status.held_count:
        values["status.held"] = none
    lines = [(text_of(language, label), value) for label, value in values.items() if value]
    return CommandReply(text_of(language, "status.title"), lines)


def _describe_delivery(language: str, status: RecipientStatus) -> str:
    paused_until = status.preferences.paused_until
    if status.preferences.stopped:
        return text_of(language, "status.off")
    if paused_until is None or paused_until <= status.now:
        return text_of(language, "status.on")
    if paused_until >= FOREVER:
        return text_of(language, "status.pausedForever")
    return text_of(language, "status.paused", until=status.format_time(language, paused_until))
