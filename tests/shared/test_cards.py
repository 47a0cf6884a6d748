"""Herald's own cards: Teams renders them in every language, and their actions name their notification."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from messages.card_actions.preferences_form import InvalidFields, apply_fields, find_changed_fields
from notify.validation import check_content
from shared import texts
from shared.cards import action_verbs, refreshed
from shared.cards.actions import find_execute_actions, remove_actions
from shared.cards.elements import with_line_breaks
from shared.cards.footer import FOOTER_ID, Footer
from shared.cards.notification import render_activity
from shared.cards.preferences import KEEP_PAUSE, draw_preferences_card, field_values
from shared.cards.size import count_utf16_bytes
from shared.cards.validation import find_faults
from shared.cards.welcome import draw_welcome_card
from shared.contract.faults import MessageRefused
from shared.contract.models import Content, Notification
from shared.preferences.categories import Categories, Category
from shared.preferences.preferences import FOREVER, Preferences
from shared.states import Mode
from shared.texts import LANGUAGES, escape_markdown, language_of, text_of

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
FOLDER = Path(texts.__file__).parent
TEXTS = {language: orjson.loads((FOLDER / f"{language}.json").read_bytes()) for language in LANGUAGES}


def make_notification(**parts: Any) -> Notification:
    values = {"recipients": [{"all": True}], "category": "builds", **parts}
    return Notification.model_validate(values)


def draw_card(notification: Notification, category: Category | None = None) -> dict[str, Any]:
    footer = Footer.of(KEY, notification, category or Category(name=notification.category))
    activity = orjson.loads(render_activity(notification, 80 * 1024, footer))
    card: dict[str, Any] = activity["attachments"][0]["content"]
    assert find_faults(card) == []
    return card


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_every_text_with_the_same_placeholders(language: str) -> None:
    placeholders = {key: set(re.findall(r"\{\w+\}", text)) for key, text in TEXTS[language].items()}
    assert placeholders == {key: set(re.findall(r"\{\w+\}", text)) for key, text in TEXTS["en"].items()}


@pytest.mark.parametrize(
    ("locales", "language"), [(("de-AT",), "de"), (("", "DE"), "de"), (("fr", "de"), "de"), (("fr",), "en"), ((), "en")]
)
def test_first_known_language_is_used(locales: tuple[str, ...], language: str) -> None:
    assert language_of(*locales) == language


def test_missing_text_is_shown_in_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TEXTS, "de", {})
    monkeypatch.setattr("shared.texts._load_texts", TEXTS.__getitem__)
    assert text_of("de", "why") == "Why did I get this?"


def test_escaped_text_contains_no_markdown_or_mention() -> None:
    assert escape_markdown("[a](http://b) *c* <at>d</at>") == r"\[a\]\(http://b\) \*c\* &lt;at>d&lt;/at>"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_card_is_valid(language: str) -> None:
    wrong = {"quiet": "is no such thing", "time_zone": "neither"}
    for preferences in (Preferences(), EVERYTHING):
        for errors in ({}, wrong):
            card = draw_preferences_card(
                preferences, CATEGORIES, zone="Europe/Berlin", zone_source="x", default_digest="daily 09:00",
                locale=language, note="<at>x</at>", errors=errors, key=KEY, now=NOW,
            )  # fmt: skip
            assert find_faults(card) == []
    assert find_faults(draw_welcome_card(language, KEY)) == []
    assert find_faults(draw_welcome_card(language, KEY, added_to="<at>x</at>", adder="[x](y)")) == []
    assert find_faults(refreshed.draw_explanation_card(language, ["<at>x</at>"], KEY)) == []
    draw_card(make_notification(content={"title": "T", "result": "R", "actor": {"name": "A"}}, locale=language))


def test_every_action_names_its_notification_and_keeps_the_senders_data() -> None:
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
            {"type": "Action.OpenUrl", "title": "d", "url": "https://ci.example"},
            {"type": "Action.Execute", "id": "only-id"},
        ],
    }  # fmt: skip
    card = draw_card(make_notification(card=own))
    data = {each["verb"]: each["data"] for each in find_execute_actions(card)}
    assert all(each["herald"] == {"n": KEY} for each in data.values())
    assert (data["a"]["x"], data["b"]["data"]) == (1, "text")
    assert {"open", "c", "only-id"} <= set(data)
    assert card["actions"][3] == own["actions"][3]
    assert card["body"][-1]["id"] == FOOTER_ID
    assert card["version"] == "1.5"


def test_action_set_is_removed_with_its_last_action() -> None:
    button = {"type": "Action.Execute", "verb": "a"}
    card = {"body": [{"type": "ActionSet", "actions": [button]}, {"type": "Container", "selectAction": button}]}
    assert remove_actions(card, frozenset({"a"})) == {"body": [{"type": "Container"}]}


def test_action_sets_have_at_most_six_buttons() -> None:
    actions = [{"id": f"own{number}", "title": "Do"} for number in range(6)]
    link = {"title": "Open", "url": "https://ci.example"}
    card = draw_card(make_notification(content={"title": "T", "link": link, "actions": actions}))
    sets = [len(each["actions"]) for each in card["body"] if each["type"] == "ActionSet"]
    assert sets == [6, 2]
    verbs = {each["verb"] for each in find_execute_actions(card)}
    assert verbs >= {*(each["id"] for each in actions), action_verbs.ACKNOWLEDGE}


def test_links_and_images_are_drawn_in_order_after_the_short_forms() -> None:
    links = [{"title": f"Open {number}", "url": f"https://ci.example/{number}"} for number in range(5)]
    images = [{"url": f"https://ci.example/{number}.png", "altText": f"Graph {number}"} for number in range(5)]
    content = {"title": "T", "link": links[0], "links": links[1:], "image": images[0], "images": images[1:]}
    card = draw_card(make_notification(content=content))
    shown = [(each["url"], each["altText"]) for each in card["body"] if each["type"] == "Image"]
    assert shown == [(each["url"], each["altText"]) for each in images]
    [buttons] = [each["actions"] for each in card["body"] if each["type"] == "ActionSet"]
    assert [(each["title"], each["url"]) for each in buttons[:5]] == [(each["title"], each["url"]) for each in links]


def test_content_whose_links_and_images_alone_are_too_large_is_refused() -> None:
    """They are never left out, and the text is not what is too long."""
    url = "https://ci.example/" + "x" * 8_000
    parts = {"links": [{"title": "Open", "url": url}] * 3, "images": [{"url": url, "altText": "Graph"}] * 3}
    notification = make_notification(content={"title": "T", "text": "word " * 100, **parts})
    assert count_utf16_bytes(render_activity(notification, 100 * 1024)) > 96_000
    with pytest.raises(MessageRefused) as refused:
        check_content(notification, 80 * 1024, "/data")
    assert [fault.pointer for fault in refused.value.faults] == ["/data/content"]


ADA, BOB = {"name": "Ada", "user": "6f9619ff-8b86-d011-b42d-00c04fc964ff"}, {"name": "Bob", "user": "bob@ci.example"}


def mentioned(card: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the text, name and id of each mention of a card."""
    entities = card.get("msteams", {"entities": []})["entities"]
    return [(each["text"], each["mentioned"]["name"], each["mentioned"]["id"]) for each in entities]


