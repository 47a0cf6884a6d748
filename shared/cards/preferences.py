"""Render the preferences card, and read what a person changed on it.

A field is an input of the card, found by its id; its value is a text, as clients send it. The card carries the values
with which it was rendered, so that only changes are applied: an old card does not undo newer changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from shared.cards.action_verbs import SAVE, SHOW, execute
from shared.cards.elements import card, done, heading, line
from shared.cards.texts import LANGUAGES, language_of, moment, text_of
from shared.preferences.categories import Categories
from shared.preferences.preferences import FOREVER, Preferences
from shared.states import Mode
from shared.time.localtime import load_zone

#: Most categories and topics on the card, which has to fit into a message; commands reach all of them.
MAX_CHOICES = 40
#: Longest text of a field, in characters.
MAX_FIELD_CHARS = 300

#: The value of a category's field for which nobody chose.
DECLARED = "declared"
#: The values of the field `pause` that leave the pause as it is, and end it.
KEEP, NONE = "keep", "none"
#: What it offers besides, as `shared.preferences.pause` reads it.
PAUSES: Mapping[str, str] = {"1h": "1h", "tomorrow": "tomorrow", "monday": "until monday"}
#: No field, but a value that the card remembers: until when there was a pause.
PAUSED = "paused"
#: What the fields of a category and of a topic begin with, before its name.
CATEGORY, TOPIC = "category.", "topic."
ON, OFF = "true", "false"


def preferences_card(
    preferences: Preferences,
    categories: Categories,
    *,
    zone: str,
    zone_source: str,
    digest: str,
    note: str = "",
    now: datetime | None = None,
    locale: str = "",
    key: str = "",
    was: Mapping[str, str] | None = None,
    typed: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The card of these preferences (an Adaptive Card 1.5).

    `zone` is the zone that counts, and `zone_source` where it comes from, in words; `digest` is when digests come to
    who did not choose. `note` stands at the top, `errors` at their fields. `now` hides a pause that is over.
    `locale` is the person's, for who chose no language. `key` is of the notification whose card this one replaced: a
    button leads back to it. Fields show what was `typed` where it could not be saved, and remember what they `was`.
    """
    language = language_of(preferences.locale, locale)
    values = fields(preferences, categories, now)
    shown = values | dict(typed or {})
    wrong = errors or {}

    def label(name: str, **named: object) -> str:
        return text_of(language, f"preferences.{name}", **named)

    def with_error(field: str, control: dict[str, Any]) -> list[dict[str, Any]]:
        told = [line(wrong[field], color="Attention", size="Small", spacing="None")] if field in wrong else []
        return [control | {"id": field, "value": shown[field]}, *told]

    def choice(field: str, title: str, choices: Mapping[str, str]) -> list[dict[str, Any]]:
        offered = [{"title": name, "value": value} for value, name in choices.items()]
        return with_error(field, {"type": "Input.ChoiceSet", "label": title, "style": "compact", "choices": offered})

    def entry(field: str, placeholder: str) -> list[dict[str, Any]]:
        control = {
            "type": "Input.Text",
            "label": label(field),
            "placeholder": placeholder,
            "maxLength": MAX_FIELD_CHARS,
        }
        return with_error(field, control)

    def toggle(field: str, title: str) -> list[dict[str, Any]]:
        return with_error(field, {"type": "Input.Toggle", "title": title, "valueOn": ON, "valueOff": OFF})

    modes = {str(mode): label(f"mode.{mode}") for mode in Mode}
    body = [heading(label("title"))]
    if note:
        body.append(done([note]))
    if wrong:
        body.append(line(label("unsaved"), color="Attention"))
    body += choice("default", label("default"), {DECLARED: label("declared")} | modes)
    for category in islice(categories.declared, MAX_CHOICES):
        if category.mandatory:
            body.append(line(label("mandatory", category=category.label)))
        else:
            declared = label("declaredAs", mode=modes[category.default])
            body += choice(f"{CATEGORY}{category.name}", category.label, {DECLARED: declared} | modes)
        if category.description:
            body.append(line(category.description, isSubtle=True, size="Small", spacing="None"))
    body += toggle("stopped", label("stopped"))
    if paused := _pause(preferences, now):
        ends = label("forever") if paused >= FOREVER else moment(paused, load_zone(zone))
        body.append(line(label("paused", until=ends)))
        pauses = {KEEP: label("pause.keep"), NONE: label("pause.none")}
    else:
        pauses = {KEEP: label("pause.no")}
    body += choice("pause", label("pause"), pauses | {each: label(f"pause.{each}") for each in PAUSES})
    body += entry("time_zone", zone)
    body.append(line(label("zone", zone=zone, source=zone_source), isSubtle=True, size="Small", spacing="None"))
    body += entry("quiet", "mon-fri 18:00-08:00; sat,sun")
    body += entry("digest", digest)
    body += choice("locale", label("locale"), {DECLARED: label("locale.declared"), **LANGUAGES})
    body += toggle("own_actions", label("own_actions"))
    if preferences.mutes:
        body += toggle("unmute", label("unmute", count=len(preferences.mutes)))
    for field in [field for field in values if field.startswith(TOPIC)]:
        body += toggle(field, label("topic", topic=field.removeprefix(TOPIC)))
    herald: dict[str, Any] = {"was": dict(was or values)} | ({"n": key} if key else {})
    actions = [execute(label("save"), SAVE, herald) | {"associatedInputs": "auto"}]
    if key:
        actions.append(execute(text_of(language, "back"), SHOW, {"n": key}))
    return card(body, actions)


def fields(preferences: Preferences, categories: Categories, now: datetime | None = None) -> dict[str, str]:
    """The fields of the card with the values that stand for these preferences, at `now`."""
    paused = _pause(preferences, now)
    chosen = [each.name for each in categories.declared if not each.mandatory][:MAX_CHOICES]
    return {
        "default": str(preferences.default or DECLARED),
        **{f"{CATEGORY}{name}": str(preferences.categories.get(name, DECLARED)) for name in chosen},
        "stopped": ON if preferences.stopped else OFF,
        "pause": KEEP,
        PAUSED: paused.isoformat() if paused else "",
        "time_zone": preferences.time_zone,
        "quiet": preferences.quiet,
        "digest": preferences.digest,
        "locale": language_of(preferences.locale) if preferences.locale else DECLARED,
        "own_actions": ON if preferences.own_actions else OFF,
        "unmute": OFF,
        **{f"{TOPIC}{topic}": ON for topic in preferences.topics[:MAX_CHOICES]},
    }


def _pause(preferences: Preferences, now: datetime | None) -> datetime | None:
    """When the pause ends, where there is one that is not over."""
    until = preferences.paused_until
    return None if until is None or (now and until <= now) else until
