"""The app as the Functions host calls it, on storage in memory: with people, teams, a message and a schedule."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import azure.functions as func
import pytest
from multidict import CIMultiDict

import messages.functions
from local.fake_teams.client import FakeTeams
from shared.contract.faults import Fault, MessageRefused
from shared.contract.identity import MAX_MESSAGE_BYTES, read_identity, with_id
from shared.contract.parsing import Request, parse_message
from shared.preferences.categories import Categories, Category
from shared.queue_messages import DELIVERIES, NOTIFICATIONS
from shared.queues import to_text
from shared.records import notification_key
from tests.support.herald import Herald, open_herald
from tests.support.storage import Storage
from tests.support.triggers import FUNCTIONS, queue_message, use_services

CORPUS = Path(__file__).parent / "corpus"
ACTIVITIES, MESSAGES = CORPUS / "activities", CORPUS / "messages"
#: The serviceUrl of the activities, and a text in them that no log line may have.
SERVICE_URL = "https://smba.trafficmanager.net/emea/"
SECRET = "Wintermute-7f3a"
#: The statuses that docs/activities.md names, but for the 503 of a storage that is away.
STATUSES = (200, 400, 401, 403, 413, 501)
#: The reasons of a refused message that docs/contract.md names.
REASONS = ("unreadable", "invalid", "reused", "unknown", "begun")
#: What was there before the input: activities, and then messages, of the corpus.
BEFORE = (
    ("install-personal", "install-group-chat", "install-team", "message-in-a-channel"),
    ("notification-event", "command-schedule"),
)
#: The answer of Teams to every request.
ANSWER = {
    "id": "1700000000001",
    "members": [{"id": "29:ben", "aadObjectId": "0d9e6c15-72fb-4a83-b4e8-913f5c6d2a07"}],
    "conversations": [{"id": "19:d5b8a1f37e6c4920@thread.tacv2"}],
}

_post: Any = next(builder.build() for builder in messages.functions.blueprint._function_builders).get_user_function()


class _Teams:
    """Has the interface of `aiohttp.ClientSession` that the connector uses, and accepts everything."""

    @asynccontextmanager
    async def request(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        async def iter_any() -> AsyncIterator[bytes]:
            yield json.dumps(ANSWER).encode()

        yield SimpleNamespace(status=201, headers=CIMultiDict(), content=SimpleNamespace(iter_any=iter_any))


@dataclass
class FuzzedApp:
    """Hands inputs to the app, and asserts what must be true of any.

    `letters` has the reason and the faults of each dead letter.
    """

    herald: Herald
    authorization: str
    letters: list[tuple[str, Sequence[Fault]]] = field(default_factory=list)

    async def post(self, body: bytes) -> int:
        """Post an activity with a valid token; return the status, which is documented."""
        headers = {"Authorization": self.authorization, "Content-Type": "application/json"}
        answer = await _post(func.HttpRequest(method="POST", url="/api/messages", headers=headers, body=body))
        assert answer.status_code in STATUSES
        if answer.status_code not in (200, 501):
            assert "\n" not in json.loads(answer.get_body())["error"]
        elif answer.get_body():
            assert json.loads(answer.get_body())["statusCode"] in (200, 400)
        return int(answer.status_code)

    async def ingest(self, body: bytes, tries: int = 1) -> str:
        """Hand over a message of the queue; return the reason of its dead letter, "" if it was accepted."""
        identifier, before = uuid.uuid4().hex, len(self.letters)
        await self._take_copy()  # `redrive` puts back other messages
        await FUNCTIONS[NOTIFICATIONS](queue_message(body, tries, identifier))
        if tries > 1 and with_id(body, identifier) != body:
            body = await self._take_copy()
            await FUNCTIONS[NOTIFICATIONS](queue_message(body, 1, identifier))
        new = self.letters[before:]
        if not new:
            await self._check_accepted(body, identifier)
            return ""
        [(reason, faults)] = new
        assert reason in REASONS
        assert faults
        for fault in faults:
            assert fault.message
            assert len(f"{fault.pointer} {fault.message}".splitlines()) == 1
        return reason

    async def poison(self, body: bytes) -> None:
        """Hand over a message that the queue has given up: it is put back twice, and then a dead letter."""
        before = len(self.letters)
        await self._take_copy()
        for _ in range(3):
            assert len(self.letters) == before
            await FUNCTIONS[f"{NOTIFICATIONS}-poison"](queue_message(body, 1, "poisoned"))
            body = await self._take_copy() or body
        assert [reason for reason, _ in self.letters[before:]] == ["poison"]

    async def _take_copy(self) -> bytes:
        """Return the message that was put back on the queue, b"" if none was, and clear the queue."""
        queue: Any = self.herald.outside_queues.get_queue_client(NOTIFICATIONS)
        found = [message.content.encode() for message in queue._messages.values()]
        await queue.clear_messages()
        return found[-1] if found else b""

    async def _check_accepted(self, body: bytes, identifier: str) -> None:
        try:
            request = parse_message(body)
        except MessageRefused:
            pytest.fail("it is neither accepted nor a dead letter")
        if isinstance(request, Request):
            key = notification_key(self.herald.tenant, request.source, request.id or identifier)
            assert await self.herald.services.notifications.get(key), "it is accepted, but not stored"


@asynccontextmanager
async def open_app(
    teams: FakeTeams, patch: pytest.MonkeyPatch, token: str, authorization: str
) -> AsyncIterator[FuzzedApp]:
    """Open the app on an empty storage, and let it handle what was there before."""
    async with open_herald(Storage(), teams, patch, token) as herald:
        app, services = FuzzedApp(herald, authorization), herald.services
        # The members of teams are welcomed only if the category is declared.
        object.__setattr__(services, "categories", Categories([Category(name="welcome")]))
        connector: Any = services.connector
        connector._session = _Teams()
        use_services(patch, services)

        async def get_services() -> Any:
            return services

        patch.setattr("messages.functions.get_services", get_services)
        patch.setattr("messages.functions._opened", None)
        put = services.dead_letters.put

        async def record(*arguments: Any) -> str:
            app.letters.append(arguments[3:5])
            return await put(*arguments)

        patch.setattr(services.dead_letters, "put", record)
        activities, upstream = BEFORE
        for name in activities:
            assert await app.post((ACTIVITIES / f"{name}.json").read_bytes()) == 200
        for name in upstream:
            assert not await app.ingest((MESSAGES / f"{name}.json").read_bytes())
        await herald.handle_messages(DELIVERIES)
        yield app


def as_delivered(body: bytes) -> bytes:
    """Return a message as a queue delivers it: no queue takes all bytes, nor so many."""
    return to_text(body).encode()[:MAX_MESSAGE_BYTES]


def names_secret(body: bytes) -> bool:
    """Return whether the secret is in the identity of a message, which log lines have."""
    identity = read_identity(body)
    return SECRET in f"{identity.source}{identity.id}"
