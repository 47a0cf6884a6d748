"""Valid messages of upstream systems, and the faults of invalid ones."""

from __future__ import annotations

import base64
import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel

from notify.validation import check_content
from shared.contract import models, parsing
from shared.contract.faults import MessageRefused
from shared.contract.models import Command, Content, Notification, Schedule
from shared.contract.parsing import Request, parse_message
from shared.preferences.preferences import MAX_COLUMN_BYTES
from shared.states import DeliveryState, NotificationState, Reason, Rule
from shared.storage.table import COLUMN_BYTES

TEAM = "19:team@thread.tacv2"
PERSON = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
DATA: dict[str, Any] = {
    "recipients": [{"user": PERSON}],
    "category": "builds",
    "content": {"title": "Build 42 failed", "text": "Stage test failed"},
}
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "type": "com.example.notification.requested.v1",
    "source": "/ci",
    "id": "build-42",
    "data": DATA,
}


LINK = {"title": "Open", "url": "https://ci.example/42"}
IMAGE = {"url": "https://ci.example/42.png", "altText": "Response times"}
ADA = {"name": "Ada", "user": PERSON}


def body(value: object) -> bytes:
    return json.dumps(value).encode()


def parse_request(text: bytes) -> Request:
    request = parse_message(text)
    assert isinstance(request, Request)
    return request


def faults_of(value: object) -> dict[str, str]:
    """Return the messages of a refused value's faults, by pointer."""
    with pytest.raises(MessageRefused) as refused:
        parse_message(body(value))
    return {fault.pointer: fault.message for fault in refused.value.faults}


def test_event_and_its_data_alone_are_the_same_notification() -> None:
    event, bare = parse_request(body(EVENT)), parse_request(body(DATA | {"id": "build-42", "source": "/ci"}))
    assert (event.source, event.id, event.content_hash) == (bare.source, bare.id, bare.content_hash)
    assert event.notification == parsing.parse_stored(bare.data)


def test_base64_is_accepted() -> None:
    assert parse_request(base64.b64encode(body(EVENT))) == parse_request(body(EVENT))


def test_byte_order_mark_is_accepted() -> None:
    assert parse_request(b"\xef\xbb\xbf" + body(EVENT)) == parse_request(body(EVENT))
    assert parse_request(base64.b64encode(b"\xef\xbb\xbf" + body(EVENT))) == parse_request(body(EVENT))


def test_data_base64_is_accepted() -> None:
    value = {name: part for name, part in EVENT.items() if name != "data"}
    value["data_base64"] = base64.b64encode(body(DATA)).decode()
    assert parse_request(body(value)) == parse_request(body(EVENT))
    assert list(faults_of(value | {"data_base64": "!"})) == ["/data_base64"]


def test_order_of_keys_and_white_space_do_not_change_the_hash() -> None:
    turned = json.dumps(EVENT | {"data": dict(reversed(DATA.items()))}, indent=2).encode()
    assert parse_request(turned).content_hash == parse_request(body(EVENT)).content_hash
    other = parse_request(body(EVENT | {"data": DATA | {"category": "x"}}))
    assert other.content_hash != parse_request(body(EVENT)).content_hash


def test_default_source_is_the_queue_and_the_id_may_be_missing() -> None:
    bare = parse_request(body(DATA))
    assert (bare.source, bare.id) == (parsing.DEFAULT_SOURCE, None)


def test_earlier_expiry_counts() -> None:
    data = DATA | {"expiresAt": "2026-11-23T18:00:00Z"}
    both = parse_request(body(EVENT | {"expirytime": "2026-11-23T17:00:00+00:00", "data": data}))
    assert both.expires_at is not None
    assert both.expires_at.hour == 17
    alone = parse_request(body(data))
    assert alone.expires_at is not None
    assert alone.expires_at.hour == 18


