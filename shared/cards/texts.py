"""The texts of Herald's cards, in the languages for which `texts/` has a file.

A file maps keys to texts with `{names}`. English is complete; a text that another language lacks is shown in English.
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

#: What is spoken where nobody says which language, or has one without a file.
FALLBACK = "en"
#: The languages by their own names, in the order in which they are offered.
LANGUAGES: Mapping[str, str] = {"en": "English", "de": "Deutsch"}

_FOLDER = Path(__file__).with_name("texts")
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)")
_BEGINNING = re.compile(r"^ *(?:#{1,6}|[-*+]|\d{1,3}[.)]|>) +", re.MULTILINE)
_EMPHASIS = re.compile(r"\*\*|__|`|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)")
_MARKUP = re.compile(r"[\\`*_{}\[\]()#+!|~-]")


def language_of(*locales: str) -> str:
    """The language of the first of these locales (BCP 47, "" for none) for which there are texts."""
    subtags = (locale.partition("-")[0].lower() for locale in locales)
    return next((each for each in subtags if each in LANGUAGES), FALLBACK)


def text_of(language: str, key: str, **values: object) -> str:
    """The text of `key` in a language, with these values in the places of their names."""
    text = _texts(language).get(key) or _texts(FALLBACK)[key]
    return text.format(**values)


def plain(text: str) -> str:
    """`text` so that it looks as it is where Markdown and mentions are read."""
    return _MARKUP.sub(lambda found: "\\" + found[0], text).replace("<", "&lt;")


def unmarked(text: str) -> str:
    """`text` without its Markdown, for where that is not read: what is shown of links, emphasis, headings and lists."""
    return _EMPHASIS.sub("", _LINK.sub(r"\1", _BEGINNING.sub("", text)))


def moment(at: datetime, zone: ZoneInfo) -> str:
    """An instant on the clocks of `zone`, to the minute."""
    return f"{to_wall_time(at, zone):%Y-%m-%d %H:%M}"


@cache
def _texts(language: str) -> Mapping[str, str]:
    texts: Mapping[str, str] = orjson.loads((_FOLDER / f"{language}.json").read_bytes())
    return texts
