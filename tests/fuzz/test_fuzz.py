"""Inputs that nobody foresaw: a kept corpus of activities and messages, and changes of its files by chance.

What the long tests find is written into the corpus, where it fails in each quick run until it is mended.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from local.fake_teams.client import FakeTeams
from messages.endpoint import MAX_BODY_BYTES
from shared.contract.identity import MAX_MESSAGE_BYTES
from tests.fuzz.app import ACTIVITIES, MESSAGES, SECRET, SERVICE_URL, FuzzedApp, as_delivered, names_secret, open_app
from tests.fuzz.mutate import Mutator
from tests.support.teams import ServerThread

#: To repeat a long run, set the seed that it has printed; the number of inputs of each long test can be set, too.
SEED = int(os.environ.get("HERALD_FUZZ_SEED") or time.time_ns())
COUNT = int(os.environ.get("HERALD_FUZZ_COUNT") or 20_000)
#: Inputs after which the app begins anew with an empty storage.
BATCH = 250

Check = Callable[[FuzzedApp, bytes, random.Random], Awaitable[str]]


@pytest.fixture
def authorization(_server: ServerThread) -> str:
    return _server.authorization(SERVICE_URL)


@pytest.fixture
async def app(
    teams: FakeTeams, monkeypatch: pytest.MonkeyPatch, token: str, authorization: str
) -> AsyncIterator[FuzzedApp]:
    async with open_app(teams, monkeypatch, token, authorization) as app:
        yield app


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


async def check_activity(app: FuzzedApp, body: bytes, rng: random.Random) -> str:
    return str(await app.post(body))


async def check_message(app: FuzzedApp, body: bytes, rng: random.Random) -> str:
    body, entry = as_delivered(body), rng.randrange(8)
    if entry == 0:
        await app.poison(body)
        return "poison"
    return await app.ingest(body, tries=2 if entry == 1 else 1) or "accepted"


async def test_each_activity_of_the_corpus_is_answered_as_documented(
    app: FuzzedApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    statuses = {file.name: await app.post(file.read_bytes()) for file in files(ACTIVITIES)}
    assert SECRET not in caplog.text
    assert set(statuses.values()) >= {200, 400, 401, 403, 501}, statuses
    assert all(SECRET.encode() in file.read_bytes() for file in files(ACTIVITIES) if file.name.startswith("message-"))


async def test_each_message_of_the_corpus_is_accepted_or_a_dead_letter(
    app: FuzzedApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    reasons = Counter[str]()
    for file in files(MESSAGES):
        body = as_delivered(file.read_bytes())
        reasons[await app.ingest(body)] += 1
        await app.ingest(body, tries=2)
        await app.poison(body)
        assert SECRET not in caplog.text or names_secret(body), file.name
    assert set(reasons) >= {"", "unreadable", "invalid", "reused", "unknown"}, reasons


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("folder", "check", "max_bytes"),
    [(ACTIVITIES, check_activity, MAX_BODY_BYTES + 1), (MESSAGES, check_message, MAX_MESSAGE_BYTES)],
    ids=["activities", "messages"],
)
async def test_no_change_of_the_corpus_causes_an_error(
    teams: FakeTeams, monkeypatch: pytest.MonkeyPatch, token: str, authorization: str,
    caplog: pytest.LogCaptureFixture, folder: Path, check: Check, max_bytes: int,
) -> None:  # fmt: skip
    print(f"HERALD_FUZZ_SEED={SEED}")
    caplog.set_level(logging.DEBUG)
    rng, results = random.Random(SEED), Counter[str]()
    mutator = Mutator(rng, [file.read_bytes() for file in files(folder)], max_bytes)
    for _ in range(0, COUNT, BATCH):
        with monkeypatch.context() as patch:
            async with open_app(teams, patch, token, authorization) as app:
                is_in_identity = False  # of a stored notification, which log lines name
                for _ in range(BATCH):
                    body = mutator.mutate()
                    caplog.clear()
                    try:
                        results[await check(app, body, rng)] += 1
                        is_in_identity = is_in_identity or names_secret(body)
                        assert SECRET not in caplog.text or is_in_identity
                    except BaseException:
                        found = folder / f"{hashlib.sha256(body).hexdigest()[:16]}.json"
                        found.write_bytes(body)
                        print(f"found {found}")
                        raise
    print(results)
    assert len(results) > 2
