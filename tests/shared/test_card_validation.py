"""Validation of an upstream system's card: valid cards are accepted, and faults are reported with JSON pointers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.cards.notification import draw_notification_card
from shared.cards.validation import MAX_DEPTH, MAX_FAULTS, MAX_VALUES, find_faults
from shared.contract.faults import Fault
from shared.contract.models import Action, Actor, Content, Fact, Image, Link

TEXT: dict[str, Any] = {"type": "TextBlock", "text": "Build 42 failed", "wrap": True}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
# fmt: off
NAMES = st.sampled_from([
    "type", "version", "body", "actions", "items", "columns", "rows", "cells", "facts", "inlines", "fallback", "card",
    "selectAction", "url", "text", "title", "backgroundImage", "msteams", "entities", "refresh", "userIds", "style",
    "requires", "data", "choices", "targetElements",
])
TYPES = st.sampled_from([
    "AdaptiveCard", "TextBlock", "Image", "Container", "ColumnSet", "Column", "Table", "FactSet", "RichTextBlock",
    "TextRun", "ActionSet", "Media", "Action.Submit", "Action.Execute", "Action.ShowCard", "Action.OpenUrl",
    "Input.ChoiceSet", "Input.Text", "Badge", "Nothing",
])
# fmt: on
CARDS = st.recursive(
    JSON | TYPES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner | TYPES, max_size=5),
    max_leaves=40,
)


def card(*body: object, **properties: object) -> dict[str, Any]:
    return {"type": "AdaptiveCard", "version": "1.5", "body": list(body)} | properties


def faults_by_pointer(value: dict[str, Any]) -> dict[str, str]:
    found = find_faults(value)
    assert len({fault.pointer for fault in found}) == len(found)
    return {fault.pointer: fault.message for fault in found}


def submit_actions(count: int, **properties: object) -> list[dict[str, Any]]:
    return [
        {"type": "Action.Execute", "verb": "go", "title": f"Choice {number}"} | properties for number in range(count)
    ]


# Links


LINK_PLACES = [
    lambda url: card(actions=[{"type": "Action.OpenUrl", "title": "Open", "url": url}]),
    lambda url: card(TEXT | {"selectAction": {"type": "Action.OpenUrl", "url": url}}),
    lambda url: card({"type": "Container", "items": [TEXT], "selectAction": {"type": "Action.OpenUrl", "url": url}}),
    lambda url: card(actions=[{"type": "Action.ShowCard", "title": "More", "card": card(actions=[
        {"type": "Action.OpenUrl", "title": "Open", "url": url}])}]),
    lambda url: card({"type": "Media", "sources": [{"mimeType": "video/mp4", "url": url}]}),
    lambda url: card(actions=[{"type": "Action.OpenUrlDialog", "title": "Open", "url": url}]),
]  # fmt: skip


@pytest.mark.parametrize("draw", LINK_PLACES)
@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)", "JavaScript:alert(1)", "file:///etc/passwd", "data:text/html,x", "vbscript:x",
        "ms-msdt:/id", "//ci.example/42", "ci.example/42", "", "https://",
        "https://ci.example/\n42", "https://ci.example/a b",
        "https://ci.example/\x00", " https://ci.example/42", "java\nscript:alert(1)", "https://ci.example:port/",
        "https://[::1", "https://ci.example/<x>", "https://ci.example\\@other.example/",
    ],
)  # fmt: skip
def test_link_that_is_no_plain_web_address_is_a_fault(draw: Callable[[str], dict[str, Any]], url: str) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    assert [pointer.rpartition("/")[2] for pointer in faults_by_pointer(draw(url))] == ["url"]


@pytest.mark.parametrize("draw", LINK_PLACES)
@pytest.mark.parametrize(
    "url",
    [
        "https://ci.example/42?a=%20#b", "HTTP://ci.example", "mailto:ada@ci.example?subject=x", "tel:+4930123",
        "https://teams.microsoft.com/l/chat/0/0?users=ada@ci.example",
        "msteams:/l/chat/0/0", "https://ci.example/?a={b}|c", "https://bücher.example/ä",
    ],
)  # fmt: skip
def test_link_to_a_page_mail_call_or_teams_is_valid(draw: Callable[[str], dict[str, Any]], url: str) -> None:
    assert faults_by_pointer(draw(url)) == {}


@pytest.mark.parametrize("url", ["http://ci.example/a.png", "https://", "https://ci.example/a b.png", "file:///a.png"])
def test_image_that_teams_cannot_load_is_one_fault(url: str) -> None:
    image = {"type": "Image", "url": url}
    found = faults_by_pointer(card(image, backgroundImage={"url": url}))
    assert list(found) == ["/backgroundImage/url", "/body/0/url"] or list(found) == [
        "/body/0/url",
        "/backgroundImage/url",
    ]


# Valid cards


def test_herald_card_is_valid() -> None:
    content = Content(
        title="Build 42 failed",
        text="Stage **test** failed",
        facts=[Fact(title="Branch", value="main")],
        result="Not deployed",
        actor=Actor(name="nightly schedule"),
        link=Link(title="Open", url="https://example.com/42"),
        links=[Link(title="Log", url="https://example.com/42/log")],
        image=Image.model_validate({"url": "https://example.com/42.png", "altText": "The graph of failures"}),
        images=[Image.model_validate({"url": "https://example.com/43.png", "altText": "The graph of errors"})],
        actions=[Action(id="retry", title="Retry")],
    )
    assert find_faults(draw_notification_card(content)) == []


CARD_WITH_EVERY_ELEMENT = card(
    TEXT,
    {"type": "RichTextBlock", "inlines": ["plain", {"type": "TextRun", "text": "bold", "weight": "bolder"}]},
    {"type": "ImageSet", "images": [{"type": "Image", "url": "https://example.com/a.png"}]},
    {"type": "ColumnSet", "columns": [{"type": "Column", "width": "stretch", "items": [TEXT]}, {"width": 2}]},
    {"type": "Table", "columns": [{"width": 1}], "rows": [{"type": "TableRow", "cells": [{"items": [TEXT]}]}]},
    {"type": "Input.ChoiceSet", "id": "who", "choices": [{"title": "Ada", "value": "ada"}], "isMultiSelect": True},
    {
        "type": "Input.Text",
        "id": "why",
        "inlineAction": {"type": "Action.Execute", "verb": "go", "data": {"a": [1, None]}},
    },
    {"type": "Input.Toggle", "id": "sure", "title": "Sure?", "requires": {"adaptiveCards": "1.5"}},
    {"type": "Media", "sources": [{"mimeType": "video/mp4", "url": "https://example.com/a.mp4"}]},
    {"type": "Table", "rows": [{"type": "TableRow", "cells": [{"type": "TableCell"}], "spacing": "None"}]},
    {
        "type": "ActionSet",
        "actions": [{"type": "Action.ToggleVisibility", "targetElements": ["a", {"elementId": "b"}]}],
        "separator": True,
    },
    {"type": "Container", "items": [TEXT], "style": "Emphasis", "rtl": True, "fallback": "drop", "minHeight": "80px"},
    actions=[
        {"type": "Action.ShowCard", "title": "More", "card": {"type": "AdaptiveCard", "body": [TEXT]}},
        {"type": "Action.Execute", "verb": "retry", "data": "x", "fallback": {"type": "Action.Submit", "title": "a"}},
        {"type": "Action.OpenUrl", "url": "https://example.com", "iconUrl": "icon:Open"},
    ],
    selectAction={"type": "Action.OpenUrl", "url": "https://example.com"},
    backgroundImage={"url": "https://example.com/b.png", "fillMode": "cover"},
    refresh={"action": {"type": "Action.Execute", "verb": "refresh"}, "userIds": ["29:1"]},
    msteams={"width": "Full"},
    **{"$schema": "http://adaptivecards.io/schemas/adaptive-card.json"},
)


def test_card_with_every_kind_of_element_is_valid() -> None:
    assert find_faults(CARD_WITH_EVERY_ELEMENT) == []


@pytest.mark.parametrize(
    "element",
    [
        {"type": "CodeBlock", "codeSnippet": "print(1)", "language": "Python"},
        {"type": "Badge", "text": "New"},
        {"type": "Input.ChoiceSet", "id": "a", "style": "filtered", "choices.data": {"type": "Data.Query"}},
        {"type": "TextBlock", "text": "a", "style": "columnHeader", "targetWidth": "atLeast:Narrow"},
        {"type": "Image", "url": "https://example.com/a.png", "msteams": {"allowExpand": True}},
        {"type": "Image", "url": "data:image/png;base64,iVBORw0KGgo="},
    ],
)
def test_teams_additions_to_the_schema_are_valid(element: dict[str, Any]) -> None:
    assert find_faults(card(element)) == []


def test_enum_value_is_valid_in_any_case() -> None:
    assert find_faults(card(TEXT | {"size": "LARGE", "color": "Attention", "weight": "bolder"})) == []


def test_unknown_property_is_valid() -> None:
    assert find_faults(card(TEXT | {"shadow": "long"}, actions=submit_actions(1, role="button"), mood="calm")) == []


def test_unknown_type_is_valid_if_its_fallback_is_valid() -> None:
    assert find_faults(card({"type": "Hologram", "shape": "cube", "fallback": TEXT})) == []
    found = faults_by_pointer(card({"type": "Hologram", "fallback": {"type": "TextBlock"}}))
    assert found == {"/body/0/fallback/text": "is missing"}


# Faults of structure


@pytest.mark.parametrize(
    ("value", "pointer", "message"),
    [
        (card({"type": "TextBlock"}), "/body/0/text", "is missing"),
        (card(TEXT, TEXT, TEXT, {"type": "Hologram"}), "/body/3/type", "is not an element of Adaptive Cards"),
        (card({"text": "a"}), "/body/0/type", "is missing"),
        (card({"type": ["TextBlock"]}), "/body/0/type", "is not an element of Adaptive Cards"),
        (card("text"), "/body/0", "must be an object"),
        (card(TEXT | {"text": 42}), "/body/0/text", "must be a string"),
        (card(TEXT | {"wrap": "yes"}), "/body/0/wrap", "must be true or false"),
        (card(TEXT | {"maxLines": True}), "/body/0/maxLines", "must be a number"),
        (card(TEXT | {"color": "pink"}), "/body/0/color", "must be one of default, dark,"),
        (card({"type": "Input.Text"}), "/body/0/id", "is missing"),
        (card({"type": "FactSet", "facts": [{"title": "a"}]}), "/body/0/facts/0/value", "is missing"),
        (card({"type": "RichTextBlock", "inlines": [1]}), "/body/0/inlines/0", "must be a string or an object"),
        (card({"type": "Container", "items": [{"type": "Container"}]}), "/body/0/items/0/items", "is missing"),
        (card({"type": "Action.Execute", "verb": "go"}), "/body/0/type", "is not an element of Adaptive Cards"),
        (card(TEXT | {"requires": {"a/b~": 1}}), "/body/0/requires/a~1b~0", "must be a string"),
        (card(actions=[TEXT]), "/actions/0/type", "is not an action of Adaptive Cards"),
        (card(actions=[{"type": "Action.Http"}]), "/actions/0/type", "is not an action of Adaptive Cards"),
        (card(actions={}), "/actions", "must be an array"),
        (card(actions=[{"type": "Action.OpenUrl"}]), "/actions/0/url", "is missing"),
        (card(selectAction={"type": "Action.ShowCard"}), "/selectAction/type", "is not an action of Adaptive Cards"),
        ({"type": "AdaptiveCard"}, "/version", "is missing"),
        ({"version": "1.5"}, "/type", "is missing"),
    ],
)
def test_fault_points_into_the_element_that_was_meant(value: dict[str, Any], pointer: str, message: str) -> None:
    found = faults_by_pointer(value)
    assert list(found) == [pointer]
    assert found[pointer].startswith(message)


def test_card_inside_another_card_needs_no_version() -> None:
    inner = {"type": "AdaptiveCard", "body": [{"type": "TextBlock"}]}
    found = faults_by_pointer(card(actions=[{"type": "Action.ShowCard", "card": inner}]))
    assert found == {"/actions/0/card/body/0/text": "is missing"}


# Valid structure that Teams does not render


@pytest.mark.parametrize("version", ["1.6", "2.0", "1", "1.50", "", "1.5\n"])
def test_unsupported_version_is_a_fault(version: str) -> None:
    assert list(faults_by_pointer(card(TEXT, version=version))) == ["/version"]


@pytest.mark.parametrize("version", ["1.0", "1.3", "1.5"])
def test_supported_version_is_valid(version: str) -> None:
    assert find_faults(card(TEXT, version=version)) == []


def test_universal_actions_need_version_1_4() -> None:
    execute = {"type": "Action.Execute", "verb": "retry"}
    old = card(version="1.3", actions=[execute], refresh={"action": execute})
    assert set(faults_by_pointer(old)) == {"/refresh", "/refresh/action/type", "/actions/0/type"}
    assert find_faults(old | {"version": "1.4"}) == []


@pytest.mark.parametrize("url", ["http://example.com/a.png", "file:///a.png", "a.png", "data:text/html;base64,AA", ""])
def test_image_without_https_url_is_a_fault(url: str) -> None:
    found = faults_by_pointer(
        card(
            {"type": "Image", "url": url},
            {"type": "Container", "items": [], "backgroundImage": url},
            backgroundImage={"url": url},
            actions=[{"type": "Action.Execute", "verb": "go", "iconUrl": url}],
        )
    )
    assert set(found) == {"/body/0/url", "/body/1/backgroundImage", "/backgroundImage/url", "/actions/0/iconUrl"}


def test_link_to_any_address_is_valid() -> None:
    assert find_faults(card(actions=[{"type": "Action.OpenUrl", "url": "msteams:/l/chat"}])) == []


def test_more_than_six_buttons_are_valid() -> None:
    assert find_faults(card(actions=submit_actions(9))) == []


def test_refresh_for_more_than_60_people_is_a_fault() -> None:
    refresh = {
        "action": {"type": "Action.Execute", "verb": "refresh"},
        "userIds": [f"29:{number}" for number in range(61)],
    }
    assert list(faults_by_pointer(card(refresh=refresh))) == ["/refresh/userIds"]


def mention(text: str) -> dict[str, Any]:
    return {"type": "mention", "text": text, "mentioned": {"id": "29:1", "name": "Ada"}}


def test_mention_needs_its_text_and_its_entity() -> None:
    greeting = TEXT | {"text": "Hello <at>Ada</at>"}
    facts = {"type": "FactSet", "facts": [{"title": "For", "value": "<at>Ada</at>"}]}
    entities = {"entities": [mention("<at>Ada</at>")]}
    assert find_faults(card(greeting, msteams=entities)) == []
    assert find_faults(card(facts, msteams=entities)) == []
    assert list(faults_by_pointer(card(TEXT, msteams=entities))) == ["/msteams/entities/0/text"]
    assert list(faults_by_pointer(card(greeting))) == ["/body/0/text"]
    assert list(faults_by_pointer(card(facts))) == ["/body/0/facts/0/value"]
    unlike = card(greeting, msteams={"entities": [mention("Ada")]})
    assert list(faults_by_pointer(unlike)) == ["/msteams/entities/0/text", "/body/0/text"]


@pytest.mark.parametrize("person", [{"name": "Ada"}, {"id": ""}, {"id": 29}, "29:1", None])
def test_mention_needs_the_id_of_a_person(person: object) -> None:
    entity = mention("<at>Ada</at>") | {"mentioned": person}
    found = faults_by_pointer(card(TEXT | {"text": "<at>Ada</at>"}, msteams={"entities": [entity]}))
    assert found == {"/msteams/entities/0/mentioned/id": "is missing"}


@pytest.mark.parametrize("entities", [[{"type": "clientInfo"}, "text"], {}, None])
def test_entity_of_another_type_is_not_checked(entities: object) -> None:
    assert find_faults(card(TEXT, msteams={"entities": entities})) == []


def test_data_of_an_action_is_not_checked() -> None:
    data = {"type": "Image", "url": "http://example.com"}
    assert find_faults(card(actions=[{"type": "Action.Execute", "verb": "go", "data": data}])) == []


# Limits


def nested_card(levels: int) -> dict[str, Any]:
    """Return a card nested so many JSON levels deep, whose innermost element lacks its text."""
    inner: dict[str, Any] = {"type": "TextBlock", "wrap": True}
    for _ in range(levels - 4):
        inner = {"type": "Container", "items": [], "fallback": inner}
    return card(inner)


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 10_000])
def test_too_deep_nesting_is_one_fault(levels: int) -> None:
    assert find_faults(nested_card(levels)) == [Fault("", f"must be nested at most {MAX_DEPTH} levels deep")]


def test_deepest_allowed_nesting_does_not_exhaust_the_stack() -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(800)
    try:
        found = find_faults(nested_card(MAX_DEPTH))
    finally:
        sys.setrecursionlimit(limit)
    assert [fault.message for fault in found] == ["is missing"]


def test_too_many_values_are_one_fault() -> None:
    assert find_faults(card(*[TEXT] * MAX_VALUES)) == [Fault("", f"must have at most {MAX_VALUES} values")]


def test_number_of_reported_faults_is_limited() -> None:
    assert len(find_faults(card(*[{"type": "TextBlock"}] * 1000))) == MAX_FAULTS


def test_fault_does_not_repeat_text_of_the_card() -> None:
    secret = "hunter2"
    value = card(
        {"type": secret, "text": secret},
        TEXT | {"color": secret, "wrap": secret, "text": f"<at>{secret}</at>"},
        {"type": "Image", "url": secret},
        version=secret,
        msteams={"entities": [mention(secret)]},
    )
    found = find_faults(value)
    assert len(found) == 7
    assert not any(secret in fault.message or secret in fault.pointer for fault in found)


@given(st.lists(CARDS, max_size=3), st.dictionaries(NAMES, CARDS, max_size=4))
def test_validation_handles_any_json_value(body: list[Any], more: dict[str, Any]) -> None:
    for fault in find_faults(card(*body) | more):
        assert fault.message
        assert "\n" not in fault.message


@given(st.lists(CARDS, max_size=3), st.dictionaries(NAMES, CARDS, max_size=4))
def test_pointer_leads_to_the_faulty_value(body: list[Any], more: dict[str, Any]) -> None:
    value = card(*body) | more
    for fault in find_faults(value):
        parts = [part.replace("~1", "/").replace("~0", "~") for part in fault.pointer.split("/")[1:]]
        if fault.message == "is missing" or fault.pointer.endswith("/verb"):
            parts.pop()
        found: Any = value
        for part in parts:
            found = found[int(part) if isinstance(found, list) else part]


def test_validator_is_imported_with_the_first_card() -> None:
    code = (
        "import sys; sys.modules['rfc3987_syntax'] = None; "  # as in conftest.py
        "from shared.cards import validation; assert 'jsonschema' not in sys.modules; "
        "assert validation.find_faults({'type': 'AdaptiveCard', 'version': '1.5'}) == []; "
        "assert 'jsonschema' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("changed", "pointer", "message"),
    [
        ({"actions": [{"type": "Action.Submit", "title": "Approve"}]}, "/actions/0/type", "must be Action.Execute"),
        ({"actions": [{"type": "Action.Execute", "title": "Approve"}]}, "/actions/0/verb", "is required, or an id"),
    ],
)
def test_action_whose_click_would_reach_nobody_is_a_fault(changed: dict[str, Any], pointer: str, message: str) -> None:
    """Messages on the queue: cards."""
    [fault] = find_faults(card(**changed))
    assert fault.pointer == pointer
    assert message in fault.message
