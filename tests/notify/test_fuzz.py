"""Whatever comes on a queue and is no message of that queue ends as a dead letter with a reason; nothing raises."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import azure.functions as func
import jsonschema
import pytest
from azure.functions.decorators.queue import QueueTrigger

import notify.functions
import timer_digest.functions
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
from shared.storage.dead_letters import DeadLetters
from shared.storage.notifications import StoredNotification
from tests.support.herald import Herald, user

#: The same messages in every run.
SEED = 3
#: Messages that are tried at the same time.
AT_ONCE = 16
#: The longest message of a queue, in bytes.
LONGEST = 64 * 1024
#: The share of messages that are malformed at least: the others are as they should be by chance.
MALFORMED = 0.85

CONTRACT: Mapping[str, Any] = json.loads(Path("docs/contract.schema.json").read_text(encoding="utf-8"))
#: What a text of the contract is where any text would not do, by the name of its field.
TEXTS = {
    "user": "6f9619ff-8b86-d011-b42d-00c04fc964ff",
    "url": "https://ci.example/42",
    "at": "2099-12-01T09:00",
    "timeZone": "Europe/Berlin",
    "type": "com.example.requested.v1",
    "datacontenttype": "application/json",
    "queue": DELIVERIES,
}
#: What is put in the place of a value.
OTHERS: Sequence[Any] = (
    None, True, False, 0, -1, 1.5, 2**31, 2**64 - 1, 10**40, 1e308, "", "x", " ", "x" * 300, "../#?\\", "\x00\r\n",
    "\uffff", "\U0001f600" * 200, "2026-13-01", [], [[]], [None], {}, {"": 0}, {'"' * 400: {"\x01" * 400: 1}},
)  # fmt: skip
#: Beginnings of the names that are added.
NAMES = ("x", "", "~", "/", "\x1f", '"' * 310)
#: What is put between the bytes of a message: no UTF-8, no JSON, or other JSON than it looks.
PIECES = (
    b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b"\\ud800", b"\\u12", b"NaN", b"-Infinity", b"1e999", b"'", b'"',
    b"{", b"}", b"]", b",", b"//", b"\xef\xbb\xbf", b"\n\n", b"=",
)  # fmt: skip

Trigger = Callable[[func.QueueMessage], Awaitable[None]]


class Fuzz:
    """Messages for the queues: as they should be, and then changed in one or several places."""

    def __init__(self, chance: random.Random, ours: Mapping[str, Sequence[str]], tenant: str) -> None:
        self._chance, self._ours, self._texts = chance, ours, TEXTS | {"tenant": tenant}
        changes = (
            self._replaced, self._without, self._with_more, self._repeated, self._deep, self._cut, self._spliced,
            self._huge, self._wrongly_encoded, self._noise,
        )  # fmt: skip
        self.kinds: Mapping[str, Callable[[Any], bytes]] = {change.__name__: change for change in changes}

    def message(self, queue: str) -> tuple[str, bytes]:
        """One for `queue`, and by what kind of change it came about."""
        value = self._grown(CONTRACT, "") if queue == NOTIFICATIONS else json.loads(self._pick(self._ours[queue]))
        kind = self._pick(list(self.kinds))
        text = self.kinds[kind](value)
        encoded = base64.b64encode(text) if self._chance.random() < 0.3 else text
        return kind, encoded[:LONGEST]

    def _pick(self, of: Sequence[Any]) -> Any:
        return self._chance.choice(of)

    def _grown(self, schema: Mapping[str, Any], name: str) -> Any:
        """A value that fits the schema, as far as that says it all."""
        if "$ref" in schema:
            return self._grown(CONTRACT["$defs"][schema["$ref"].rpartition("/")[2]], name)
        for several in ("anyOf", "oneOf"):
            if several in schema:
                return self._grown(self._pick(schema[several]), name)
        if "const" in schema or "enum" in schema:
            return self._pick(schema.get("enum") or [schema["const"]])
        match schema["type"]:
            case "object":
                # Of a card the schema says nothing.
                known = schema.get("properties", {"type": {"const": "AdaptiveCard"}})
                kept = {each for each in known if each in schema.get("required", ()) or self._chance.random() < 0.3}
                if {"content", "card"} <= known.keys():  # there is to be one of the two
                    kept = kept - {"content", "card"} | {self._pick(("content", "card"))}
                return {each: self._grown(known[each], each) for each in known if each in kept}
            case "array":
                return [self._grown(schema["items"], name) for _ in range(self._chance.randint(1, 3))]
            case "string":
                return "2099-11-23T18:00:00Z" if "format" in schema else self._texts.get(name, self._pick("abc"))
            case "boolean":
                return self._pick((True, False))
        assert schema["type"] == "null"
        return None

    def _somewhere(self, value: Any) -> tuple[Any, Any]:
        """A container within the value, or the value itself, and a key of that."""
        found: list[tuple[Any, Any]] = []

        def look(at: Any) -> None:
            keys = list(at) if isinstance(at, dict) else range(len(at)) if isinstance(at, list) else ()
            for key in keys:
                found.append((at, key))
                look(at[key])

        look(value)
        return self._chance.choice(found)

    def _replaced(self, value: Any) -> bytes:
        for _ in range(self._chance.randint(1, 3)):
            container, key = self._somewhere(value)
            container[key] = self._pick(OTHERS)
        return _dumped(value)

    def _without(self, value: Any) -> bytes:
        container, key = self._somewhere(value)
        del container[key]
        return _dumped(value)

    def _with_more(self, value: Any) -> bytes:
        container, _ = self._somewhere(value)
        more = [self._pick(OTHERS) for _ in range(self._pick((1, 1, 60)))]
        if isinstance(container, dict):
            container |= {f"{self._pick(NAMES)}{number}": each for number, each in enumerate(more)}
        else:
            container += more
        return _dumped(value)

    def _repeated(self, value: Any) -> bytes:
        """A name of the object comes twice, the second time with another value."""
        name, other = self._pick(list(value)), self._pick(OTHERS)
        return _dumped(value)[:-1] + b"," + _dumped({name: other})[1:]

    def _deep(self, value: Any) -> bytes:
        container, key = self._somewhere(value)
        container[key] = "here"
        opening, closing = self._pick(((b"[", b"]"), (b'{"a":', b"}"), (b'{"type":"Container","items":[', b"]}")))
        depth = self._pick((5, 100, 127, 200, 254, 255, 600, 1023, 1024, 1500))
        return _dumped(value).replace(b'"here"', opening * depth + b"0" + closing * depth)

    def _cut(self, value: Any) -> bytes:
        text = _dumped(value)
        return text[: self._chance.randrange(len(text))]

    def _spliced(self, value: Any) -> bytes:
        text, piece = _dumped(value), self._chance.choice(PIECES)
        at = self._chance.randrange(len(text))
        return text[:at] + piece + text[at + self._chance.randrange(3) :]

    def _huge(self, value: Any) -> bytes:
        container, key = self._somewhere(value)
        container[key] = self._pick(("x", "\x01", "\u20ac", "a b ", '"')) * (LONGEST // self._pick((2, 3, 6, 7)))
        return _dumped(value)

    def _wrongly_encoded(self, value: Any) -> bytes:
        encoded = base64.b64encode(_dumped(value))
        at = self._chance.randrange(len(encoded))
        forms = (
            encoded[:at], encoded[:at] + b"!" + encoded[at:], encoded[:at] + b"\n" + encoded[at:], encoded + b"=",
            base64.b64encode(encoded), base64.b64encode(self._cut(value)), _dumped(value).decode().encode("utf-16"),
            _dumped(encoded.decode()),
        )  # fmt: skip
        return bytes(self._pick(forms))

    def _noise(self, _: Any) -> bytes:
        return self._chance.randbytes(self._pick((0, 1, 20, 2000, LONGEST)))


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def fate(queue: str, body: bytes) -> str:
    """What is to become of a message: `unreadable` or `invalid` as a dead letter, put off for `later`, or `taken`."""
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
    return "taken"


def schema(queue: str) -> Mapping[str, Any]:
    """What the messages of a queue are, by the exported schema, or by the declared fields of our own."""
    if queue == NOTIFICATIONS:
        return CONTRACT
    types = {"str": "string", "int": "integer", "float": "number", "Task": "string"}
    declared = fields(MESSAGES[queue])
    kinds = {field.name: {"type": types[str(field.type)]} for field in declared}
    needed = [field.name for field in declared if field.default is MISSING]
    return {
        "type": "object",
        "properties": kinds | {"v": {"const": VERSION}},
        "required": ["v", *needed],
        "additionalProperties": False,
    }


def fits(validator: jsonschema.Draft202012Validator, body: bytes) -> bool:
    """Whether the body is JSON, raw or in base64, and what the schema says."""

    def no_number(text: str) -> float:
        raise ValueError(text)

    text = body.strip().removeprefix(b"\xef\xbb\xbf")
    try:
        raw = text if text[:1] in (b"{", b"[") else base64.b64decode(text, validate=True).removeprefix(b"\xef\xbb\xbf")
        value = json.loads(raw.decode(), parse_constant=no_number)
        return bool(validator.is_valid(value))
    except (ValueError, RecursionError):
        return False


def triggers() -> Mapping[str, Trigger]:
    """The function of each queue."""
    app = func.FunctionApp()
    for blueprint in (notify.functions.blueprint, timer_digest.functions.blueprint):
        app.register_functions(blueprint)
    found = [(each.get_trigger(), each.get_user_function()) for each in app.get_functions()]
    return {trigger.queue_name: call for trigger, call in found if isinstance(trigger, QueueTrigger)}


async def own_messages(herald: Herald, known: StoredNotification, recipient: str) -> Mapping[str, Sequence[str]]:
    """Messages of our own queues, about a delivery that there is."""
    delivery = (await herald.message(known, recipient)).encode()
    expansion = Expansion(known.key, known.page).encode()
    sweeps = [Sweep(known.key, task, shard).encode() for task, shard in ((Task.WATCH, ""), (Task.RECALL, "0"))]
    person = RecipientTask(known.tenant, recipient, Task.RELEASE).encode()
    return {
        DELIVERIES: [delivery],
        DELIVERIES_URGENT: [delivery],
        EXPANSIONS: [expansion],
        SWEEPS: sweeps,
        RECIPIENTS: [person],
    }


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=[pytest.mark.full, pytest.mark.timeout(600)])])
async def test_what_is_no_message_of_its_queue_is_a_dead_letter_with_a_reason_and_nothing_raises(
    herald: Herald, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    opened = asyncio.get_running_loop().create_future()
    opened.set_result(herald.services)
    monkeypatch.setattr("shared.services._opening", opened)
    await herald.grow(people=1)
    [ada] = await herald.people(1)
    known = await herald.ask(user(ada))
    own = await own_messages(herald, known, f"u:{ada.object_id}")
    fuzz = Fuzz(random.Random(SEED), own, herald.tenant)
    chosen = [WORK_QUEUES[number % len(WORK_QUEUES)] for number in range(count)]
    messages = {f"m{number}": (queue, *fuzz.message(queue)) for number, queue in enumerate(chosen)}
    fates = {number: fate(queue, body) for number, (queue, _, body) in messages.items()}
    malformed = {number: end for number, end in fates.items() if end in ("unreadable", "invalid")}
    assert len(malformed) >= MALFORMED * count
    assert {messages[number][1] for number in malformed} == set(fuzz.kinds)
    validators = {queue: jsonschema.Draft202012Validator(schema(queue)) for queue in WORK_QUEUES}
    taken = [messages[number] for number, end in fates.items() if end == "taken"]
    assert [body for queue, _, body in taken if not fits(validators[queue], body)] == []

    by_queue, gate, raised = triggers(), asyncio.Semaphore(AT_ONCE), []

    async def one(number: str, queue: str, body: bytes) -> None:
        async with gate:
            try:
                await by_queue[queue](func.QueueMessage(id=number, body=body))
            except Exception as error:  # noqa: BLE001 (whatever it is, the host would call the message poison in the end)
                raised.append((queue, body, error))

    await asyncio.gather(*(one(number, queue, body) for number, (queue, _, body) in messages.items()))
    assert raised == []
    letters = {letter["RowKey"].rpartition(";")[2]: letter for letter in await herald.dead_letters()}
    assert {number: letters[number]["reason"] for number in malformed if number in letters} == malformed
    for number, letter in letters.items():
        queue, _, body = messages[number]
        assert (letter["queue"], DeadLetters.body(letter)) == (queue, body)
        assert json.loads(letter["faults"])
        # What is well formed may name what there is not, or say what cannot be: upstream's, not our own.
        assert number in malformed or queue == NOTIFICATIONS
