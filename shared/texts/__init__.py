"""The texts that people read, in the languages that have a file in this folder.

A file maps keys to texts with `{names}`. English is complete; a key that another language lacks is shown in English.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import orjson

#: Language of people whose language is unknown or has no file.
FALLBACK_LANGUAGE = "en"
#: The languages by their own names, in the order in which the preferences card lists them.
LANGUAGES: Mapping[str, str] = {"en": "English", "de": "Deutsch"}

_FOLDER = Path(__file__).parent
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)")
_BLOCK_MARKS = re.compile(r"^ *(?:#{1,6}|[-*+]|\d{1,3}[.)]|>) +", re.MULTILINE)
_EMPHASIS = re.compile(r"\*\*|__|`|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)")
_WORD = re.compile(r"[a-z]+")
_MARKDOWN_CHARS = re.compile(r"[\\`*_{}\[\]()#+!|~-]")


def language_of(*locales: str) -> str:
    """Return the language of the first of these locales (BCP 47, "" for none) that has texts."""
    subtags = (locale.partition("-")[0].lower() for locale in locales)
    return next((each for each in subtags if each in LANGUAGES), FALLBACK_LANGUAGE)


def text_of(language: str, key: str, **values: object) -> str:
    """Return the text of `key` in a language, with `values` in place of their names."""
    text = _load_texts(language).get(key) or _load_texts(FALLBACK_LANGUAGE)[key]
    return text.format(**values)


class InputError(ValueError):
    """A text of a person that cannot be read: the English text `error.{name}`, which `explain` translates."""

    def __init__(self, name: str, **values: object) -> None:
        self._key, self._values = f"error.{name}", values
        super().__init__(self.explain(FALLBACK_LANGUAGE))

    def explain(self, language: str) -> str:
        return text_of(language, self._key, **self._values)


def escape_markdown(text: str) -> str:
    """Return `text` so that a text block shows it as it is, without Markdown and mentions."""
    return _MARKDOWN_CHARS.sub(lambda found: "\\" + found[0], text).replace("<", "&lt;")


def strip_markdown(text: str) -> str:
    """Return the visible text of Markdown, without the marks of links, emphasis, headings and lists."""
    return _EMPHASIS.sub("", _LINK.sub(r"\1", _BLOCK_MARKS.sub("", text)))


def format_time(language: str, at: datetime, zone: ZoneInfo) -> str:
    """Return an instant as local time in `zone`, to the minute: `30 Nov 2026, 09:00`."""
    return text_of(language, "time.short", **_time_parts(language, at, zone))


def format_long_time(language: str, at: datetime, zone: ZoneInfo) -> str:
    """Return an instant as local time with its weekday and zone: `Mon 30 Nov 2026, 09:00 (Europe/Berlin)`."""
    return text_of(language, "time.long", **_time_parts(language, at, zone))


def _time_parts(language: str, at: datetime, zone: ZoneInfo) -> Mapping[str, object]:
    local = at.astimezone(zone)
    return {
        "weekday": text_of(language, "time.weekdays").split(",")[local.weekday()],
        "day": f"{local.day:02d}",
        "month": text_of(language, "time.months").split(",")[local.month - 1],
        "year": local.year,
        "time": f"{local:%H:%M}",
        "zone": zone.key,
    }


def to_sentence(text: str) -> str:
    """Return a text that may be a part of a sentence as one: with a capital, and a full stop at the end."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def translate_words(language: str, text: str) -> str:
    """Return quiet hours or a digest schedule, as they are stored, with their words in a language."""
    texts = _load_texts(language)
    return _WORD.sub(lambda found: texts.get(f"word.{found[0]}", found[0]), text)


@cache
def _load_texts(language: str) -> Mapping[str, str]:
    texts: Mapping[str, str] = orjson.loads((_FOLDER / f"{language}.json").read_bytes())
    return texts
