"""The texts of Herald's cards, in the languages that have a file in `texts/`.

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

from shared.time.localtime import to_wall_time

#: Language of people whose language is unknown or has no file.
FALLBACK_LANGUAGE = "en"
#: The languages by their own names, in the order in which the preferences card lists them.
LANGUAGES: Mapping[str, str] = {"en": "English", "de": "Deutsch"}

_FOLDER = Path(__file__).with_name("texts")
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)")
_BLOCK_MARKS = re.compile(r"^ *(?:#{1,6}|[-*+]|\d{1,3}[.)]|>) +", re.MULTILINE)
_EMPHASIS = re.compile(r"\*\*|__|`|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)")
_MARKDOWN_CHARS = re.compile(r"[\\`*_{}\[\]()#+!|~-]")


def language_of(*locales: str) -> str:
    """Return the language of the first of these locales (BCP 47, "" for none) that has texts."""
    subtags = (locale.partition("-")[0].lower() for locale in locales)
    return next((each for each in subtags if each in LANGUAGES), FALLBACK_LANGUAGE)


def text_of(language: str, key: str, **values: object) -> str:
    """Return the text of `key` in a language, with `values` in place of their names."""
    text = _load_texts(language).get(key) or _load_texts(FALLBACK_LANGUAGE)[key]
    return text.format(**values)


def escape_markdown(text: str) -> str:
    """Return `text` so that a text block shows it as it is, without Markdown and mentions."""
    return _MARKDOWN_CHARS.sub(lambda found: "\\" + found[0], text).replace("<", "&lt;")


def strip_markdown(text: str) -> str:
    """Return the visible text of Markdown, without the marks of links, emphasis, headings and lists."""
    return _EMPHASIS.sub("", _LINK.sub(r"\1", _BLOCK_MARKS.sub("", text)))


def format_time(at: datetime, zone: ZoneInfo, *, long: bool = False) -> str:
    """Return an instant as local time in `zone`, to the minute, in a form for every language: `2026-11-30 09:00`.

    `long` is the form of replies to commands, which are in English: `Mon 30 Nov 2026, 09:00 (Europe/Berlin)`.
    """
    local = to_wall_time(at, zone)
    return f"{local:%a %d %b %Y, %H:%M} ({zone.key})" if long else f"{local:%Y-%m-%d %H:%M}"


@cache
def _load_texts(language: str) -> Mapping[str, str]:
    texts: Mapping[str, str] = orjson.loads((_FOLDER / f"{language}.json").read_bytes())
    return texts
