"""Apply what a person changed on the preferences card to their preferences; pure, on plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial

from shared.cards.preferences import (
    CATEGORY_PREFIX,
    END_PAUSE,
    KEEP_PAUSE,
    MAX_FIELD_CHARS,
    PAUSE_CHOICES,
    PAUSED_UNTIL,
    TOGGLE_ON,
    TOPIC_PREFIX,
    USE_DEFAULT,
    field_values,
)
from shared.cards.texts import LANGUAGES
from shared.preferences.categories import Categories
from shared.preferences.digest_schedule import DigestSchedule
from shared.preferences.pause import parse_pause
from shared.preferences.preferences import Preferences
from shared.preferences.quiet_hours import QuietHours
from shared.states import Mode
from shared.time.localtime import load_zone

#: What turns the text of a field into preferences; raises `ValueError` with one line.
Read = Callable[[Preferences, str], Preferences]


class Wrong(Exception):
    """Fields that cannot be saved; `errors` says why, by field."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__(errors)
        self.errors = errors


def changed(typed: Mapping[str, object], was: Mapping[str, object]) -> dict[str, str]:
    """The fields that do not say any more what they said when the card was drawn."""
    texts = {name: value.strip() for name, value in typed.items() if isinstance(value, str)}
    return {name: value for name, value in texts.items() if value != was.get(name)}


def left(new: Mapping[str, str]) -> list[str]:
    """The topics of which somebody wants to hear no more."""
    off = (name for name, value in new.items() if name.startswith(TOPIC_PREFIX) and value != TOGGLE_ON)
    return [name.removeprefix(TOPIC_PREFIX) for name in off]


def applied(
    old: Preferences,
    new: Mapping[str, str],
    was: Mapping[str, object],
    categories: Categories,
    *,
    now: datetime,
    default_zone: str,
) -> Preferences:
    """`old` with the fields `new` that were changed on a card; raises `Wrong` for all that cannot be read at once.

    `default_zone` is the zone of who chose none. A pause that changed since the card was drawn stays as it is.
    """

    def pause(known: Preferences, value: str) -> Preferences:
        if value == KEEP_PAUSE or field_values(old, categories, now)[PAUSED_UNTIL] != was.get(PAUSED_UNTIL):
            return known
        zone = load_zone(known.time_zone or default_zone)
        text = PAUSE_CHOICES.get(value, value)
        return replace(known, paused_until=None if value == END_PAUSE else parse_pause(text, now, zone))

    modes: dict[str, Read] = {
        CATEGORY_PREFIX + category.name: partial(_mode, category.name)
        for category in categories.declared
        if not category.mandatory
    }
    errors, result = {}, old
    for name, read in {**_FIELDS, **modes, "pause": pause}.items():  # a pause ends by the new zone
        if name not in new:
            continue
        try:
            result = read(result, _short(new[name]))
        except ValueError as error:
            errors[name] = str(error)
    if errors:
        raise Wrong(errors)
    for topic in left(new):
        result = result.without_topic(topic)
    return result


def _short(value: str) -> str:
    if len(value) > MAX_FIELD_CHARS:
        raise ValueError(f"at most {MAX_FIELD_CHARS} characters")
    return value


def _mode(category: str, known: Preferences, value: str) -> Preferences:
    if value != USE_DEFAULT:
        return known.with_mode(category, _chosen(value))
    return replace(known, categories={name: mode for name, mode in known.categories.items() if name != category})


def _chosen(value: str) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        raise ValueError(f"one of {', '.join(Mode)}") from None


def _quiet(known: Preferences, value: str) -> Preferences:
    hours = QuietHours.parse(value) if value else QuietHours()
    return replace(known, quiet=str(hours) if hours.spans else "")


_FIELDS: Mapping[str, Read] = {
    "default": lambda known, value: replace(known, default=None if value == USE_DEFAULT else _chosen(value)),
    "stopped": lambda known, value: replace(known, stopped=value == TOGGLE_ON),
    "time_zone": lambda known, value: replace(known, time_zone=load_zone(value).key if value else ""),
    "quiet": _quiet,
    "digest": lambda known, value: replace(known, digest=str(DigestSchedule.parse(value)) if value else ""),
    "locale": lambda known, value: replace(known, locale=value if value in LANGUAGES else ""),
    "own_actions": lambda known, value: replace(known, own_actions=value == TOGGLE_ON),
    "unmute": lambda known, value: replace(known, mutes={} if value == TOGGLE_ON else known.mutes),
}