def draw_parts(is_shared: bool, **parts: Any) -> tuple[dict[str, Any], str]:
    """Return the card of a content, which is valid, and its toast."""
    notification = make_notification(content=parts)
    check_content(notification, 80 * 1024, "")
    activity = orjson.loads(render_activity(notification, 80 * 1024, is_shared=is_shared))
    card: dict[str, Any] = activity["attachments"][0]["content"]
    assert find_faults(card) == []
    return card, activity["summary"]


@pytest.mark.parametrize("is_shared", [True, False])
def test_mentions_notify_people_where_several_see_the_card_and_are_bold_names_elsewhere(is_shared: bool) -> None:
    facts = [{"title": "On duty", "value": "<at>Bob</at>"}]
    text = "<at>Ada</at>, please look.\n<at>Ada</at>!"
    card, toast = draw_parts(
        is_shared, title="For <at>Ada</at>", text=text, result="<at>Bob</at>", facts=facts, mentions=[ADA, BOB]
    )
    ada, bob = ("<at>Ada</at>", "<at>Bob</at>") if is_shared else ("**Ada**", "**Bob**")
    heading, body, table, result = card["body"]
    assert (heading["text"], body["text"]) == (f"For {ada}", f"{ada}, please look.\n\n{ada}!")
    assert (table["facts"][0]["value"], bob in result["items"][0]["text"]) == (bob, True)
    assert toast == "For Ada"
    everyone = [(f"<at>{each['name']}</at>", each["name"], each["user"]) for each in (ADA, BOB)]
    assert mentioned(card) == (everyone if is_shared else [])


