"""Answers that Teams does not give: larger ones than any real one, of which the status counts, and redirects."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shared.limited_read import read_limited
from shared.states import Reason
from shared.teams.connector import Connector, Route
from shared.teams.exchange import MAX_ANSWER_BYTES
from shared.teams.outcome import MAX_ID_CHARS, Outcome, Verdict
from shared.teams.tokens import Tokens
from shared.time.clock import real_time
from tests.messages.conftest import TENANT

#: Bytes of an answer that has no end.
ENDLESS = 1 << 40
#: Size of a body that is compressed to about a thousandth of it.
BOMB_BYTES = 8 * MAX_ANSWER_BYTES


class LargeTeams:
    """A server whose next answer has `status`, `headers`, and `body` `repeat` times.

    `sent` counts the bytes of the bodies, `ports` has the connections.
    """

    def __init__(self) -> None:
        self.status, self.body, self.repeat, self.sent = 200, b"", 1, 0
        self.headers: Mapping[str, str] = {}
        self.ports: set[int] = set()
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.ports.add((request.transport or request).get_extra_info("peername")[1])
        response = web.StreamResponse(status=self.status, headers=self.headers)
        await response.prepare(request)
        for _ in range(self.repeat):
            await response.write(self.body)
            self.sent += len(self.body)
        await response.write_eof()
        return response


@pytest.fixture
async def teams() -> AsyncIterator[LargeTeams]:
    teams, app = LargeTeams(), web.Application()
    app.router.add_route("*", "/{path:.*}", teams.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    teams.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield teams
    await runner.cleanup()


@pytest.fixture
async def connector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connector]:
    async def get(_: Any, refused: str = "") -> str:
        return "token"

    monkeypatch.setattr(Tokens, "get", get)
    async with aiohttp.ClientSession() as session:
        yield Connector(session, Tokens(None, float), lambda _: True, real_time, None)  # type: ignore[arg-type]


async def send(connector: Connector, teams: LargeTeams) -> Outcome:
    return await connector.send(Route(TENANT, teams.url), "a:1", b"{}")


async def test_redirect_to_another_host_is_not_followed(connector: Connector, teams: LargeTeams) -> None:
    """It would send the token there."""
    async with TestServer(web.Application()) as other:
        teams.status, teams.headers = 307, {"Location": str(other.make_url("/"))}
        outcome = await send(connector, teams)
    assert (outcome.verdict, outcome.reason) == (Verdict.FAILED, Reason.BAD_REQUEST)


def object_of(size: int) -> bytes:
    """Return a JSON object of this many bytes, with the id a1."""
    head = b'{"id":"a1","more":"'
    return head + b"x" * (size - len(head) - 2) + b'"}'


async def test_answer_of_the_largest_size_is_read(connector: Connector, teams: LargeTeams) -> None:
    teams.body = object_of(MAX_ANSWER_BYTES)
    assert (await send(connector, teams)).activity_id == "a1"


async def test_status_of_a_larger_answer_counts_without_its_body(connector: Connector, teams: LargeTeams) -> None:
    teams.body = object_of(MAX_ANSWER_BYTES + 1)
    assert await send(connector, teams) == Outcome(Verdict.DONE)
    teams.status = 403
    assert await send(connector, teams) == Outcome(Verdict.RETRY, Reason.NOT_PERMITTED)
    teams.status = 404
    assert (await send(connector, teams)).reason is Reason.CONVERSATION_GONE


async def test_list_that_is_larger_is_no_list(connector: Connector, teams: LargeTeams) -> None:
    teams.body = b'{"members":[' + b"{}," * MAX_ANSWER_BYTES
    outcome = await connector.members(Route(TENANT, teams.url), "19:team@thread.tacv2", 50, "")
    assert (outcome.verdict, outcome.body) == (Verdict.DONE, {})


async def test_answer_without_end_is_read_up_to_the_limit(connector: Connector, teams: LargeTeams) -> None:
    teams.body = b"x" * 65536
    teams.repeat = ENDLESS // len(teams.body)
    assert await send(connector, teams) == Outcome(Verdict.DONE)
    assert teams.sent < 4 * MAX_ANSWER_BYTES  # buffers of the connection may hold some more


async def test_compressed_answer_is_limited_by_what_it_decompresses_to(
    connector: Connector, teams: LargeTeams, monkeypatch: pytest.MonkeyPatch
) -> None:
    decompressed = 0
    feed = aiohttp.StreamReader.feed_data

    def count(self: aiohttp.StreamReader, data: bytes, size: int = 0) -> Any:
        nonlocal decompressed
        decompressed += len(data)
        return feed(self, data, size) if size else feed(self, data)

    monkeypatch.setattr(aiohttp.StreamReader, "feed_data", count)
    teams.headers = {"Content-Encoding": "gzip"}
    teams.body = gzip.compress(object_of(1000))
    assert (await send(connector, teams)).activity_id == "a1"
    teams.body = gzip.compress(object_of(BOMB_BYTES))
    decompressed = 0
    assert len(teams.body) < MAX_ANSWER_BYTES
    assert await send(connector, teams) == Outcome(Verdict.DONE)
    assert MAX_ANSWER_BYTES < decompressed < 2 * MAX_ANSWER_BYTES


async def test_answer_within_the_limit_leaves_its_connection_to_the_next_request(teams: LargeTeams) -> None:
    teams.body = b"x" * 10
    async with aiohttp.ClientSession() as session:
        for _ in range(3):
            async with session.get(teams.url) as answer:
                assert await read_limited(answer, 10) == teams.body
    assert len(teams.ports) == 1


@pytest.mark.parametrize("headers", [{"X": "x" * 10_000}, {f"X{number}": "x" for number in range(1000)}])
async def test_answer_with_too_large_headers_is_no_answer(
    connector: Connector, teams: LargeTeams, headers: dict[str, str]
) -> None:
    teams.headers = headers
    assert await send(connector, teams) == Outcome(Verdict.UNKNOWN, Reason.NO_ANSWER)


async def test_deep_answer_has_no_body(connector: Connector, teams: LargeTeams) -> None:
    teams.body = b'{"id":"a1","more":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert await send(connector, teams) == Outcome(Verdict.DONE)


@pytest.mark.parametrize(("chars", "kept"), [(MAX_ID_CHARS, True), (MAX_ID_CHARS + 1, False)])
async def test_id_that_could_not_be_stored_counts_as_missing(
    connector: Connector, teams: LargeTeams, chars: int, kept: bool
) -> None:
    teams.body = b'{"id":"' + b"1" * chars + b'"}'
    expected = "1" * chars if kept else ""
    assert await send(connector, teams) == Outcome(Verdict.DONE, activity_id=expected, conversation_id=expected)