def test_examples_in_the_documentation_are_valid_and_the_full_one_has_every_field_of_a_content() -> None:
    text = Path("docs/contract.md").read_text(encoding="utf-8")
    examples = [part.split("```")[0] for part in text.split("```json")[1:]]
    requests = [parse_message(each.encode()) for each in examples]
    contents = [each.notification.content for each in requests if isinstance(each, Request)]
    assert len(requests) == 4
    for each in requests:
        if isinstance(each, Request):
            check_content(each.notification, 80 * 1024, "")
    assert any(content and content.model_fields_set == Content.model_fields.keys() for content in contents)


def test_every_field_of_a_notification_is_documented() -> None:
    text = Path("docs/contract.md").read_text(encoding="utf-8")
    names = [to_camel(name) for model in (Notification, Content, Schedule) for name in model.model_fields]
    assert [name for name in names if not re.search(rf"^\| .*`(\w+\.)?{name}`.*\|", text, re.MULTILINE)] == []


@pytest.mark.parametrize("values", [NotificationState, DeliveryState, Reason, Rule])
def test_every_state_reason_and_rule_is_documented(values: type[StrEnum]) -> None:
    text = Path("docs/contract.md").read_text(encoding="utf-8")
    assert [value for value in values if f"`{value}`" not in text] == []


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"recipients": []}, "/data/recipients"),
        ({"recipients": [{"user": "Ada Lovelace"}]}, "/data/recipients/0/user"),
        ({"recipients": [{"user": "a/b@c"}]}, "/data/recipients/0/user"),
        ({"recipients": [{"user": PERSON}, {"group": "g"}]}, "/data/recipients/1/group"),
        ({"recipients": [{"user": PERSON}, {"people": "g"}]}, "/data/recipients/1"),
        ({"recipients": [{"all": True, "of": "guests"}]}, "/data/recipients/0/of"),
        ({"recipients": [{"all": False}]}, "/data/recipients/0/all"),
        ({"recipients": [{"user": PERSON, "all": True}]}, "/data/recipients/0/all"),
        ({"recipients": [{"channel": {"teamId": TEAM}}]}, "/data/recipients/0/channel/channelId"),
        ({"recipients": ["me"]}, "/data/recipients/0"),
        ({"category": ""}, "/data/category"),
        ({"content": {"title": 5}}, "/data/content/title"),
        ({"content": None}, "/data"),
        ({"card": {"type": "AdaptiveCard"}}, "/data"),
        ({"content": None, "card": {"type": "Other"}}, "/data/card"),
        ({"content": {"title": "x", "link": {"title": "y", "url": "javascript:alert(1)"}}}, "/data/content/link/url"),
        ({"content": {"title": "x", "a/b~c": 1}}, "/data/content/a~1b~0c"),
        ({"content": {"title": "x", "links": [LINK] * 6}}, "/data/content/links"),
        ({"content": {"title": "x", "link": LINK, "links": [LINK] * 5}}, "/data/content/links"),
        ({"content": {"title": "x", "links": [LINK, {"title": "y"}]}}, "/data/content/links/1/url"),
        ({"content": {"title": "x", "links": LINK}}, "/data/content/links"),
        ({"content": {"title": "x", "images": [IMAGE] * 6}}, "/data/content/images"),
        ({"content": {"title": "x", "image": IMAGE, "images": [IMAGE] * 5}}, "/data/content/images"),
        ({"content": {"title": "x", "images": [{"url": IMAGE["url"]}]}}, "/data/content/images/0/altText"),
        ({"content": {"title": "x", "mentions": [ADA] * 21}}, "/data/content/mentions"),
        ({"content": {"title": "x", "mentions": [{"name": "Ada"}]}}, "/data/content/mentions/0/user"),
        ({"content": {"title": "x", "mentions": [ADA | {"user": "Ada"}]}}, "/data/content/mentions/0/user"),
        ({"content": {"title": "x", "mentions": [ADA | {"user": "a@b>c"}]}}, "/data/content/mentions/0/user"),
        ({"content": {"title": "x", "mentions": [ADA | {"user": "29:1abc"}]}}, "/data/content/mentions/0/user"),
        ({"reference": ""}, "/data/reference"),
        ({"reference": "x" * 129}, "/data/reference"),
        ({"reference": 42}, "/data/reference"),
        ({"prority": "urgent"}, "/data/prority"),
        ({"simulate": "yes"}, "/data/simulate"),
        ({"expiresAt": "2026-11-23T18:00:00"}, "/data/expiresAt"),
        ({"expiresAt": 4102444800}, "/data/expiresAt"),
        ({"expiresAt": "4102444800000"}, "/data/expiresAt"),
        ({"expiresAt": "9999-12-31T23:59:59-12:00"}, "/data/expiresAt"),
        ({"schedule": {"at": "2026-12-01T09:00Z"}}, "/data/schedule/at"),
        ({"schedule": {"at": "2026-12-01"}}, "/data/schedule/at"),
        ({"schedule": {"at": "9999-12-31T23:59"}}, "/data/schedule/at"),
        ({"schedule": {"at": "2026-12-01T09:00", "timeZone": "Mars"}}, "/data/schedule/timeZone"),
        ({"schedule": {"at": "2026-12-01T09:00", "timeZone": "+02:00"}}, "/data/schedule/timeZone"),
        ({"schedule": {"at": "2026-12-01T09:00", "ifPast": "maybe"}}, "/data/schedule/ifPast"),
        ({"schedule": {"at": "2026-12-01T09:00", "timeZone": "../etc/passwd"}}, "/data/schedule/timeZone"),
    ],
)
def test_fault_has_a_pointer(change: dict[str, Any], pointer: str) -> None:
    found = faults_of(EVENT | {"data": DATA | change})
    assert list(found) == [pointer]
    bare = faults_of(DATA | change)
    assert list(bare) == [pointer.removeprefix("/data")]