@pytest.mark.parametrize(
    ("name", "shared", "personal"),
    [
        ("Ada Lovelace-King (Contoso)", "<at>Ada Lovelace-King (Contoso)</at>", "**Ada Lovelace-King (Contoso)**"),
        ("Ada [EXT]", r"<at>Ada \[EXT\]</at>", r"**Ada \[EXT\]**"),
        ("[x](https://evil.example)", r"<at>\[x\](https://evil.example)</at>", r"**\[x\](https://evil.example)**"),
        ("**x** _y_ `z` ~a~", r"<at>\*\*x\*\* \_y\_ \`z\` \~a\~</at>", r"**\*\*x\*\* \_y\_ \`z\` \~a\~**"),
        (" Ada ", "<at> Ada </at>", "**Ada**"),
        ("{{TIME(2026-11-29T10:00:00Z)}}", r"<at>\{\{TIME(2026-11-29T10:00:00Z)\}\}</at>",
         r"**\{\{TIME(2026-11-29T10:00:00Z)\}\}**"),
    ],
)  # fmt: skip
def test_mentioned_name_is_shown_without_markdown(name: str, shared: str, personal: str) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    for is_shared, shown in ((True, shared), (False, personal)):
        mention = ADA | {"name": name}
        card, _ = draw_parts(is_shared, title="T", text=f"Hello <at>{name}</at>!", mentions=[mention])
        assert card["body"][1]["text"] == f"Hello {shown}!"
        assert mentioned(card) == ([(shared, name, ADA["user"])] if is_shared else [])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<at>All</at>", "&lt;at>All&lt;/at>"),
        ("<AT>All</AT> <at id='0'>All</at>", "&lt;AT>All&lt;/AT> &lt;at id='0'>All&lt;/at>"),
        ("<at>Ada", "&lt;at>Ada"),
        ("<at><at>Ada</at></at>", "&lt;at><at>Ada</at>&lt;/at>"),
        ("a<b, <attention>, x <at y", "a<b, <attention>, x &lt;at y"),
    ],
)
def test_nobody_can_write_a_mention_or_markdown_into_a_name_or_text(text: str, shown: str) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    facts, actor = [{"title": text, "value": text}], {"name": text}
    card, _ = draw_parts(
        True, title=text, text=f"<at>Ada</at>: {text}", result=text, facts=facts, actor=actor, mentions=[ADA]
    )
    heading, body, table, result, triggered = card["body"]
    assert (heading["text"], body["text"]) == (shown, f"<at>Ada</at>: {shown}")
    assert table["facts"] == [{"title": shown, "value": shown}]
    assert shown in result["items"][0]["text"]
    assert "<at>" not in triggered["text"]
    assert mentioned(card) == [("<at>Ada</at>", "Ada", ADA["user"])]


@pytest.mark.parametrize(
    ("parts", "pointer"),
    [
        ({"mentions": [ADA]}, "/mentions/0/name"),
        ({"text": "<at>Ada</at> Bob", "mentions": [ADA, BOB]}, "/mentions/1/name"),
        ({"text": "<at>ada</at> <at>Ada </at> <at>Ada", "mentions": [ADA]}, "/mentions/0/name"),
        ({"actor": {"name": "<at>Ada</at>"}, "mentions": [ADA]}, "/mentions/0/name"),
        ({"text": "<at>Ada</at>", "mentions": [ADA, BOB | {"name": "Ada"}]}, "/mentions/1/name"),
    ],
)
def test_mention_that_no_text_has_or_that_is_ambiguous_is_refused(parts: dict[str, Any], pointer: str) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    with pytest.raises(MessageRefused) as refused:
        check_content(make_notification(content={"title": "T", **parts}), 80 * 1024, "/data")
    assert [fault.pointer for fault in refused.value.faults] == [f"/data/content{pointer}"]


