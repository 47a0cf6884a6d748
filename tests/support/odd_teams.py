"""A Teams in the test's own loop that gives odd answers for a time, and a log of what it answered to whom.

What an answer means is written here by hand from Microsoft's documentation and `docs/odd-inputs.md`, and not computed
by the app.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from shared.contract.parsing import DEFAULT_SOURCE
from shared.queue_messages import NOTIFICATIONS, RECIPIENTS, Delivery
from shared.records import notification_key
from shared.states import Reason
from tests.support.triggers import IN_WORK

#: Seconds until Teams answers, and until a request without an answer ends (`connector.TIMEOUT_SECONDS`).
ANSWER_SECONDS, TIMEOUT_SECONDS = 0.2, 30.0
#: The part of the requests for lists that is answered oddly.
ODD_LISTS = 0.3
#: In place of the key of a digest.
DIGEST = "digest"
#: A notification's title in the tests, by which its messages are recognized.
TITLE = re.compile(rb"Notice [a-c]\d{3}")


class Meaning(StrEnum):
    """What an answer tells about the request."""

    DONE = "done"
    REFUSED = "refused"  #: the recipient cannot be reached
    FAILED = "failed"  #: not executed, and never will be
    RETRY = "retry"  #: not executed, and may be later
    UNKNOWN = "unknown"  #: maybe executed


@dataclass(frozen=True)
class Answer:
    """One answer. `body` None stands for the body of a Teams that works; `error` is raised instead of an answer.

    `is_stored`: the message may be shown in spite of the failure. `pause_seconds`: for how long a 429 asks for no more
    requests, as the app must understand it.
    """

    name: str
    meaning: Meaning
    reason: Reason | None = None
    status: int = 200
    body: bytes | None = b""
    headers: Sequence[tuple[str, str]] = ()
    error: Callable[[], Exception] | None = None
    seconds: float = ANSWER_SECONDS
    is_stored: bool = False
    pause_seconds: float = 0.0


@dataclass(frozen=True)
class Request:
    """A request and its answer. `kind` is create, send, update, delete or list; `title` that of its notification."""

    at: float
    tenant: str
    kind: str
    conversation: str
    title: str
    answer: Answer
    number: int = 0

    @property
    def activity_id(self) -> str:
        """The id of the message in Teams, unless the answer says otherwise."""
        return f"a{self.number}"

    @property
    def answered_at(self) -> float:
        return self.at + self.answer.seconds


WELL = Answer("as documented", Meaning.DONE, body=None)
_HTML = b"<!DOCTYPE html><html><body>Service Unavailable</body></html>"
#: Values of Retry-After, with the seconds for which the app must wait: at least 1, at most 900, and what it can read.
_RETRY_AFTER: dict[str, tuple[Sequence[str], float]] = {
    "none": ([], 1.0),
    "decimal": (["2.128"], 2.128),
    "zero": (["0"], 1.0),
    "negative": (["-5"], 1.0),
    "huge": (["99999999999999999999"], 900.0),
    "a past date": (["Mon, 23 Nov 2020 10:30:00 GMT"], 1.0),
    "a date in 9999": (["Fri, 31 Dec 9999 23:59:59 GMT"], 900.0),
    "garbage": (["soon \u00fc"], 1.0),
    "repeated": (["30", "700"], 30.0),
    "a list": (["30, 700"], 1.0),
}
_CODES_403 = {
    "BotDisabledByAdmin": (Meaning.REFUSED, Reason.DISABLED_BY_ADMIN),
    "BotNotInConversationRoster": (Meaning.REFUSED, Reason.NOT_INSTALLED),
    "ConversationBlockedByUser": (Meaning.REFUSED, Reason.BLOCKED),
    "MessageWritesBlocked": (Meaning.REFUSED, Reason.BLOCKED),
    "ForbiddenOperationException": (Meaning.REFUSED, Reason.NOT_PERSONAL_SCOPE),
    "InvalidBotApiHost": (Meaning.FAILED, Reason.WRONG_CLOUD),
    "NotEnoughPermissions": (Meaning.FAILED, Reason.NOT_PERMITTED),
    "SomethingNew": (Meaning.RETRY, Reason.NOT_PERMITTED),
}
_BY_STATUS = {
    404: (Meaning.FAILED, Reason.CONVERSATION_GONE),
    408: (Meaning.UNKNOWN, Reason.NO_ANSWER),
    409: (Meaning.RETRY, Reason.PRECONDITION),
    412: (Meaning.RETRY, Reason.PRECONDITION),
    413: (Meaning.FAILED, Reason.TOO_BIG),
    423: (Meaning.RETRY, Reason.PRECONDITION),
    425: (Meaning.RETRY, Reason.PRECONDITION),
    501: (Meaning.FAILED, Reason.SERVICE_ERROR),
}


def _answers() -> Iterator[Answer]:
    for status in (200, 201):
        yield Answer(f"{status}", Meaning.DONE, status=status, body=None)
    odd_bodies = {
        "no body": b"", "a list": b"[]", "a text": b'"done"', "a number": b"5", "null": b"null", "HTML": _HTML,
        "not UTF-8": b"\xff\xfe{", "an id that is a number": b'{"id": 7}', "an id that is null": b'{"id": null}',
        "a lone surrogate": b'{"id": "\\ud83d"}', "half of an object": b'{"id": "a',
    }  # fmt: skip
    for name, body in odd_bodies.items():
        yield Answer(f"200 with {name}", Meaning.DONE, body=body)
        yield Answer(f"201 with {name}", Meaning.DONE, status=201, body=body)
    for status in (202, 204, 206):
        yield Answer(f"{status}", Meaning.DONE, status=status)
    for status in (300, 301, 302, 303, 304, 307, 308):
        location = [("Location", "https://elsewhere.example/")]
        yield Answer(f"{status}", Meaning.FAILED, Reason.BAD_REQUEST, status=status, headers=location)
    yield Answer("401", Meaning.RETRY, Reason.UNAUTHORIZED, status=401)
    for code, (meaning, reason) in _CODES_403.items():
        shapes: dict[str, dict[str, object]] = {
            "error": {"error": {"code": code, "message": "refused"}},
            "subCode": {"errorCode": 209, "message": json.dumps({"subCode": code, "details": None})},
        }
        for shape, value in shapes.items():
            yield Answer(f"403 {code} ({shape})", meaning, reason, status=403, body=json.dumps(value).encode())
    for name, text in {
        "no code": b"{}",
        "HTML": _HTML,
        "a list": b"[1]",
        "an odd code": b'{"error": {"code": 7}}',
    }.items():
        yield Answer(f"403 with {name}", Meaning.RETRY, Reason.NOT_PERMITTED, status=403, body=text)
    yield Answer("404 with HTML", Meaning.FAILED, Reason.CONVERSATION_GONE, status=404, body=_HTML)
    for status in (400, 404, 405, 406, 408, 409, 410, 412, 413, 415, 418, 422, 423, 425, 431, 451, 499):
        meaning, reason = _BY_STATUS.get(status, (Meaning.FAILED, Reason.BAD_REQUEST))
        yield Answer(f"{status}", meaning, reason, status=status)
    for name, (values, seconds) in _RETRY_AFTER.items():
        headers = [("Retry-After", value) for value in values]
        throttled = Answer(f"429, Retry-After {name}", Meaning.RETRY, Reason.THROTTLED, status=429, headers=headers)
        yield replace(throttled, pause_seconds=seconds)
        yield Answer(f"503, Retry-After {name}", Meaning.UNKNOWN, Reason.NO_ANSWER, status=503, headers=headers)
        yield Answer(f"412, Retry-After {name}", Meaning.RETRY, Reason.PRECONDITION, status=412, headers=headers)
    for is_stored in (False, True):
        name = "500 with the message stored" if is_stored else "500"
        yield Answer(name, Meaning.FAILED, Reason.SERVICE_ERROR, status=500, is_stored=is_stored)
    for status in (501, 502, 503, 504, 505, 507, 508, 511, 520, 529, 599):
        meaning, reason = _BY_STATUS.get(status, (Meaning.UNKNOWN, Reason.NO_ANSWER))
        yield Answer(f"{status}", meaning, reason, status=status)
    lost = (Meaning.UNKNOWN, Reason.NO_ANSWER)
    yield Answer("dropped", *lost, error=aiohttp.ServerDisconnectedError)
    yield Answer("reset", *lost, error=ConnectionResetError)
    yield Answer("a broken body", *lost, error=aiohttp.ClientPayloadError)
    yield Answer("not HTTP", *lost, error=lambda: ValueError("not HTTP"))
    yield Answer("no answer", *lost, error=TimeoutError, seconds=TIMEOUT_SECONDS)
    yield Answer("no connection", Meaning.RETRY, Reason.UNREACHABLE, error=aiohttp.ConnectionTimeoutError)


#: All documented and all odd answers, and those of them that do not make the app pause.
ODD_ANSWERS = tuple(_answers())
NOT_PAUSING = tuple(each for each in ODD_ANSWERS if each.status not in (401, 429))


@dataclass
class OddTeams:
    """Has the interface of `aiohttp.ClientSession` that the connector uses.

    Until `odd_until` (seconds of the loop), a tenant in `odd` gets the answers listed there in an order by chance, each
    once before one comes again. `rosters` has the members of each team, `channels` the channels.
    """

    odd: Mapping[str, Sequence[Answer]]
    odd_until: float
    chance: random.Random
    rosters: dict[str, Sequence[str]] = field(default_factory=dict)
    channels: dict[str, Sequence[str]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    #: The requests of each delivery (notification, recipient) in their order, and those of each other message. Digests
    #: that are sent where they are made are all under `DIGEST`.
    by_delivery: dict[tuple[str, str], list[Request]] = field(default_factory=lambda: defaultdict(list))
    by_expansion: dict[str, list[Request]] = field(default_factory=lambda: defaultdict(list))
    _decks: dict[str, list[Answer]] = field(default_factory=lambda: defaultdict(list))

    @asynccontextmanager
    async def request(self, method: str, url: URL, *, data: bytes | None, **_: Any) -> AsyncIterator[Any]:
        tenant, kind, conversation = self._read(method, url, data)
        loop = asyncio.get_running_loop()
        is_odd = tenant in self.odd and loop.time() < self.odd_until
        # Otherwise no roster would be listed beyond its first page: any of many answers ends that.
        answer = self._next(tenant) if is_odd and (kind != "list" or self.chance.random() < ODD_LISTS) else WELL
        title = TITLE.search(data or b"")
        queue, message = IN_WORK.get()
        sent = Request(
            loop.time(), tenant, kind, conversation, title[0].decode() if title else "", answer, len(self.requests)
        )
        self.requests.append(sent)
        await asyncio.sleep(answer.seconds)
        if queue.startswith("deliveries"):
            self.by_delivery[Delivery.decode(message).identity].append(sent)
        elif queue == NOTIFICATIONS and kind != "list":
            parsed = json.loads(message)
            key = notification_key(tenant, parsed.get("source", DEFAULT_SOURCE), parsed["id"])
            self.by_delivery[key, _recipient_of(conversation)].append(sent)
        elif queue == RECIPIENTS:
            self.by_delivery[DIGEST, _recipient_of(conversation)].append(sent)
        else:
            self.by_expansion[tenant].append(sent)
        if answer.error:
            raise answer.error()
        body = self._body(sent, url) if answer.body is None else answer.body
        headers = CIMultiDict(answer.headers)

        async def iter_any() -> AsyncIterator[bytes]:
            yield body

        content = SimpleNamespace(iter_any=iter_any)
        yield SimpleNamespace(status=answer.status, headers=headers, content=content)

    def _next(self, tenant: str) -> Answer:
        deck = self._decks[tenant]
        if not deck:
            deck += self.chance.sample(self.odd[tenant], len(self.odd[tenant]))
        return deck.pop()

    def _read(self, method: str, url: URL, data: bytes | None) -> tuple[str, str, str]:
        """Return the tenant of a request, its kind, and its conversation, or the person for whom a chat is created."""
        parts = url.raw_path.split("/v3/")[1].split("/")
        if method == "POST" and parts == ["conversations"]:
            body = json.loads(data or b"")
            return body["tenantId"], "create", body["members"][0]["id"]
        conversation = unquote(parts[1])
        kind = {"POST": "send", "PUT": "update", "GET": "list", "DELETE": "delete"}[method]
        return conversation.split("!")[1], kind, conversation

    def _body(self, request: Request, url: URL) -> bytes:
        kind, conversation = request.kind, request.conversation
        if kind == "create":
            return json.dumps({"id": chat_of(conversation)}).encode()
        if kind != "list":
            return json.dumps({"id": request.activity_id}).encode()
        if not url.raw_path.endswith("pagedmembers"):
            return json.dumps({"conversations": [{"id": each} for each in self.channels[conversation]]}).encode()
        start, size = int(url.query.get("continuationToken", "0")), int(url.query["pageSize"])
        members = self.rosters[conversation]
        page: dict[str, Any] = {
            "members": [{"id": f"29:{each}", "aadObjectId": each} for each in members[start:][:size]]
        }
        if start + size < len(members):
            page["continuationToken"] = str(start + size)
        return json.dumps(page).encode()


def _recipient_of(conversation: str) -> str:
    """Return the recipient of a message to a conversation, or to a person whose chat is created."""
    place = conversation.split(";")[0]
    person = place[2:].split("!")[0] if place.startswith("a:") else place
    return f"u:{person}" if "!" not in place or place.startswith("a:") else f"c:{place}"


def chat_of(person: str) -> str:
    """Return the id of a person's chat with the bot. The ids of conversations have their tenant between "!"."""
    return f"a:{person}!{tenant_of(person)}!"


def tenant_of(person: str) -> str:
    """Return the tenant of a person's object id."""
    return person[:8] + "-0000-4000-8000-000000000000"
