"""Fixtures of all tests: storage, a fake Teams, and the app.

A test process has one Azurite and one fake Teams, which start when a test first needs them.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from local.fake_teams.api import Behaviour
from local.fake_teams.client import FakeTeams
from local.processes import Azurite
from tests.support.crashes import Host
from tests.support.herald import Herald, TimedQueues, follow_clock, open_herald
from tests.support.local_stack import LocalStack, eventually
from tests.support.storage import Storage
from tests.support.tapped import tap
from tests.support.teams import ServerThread

# Installed only for cyclonedx_py; jsonschema would import it, too, and it compiles its grammars for 3 s.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

# A quick run tries the same examples each time; the full run tries more, and new ones each time.
QUICK = hypothesis.settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("quick", QUICK)
hypothesis.settings.register_profile("full", QUICK, derandomize=False, max_examples=400)
hypothesis.settings.load_profile("quick")


def pytest_collection_finish() -> None:
    """Exclude imported modules from garbage collection: they stay until the end."""
    gc.freeze()


#: Storage accounts of a test process: more than it has tests.
ACCOUNTS = 900


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Start Azurite in memory, on free ports."""
    accounts = [*(f"account{number}" for number in range(ACCOUNTS)), "people", "playground"]
    with Azurite(tmp_path_factory.mktemp("azurite"), accounts=accounts) as server:
        yield server


@pytest.fixture(scope="session")
def _numbers() -> Iterator[int]:
    return iter(range(ACCOUNTS))


@pytest.fixture
def connection(azurite: Azurite, _numbers: Iterator[int]) -> str:
    """Return the connection string of an empty account of Azurite."""
    return azurite.connection_string(f"account{next(_numbers)}")


@pytest.fixture
def storage(request: pytest.FixtureRequest) -> Storage:
    """Return an empty account: in memory, or on Azurite if the test has the mark `azurite`."""
    if request.node.get_closest_marker("azurite"):
        return Storage(request.getfixturevalue("connection"))
    return Storage()


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expand notifications to a few recipients like larger ones: with counts, and a queue message for each delivery."""
    monkeypatch.setattr("shared.publishing.MAX_FEW", 0)


@pytest.fixture(scope="session")
def _server() -> Iterator[ServerThread]:
    with ServerThread() as server:
        yield server


@pytest.fixture
def token(_server: ServerThread) -> str:
    """Return an access token that is valid in this test."""
    return _server.token()


@pytest.fixture
async def teams(_server: ServerThread, token: str) -> AsyncIterator[FakeTeams]:
    """Return a fake Teams without people, teams and requests."""
    async with FakeTeams.connect(_server.url, _server.ca_file) as teams:
        await teams.reset()
        yield teams


@pytest.fixture
async def herald(
    storage: Storage, teams: FakeTeams, monkeypatch: pytest.MonkeyPatch, token: str
) -> AsyncIterator[Herald]:
    async with open_herald(storage, teams, monkeypatch, token) as herald:
        yield herald


@pytest.fixture
async def timed(
    storage: Storage, teams: FakeTeams, monkeypatch: pytest.MonkeyPatch, token: str
) -> AsyncIterator[Herald]:
    """The same as `herald`, but queue delays and cache ages follow the test's clock."""
    storage.queues = TimedQueues
    async with open_herald(storage, teams, monkeypatch, token) as herald:
        follow_clock(herald)
        yield herald


@pytest.fixture
async def tapped(
    storage: Storage, teams: FakeTeams, monkeypatch: pytest.MonkeyPatch, token: str
) -> AsyncIterator[Herald]:
    """The same as `timed`, but Teams has no rate limits, and the storage calls the `Tap` in `TAP`."""
    tap(storage)
    async with open_herald(storage, teams, monkeypatch, token) as herald:
        follow_clock(herald)
        await teams.set_behaviour(Behaviour(enforce_limits=False))
        yield herald


@pytest.fixture
async def host(tapped: Herald, _server: ServerThread, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    """A host for workers that die. Pages and digests are small, so that scenarios are short."""
    monkeypatch.setattr("notify.expansion.PAGE_SECONDS", 2)
    monkeypatch.setattr("timer_digest.digest_plan.MAX_SEPARATE_MESSAGES", 2)
    host = Host(**vars(tapped), count_requests=_server.request_count)
    await host.services.close()
    await host.start()
    yield host
    await host.services.close()
    assert host.connections
    await host.connections.close()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[LocalStack]:
    """`dev.py up` on free ports; at the end, all of its programs have stopped."""
    created = LocalStack(tmp_path)
    yield created
    assert eventually(created.is_stopped)
