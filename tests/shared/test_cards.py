"""The cards that we draw: what Teams renders, in every language, with controls that lead back to their notification."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from messages.card_actions.preferences_form import InvalidFields, apply_fields, find_changed_fields
from notify.validation import check_form
from shared.cards import action_verbs, refreshed, texts
from shared.cards.actions import executed, without
from shared.cards.footer import FOOTER, Controls
from shared.cards.notification import activity
from shared.cards.preferences import KEEP, fields, preferences_card
from shared.cards.size import utf16_bytes
from shared.cards.texts import LANGUAGES, language_of, plain, text_of
from shared.cards.validation import faults
from shared.cards.welcome import welcome_card
from shared.contract.faults import MessageRefused
from shared.contract.models import Content, Notification
from shared.preferences.categories import Categories, Category
from shared.preferences.preferences import FOREVER, Preferences
from shared.states import Mode

KEY = "ab" * 32
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
CATEGORIES = Categories(
    [Category(name="builds", title="Builds"), Category(name="security", title="Security", mandatory=True)]
)
EVERYTHING = Preferences(
    time_zone="Europe/Berlin",
    default=Mode.DIGEST,
    categories={"builds": Mode.OFF},
    paused_until=FOREVER,
    quiet="sat,sun",
    digest="daily 09:00",
    mutes={"x": NOW},
    topics=("releases", "*bold* <at>x</at>"),
    own_actions=True,
)
FOLDER = Path(texts.__file__).with_name("texts")
TEXTS = {language: orjson.loads((FOLDER / f"{language}.json").read_bytes()) for language in LANGUAGES}


def notification(**parts: Any) -> Notification:
    whole = {"recipients": [{"all": True}], "category": "builds", **parts}
    return Notification.model_validate(whole)


def drawn(of: Notification, category: Category | None = None) -> dict[str, Any]:
    controls = Controls.of(KEY, of, category or Category(name=of.category))
    whole = orjson.loads(activity(of, 80 * 1024, controls))
    card: dict[str, Any] = whole["attachments"][0]["content"]
    assert faults(card) == []
    return card


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_says_everything_with_the_same_values(language: str) -> None:
    named = {key: set(re.findall(r"\{\w+\}", text)) for key, text in TEXTS[language].items()}
    assert named == {key: set(re.findall(r"\{\w+\}", text)) for key, text in TEXTS["en"].items()}


@pytest.mark.parametrize(
    ("locales", "spoken"), [(("de-AT",), "de"), (("", "DE"), "de"), (("fr", "de"), "de"), (("fr",), "en"), ((), "en")]
)
def test_the_first_language_that_is_known_is_spoken(locales: tuple[str, ...], spoken: str) -> None:
    assert language_of(*locales) == spoken


def test_what_a_language_lacks_is_said_in_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TEXTS, "de", {})
    monkeypatch.setattr("shared.cards.texts._texts", TEXTS.__getitem__)
    assert text_of("de", "why") == "Why did I get this?"


def test_plain_text_has_no_markup() -> None:
    assert plain("[a](http://b) *c* <at>d</at>") == r"\[a\]\(http://b\) \*c\* &lt;at>d&lt;/at>"


@pytest.mark.parametrize("language", LANGUAGES)
def test_teams_renders_every_card(language: str) -> None:
    wrong = {"quiet": "is no such thing", "time_zone": "neither"}
    for preferences in (Preferences(), EVERYTHING):
        for errors in ({}, wrong):
            card = preferences_card(
                preferences, CATEGORIES, zone="Europe/Berlin", zone_source="x", digest="daily 09:00", locale=language,
                note="<at>x</at>", errors=errors, key=KEY, now=NOW,
            )  # fmt: skip
            assert faults(card) == []
    assert faults(welcome_card(language, KEY)) == []
    assert faults(welcome_card(language, KEY, place="<at>x</at>", adder="[x](y)")) == []
    assert faults(refreshed.reasons(language, ["<at>x</at>"], KEY)) == []
    drawn(notification(content={"title": "T", "result": "R", "actor": {"name": "A"}}, locale=language))


def test_every_action_names_the_notification_and_keeps_the_callers_data() -> None:
    own = {
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [{"type": "Container", "items": [], "selectAction": {"type": "Action.Execute", "verb": "open"}}],
        "actions": [
            {"type": "Action.Execute", "verb": "a", "data": {"x": 1, "herald": {"n": "forged"}}},
            {"type": "Action.Execute", "verb": "b", "data": "text"},
            {"type": "Action.ShowCard", "title": "More", "card": {
                "type": "AdaptiveCard", "actions": [{"type": "Action.Execute", "verb": "c"}],
            }},
            {"type": "Action.Submit", "title": "d", "data": {"type": "Action.Execute"}},
        ],
    }  # fmt: skip
    card = drawn(notification(card=own))
    data = {each["verb"]: each["data"] for each in executed(card)}
    assert all(each["herald"] == {"n": KEY} for each in data.values())
    assert (data["a"]["x"], data["b"]["data"]) == (1, "text")
    assert {"open", "c"} <= set(data)
    assert card["actions"][3] == own["actions"][3]
    assert card["body"][-1]["id"] == FOOTER
    assert card["version"] == "1.5"


def test_a_set_whose_last_action_is_gone_goes_too() -> None:
    button = {"type": "Action.Execute", "verb": "a"}
    card = {"body": [{"type": "ActionSet", "actions": [button]}, {"type": "Container", "selectAction": button}]}
    assert without(card, frozenset({"a"})) == {"body": [{"type": "Container"}]}


def test_no_set_of_buttons_has_more_than_teams_shows() -> None:
    actions = [{"id": f"own{number}", "title": "Do"} for number in range(6)]
    link = {"title": "Open", "url": "https://ci.example"}
    card = drawn(notification(content={"title": "T", "link": link, "actions": actions}))
    sets = [len(each["actions"]) for each in card["body"] if each["type"] == "ActionSet"]
    assert sets == [6, 2]
    assert {each["verb"] for each in executed(card)} >= {*(each["id"] for each in actions), action_verbs.ACKNOWLEDGE}


def test_a_card_with_controls_fits_the_limit() -> None:
    of = notification(content={"title": "T", "text": "word " * 20_000})
    controls = Controls.of(KEY, of, Category(name="builds"))
    for limit in (16, 80):
        assert utf16_bytes(activity(of, limit * 1024, controls)) <= limit * 1024


def test_the_check_at_intake_counts_the_controls() -> None:
    own = {"type": "AdaptiveCard", "version": "1.5", "body": [{"type": "TextBlock", "text": "x" * 38_000}]}
    of = notification(card=own)
    limit = 80 * 1024
    assert utf16_bytes(activity(of, limit)) <= limit
    with pytest.raises(MessageRefused) as refused:
        check_form(of, limit, "/data")
    assert [fault.pointer for fault in refused.value.faults] == ["/data/card"]


@pytest.mark.parametrize("length", [1, 25_000, 30_000, 35_000, 37_000])
def test_what_the_check_takes_can_be_sent_under_any_label(length: int) -> None:
    own = {"type": "AdaptiveCard", "version": "1.5", "body": [{"type": "TextBlock", "text": "x" * length}]}
    of, limit = notification(card=own, thread={"key": "x"}), 80 * 1024
    try:
        check_form(of, limit, "")
    except MessageRefused:
        return
    label = Category(name="x", title="\U0001f600" * 100)
    assert utf16_bytes(activity(of, limit, Controls.of(KEY, of, label))) <= limit


OWN_CARD = {"type": "AdaptiveCard", "version": "1.5"}
ACTIONS = [{"id": "ok", "title": "A"}, {"id": "herald.stop", "title": "B"}]


@pytest.mark.parametrize(
    ("parts", "pointer"),
    [
        ({"content": {"title": "T", "actions": ACTIONS}}, "/content/actions/1/id"),
        ({"card": OWN_CARD | {"actions": [{"type": "Action.Execute", "verb": "herald.x"}]}}, "/card/actions/0/verb"),
        ({"card": OWN_CARD | {"body": [{"type": "Container", "items": [], "id": "herald.x"}]}}, "/card/body/0/id"),
    ],
)
def test_names_of_our_own_are_refused_in_what_a_caller_sends(parts: dict[str, Any], pointer: str) -> None:
    with pytest.raises(MessageRefused) as refused:
        check_form(notification(**parts), 80 * 1024, "/data")
    assert [fault.pointer for fault in refused.value.faults] == [f"/data{pointer}"]


def test_a_callers_data_may_say_what_they_like() -> None:
    button = {"type": "Action.Execute", "verb": "x", "data": {"verb": "herald.stop"}}
    check_form(notification(card={"type": "AdaptiveCard", "version": "1.5", "actions": [button]}), 80 * 1024, "")


# What is saved by the preferences card


def save(old: Preferences, _was: Preferences | None = None, /, **new: str) -> Preferences:
    """What `old` is after these fields were typed into a card that was drawn of it, or of `_was`."""
    shown = fields(_was or old, CATEGORIES, NOW)
    typed = find_changed_fields(shown | {name.replace("__", "."): value for name, value in new.items()}, shown)
    return apply_fields(old, typed, shown, CATEGORIES, now=NOW, default_zone="Europe/Berlin")


@pytest.mark.parametrize("preferences", [Preferences(), EVERYTHING])
def test_a_card_on_which_nothing_was_changed_changes_nothing(preferences: Preferences) -> None:
    assert save(preferences) == preferences
    assert save(EVERYTHING, preferences) == EVERYTHING


def test_everything_can_be_taken_back() -> None:
    back = save(
        EVERYTHING, default="declared", category__builds="declared", pause="none", time_zone="", quiet="off", digest="",
        own_actions="false", unmute="true", **{"topic.releases": "false", "topic.*bold* <at>x</at>": "false"},
    )  # fmt: skip
    assert back == Preferences()


@pytest.mark.parametrize(
    ("value", "until"),
    [
        ("1h", NOW + timedelta(hours=1)),
        ("tomorrow", datetime(2026, 11, 24, 8, tzinfo=UTC)),
        ("monday", datetime(2026, 11, 30, 8, tzinfo=UTC)),
        (KEEP, None),
    ],
)
def test_a_pause_ends_by_the_persons_clock(value: str, until: datetime | None) -> None:
    assert save(Preferences(), pause=value).paused_until == until


def test_a_pause_goes_by_the_zone_that_is_saved_with_it() -> None:
    saved = save(Preferences(), pause="tomorrow", time_zone="Asia/Tokyo")
    assert saved.paused_until == datetime(2026, 11, 24, 0, tzinfo=UTC)


def test_a_pause_that_was_changed_since_the_card_was_drawn_stays() -> None:
    paused = Preferences(paused_until=NOW + timedelta(days=3))
    assert save(paused, Preferences(), pause="1h") == paused
    over = Preferences(paused_until=NOW - timedelta(days=3))
    assert save(over, Preferences(), pause="1h").paused_until == NOW + timedelta(hours=1)


def test_all_that_cannot_be_read_is_told_at_once() -> None:
    with pytest.raises(InvalidFields) as wrong:
        save(Preferences(), time_zone="Berlin", quiet="x", digest="hourly", category__builds="loud", pause="until x")
    assert set(wrong.value.errors) == {"time_zone", "quiet", "digest", "category.builds", "pause"}


def test_a_mandatory_category_is_no_field() -> None:
    assert "category.security" not in fields(Preferences(), CATEGORIES)
    assert save(Preferences(), category__security="off") == Preferences()


def test_the_verbs_of_the_cards_are_ours() -> None:
    named = [value for name, value in vars(action_verbs).items() if name.isupper() and name != "OWN"]
    assert all(value.startswith(action_verbs.OWN) for value in named)
    assert len(set(named)) == len(named)


def test_a_content_without_controls_has_no_action_that_would_lead_nowhere() -> None:
    content = Content.model_validate({"title": "T", "actions": [{"id": "a", "title": "A"}]})
    whole = orjson.loads(activity(notification(content=content), 80 * 1024))
    assert executed(whole) == []