def test_validation_counts_the_size_of_mentions() -> None:
    mentions = [ADA | {"name": f"Ada {number}"} for number in range(20)]
    result, accepted = "".join(f"<at>{each['name']}</at>" for each in mentions), []
    for length in range(0, 10_000, 100):
        facts = [{"title": "Log", "value": "x" * length}]
        content = {"title": "T", "facts": facts, "result": result, "mentions": mentions}
        notification = make_notification(content=content, thread={"key": "x"})
        with suppress(MessageRefused):
            check_content(notification, 20 * 1024, "")
            label = Category(name="x", title="\U0001f600" * 100)
            render_activity(notification, 20 * 1024, Footer.of(KEY, notification, label), is_shared=True)
            accepted.append(length)
    assert 0 < len(accepted) < 100


@pytest.mark.parametrize("limit", [16 * 1024, 80 * 1024])
@pytest.mark.parametrize("text", ["<at>Ada</at> {} <at>Bob</at>", "{} <at>Ada</at> <at>Bob</at>"])
def test_shortened_text_keeps_every_mention(text: str, limit: int) -> None:
    content = {"title": "T", "text": text.format("word " * 12_000), "mentions": [ADA, BOB]}
    activity = render_activity(make_notification(content=content), limit, is_shared=True)
    assert limit - 200 < count_utf16_bytes(activity) <= limit
    card = orjson.loads(activity)["attachments"][0]["content"]
    assert find_faults(card) == []
    assert [name for _, name, _ in mentioned(card)] == ["Ada", "Bob"]
    assert card["body"][1]["text"].count("<at>") == 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Stage test failed\n3 tests red\nsee log", "Stage test failed\n\n3 tests red\n\nsee log"),
        ("one\r\ntwo\rthree\u2028four", "one\n\ntwo\n\nthree\n\nfour"),
        ("one\n\ntwo\n \nthree", "one\n\ntwo\n \nthree"),
        ("Red:\n- a\n- b\n* c\nand more", "Red:\n- a\n- b\n* c\n\nand more"),
        ("Steps:\n1. a\n2. b\n10) c", "Steps:\n1. a\n2. b\n10) c"),
        ("Failed in\n2026. A year\n3. try", "Failed in\n\n2026. A year\n\n3. try"),
        ("-5 degrees\n-6 degrees", "-5 degrees\n\n-6 degrees"),
    ],
)
def test_each_line_is_shown_on_its_own_and_lists_stay_lists(text: str, shown: str) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    assert with_line_breaks(text) == shown == with_line_breaks(shown)
    fact = {"title": "t", "value": text}
    card = draw_card(make_notification(content={"title": "T", "text": text, "facts": [fact], "result": text}))
    assert json.dumps(card).count(json.dumps(shown)[1:-1]) == 3


def test_text_of_many_lines_is_shortened_to_the_limit() -> None:
    notification = make_notification(content={"title": "T", "text": "a\n" * 20_000})
    activity = render_activity(notification, 80 * 1024)
    assert 70 * 1024 < count_utf16_bytes(activity) <= 80 * 1024


def test_card_with_footer_fits_the_limit() -> None:
    notification = make_notification(content={"title": "T", "text": "word " * 20_000})
    footer = Footer.of(KEY, notification, Category(name="builds"))
    for limit in (16, 80):
        assert count_utf16_bytes(render_activity(notification, limit * 1024, footer)) <= limit * 1024


def test_validation_counts_the_size_of_the_footer() -> None:
    own = {"type": "AdaptiveCard", "version": "1.5", "body": [{"type": "TextBlock", "text": "x" * 38_000}]}
    notification = make_notification(card=own)
    limit = 80 * 1024
    assert count_utf16_bytes(render_activity(notification, limit)) <= limit
    with pytest.raises(MessageRefused) as refused:
        check_content(notification, limit, "/data")
    assert [fault.pointer for fault in refused.value.faults] == ["/data/card"]