BAD_LINKS = [
    "https://ci.example/\x00", "https://ci.example/a b", "https://ci.example/\n42", "\thttps://ci.example", "https://",
    "javascript:alert(1)", "file:///etc/passwd", "data:text/html,x", "ftp://ci.example",
    "ci.example/42", "//ci.example",
    "https://ci.example:port", "https://[", "https://ci.example\\@other.example", "mailto:ada@ci.example",
]  # fmt: skip


@pytest.mark.parametrize("url", BAD_LINKS)
def test_link_or_image_that_is_no_plain_web_address_is_a_fault(url: str) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    link, image = {"title": "y", "url": url}, {"url": url, "altText": "z"}
    content = {"title": "x", "link": link, "links": [link], "image": image, "images": [image]}
    found = faults_of(DATA | {"content": content})
    pointers = ("link/url", "links/0/url", "image/url", "images/0/url")
    assert list(found) == [f"/content/{pointer}" for pointer in pointers]
    assert all("must be a URL" in message for message in found.values())


@pytest.mark.parametrize("more", [{"link": LINK, "links": [LINK] * 5}, {"image": IMAGE, "images": [IMAGE] * 5}])
def test_fault_of_too_many_links_or_images_counts_the_short_form(more: dict[str, Any]) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    [text] = faults_of(DATA | {"content": {"title": "x", **more}}).values()
    assert text == f"must have at most 4 entries beside {next(iter(more))}"


@pytest.mark.parametrize(
    "more",
    [
        {"links": [LINK] * 5, "images": [IMAGE] * 5},
        {"link": LINK, "links": [LINK] * 4, "image": IMAGE, "images": [IMAGE] * 4},
    ],
)
def test_content_may_have_five_links_and_five_images_with_the_short_forms_first(more: dict[str, Any]) -> None:
    content = parse_request(body(DATA | {"content": {"title": "x", **more}})).notification.content
    assert content
    assert [link.url for link in content.all_links] == [LINK["url"]] * 5
    assert [image.alt_text for image in content.all_images] == [IMAGE["altText"]] * 5


