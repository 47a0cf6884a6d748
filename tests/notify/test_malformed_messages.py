"""Malformed messages on any queue become dead letters with a reason, and no trigger raises."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import azure.functions as func
import jsonschema
import pytest
from azure.functions.decorators.queue import QueueTrigger

import notify.functions
import timer_digest.functions
from shared.contract.decoding import unwrap
from shared.contract.faults import MessageRefused
from shared.contract.parsing import parse_message
from shared.queue_messages import (
    DELIVERIES,
    DELIVERIES_URGENT,
    EXPANSIONS,
    MESSAGES,
    NOTIFICATIONS,
    RECIPIENTS,
    SWEEPS,
    VERSION,
    WORK_QUEUES,
    Expansion,
    NewerVersion,
    RecipientTask,
    Sweep,
    Task,
    Unreadable,
)
from shared.records import StoredNotification
from shared.storage.dead_letters import DeadLetters
from tests.support.herald import Herald, user

#: The same messages in every run.
SEED = 3
#: Messages that are handled at the same time.
MAX_CONCURRENT = 16
#: Longest message of a queue.
MAX_MESSAGE_BYTES = 64 * 1024
#: Least share of malformed messages: some changes happen to leave a message valid.
MIN_MALFORMED_SHARE = 0.75

CONTRACT: Mapping[str, Any] = json.loads(Path("docs/contract.schema.json").read_text(encoding="utf-8"))
#: Values for texts of the contract that must have a certain form, by field name.
TEXTS = {
    "user": "6f9619ff-8b86-d011-b42d-00c04fc964ff",
    "url": "https://ci.example/42",
    "at": "2099-12-01T09:00",
    "timeZone": "Europe/Berlin",
    "type": "com.example.requested.v1",
    "datacontenttype": "application/json",
    "queue": DELIVERIES,
    "team": "19:team@thread.tacv2",
    "teamId": "19:team@thread.tacv2",
    "channelId": "19:channel@thread.tacv2",
}
#: Values that replace another value.
REPLACEMENTS: Sequence[Any] = (
    None, True, False, 0, -1, 1.5, 2**31, 2**64 - 1, 10**40, 1e308, "", "x", " ", "x" * 300, "../#?\\", "\x00\r\n",
    "\uffff", "\U0001f600" * 200, "2026-13-01", [], [[]], [None], {}, {"": 0}, {'"' * 400: {"\x01" * 400: 1}},
)  # fmt: skip
#: Prefixes of added names.
NAMES = ("x", "", "~", "/", "\x1f", '"' * 310)
#: Bytes that are inserted into a message: invalid UTF-8, invalid JSON, or misleading JSON.
PIECES = (
    b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b"\\ud800", b"\\u12", b"NaN", b"-Infinity", b"1e999", b"'", b'"',
    b"{", b"}", b"]", b",", b"//", b"\xef\xbb\xbf", b"\n\n", b"=",
)  # fmt: skip

Trigger = Callable[[func.QueueMessage], Awaitable[None]]


class MessageFuzzer:
    """Create valid messages for the queues, and then change them in one or several places."""

    def __init__(self, rng: random.Random, internal: Mapping[str, Sequence[str]], tenant: str) -> None:
        self._rng, self._internal, self._texts = rng, internal, TEXTS | {"tenant": tenant}
        changes = (
            self._replace_values, self._remove, self._add, self._repeat_name, self._nest, self._truncate,
            self._insert_bytes, self._enlarge, self._encode_wrongly, self._random_bytes,
        )  # fmt: skip
        self.changes: Mapping[str, Callable[[Any], bytes]] = {change.__name__: change for change in changes}

    def message(self, queue: str) -> tuple[str, bytes]:
        """Return the name of a change and a message of `queue` changed by it."""
        is_upstream = queue == NOTIFICATIONS
        value = self._generate(CONTRACT, "") if is_upstream else json.loads(self._pick(self._internal[queue]))
        change = self._pick(list(self.changes))
        text = self.changes[change](value)
        encoded = base64.b64encode(text) if self._rng.random() < 0.3 else text
        return change, encoded[:MAX_MESSAGE_BYTES]

    def _pick(self, options: Sequence[Any]) -> Any:
        return self._rng.choice(options)

    def _generate(self, schema: Mapping[str, Any], name: str) -> Any:
        """Return a value that is valid by the schema."""
        if "$ref" in schema:
            return self._generate(CONTRACT["$defs"][schema["$ref"].rpartition("/")[2]], name)
        for several in ("anyOf", "oneOf"):
            if several in schema:
                return self._generate(self._pick(schema[several]), name)
        if "const" in schema or "enum" in schema:
            return self._pick(schema.get("enum") or [schema["const"]])
        match schema["type"]:
            case "object":
                # The schema of the contract says nothing about cards.
                known = schema.get("properties", {"type": {"const": "AdaptiveCard"}})
                kept = {each for each in known if each in schema.get("required", ()) or self._rng.random() < 0.3}
                if {"content", "card"} <= known.keys():  # exactly one of the two is allowed
                    kept = kept - {"content", "card"} | {self._pick(("content", "card"))}
                return {each: self._generate(known[each], each) for each in known if each in kept}
            case "array":
                return [self._generate(schema["items"], name) for _ in range(self._rng.randint(1, 3))]
            case "string":
                return "2099-11-23T18:00:00Z" if "format" in schema else self._texts.get(name, self._pick("abc"))
            case "boolean":
                return self._pick((True, False))
        assert schema["type"] == "null"
        return None

    def _pick_place(self, value: Any) -> tuple[Any, Any]:
        """Return a container within the value, or the value itself, and one of its keys."""
        found: list[tuple[Any, Any]] = []

        def collect(at: Any) -> None:
            keys = list(at) if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else ()
            for key in keys:
                found.append((at, key))
                collect(at[key])

        collect(value)
        return self._rng.choice(found)

    def _replace_values(self, value: Any) -> bytes:
        for _ in range(self._rng.randint(1, 3)):
            container, key = self._pick_place(value)
            container[key] = deepcopy(self._pick(REPLACEMENTS))
        return _encode(value)

    def _remove(self, value: Any) -> bytes:
        container, key = self._pick_place(value)
        del container[key]
        return _encode(value)

    def _add(self, value: Any) -> bytes:
        container, _ = self._pick_place(value)
        more = [self._pick(REPLACEMENTS) for _ in range(self._pick((1, 1, 60)))]
        if isinstance(container, dict):
            container |= {f"{self._pick(NAMES)}{number}": each for number, each in enumerate(more)}
        else:
            container += more
        return _encode(value)

    def _repeat_name(self, value: Any) -> bytes:
        """Repeat a name of the object with another value."""
        name, other = self._pick(list(value)), self._pick(REPLACEMENTS)
        return _encode(value)[:-1] + b"," + _encode({name: other})[1:]

    def _nest(self, value: Any) -> bytes:
        container, key = self._pick_place(value)
        container[key] = "here"
        opening, closing = self._pick(((b"[", b"]"), (b'{"a":', b"}"), (b'{"type":"Container","items":[', b"]}")))
        depth = self._pick((5, 100, 127, 200, 254, 255, 600, 1023, 1024, 1500))
        return _encode(value).replace(b'"here"', opening * depth + b"0" + closing * depth)

    def _truncate(self, value: Any) -> bytes:
        text = _encode(value)
        return text[: self._rng.randrange(len(text))]

    def _insert_bytes(self, value: Any) -> bytes:
        text, piece = _encode(value), self._rng.choice(PIECES)
        at = self._rng.randrange(len(text))
        return text[:at] + piece + text[at + self._rng.randrange(3) :]

    def _enlarge(self, value: Any) -> bytes:
        container, key = self._pick_place(value)
        part = self._pick(("x", "\x01", "\u20ac", "a b ", '"'))
        container[key] = part * (MAX_MESSAGE_BYTES // self._pick((2, 3, 6, 7)))
        return _encode(value)

    def _encode_wrongly(self, value: Any) -> bytes:
        encoded = base64.b64encode(_encode(value))
        at = self._rng.randrange(len(encoded))
        forms = (
            encoded[:at], encoded[:at] + b"!" + encoded[at:], encoded[:at] + b"\n" + encoded[at:], encoded + b"=",
            base64.b64encode(encoded), base64.b64encode(self._truncate(value)),
            _encode(value).decode().encode("utf-16"), _encode(encoded.decode()),
        )  # fmt: skip
        return bytes(self._pick(forms))

    def _random_bytes(self, _: Any) -> bytes:
        return self._rng.randbytes(self._pick((0, 1, 20, 2000, MAX_MESSAGE_BYTES)))


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def expected_result(queue: str, body: bytes) -> str:
    """Return the dead letter's reason (`unreadable` or `invalid`), `later` for a newer version, or `accepted`."""
    try:
        if queue == NOTIFICATIONS:
            parse_message(body)
        else:
            MESSAGES[queue].decode(body)
    except MessageRefused as refused:
        return refused.reason if queue == NOTIFICATIONS else "unreadable"
    except Unreadable:
        return "unreadable"
    except NewerVersion:
        return "later"
    return "accepted"