@pytest.mark.parametrize("length", [1, 25_000, 30_000, 35_000, 37_000])
def test_accepted_card_fits_the_limit_with_any_category_label(length: int) -> None:
    own = {"type": "AdaptiveCard", "version": "1.5", "body": [{"type": "TextBlock", "text": "x" * length}]}
    notification, limit = make_notification(card=own, thread={"key": "x"}), 80 * 1024
    try:
        check_content(notification, limit, "")
    except MessageRefused:
        return
    label = Category(name="x", title="\U0001f600" * 100)
    assert count_utf16_bytes(render_activity(notification, limit, Footer.of(KEY, notification, label))) <= limit


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
def test_reserved_ids_and_verbs_are_refused(parts: dict[str, Any], pointer: str) -> None:
    with pytest.raises(MessageRefused) as refused:
        check_content(make_notification(**parts), 80 * 1024, "/data")
    assert [fault.pointer for fault in refused.value.faults] == [f"/data{pointer}"]


def test_reserved_names_are_allowed_in_action_data() -> None:
    button = {"type": "Action.Execute", "verb": "x", "data": {"verb": "herald.stop"}}
    check_content(
        make_notification(card={"type": "AdaptiveCard", "version": "1.5", "actions": [button]}), 80 * 1024, ""
    )


# Saving the preferences card


def save(old: Preferences, _was: Preferences | None = None, /, **new: str) -> Preferences:
    """Return `old` after these fields were changed on a card that was drawn from it, or from `_was`."""
    initial = field_values(_was or old, CATEGORIES, NOW)
    typed = find_changed_fields(initial | {name.replace("__", "."): value for name, value in new.items()}, initial)
    return apply_fields(old, typed, initial, CATEGORIES, now=NOW, default_zone="Europe/Berlin")


@pytest.mark.parametrize("preferences", [Preferences(), EVERYTHING])
def test_saving_an_unchanged_card_changes_nothing(preferences: Preferences) -> None:
    assert save(preferences) == preferences
    assert save(EVERYTHING, preferences) == EVERYTHING


def test_every_choice_can_be_reset() -> None:
    back = save(
        EVERYTHING, default="declared", category__builds="declared", pause="none", time_zone="declared", quiet_days="",
        digest_days="declared",
        own_actions="false", unmute="true", **{"topic.releases": "false", "topic.*bold* <at>x</at>": "false"},
    )  # fmt: skip
    assert back == Preferences()


@pytest.mark.parametrize(
    ("value", "until"),
    [
        ("1h", NOW + timedelta(hours=1)),
        ("tomorrow", datetime(2026, 11, 24, 8, tzinfo=UTC)),
        ("monday", datetime(2026, 11, 30, 8, tzinfo=UTC)),
        (KEEP_PAUSE, None),
    ],
)
def test_pause_ends_in_the_persons_time_zone(value: str, until: datetime | None) -> None:
    assert save(Preferences(), pause=value).paused_until == until


def test_pause_uses_the_time_zone_saved_with_it() -> None:
    saved = save(Preferences(), pause="tomorrow", time_zone="Asia/Tokyo")
    assert saved.paused_until == datetime(2026, 11, 24, 0, tzinfo=UTC)


def test_pause_changed_after_the_card_was_drawn_is_kept() -> None:
    paused = Preferences(paused_until=NOW + timedelta(days=3))
    assert save(paused, Preferences(), pause="1h") == paused
    over = Preferences(paused_until=NOW - timedelta(days=3))
    assert save(over, Preferences(), pause="1h").paused_until == NOW + timedelta(hours=1)


def test_all_invalid_fields_are_reported_together() -> None:
    with pytest.raises(InvalidFields) as wrong:
        save(
            Preferences(),
            time_zone="Berlni",
            quiet_from="18:00",
            digest_days="hourly",
            category__builds="loud",
            pause="until x",
        )
    assert set(wrong.value.errors) == {"time_zone", "quiet_from", "digest_days", "category.builds", "pause"}