@pytest.mark.parametrize("name", ["", " ", "\u00a0", "Ada\n", "Ada\u2028Lovelace", "Ada</at><at>All", "a<b", "x" * 257])
def test_mentioned_name_that_is_no_name_on_one_line_is_a_fault(name: str) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    content = {"title": "x", "mentions": [ADA | {"name": name}]}
    assert list(faults_of(DATA | {"content": content})) == ["/content/mentions/0/name"]


@pytest.mark.parametrize("user", [PERSON, PERSON.upper(), "ada@contoso.example", "ada_x#EXT#@contoso.onmicrosoft.com"])
def test_person_is_mentioned_by_object_id_or_user_principal_name(user: str) -> None:
    content = {"title": "<at>Ada</at>", "mentions": [ADA | {"user": user}]}
    parse_message(body(DATA | {"content": content}))


def test_image_over_http_is_a_fault_and_a_link_is_not() -> None:
    url = "http://ci.example/42.png"
    content = {"title": "x", "link": {"title": "y", "url": url}, "image": {"url": url, "altText": "z"}}
    assert faults_of(DATA | {"content": content}) == {
        "/content/image/url": "must be a URL that begins with https://: Teams loads pictures over https only"
    }


@pytest.mark.parametrize(
    ("recipient", "pointer"),
    [
        ({"team": "Platform"}, "/team"),
        ({"team": "19: team"}, "/team"),
        ({"team": "platform@contoso.example"}, "/team"),
        ({"team": "92f4c6d8-1b3e-4a70-8c59"}, "/team"),
        ({"channel": {"teamId": "Platform", "channelId": "19:channel@thread.tacv2"}}, "/channel/teamId"),
        ({"channel": {"teamId": TEAM, "channelId": "Deployments"}}, "/channel/channelId"),
        ({"topic": "  "}, "/topic"),
    ],
)
def test_recipient_that_can_be_no_id_is_a_fault(recipient: dict[str, Any], pointer: str) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    assert list(faults_of(DATA | {"recipients": [recipient]})) == [f"/recipients/0{pointer}"]


@pytest.mark.parametrize(
    "team", [TEAM, "19:0a1b@thread.skype", "92f4c6d8-1b3e-4a70-8c59-7d0e6a2b5f41", "19:x@thread.v2"]
)
def test_team_is_named_by_its_thread_or_group_id(team: str) -> None:
    parse_message(body(DATA | {"recipients": [{"team": team}]}))


@pytest.mark.parametrize("field", ["text", "title"])
def test_data_that_no_column_can_hold_is_a_fault(field: str) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    assert parsing.MAX_DATA_BYTES <= COLUMN_BYTES
    assert MAX_COLUMN_BYTES <= COLUMN_BYTES
    content = {"title": "x", field: "x" * 65_300}
    [message] = faults_of(DATA | {"content": content}).values()
    assert re.fullmatch(r"is too large: \d+ bytes of JSON, at most 64000 are allowed", message)


@pytest.mark.parametrize(
    ("name", "nearest"), [("Berlni", "Europe/Berlin"), ("W. Europe Standart Time", "Europe/Berlin"), ("Recipient", "")]
)
def test_fault_of_an_unknown_zone_names_the_valid_forms_and_a_suggestion(name: str, nearest: str) -> None:
    at = {"at": "2026-12-01T09:00", "timeZone": name}
    recurring = {"command": "schedule", "target": {"schedule": "x"}, "announcement": DAILY | {"timeZone": name}}
    for message in (DATA | {"schedule": at}, recurring):
        [text] = faults_of(message).values()
        assert all(part in text for part in (f"“{name}”", nearest, "IANA", "Windows", "recipient, in lower case,"))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"recipients": []}, "must not be empty"),
        ({"category": ""}, "must not be empty"),
        ({"contnet": {}}, "is not a field here; did you mean content?"),
        ({"schedule": {"at": "2026-12-01T09:00", "timezone": "UTC"}}, "is not a field here; did you mean timeZone?"),
        ({"xyzzy": 1}, "is not a field here"),
        ({"content": {"text": "x"}}, "is required"),
        ({"expiresAt": "tomorrow"}, "must be a time with an offset, such as 2026-12-01T09:00:00Z"),
        ({"expiresAt": "2026-12-01T09:00"}, "must be a time with an offset, such as 2026-12-01T09:00:00Z"),
        ({"schedule": {"at": "2026-12-01"}}, "must be a date with a time of day, such as 2026-12-01T09:00"),
        ({"schedule": {"at": "2027-02-30T09:00"}},
         "must be a wall time, such as 2026-12-01T09:00: day is out of range for month"),
    ],
)  # fmt: skip
def test_fault_says_what_to_do(more: dict[str, Any], text: str) -> None:
    assert list(faults_of(DATA | more).values()) == [text]