def schema(queue: str) -> Mapping[str, Any]:
    """Return the schema of a queue's messages: the contract's, or one made of the fields of internal messages."""
    if queue == NOTIFICATIONS:
        return CONTRACT
    types = {"str": "string", "int": "integer", "float": "number", "Task": "string"}
    declared = fields(MESSAGES[queue])
    types_by_field = {field.name: {"type": types[str(field.type)]} for field in declared}
    needed = [field.name for field in declared if field.default is MISSING]
    return {
        "type": "object",
        "properties": types_by_field | {"v": {"enum": list(range(1, VERSION + 1))}},
        "required": ["v", *needed],
    }


def is_valid(validator: jsonschema.Draft202012Validator, body: bytes) -> bool:
    """Return whether the body, without its wrappings, is JSON that is valid by the schema."""

    def reject_constant(text: str) -> float:
        raise ValueError(text)

    try:
        return bool(validator.is_valid(json.loads(unwrap(body), parse_constant=reject_constant)))
    except (ValueError, RecursionError, MessageRefused):
        return False


def triggers_by_queue() -> Mapping[str, Trigger]:
    """Return the function of each queue."""
    app = func.FunctionApp()
    for blueprint in (notify.functions.blueprint, timer_digest.functions.blueprint):
        app.register_functions(blueprint)
    found = [(each.get_trigger(), each.get_user_function()) for each in app.get_functions()]
    return {trigger.queue_name: call for trigger, call in found if isinstance(trigger, QueueTrigger)}


