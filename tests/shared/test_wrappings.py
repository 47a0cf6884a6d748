"""A valid message in any usual wrapping means the same; anything else ends in faults that a person can act on.

The kinds are those of `docs/odd-inputs.md`, "Messages on the queue".
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from shared.contract import models
from shared.contract.decoding import MAX_WRAPPINGS, decode_json
from shared.contract.faults import Fault, MessageRefused
from shared.contract.identity import MAX_MESSAGE_BYTES, Identity, read_identity, with_id
from shared.contract.models import BareCommand, Command
from shared.contract.parsing import Request, parse_message
from shared.queues import to_text

PERSON = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
TEAM = "19:team@thread.tacv2"
DATA: dict[str, Any] = {
    "recipients": [
        {"user": PERSON},
        {"channel": {"teamId": TEAM, "channelId": "19:channel@thread.tacv2"}},
        {"conversation": "19:chat@thread.v2"},
        {"team": TEAM},
        {"topic": "releases"},
        {"all": True},
    ],
    "category": "builds",
    "content": {
        "title": "Bäume 42 ☃ 😀",
        "text": "Stage test failed\n3 tests red",
        "facts": [{"title": "Branch", "value": "main"}],
        "result": "Not deployed",
        "actor": {"name": "Ada", "user": PERSON},
        "link": {"title": "Open", "url": "https://ci.example/42"},
        "image": {"url": "https://ci.example/42.png", "altText": "Response times"},
        "actions": [{"id": "rollback", "title": "Roll back"}],
    },
    "schedule": {"at": "2099-12-01T09:00", "timeZone": "Europe/Berlin", "ifPast": "skip"},
    "digest": {"mode": "auto", "key": "k"},
    "thread": {"key": "deploy-7", "onRepeat": "update"},
    "expiresAt": "2100-01-01T00:00:00Z",
    "priority": "urgent",
    "locale": "de",
    "onUnknown": "stop",
    "simulate": False,
    "cancellationKey": "release-7",
}
EVENT: dict[str, Any] = {"specversion": "1.0", "type": "a.b", "source": "/ci", "id": "build-42", "data": DATA}
COMMANDS: list[dict[str, Any]] = [
    {"command": "edit", "target": {"source": "/ci", "id": "x"}, "content": DATA["content"]},
    {"command": "reschedule", "target": {"cancellationKey": "k"}, "schedule": DATA["schedule"]},
    {"command": "redrive", "target": {"deadLetters": {"queue": "notifications", "reason": "poison"}}},
    {
        "command": "schedule",
        "target": {"schedule": "x"},
        "announcement": {
            "rule": "0 9 * * *",
            "start": "2099-12-01T09:00",
            "notification": {"recipients": [{"all": True}], "category": "c", "content": {"title": "t"}},
        },
    },
]
MESSAGES: list[dict[str, Any]] = [EVENT, DATA | {"id": "build-42"}, *COMMANDS, EVENT | {"data": COMMANDS[0]}]

ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "UTF-8": lambda text: text.encode(),
    "UTF-8 with BOM": lambda text: text.encode("utf-8-sig"),
    "UTF-16 with BOM": lambda text: text.encode("utf-16"),
    "UTF-16LE": lambda text: text.encode("utf-16-le"),
    "UTF-16BE": lambda text: text.encode("utf-16-be"),
    "UTF-16BE with BOM": lambda text: ("\ufeff" + text).encode("utf-16-be"),
    "UTF-32 with BOM": lambda text: text.encode("utf-32"),
    "UTF-32LE": lambda text: text.encode("utf-32-le"),
    "UTF-32BE": lambda text: text.encode("utf-32-be"),
    "UTF-32BE with BOM": lambda text: ("\ufeff" + text).encode("utf-32-be"),
}
BASE64: dict[str, Callable[[bytes], str]] = {
    "base64": lambda body: base64.b64encode(body).decode(),
    "url-safe": lambda body: base64.urlsafe_b64encode(body).decode(),
    "without padding": lambda body: base64.b64encode(body).decode().rstrip("="),
    "url-safe without padding": lambda body: base64.urlsafe_b64encode(body).decode().rstrip("="),
    "lines of 76": lambda body: base64.encodebytes(body).decode(),
    "lines of 64 with CRLF": lambda body: "\r\n".join(re.findall(".{1,64}", base64.b64encode(body).decode())),
}
ENCODING, FORM = st.sampled_from(list(ENCODINGS)), st.sampled_from(list(BASE64))
WRAPPING = st.one_of(st.tuples(ENCODING, FORM), st.just(("string", "ASCII")), st.just(("string", "UTF-8")))
MARGIN = st.sampled_from(["", " ", "\n", "\r\n", "\t", "\n\n  "])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)

#: Names of Python and of pydantic, and parts of regular expressions.
_MODEL_NAMES = [name for name, each in vars(models).items() if isinstance(each, type) and issubclass(each, BaseModel)]
_FOREIGN = re.compile(
    r"\b(Input should|Value error|valid string|valid dictionary|instance of|dict|str|int|bool|NoneType|None|True|False"
    r"|pattern|Sequence|pydantic|validation|Traceback)\b|\^|\\[wds]|\)\?|\[\^|<class"
)
_PLAIN_WORDS = {"Link", "Image", "Text", "Digest", "Thread", "Actor", "Fact", "Action", "Schedule", "Content"}


def wrap(text: str, wrapping: tuple[str, str]) -> str:
    kind, form = wrapping
    if kind == "string":
        return json.dumps(text, ensure_ascii=form == "ASCII")
    return BASE64[form](ENCODINGS[kind](text))


def faults_of(body: bytes) -> list[Fault]:
    with pytest.raises(MessageRefused) as refused:
        parse_message(body)
    return list(refused.value.faults)


def check_fault(fault: Fault) -> None:
    """Assert that a fault is one line, in words that are not those of a programming language."""
    assert fault.message
    assert len(f"{fault.pointer} {fault.message}".splitlines()) == 1
    assert not _FOREIGN.search(fault.message), fault.message
    names = set(re.findall(r"\w+", fault.message)) & set(_MODEL_NAMES)
    assert names <= _PLAIN_WORDS, fault.message


@given(
    st.sampled_from(MESSAGES),
    st.lists(WRAPPING, max_size=MAX_WRAPPINGS),
    ENCODING,
    MARGIN,
    MARGIN,
    st.sampled_from([None, 2]),
)
def test_message_in_any_wrapping_means_the_same(
    message: dict[str, Any],
    wrappings: list[tuple[str, str]],
    encoding: str,
    before: str,
    after: str,
    indent: int | None,
) -> None:
    text = json.dumps(message, ensure_ascii=False, indent=indent)
    for wrapping in wrappings:
        text = wrap(text, wrapping)
    assert parse_message(ENCODINGS[encoding](before + text + after)) == parse_message(json.dumps(message).encode())


@given(WRAPPING, st.lists(WRAPPING, max_size=2), st.sampled_from([DATA, COMMANDS[0]]), st.booleans())
def test_data_of_an_event_in_any_wrapping_means_the_same(
    first: tuple[str, str], others: list[tuple[str, str]], data: dict[str, Any], encoded: bool
) -> None:
    text = json.dumps(data, ensure_ascii=False)
    for wrapping in [*others, first] if encoded else others:
        text = wrap(text, wrapping)
    event = {name: part for name, part in EVENT.items() if name != "data"}
    expected = parse_message(json.dumps(event | {"data": data}).encode())
    for name in ("data", "data_base64"):
        assert parse_message(json.dumps(event | {name: text}).encode()) == expected
    assert parse_message(json.dumps(event | {"data": None, "data_base64": text}).encode()) == expected


@pytest.mark.parametrize(
    "media_type",
    [
        "Application/JSON", "application/json;charset=utf-8", "APPLICATION/JSON ; Charset=UTF-8", "text/json",
        "application/vnd.example.notification+json", "Application/CloudEvents+JSON; v=1", None,
    ],
)  # fmt: skip
def test_media_type_of_json_has_no_case_and_may_have_parameters(media_type: str | None) -> None:
    for data in (DATA, json.dumps(DATA)):
        event = EVENT | {"datacontenttype": media_type, "data": data}
        assert parse_message(json.dumps(event).encode()) == parse_message(json.dumps(EVENT).encode())


@pytest.mark.parametrize("media_type", ["text/plain", "application/xml", "json", "", "application/jsonp"])
def test_other_media_type_is_one_fault(media_type: str) -> None:
    [fault] = faults_of(json.dumps(EVENT | {"datacontenttype": media_type}).encode())
    assert fault == Fault("/datacontenttype", "must be the media type of JSON: application/json, or leave it out")


def in_base64(body: bytes) -> bytes:
    return base64.b64encode(body)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"", "is empty"),
        (b"  \r\n", "is empty"),
        (b'""', "is empty"),
        (b"<QueueMessage/>", "is XML or HTML"),
        (in_base64(b"<html>"), "is XML or HTML"),
        (b"%7B%22id%22%3A1%7D", "is encoded for a URL"),
        (gzip.compress(b"{}", mtime=0), "is compressed with gzip"),
        (in_base64(gzip.compress(b"{}", mtime=0)), "is compressed with gzip"),
        (b"'{}'", "begins with a quotation mark that is none of JSON"),
        ("“{}”".encode(), "begins with a quotation mark that is none of JSON"),
        (b"42", "is a single JSON value, not an object"),
        (b"true", "is a single JSON value, not an object"),
        (b'"42"', "is a single JSON value, not an object"),
        (b"hello", "is neither a JSON object nor the base64 encoding of one"),
        (b"\xff\xff", "is not valid text in UTF-8: invalid start byte in line 1, column 1"),
        (json.dumps(json.dumps(json.dumps(json.dumps(json.dumps("{}"))))).encode(), "is wrapped more than 4 times"),
    ],
)
def test_fault_of_an_unreadable_message_says_what_was_found_and_what_to_write(body: bytes, found: str) -> None:
    [fault] = faults_of(body)
    assert fault.message.startswith(f"{found}; write ")
    check_fault(fault)


@pytest.mark.parametrize(
    ("body", "end"),
    [
        (b'{\\"id\\": 1}', '; write " without a backslash before it'),
        (b"[{'id': 1}]", "; write \" around names and texts, not '"),
        (b'{"id": 1,}', " in line 1, column 9"),
    ],
)
def test_fault_of_a_frequent_mistake_in_json_says_what_to_write(body: bytes, end: str) -> None:
    [fault] = faults_of(body)
    assert fault.message.startswith("is not valid JSON: ")
    assert fault.message.endswith(end)


def test_message_in_the_event_grid_schema_is_one_fault() -> None:
    event = {"topic": "/t", "subject": "x", "eventType": "a.b", "eventTime": "2026-12-01T09:00:00Z", "dataVersion": "1"}
    text = "is an event in the Event Grid schema; create the event subscription with the schema CloudEvents 1.0"
    for data in (DATA, json.dumps(DATA)):
        assert faults_of(json.dumps(event | {"id": "x", "data": data}).encode()) == [Fault("", text)]


@pytest.mark.parametrize(
    ("value", "pointer", "message"),
    [
        ([DATA, DATA], "", "must be a JSON object, not a list: put each notification into a message of its own"),
        ({"data": DATA, "id": "x"}, "/specversion",
         'is required beside data: "specversion": "1.0", or send only what is in data'),
        (EVENT | {"data_base64": "e30="}, "/data_base64", "is allowed only without data"),
        ({"specversion": "1.0", "type": "t", "source": "/s", "id": "x", "data_base64": 5}, "/data_base64",
         "must be the base64 encoding of JSON, not a number"),
        (EVENT | {"data": "text"}, "/data", "is neither a JSON object nor the base64 encoding of one; write a JSON "
         "object, which begins with {, or the base64 encoding of one"),
        (EVENT | {"data": "[1]"}, "/data", "must be an object with recipients and category, not a list"),
        (EVENT | {"data": 5}, "/data", "must be an object with recipients and category, not a number"),
        (EVENT | {"specversion": 1.0}, "/specversion", 'must be "1.0"'),
    ],
)  # fmt: skip
def test_fault_of_an_envelope_says_what_to_write(value: Any, pointer: str, message: str) -> None:
    assert faults_of(json.dumps(value).encode()) == [Fault(pointer, message)]


@pytest.mark.parametrize(
    ("change", "pointer", "message"),
    [
        ({"content": {"title": "x", "image": "https://ci.example/42.png"}}, "/content/image",
         "must be an object with url and altText, not a text"),
        ({"digest": True}, "/digest", "must be an object that may have mode and key, not true"),
        ({"recipients": [{"channel": "Deployments"}]}, "/recipients/0/channel",
         "must be an object with teamId and channelId, not a text"),
        ({"recipients": {"user": PERSON}}, "/recipients", "must be a list, not an object"),
        ({"recipients": PERSON}, "/recipients", "must be a list, not a text"),
        ({"category": 5}, "/category", "must be a text, not a number"),
        ({"category": "x" * 257}, "/category", "must have at most 256 characters"),
        ({"simulate": "yes"}, "/simulate", "must be true or false, not a text"),
        ({"priority": "high"}, "/priority", 'must be "normal" or "urgent"'),
        ({"recipients": [{"all": False}]}, "/recipients/0/all", "must be true"),
        ({"recipients": [{"all": 1}]}, "/recipients/0/all", "must be true"),
        ({"content": None, "card": "x"}, "/card", "must be an object, not a text"),
        ({"content": None, "card": {}}, "/card", "must be an Adaptive Card: an object with the type AdaptiveCard"),
        ({"content": "Build 42 failed"}, "/content", "must be an object with title, not a text"),
        ({"thread": ["k"]}, "/thread", "must be an object with key, not a list"),
        ({"expiresAt": []}, "/expiresAt", "must be a time with an offset, such as 2026-12-01T09:00:00Z"),
        ({"title": "x"}, "/title", "is not a field here; did you mean it in content?"),
        ({"content": {"title": "x", "actions": [{"id": "a", "title": "b"}] * 7}}, "/content/actions",
         "must have at most 6 entries, not 7"),
    ],
)  # fmt: skip
def test_fault_of_a_field_is_in_the_words_of_the_contract(change: dict[str, Any], pointer: str, message: str) -> None:
    assert faults_of(json.dumps(DATA | change).encode()) == [Fault(pointer, message)]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ({"command": "edit", "target": {"id": "x"}}, "edit requires content or card"),
        ({"command": "edit", "target": {"id": "x"}, "content": {"title": "x"}, "card": {"type": "AdaptiveCard"}},
         "edit requires content or card, not both"),
        ({"command": "cancel", "target": {"id": "x"}, "card": {"type": "AdaptiveCard"}},
         "card is allowed only with the command edit"),
        ({"command": "reschedule", "target": {"id": "x"}, "schedule": {}},
         "must have at least one of at, timeZone, ifPast"),
    ],
)  # fmt: skip
def test_fault_of_a_command_says_which_fields_it_takes(command: dict[str, Any], message: str) -> None:
    assert [fault.message for fault in faults_of(json.dumps(command).encode())] == [message]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, each in inner for found in [(*path, key), *places(each, (*path, key))]]


@given(st.sampled_from(MESSAGES), st.data(), JSON, st.booleans())
def test_message_with_any_other_value_is_accepted_or_refused_in_plain_words(
    message: dict[str, Any], data: st.DataObject, value: Any, add: bool
) -> None:
    changed = deepcopy(message)
    *path, key = data.draw(st.sampled_from(places(message)))
    parent: Any = changed
    for part in path:
        parent = parent[part]
    if add and isinstance(parent, dict):
        parent[data.draw(st.text(max_size=8))] = value
    else:
        parent[key] = value
    try:
        parse_message(json.dumps(changed).encode())
    except MessageRefused as refused:
        assert refused.faults  # noqa: PT017
        for fault in refused.faults:
            check_fault(fault)


@given(JSON, st.lists(WRAPPING, max_size=6))
def test_any_other_json_in_any_wrapping_is_refused_in_plain_words(value: Any, wrappings: list[tuple[str, str]]) -> None:
    text = json.dumps(value)
    for wrapping in wrappings:
        text = wrap(text, wrapping)
    for fault in faults_of(text.encode()):
        check_fault(fault)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_other_bytes_are_refused_in_plain_words(body: bytes) -> None:
    for fault in faults_of(body):
        check_fault(fault)


BARE = {name: part for name, part in DATA.items() if name != "id"}


@given(st.lists(WRAPPING, max_size=MAX_WRAPPINGS), st.sampled_from([BARE, BARE | {"id": None}]), st.text(min_size=1))
def test_notification_without_an_id_gets_one_and_stays_the_same(
    wrappings: list[tuple[str, str]], message: dict[str, Any], identifier: str
) -> None:
    text = json.dumps(message)
    for wrapping in wrappings:
        text = wrap(text, wrapping)
    before, after = parse_message(text.encode()), parse_message(with_id(text.encode(), identifier[:256]))
    assert isinstance(before, Request)
    assert isinstance(after, Request)
    assert (before.id, after.id) == (None, identifier[:256])
    assert (before.source, before.content_hash) == (after.source, after.content_hash)


@pytest.mark.parametrize("message", [EVENT, DATA | {"id": "x"}, *COMMANDS, [], 5, EVENT | {"id": None}])
def test_message_with_an_id_or_without_a_notification_stays_as_it_is(message: Any) -> None:
    body = json.dumps(message).encode()
    assert with_id(body, "m1") == body
    assert with_id(b"not json", "m1") == b"not json"


@pytest.mark.parametrize("message", COMMANDS)
def test_command_without_an_envelope_gets_an_id_on_request_and_stays_the_same(message: Any) -> None:
    body = json.dumps(message).encode()
    identified = with_id(body, "m1", commands=True)
    assert with_id(identified, "m2", commands=True) == identified
    after = parse_message(identified)
    assert isinstance(after, BareCommand)
    assert after.id == "m1"
    assert after.model_copy(update={"id": None}) == parse_message(body)


def test_message_of_the_largest_size_gets_its_id() -> None:
    body = json.dumps(BARE).encode()
    padded = body[:-1] + b" " * (MAX_MESSAGE_BYTES - len(body)) + b"}"
    identified = with_id(padded, "m1")
    assert len(padded) == MAX_MESSAGE_BYTES >= len(identified)
    assert decode_json(identified) == BARE | {"id": "m1"}


def test_message_with_its_id_can_be_put_on_a_queue() -> None:
    message = BARE | {"content": {"title": "\uffff" * 4000}}
    text = json.dumps(message, ensure_ascii=False).encode()
    body = base64.b64encode(text[:-1] + b" " * (MAX_MESSAGE_BYTES // 4 * 3 - len(text)) + b"}")
    identified = with_id(body, "m1")
    assert decode_json(identified) == message | {"id": "m1"}
    assert len(body) == MAX_MESSAGE_BYTES >= len(to_text(identified))


def test_message_that_is_nested_too_deeply_for_its_id_stays_as_it_is() -> None:
    body = json.dumps(BARE).encode()[:-1] + b',"x":' + b"[" * 500 + b"]" * 500
    padded = body + b" " * (MAX_MESSAGE_BYTES - len(body) - 1) + b"}"
    assert with_id(padded, "m1") == padded


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (EVENT, Identity("/ci", "build-42")),
        ({"id": "x", "category": ""}, Identity("", "x")),
        ({"id": 5, "source": ["/ci"]}, Identity()),
        (COMMANDS[0], Identity("/ci", "x")),
        (EVENT | {"data": COMMANDS[0]}, Identity("/ci", "x")),
        (EVENT | {"data": COMMANDS[1]}, Identity("/ci", "build-42")),
        ({"id": "two\nlines"}, Identity("", "two\\u000alines")),
        ([], Identity()),
    ],
)
def test_identity_is_read_from_any_message(message: Any, expected: Identity) -> None:
    assert read_identity(base64.b64encode(json.dumps(message).encode())) == expected
    assert read_identity(b"not json") == Identity()


def test_command_may_name_only_a_part_of_a_schedule() -> None:
    for change in ({"at": "2099-12-01T09:00"}, {"timeZone": "Asia/Tokyo"}, {"ifPast": "skip", "at": None}):
        command = parse_message(json.dumps(COMMANDS[1] | {"schedule": change}).encode())
        assert isinstance(command, Command)