@pytest.mark.parametrize(
    ("fields", "quiet"),
    [
        ({"quiet_from": "18:00", "quiet_to": "08:00"}, "18:00-08:00"),
        ({"quiet_days": "sat,sun"}, "sat,sun"),
        ({"quiet_from": "22:00", "quiet_to": "06:30", "quiet_days": "sun"}, "22:00-06:30; sun"),
    ],
)
def test_quiet_hours_are_saved_and_shown_again(fields: dict[str, str], quiet: str) -> None:
    saved = save(Preferences(), **fields)
    assert saved.quiet == quiet
    shown = field_values(saved, CATEGORIES, NOW)
    assert {name: shown[name] for name in fields} == fields
    assert save(saved, quiet_from="", quiet_to="", quiet_days="").quiet == ""


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"quiet_from": "18:00"}, "set both times, or none"),
        ({"quiet_from": "18:00", "quiet_to": "18:00"}, "the same start and end"),
        ({"quiet_days": "mon,tue,wed,thu,fri,sat,sun"}, "cannot cover the whole week"),
    ],
)
def test_invalid_quiet_hours_are_refused(fields: dict[str, str], error: str) -> None:
    with pytest.raises(InvalidFields) as wrong:
        save(Preferences(), **fields)
    assert error in str(wrong.value.errors[next(iter(fields))])


@pytest.mark.parametrize(
    ("days", "at", "digest"),
    [
        ("daily", "17:30", "daily 17:30"),
        ("weekdays", "", "weekdays 09:00"),
        ("fri", "16:00", "weekly fri 16:00"),
        ("off", "", "off"),
    ],
)
def test_digest_schedule_is_saved_and_shown_again(days: str, at: str, digest: str) -> None:
    saved = save(Preferences(), digest_days=days, digest_time=at)
    assert saved.digest == digest
    shown = field_values(saved, CATEGORIES, NOW)
    assert (shown["digest_days"], shown["digest_time"]) == (days, at or ("" if days == "off" else "09:00"))
    assert save(saved, digest_days="declared").digest == ""


def test_quiet_hours_of_a_command_stay_and_are_said() -> None:
    preferences = Preferences(quiet="mon-fri 18:00-08:00; sat,sun")
    assert save(preferences) == preferences
    card = draw_preferences_card(
        preferences, CATEGORIES, zone="Europe/Berlin", zone_source="x", default_digest="daily 09:00", now=NOW
    )
    assert (
        "Your quiet hours are mon-fri 18:00-08:00; sat,sun. New hours below replace them."
        in orjson.dumps(card).decode()
    )


def test_time_zones_are_chosen_from_a_list_with_the_persons_own_first() -> None:
    own = Preferences(time_zone="America/Argentina/Ushuaia")
    card = draw_preferences_card(own, CATEGORIES, zone="Europe/Berlin", zone_source="x", default_digest="off", now=NOW)
    [zones] = [each for each in card["body"] if each.get("id") == "time_zone"]
    values = [choice["value"] for choice in zones["choices"]]
    assert values[:3] == ["declared", "America/Argentina/Ushuaia", "Europe/Berlin"]
    assert len(values) == len(set(values)) <= 150
    assert zones["style"] == "filtered"
    assert {"title": "New York, Detroit, Montreal (UTC-05:00)", "value": "America/New_York"} in zones["choices"]


def test_card_of_forty_categories_is_below_forty_kilobytes() -> None:
    many = Categories([Category(name=f"category-{number}", title=f"Category {number}") for number in range(40)])
    card = draw_preferences_card(
        EVERYTHING, many, zone="Europe/Berlin", zone_source="from Teams", default_digest="daily 09:00", now=NOW
    )
    assert len(orjson.dumps(card)) < 40 * 1024


def test_mandatory_category_has_no_field() -> None:
    assert "category.security" not in field_values(Preferences(), CATEGORIES)
    assert save(Preferences(), category__security="off") == Preferences()


def test_verbs_have_the_reserved_prefix_and_are_unique() -> None:
    verbs = [value for name, value in vars(action_verbs).items() if name.isupper() and name != "RESERVED_PREFIX"]
    assert all(value.startswith(action_verbs.RESERVED_PREFIX) for value in verbs)
    assert len(set(verbs)) == len(verbs)


def test_card_without_footer_has_no_actions_that_call_the_bot() -> None:
    content = Content.model_validate({"title": "T", "actions": [{"id": "a", "title": "A"}]})
    activity = orjson.loads(render_activity(make_notification(content=content), 80 * 1024))
    assert find_execute_actions(activity) == []
