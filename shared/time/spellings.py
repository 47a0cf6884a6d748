"""Rewrite what people write about times, in English and German, in the one form that the parsers read.

>>> normalize("mo-fr von 18 Uhr bis 8 Uhr")
'mon-fri 18:00-08:00'
>>> normalize("every day at 5 pm")
'daily 17:00'
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache

#: Words and phrases of each language, and what they mean in the form of the parsers; "" for words without a meaning.
WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "noon": "12:00", "midnight": "00:00",
        "every morning": "daily 09:00", "mornings": "daily 09:00", "every evening": "daily 18:00",
        "in the evening": "18:00-08:00", "evenings": "18:00-08:00", "evening": "18:00-08:00",
        "at night": "22:00-07:00", "nights": "22:00-07:00", "night": "22:00-07:00",
        "every day": "daily", "each day": "daily", "everyday": "daily",
        "every weekday": "weekdays", "on weekdays": "weekdays", "workdays": "weekdays", "working days": "weekdays",
        "every week": "weekly", "at weekends": "weekend", "on weekends": "weekend", "weekends": "weekend",
        "next week": "mon", "over the weekend": "mon",
        "half an hour": "30m", "an hour": "1h", "a day": "1d", "a week": "1w",
        "never": "off", "none": "off",
        "minutes": "m", "minute": "m", "mins": "m", "min": "m", "hours": "h", "hour": "h", "hrs": "h", "hr": "h",
        "days": "d", "day": "d", "weeks": "w", "week": "w",
        "between": "", "from": "", "at": "", "on": "", "the": "", "every": "weekly", "each": "weekly", "next": "",
        "to": "-", "till": "until", "til": "until",
    },
    "de": {
        "mittag": "12:00", "mitternacht": "00:00",
        "jeden morgen": "daily 09:00", "morgens": "daily 09:00", "jeden abend": "daily 18:00",
        "am abend": "18:00-08:00", "abends": "18:00-08:00", "abend": "18:00-08:00",
        "in der nacht": "22:00-07:00", "nachts": "22:00-07:00", "nacht": "22:00-07:00",
        "jeden tag": "daily", "täglich": "daily",
        "an werktagen": "weekdays", "werktags": "weekdays", "werktage": "weekdays", "wochentags": "weekdays",
        "jede woche": "weekly", "wöchentlich": "weekly", "am wochenende": "weekend", "an wochenenden": "weekend",
        "wochenenden": "weekend", "wochenende": "weekend", "nächste woche": "mon", "übers wochenende": "mon",
        "eine halbe stunde": "30m", "eine stunde": "1h", "einen tag": "1d", "eine woche": "1w",
        "nie": "off", "aus": "off", "keine": "off", "jetzt": "now", "sofort": "now",
        "minuten": "m", "minute": "m", "stunden": "h", "stunde": "h", "std": "h",
        "tage": "d", "tag": "d", "wochen": "w", "woche": "w",
        "heute": "today", "morgen": "tomorrow", "zwischen": "", "von": "", "um": "", "ab": "", "für": "", "den": "",
        "jeden": "weekly", "nächsten": "", "bis": "until", "uhr": "", "und": "and",
    },
}  # fmt: skip
#: Weekdays in each language, Monday first, by their full names; `normalize` also reads their plurals.
WEEKDAYS: Mapping[str, tuple[str, ...]] = {
    "en": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    "de": ("montag", "dienstag", "mittwoch", "donnerstag", "freitag", "samstag", "sonntag"),
}
_SHORT_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MORE_WEEKDAYS = {
    "mo": "mon", "di": "tue", "mi": "wed", "do": "thu", "fr": "fri", "sa": "sat", "so": "sun", "sonnabend": "sat",
    "tues": "tue", "weds": "wed", "thur": "thu", "thurs": "thu",
}  # fmt: skip

_TWELVE_HOURS = re.compile(r"(?<![\d:.])(\d{1,2})(?:[:.](\d{2}))?(?:\s*([ap])\.?m\b\.?|([ap])\b)")
#: Two times of which only the second has its half of the day: 6-8pm.
_SHARED_HALF = re.compile(
    r"(?<![\d:.])(\d{1,2})((?:[:.]\d{2})?)(\s*(?:-|to|until|till|and|bis|und)\s*)(?=(\d{1,2})(?:[:.]\d{2})?\s*p\.?m?\b)"
)
_CLOCK = re.compile(r"(?<![\d:.])(\d{1,2})(?:[:.](\d{2}))?\s*(?:uhr|o'clock)\b(?:\s*([0-5]\d)(?![\d:.]))?")
_DASH = re.compile(r"\s*(?:[-–—−]>?|→)\s*")
_SECONDS = re.compile(r"(?<![\d:.])(\d{1,2}:\d{2}):00(?![\d:.])")
#: Four digits on both sides: 1800-0800.
_WITHOUT_COLON = re.compile(r"(?<![\d:.-])([01]\d|2[0-3])([0-5]\d)\s*-\s*([01]\d|2[0-3])([0-5]\d)(?![\d:.-])")
_TIME = r"(?:\d{1,2}:\d{2}|\d{1,2})"
_SPAN = re.compile(rf"(?<![\d:.-])({_TIME})\s*(?:-|until|and)\s*({_TIME})(?![\d:.-])")
_DAYS_AND = re.compile(rf"\b({'|'.join(_SHORT_WEEKDAYS)}) and (?=(?:{'|'.join(_SHORT_WEEKDAYS)})\b)")
_DAY_SPAN = re.compile(rf"\b({'|'.join(_SHORT_WEEKDAYS)}) until (?=(?:{'|'.join(_SHORT_WEEKDAYS)})\b)")


def normalize(text: str) -> str:
    """Return `text` with the words of every language in the form of the parsers: times of 24 hours, English names.

    Text that has no known word stays as it is, in lower case and with single spaces.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = " ".join(text.replace("’", "'").replace("(", " ").replace(")", " ").split())
    text = _DASH.sub("-", text)
    text = _SHARED_HALF.sub(_share_half, text)
    text = _TWELVE_HOURS.sub(_to_24_hours, text)
    text = _CLOCK.sub(lambda found: _format(found[1], found[2] or found[3]), text)
    text = _WITHOUT_COLON.sub(r"\1:\2-\3:\4", _SECONDS.sub(r"\1", text))
    text = _pattern().sub(lambda found: _meanings()[found[0]], text)
    text = _DASH.sub("-", " ".join(text.split()))
    text = _DAY_SPAN.sub(r"\1-", _DAYS_AND.sub(r"\1,", text))
    text = _SPAN.sub(lambda found: f"{_format_time(found[1])}-{_format_time(found[2])}", text)
    return re.sub(r"\b(?:weekly )+(weekdays|daily|weekly)\b", r"\1", text)