@pytest.mark.parametrize("message", ["", "a/b", "é", "x" * 33])
def test_thread_recipient_needs_a_valid_message_id(message: str) -> None:
    recipient = {"conversation": f"19:channel@thread.tacv2;messageid={message}"}
    [(pointer, text)] = faults_of(DATA | {"recipients": [recipient]}).items()
    assert pointer.startswith("/recipients/0")
    assert "the id of a message" in text
    parse_message(body(DATA | {"recipients": [{"conversation": "19:channel@thread.tacv2;messageid=1700000000000"}]}))


AT_NINE: dict[str, Any] = {"at": "2026-12-01T09:00", "timeZone": "recipient"}
DAILY: dict[str, Any] = {"rule": "0 9 * * *", "notification": DATA}


@pytest.mark.parametrize(
    "command",
    [
        {"command": "cancel", "target": {"id": "x"}},
        {"command": "reschedule", "target": {"cancellationKey": "x"}, "schedule": AT_NINE},
        {"command": "schedule", "target": {"schedule": "x"}, "announcement": DAILY},
        {"command": "pauseSchedule", "target": {"schedule": "x"}},
        {"command": "deleteSchedule", "target": {"schedule": "x"}, "tenant": "t"},
    ],
)
def test_command_is_accepted_with_and_without_an_envelope(command: dict[str, Any]) -> None:
    bare, event = parse_message(body(command)), parse_message(body(EVENT | {"data": command}))
    assert isinstance(bare, Command)
    assert isinstance(event, Command)
    assert (bare.command, bare.target, bare.schedule, bare.announcement) == (
        (event.command, event.target, event.schedule, event.announcement)
    )


@pytest.mark.parametrize(
    ("command", "pointer"),
    [
        ({"command": "stop", "target": {"id": "x"}}, "/command"),
        ({"command": "cancel"}, "/target"),
        ({"command": "cancel", "target": {}}, "/target"),
        ({"command": "cancel", "target": {"id": "x", "schedule": "y"}}, "/target"),
        ({"command": "cancel", "target": {"schedule": "x"}}, ""),
        ({"command": "cancel", "target": {"id": "x"}, "schedule": AT_NINE}, ""),
        ({"command": "reschedule", "target": {"id": "x"}}, ""),
        ({"command": "reschedule", "target": {"id": "x"}, "schedule": {"at": "soon"}}, "/schedule/at"),
        ({"command": "edit", "target": {"id": "x"}}, ""),
        ({"command": "schedule", "target": {"schedule": "x"}}, ""),
        ({"command": "schedule", "target": {"id": "x"}, "announcement": DAILY}, ""),
        ({"command": "schedule", "target": {"schedule": "x"}, "announcement": DAILY | {"rule": "9"}},
         "/announcement/rule"),
        ({"command": "pauseSchedule", "target": {"schedule": "x"}, "announcement": DAILY}, ""),
        ({"command": "pauseSchedule", "target": {"id": "x"}}, ""),
    ],
)  # fmt: skip
def test_fault_of_a_command_has_a_pointer(command: dict[str, Any], pointer: str) -> None:
    assert list(faults_of(command)) == [pointer]
    assert list(faults_of(EVENT | {"data": command})) == [f"/data{pointer}"]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"specversion": "0.3"}, "/specversion"),
        ({"id": ""}, "/id"),
        ({"source": 5}, "/source"),
        ({"type": None}, "/type"),
        ({"data": "text"}, "/data"),
        ({"datacontenttype": "text/plain"}, "/datacontenttype"),
        ({"expirytime": "soon"}, "/expirytime"),
    ],
)
def test_fault_of_the_envelope_has_a_pointer(change: dict[str, Any], pointer: str) -> None:
    assert list(faults_of(EVENT | change)) == [pointer]


