"""Draw the preferences card.

A field is an input of the card with an id; its value is a text, as clients send it. The card also carries the initial
values of its fields, so that only changes are applied: an old card does not undo newer changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from shared.cards.action_verbs import SAVE, SHOW, action_button
from shared.cards.elements import adaptive_card, confirmation, heading, markdown_text, plain_text
from shared.cards.reader_times import reader_time
from shared.preferences.categories import Categories
from shared.preferences.digest_schedule import DigestSchedule
from shared.preferences.preferences import FOREVER, Preferences
from shared.preferences.quiet_hours import QuietHours
from shared.states import Mode
from shared.texts import LANGUAGES, format_time, language_of, text_of, translate_words
from shared.time.localtime import load_zone
from shared.time.times_of_day import DAYS
from shared.time.zone_choices import list_zone_choices

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
    is_shared: bool = False,
    initial_values: Mapping[str, str] | None = None,
    typed_values: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the card of these preferences (Adaptive Card 1.5).

    `zone` is the effective time zone, and `zone_source` says in words where it comes from. `default_digest` is the
    digest schedule of people who chose none, and `locale` the locale of a person who chose no language. A pause that
    is over at `now` is not shown. `note` is shown at the top, and `errors` at their fields, with the `typed_values`
    that could not be saved; the card then carries on the `initial_values` of the card before. With a `key`, a button
    leads back to the card of that notification, which this card replaced. `is_shared`: several people see the card.
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

    def choice(name: str, title: str, titles: Mapping[str, str], **options: object) -> list[dict[str, Any]]:
        choices = [{"title": text, "value": value} for value, text in titles.items()]
        element = {"type": "Input.ChoiceSet", "label": title, "style": "compact", "choices": choices, **options}
        return field(name, element)

    def time_of_day(name: str) -> list[dict[str, Any]]:
        return field(name, {"type": "Input.Time", "label": label(name)})

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
        local_time = reader_time(paused_until) if is_shared else format_time(language, paused_until, load_zone(zone))
        end = label("forever") if paused_until >= FOREVER else local_time
        body.append(markdown_text(label("paused", until=end)))
        pauses = {KEEP_PAUSE: label("pause.keep"), END_PAUSE: label("pause.none")}
    else:
        pauses = {KEEP_PAUSE: label("pause.no")}
    body += choice("pause", label("pause"), pauses | {each: label(f"pause.{each}") for each in PAUSE_CHOICES})
    body += choice("time_zone", label("time_zone"), _zone_titles(language, preferences, zone, now), style="filtered")
    body.append(plain_text(label("zone", zone=zone, source=zone_source), isSubtle=True, size="Small", spacing="None"))
    weekdays = dict(zip(DAYS, text_of(language, "weekdays").split(","), strict=True))
    if preferences.quiet and QuietHours.parse(preferences.quiet).as_daily() is None:
        hours = translate_words(language, preferences.quiet)
        body.append(plain_text(label("quiet.custom", hours=hours), isSubtle=True, size="Small"))
    body += time_of_day("quiet_from") + time_of_day("quiet_to")
    body += choice(
        "quiet_days", label("quiet_days"), weekdays, isMultiSelect=True, placeholder=label("quiet_days.none")
    )
    schedules = {
        USE_DEFAULT: label("digest.declared", schedule=translate_words(language, default_digest)),
        "daily": label("digest.daily"),
        "weekdays": label("digest.weekdays"),
        **{day: label("digest.weekly", day=name) for day, name in weekdays.items()},
        "off": label("digest.off"),
    }
    body += choice("digest_days", label("digest_days"), schedules) + time_of_day("digest_time")
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
        "time_zone": preferences.time_zone or USE_DEFAULT,
        **_quiet_values(preferences.quiet),
        **_digest_values(preferences.digest),
        "locale": language_of(preferences.locale) if preferences.locale else USE_DEFAULT,
        "own_actions": TOGGLE_ON if preferences.own_actions else TOGGLE_OFF,
        "unmute": TOGGLE_OFF,
        **{f"{TOPIC_PREFIX}{topic}": TOGGLE_ON for topic in preferences.topics[:MAX_CHOICES]},
    }


def _zone_titles(language: str, preferences: Preferences, zone: str, now: datetime | None) -> Mapping[str, str]:
    """Return the choices of the time zone: that of Teams, the person's own, and those of the list."""
    listed = dict(list_zone_choices((now or datetime.now(UTC)).date()))
    first = {USE_DEFAULT: text_of(language, "preferences.zone.teams")}
    return first | {name: listed.pop(name, name) for name in [preferences.time_zone, zone] if name} | listed


def _quiet_values(quiet: str) -> dict[str, str]:
    start, end, days = (QuietHours.parse(quiet).as_daily() if quiet else None) or (None, None, frozenset[int]())
    return {
        "quiet_from": f"{start:%H:%M}" if start is not None else "",
        "quiet_to": f"{end:%H:%M}" if end is not None else "",
        "quiet_days": ",".join(DAYS[day] for day in sorted(days)),
    }


def _digest_values(digest: str) -> dict[str, str]:
    schedule = DigestSchedule.parse(digest) if digest else None
    if schedule is None or not schedule.days:
        return {"digest_days": "off" if schedule else USE_DEFAULT, "digest_time": ""}
    words = str(schedule).removeprefix("weekly ").split()
    return {"digest_days": words[0], "digest_time": words[1]}


def _paused_until(preferences: Preferences, now: datetime | None) -> datetime | None:
    """Return the end of the pause; None if there is none, or it is over."""
    until = preferences.paused_until
    return None if until is None or (now and until <= now) else until