async def internal_messages(herald: Herald, known: StoredNotification, recipient: str) -> Mapping[str, Sequence[str]]:
    """Return messages of the internal queues about a delivery that exists."""
    delivery = (await herald.message(known, recipient)).encode()
    expansion = Expansion(known.key, known.page).encode()
    sweeps = [Sweep(known.key, task, shard).encode() for task, shard in ((Task.WATCHDOG, ""), (Task.RECALL, "0"))]
    person = RecipientTask(known.tenant, recipient, Task.RELEASE).encode()
    return {
        DELIVERIES: [delivery],
        DELIVERIES_URGENT: [delivery],
        EXPANSIONS: [expansion],
        SWEEPS: sweeps,
        RECIPIENTS: [person],
    }


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=[pytest.mark.full, pytest.mark.timeout(600)])])
async def test_malformed_message_is_a_dead_letter_with_a_reason_and_does_not_raise(
    herald: Herald, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    opened = asyncio.get_running_loop().create_future()
    opened.set_result(herald.services)
    monkeypatch.setattr("shared.services._opening", opened)
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    known = await herald.submit(user(ada))
    internal = await internal_messages(herald, known, f"u:{ada.object_id}")
    fuzzer = MessageFuzzer(random.Random(SEED), internal, herald.tenant)
    queues = [WORK_QUEUES[number % len(WORK_QUEUES)] for number in range(count)]
    messages = {f"m{number}": (queue, *fuzzer.message(queue)) for number, queue in enumerate(queues)}
    expected = {number: expected_result(queue, body) for number, (queue, _, body) in messages.items()}
    malformed = {number: result for number, result in expected.items() if result in ("unreadable", "invalid")}
    assert len(malformed) >= MIN_MALFORMED_SHARE * count
    assert {messages[number][1] for number in malformed} == set(fuzzer.changes)
    validators = {queue: jsonschema.Draft202012Validator(schema(queue)) for queue in WORK_QUEUES}
    accepted = [messages[number] for number, result in expected.items() if result == "accepted"]
    assert [body for queue, _, body in accepted if not is_valid(validators[queue], body)] == []

    by_queue, gate, raised = triggers_by_queue(), asyncio.Semaphore(MAX_CONCURRENT), []

    async def handle(number: str, queue: str, body: bytes) -> None:
        async with gate:
            try:
                await by_queue[queue](func.QueueMessage(id=number, body=body))
            except Exception as error:  # noqa: BLE001 (any exception makes the message poison)
                raised.append((queue, body, error))

    await asyncio.gather(*(handle(number, queue, body) for number, (queue, _, body) in messages.items()))
    assert raised == []
    letters = {letter["RowKey"].rpartition(";")[2]: letter for letter in await herald.dead_letters()}
    assert {number: letters[number]["reason"] for number in malformed if number in letters} == malformed
    for number, letter in letters.items():
        queue, _, body = messages[number]
        assert (letter["queue"], DeadLetters.body(letter)) == (queue, body)
        assert json.loads(letter["faults"])
        # A well-formed message of an upstream system may still be refused; an internal one may name no stored row.
        assert number in malformed or queue == NOTIFICATIONS or letter["reason"] == "unknown"