def test_all_faults_are_reported_together() -> None:
    assert set(faults_of(DATA | {"category": 1, "recipients": [], "content": {}})) == {
        "/category",
        "/recipients",
        "/content/title",
    }


@pytest.mark.parametrize(
    "bytes_",
    [b"", b"\xff\xfe", b"hello", b"aGVsbG8=", b"{", b'{"a":NaN}', b'{"a":"\\ud800"}', b'{"a":' * 5000, b"[" * 100000],
)
def test_invalid_json_is_unreadable(bytes_: bytes) -> None:
    with pytest.raises(MessageRefused) as refused:
        parse_message(bytes_)
    assert refused.value.reason == "unreadable"


@pytest.mark.parametrize(
    ("bytes_", "text"),
    [
        (b'\n\n {"a": 1,\n  "b" 2}', "expected ':' after key in line 4, column 7"),
        (b'\xef\xbb\xbf{"a": 1,}', "trailing comma is not allowed in line 1, column 8"),
        (b'{"a": 1', "unexpected end of data in line 1, column 8"),
        ('{"ä":\n "ü'.encode() + b"\xff", "invalid start byte in line 2, column 4"),
        (base64.b64encode(b"[\nx"), "in line 2, column 1"),
        (b"rule: 0 9 * * *", "is neither a JSON object nor the base64 encoding of one; write a JSON object, which"),
    ],
)
def test_fault_of_invalid_json_has_line_and_column(bytes_: bytes, text: str) -> None:
    with pytest.raises(MessageRefused) as refused:
        parse_message(bytes_)
    [fault] = refused.value.faults
    assert text in fault.message


def test_fault_does_not_repeat_the_text_of_the_message() -> None:
    assert "very private" not in str(faults_of(DATA | {"priority": "very private", "tenant": {"very private": 1}}))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.sampled_from([*DATA, "schedule", "user", "all", "at", "title", "specversion", "data", "id"]), x)))  # noqa: E501  # fmt: skip
def test_any_json_is_accepted_or_refused(value: Any) -> None:
    for bytes_ in (body(value), body(DATA | {"content": value}), body(EVENT | {"data": value})):
        try:
            parse_message(bytes_)
        except MessageRefused as refused:
            assert refused.faults  # noqa: PT017


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(bytes_: bytes) -> None:
    with pytest.raises(MessageRefused):
        parse_message(bytes_)


def test_exported_schema_equals_the_models() -> None:
    exported = json.loads(Path("docs/contract.schema.json").read_text(encoding="utf-8"))
    assert exported == models.schema(), "export it again: python -m local.export_schema"


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (EVENT, True),
        (DATA, True),
        (DATA | {"id": "x", "source": "/y"}, True),
        (DATA | {"recipients": [{"nobody": 1}]}, False),
        (EVENT | {"specversion": "2"}, False),
        (DATA | {"prority": "urgent"}, False),
        (DATA | {"recipients": []}, False),
        ({"command": "schedule", "target": {"schedule": "x"}, "announcement": DAILY}, True),
        ({"command": "schedule", "target": {"schedule": "x"}, "announcement": {"rule": "0 9 * * *"}}, False),
    ],
)
def test_exported_schema_accepts_and_refuses_as_the_models_do(value: dict[str, Any], valid: bool) -> None:
    schema = json.loads(Path("docs/contract.schema.json").read_text(encoding="utf-8"))
    assert jsonschema.Draft202012Validator(schema).is_valid(value) is valid