def _to_24_hours(found: re.Match[str]) -> str:
    hour = int(found[1])
    if not 1 <= hour <= 12:
        return found[0]
    return _format(str(hour % 12 + (12 if (found[3] or found[4]) == "p" else 0)), found[2])


def _share_half(found: re.Match[str]) -> str:
    """Return the first of two times as afternoon if only the second says pm, and is later: `6-8pm` is 18:00-20:00."""
    first, second = int(found[1]), int(found[4])
    is_shared = 1 <= first <= 12 and first % 12 < second % 12
    return f"{found[1]}{found[2]}{'pm' if is_shared else ''}{found[3]}"


def _format_time(text: str) -> str:
    hour, _, minute = text.partition(":")
    return _format(hour, minute)


def _format(hour: str, minute: str | None) -> str:
    return f"{int(hour):02d}:{minute or '00'}"


@cache
def _meanings() -> dict[str, str]:
    meanings = {phrase: meaning for words in WORDS.values() for phrase, meaning in words.items()} | _MORE_WEEKDAYS
    for names in WEEKDAYS.values():
        for short, name in zip(_SHORT_WEEKDAYS, names, strict=True):
            meanings |= {name: short, f"{name}s": short}
    return meanings


@cache
def _pattern() -> re.Pattern[str]:
    longest_first = sorted(map(re.escape, _meanings()), key=len, reverse=True)
    return re.compile(rf"(?<![\w])(?:{'|'.join(longest_first)})(?![\w])")
