"""Apply the fields that a person changed on a preferences card to the stored preferences. Pure."""

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
from shared.preferences.categories import Categories
from shared.preferences.digest_schedule import DigestSchedule
from shared.preferences.pause import parse_pause
from shared.preferences.preferences import Preferences
from shared.preferences.quiet_hours import QuietHours
from shared.states import Mode
from shared.texts import LANGUAGES, InputError
from shared.time.localtime import load_zone
from shared.time.times_of_day import DAYS, parse_time_of_day

#: Returns preferences with the text of one field applied; raises `InputError`.
ApplyField = Callable[[Preferences, str], Preferences]


class InvalidFields(Exception):
    """Fields that cannot be saved: `errors` maps each to its error."""

    def __init__(self, errors: Mapping[str, InputError]) -> None:
        super().__init__(errors)
        self.errors = errors


def find_changed_fields(submitted: Mapping[str, object], shown: Mapping[str, object]) -> dict[str, str]:
    """Return the submitted fields that differ from what the card showed when it was rendered."""
    texts = {name: value.strip() for name, value in submitted.items() if isinstance(value, str)}
    return {name: value for name, value in texts.items() if value != shown.get(name)}


def find_removed_topics(changed: Mapping[str, str]) -> list[str]:
    removed = (name for name, value in changed.items() if name.startswith(TOPIC_PREFIX) and value != TOGGLE_ON)
    return [name.removeprefix(TOPIC_PREFIX) for name in removed]


def apply_fields(
    stored: Preferences,
    changed: Mapping[str, str],
    shown: Mapping[str, object],
    categories: Categories,
    *,
    now: datetime,
    default_zone: str,
) -> Preferences:
    """Return `stored` with the changed fields applied; raises `InvalidFields` with all errors at once.

    `shown` are the fields as the card showed them. `default_zone` applies to a person who chose no time zone. If the
    pause was changed after the card was rendered, that newer pause wins.
    """

    def apply_pause(preferences: Preferences, value: str) -> Preferences:
        if value == KEEP_PAUSE or field_values(stored, categories, now)[PAUSED_UNTIL] != shown.get(PAUSED_UNTIL):
            return preferences
        zone = load_zone(preferences.time_zone or default_zone)
        until = None if value == END_PAUSE else parse_pause(PAUSE_CHOICES.get(value, value), now, zone)
        return replace(preferences, paused_until=until)

    values = {name: value for name, value in {**shown, **changed}.items() if isinstance(value, str)}
    group_fields: dict[str, ApplyField] = {
        **dict.fromkeys(("quiet_from", "quiet_to", "quiet_days"), partial(_apply_quiet_hours, values)),
        **dict.fromkeys(("digest_days", "digest_time"), partial(_apply_digest, values)),
    }
    category_fields: dict[str, ApplyField] = {
        CATEGORY_PREFIX + category.name: partial(_apply_mode, category.name)
        for category in categories.declared
        if not category.mandatory
    }
    errors, result = {}, stored
    # The pause comes last, because it ends by the new time zone.
    for name, apply_field in {**_FIELDS, **group_fields, **category_fields, "pause": apply_pause}.items():
        if name not in changed:
            continue
        try:
            result = apply_field(result, _check_length(changed[name]))
        except InputError as error:
            errors[name] = error
    if errors:
        raise InvalidFields(errors)
    for topic in find_removed_topics(changed):
        result = result.without_topic(topic)
    return result


def _check_length(value: str) -> str:
    if len(value) > MAX_FIELD_CHARS:
        raise InputError("length", count=MAX_FIELD_CHARS)
    return value


def _apply_mode(category: str, preferences: Preferences, value: str) -> Preferences:
    if value != USE_DEFAULT:
        return preferences.with_mode(category, _parse_mode(value))
    others = {name: mode for name, mode in preferences.categories.items() if name != category}
    return replace(preferences, categories=others)


def _parse_mode(value: str) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        raise InputError("mode") from None


def _apply_quiet_hours(values: Mapping[str, str], preferences: Preferences, _: str) -> Preferences:
    start, end = values.get("quiet_from", ""), values.get("quiet_to", "")
    if bool(start) != bool(end):
        raise InputError("quiet.both")
    days = [DAYS.index(day) for day in values.get("quiet_days", "").split(",") if day in DAYS]
    hours = QuietHours.daily(parse_time_of_day(start) if start else None, parse_time_of_day(end) if end else None, days)
    return replace(preferences, quiet=str(hours) if hours.spans else "")


def _apply_digest(values: Mapping[str, str], preferences: Preferences, _: str) -> Preferences:
    days, at = values.get("digest_days", USE_DEFAULT), values.get("digest_time", "")
    if days == USE_DEFAULT:
        return replace(preferences, digest="")
    return replace(preferences, digest=str(DigestSchedule.parse("off" if days == "off" else f"{days} {at}")))


def _apply_zone(preferences: Preferences, value: str) -> Preferences:
    return replace(preferences, time_zone="" if value in ("", USE_DEFAULT) else load_zone(value).key)


_FIELDS: Mapping[str, ApplyField] = {
    "default": lambda old, value: replace(old, default=None if value == USE_DEFAULT else _parse_mode(value)),
    "stopped": lambda old, value: replace(old, stopped=value == TOGGLE_ON),
    "time_zone": _apply_zone,
    "locale": lambda old, value: replace(old, locale=value if value in LANGUAGES else ""),
    "own_actions": lambda old, value: replace(old, own_actions=value == TOGGLE_ON),
    "unmute": lambda old, value: replace(old, mutes={} if value == TOGGLE_ON else old.mutes),
}
