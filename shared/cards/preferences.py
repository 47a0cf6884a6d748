"""Draw the preferences card.

A field is an input of the card with an id; its value is a text, as clients send it. The card also carries the initial
values of its fields, so that only changes are applied: an old card does not undo newer changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from typing import Any

from shared.cards.action_verbs import SAVE, SHOW, action_button
from shared.cards.elements import adaptive_card, confirmation, heading, plain_text
from shared.preferences.categories import Categories
from shared.preferences.preferences import FOREVER, Preferences
from shared.states import Mode
from shared.texts import LANGUAGES, format_time, language_of, text_of
from shared.time.localtime import load_zone

#: Most categories, and most topics, on the card, which has to fit into a message. Commands reach all of them.
MAX_CHOICES = 40
#: Longest text of a field, in characters.
MAX_FIELD_CHARS = 300

#: The choice of people who keep the default, in the fields of categories and of the language.
USE_DEFAULT = "declared"
#: The choices of the field `pause` that keep the pause as it is, and end it.
KEEP_PAUSE, END_PAUSE = "keep", "none"
#: Its other choices, with the text that `shared.preferences.pause` parses.
PAUSE_CHOICES: Mapping[str, str] = {"1h": "1h", "tomorrow": "tomorrow", "monday": "until monday"}
#: Not a field, but an initial value that the card carries: the end of the pause.
PAUSED_UNTIL = "paused"
#: Prefixes of the fields of categories and topics, before their names.
CATEGORY_PREFIX, TOPIC_PREFIX = "category.", "topic."
TOGGLE_ON, TOGGLE_OFF = "true", "false"


def draw_preferences_card(
    preferences: Preferences,
    categories: Categories,
    *,
    zone: str,
    zone_source: str,
    default_digest: str,
    note: str = "",
    now: datetime | None = None,
    locale: str = "",
    key: str = "",
    initial_values: Mapping[str, str] | None = None,
    typed_values: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the card of these preferences (Adaptive Card 1.5).

    `zone` is the effective time zone, and `zone_source` says in words where it comes from. `default_digest` is the
    digest schedule of people who chose none, and `locale` the locale of a person who chose no language. A pause that
    is over at `now` is not shown. `note` is shown at the top, and `errors` at their fields, with the `typed_values`
    that could not be saved; the card then carries on the `initial_values` of the card before. With a `key`, a button
    leads back to the card of that notification, which this card replaced.
    """
    language = language_of(preferences.locale, locale)
    saved_values = field_values(preferences, categories, now)
    values = saved_values | dict(typed_values or {})
    errors = errors or {}

    def label(name: str, **named: object) -> str:
        return text_of(language, f"preferences.{name}", **named)

    def field(name: str, element: dict[str, Any]) -> list[dict[str, Any]]:
        error = [plain_text(errors[name], color="Attention", size="Small", spacing="None")] if name in errors else []
        return [element | {"id": name, "value": values[name]}, *error]

    def choice(name: str, title: str, titles: Mapping[str, str]) -> list[dict[str, Any]]:
        choices = [{"title": text, "value": value} for value, text in titles.items()]
        return field(name, {"type": "Input.ChoiceSet", "label": title, "style": "compact", "choices": choices})

    def entry(name: str, placeholder: str) -> list[dict[str, Any]]:
        element = {
            "type": "Input.Text",
            "label": label(name),
            "placeholder": placeholder,
            "maxLength": MAX_FIELD_CHARS,
        }
        return field(name, element)

    def toggle(name: str, title: str) -> list[dict[str, Any]]:
        return field(name, {"type": "Input.Toggle", "title": title, "valueOn": TOGGLE_ON, "valueOff": TOGGLE_OFF})

    modes = {str(mode): label(f"mode.{mode}") for mode in Mode}
    body = [heading(label("title"))]
    if note:
        body.append(confirmation([note]))
    if errors:
        body.append(plain_text(label("unsaved"), color="Attention"))
    body += choice("default", label("default"), {USE_DEFAULT: label("declared")} | modes)
    for category in islice(categories.declared, MAX_CHOICES):
        if category.mandatory:
            body.append(plain_text(label("mandatory", category=category.label)))
        else:
            default = label("declaredAs", mode=modes[category.default])
            body += choice(f"{CATEGORY_PREFIX}{category.name}", category.label, {USE_DEFAULT: default} | modes)
        if category.description:
            body.append(plain_text(category.description, isSubtle=True, size="Small", spacing="None"))
    body += toggle("stopped", label("stopped"))
    if paused_until := _paused_until(preferences, now):
        end = label("forever") if paused_until >= FOREVER else format_time(paused_until, load_zone(zone))
        body.append(plain_text(label("paused", until=end)))
        pauses = {KEEP_PAUSE: label("pause.keep"), END_PAUSE: label("pause.none")}
    else:
        pauses = {KEEP_PAUSE: label("pause.no")}
    body += choice("pause", label("pause"), pauses | {each: label(f"pause.{each}") for each in PAUSE_CHOICES})
    body += entry("time_zone", zone)
    body.append(plain_text(label("zone", zone=zone, source=zone_source), isSubtle=True, size="Small", spacing="None"))
    body += entry("quiet", "mon-fri 18:00-08:00; sat,sun")
    body += entry("digest", default_digest)
    body += choice("locale", label("locale"), {USE_DEFAULT: label("locale.declared"), **LANGUAGES})
    body += toggle("own_actions", label("own_actions"))
    if preferences.mutes:
        body += toggle("unmute", label("unmute", count=len(preferences.mutes)))
    for name in [name for name in saved_values if name.startswith(TOPIC_PREFIX)]:
        body += toggle(name, label("topic", topic=name.removeprefix(TOPIC_PREFIX)))
    herald: dict[str, Any] = {"was": dict(initial_values or saved_values)} | ({"n": key} if key else {})
    actions = [action_button(label("save"), SAVE, herald) | {"associatedInputs": "auto"}]
    if key:
        actions.append(action_button(text_of(language, "back"), SHOW, {"n": key}))
    return adaptive_card(body, actions)


def field_values(preferences: Preferences, categories: Categories, now: datetime | None = None) -> dict[str, str]:
    """Return the values of the card's fields for these preferences at `now`, and the end of the pause."""
    paused_until = _paused_until(preferences, now)
    names = [each.name for each in categories.declared if not each.mandatory][:MAX_CHOICES]
    return {
        "default": str(preferences.default or USE_DEFAULT),
        **{f"{CATEGORY_PREFIX}{name}": str(preferences.categories.get(name, USE_DEFAULT)) for name in names},
        "stopped": TOGGLE_ON if preferences.stopped else TOGGLE_OFF,
        "pause": KEEP_PAUSE,
        PAUSED_UNTIL: paused_until.isoformat() if paused_until else "",
        "time_zone": preferences.time_zone,
        "quiet": preferences.quiet,
        "digest": preferences.digest,
        "locale": language_of(preferences.locale) if preferences.locale else USE_DEFAULT,
        "own_actions": TOGGLE_ON if preferences.own_actions else TOGGLE_OFF,
        "unmute": TOGGLE_OFF,
        **{f"{TOPIC_PREFIX}{topic}": TOGGLE_ON for topic in preferences.topics[:MAX_CHOICES]},
    }


def _paused_until(preferences: Preferences, now: datetime | None) -> datetime | None:
    """Return the end of the pause; None if there is none, or it is over."""
    until = preferences.paused_until
    return None if until is None or (now and until <= now) else until
