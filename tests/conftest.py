"""What all tests stand on: a real Azurite for each test process, with an account of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from local.processes import Azurite

#: More accounts than one test process has tests.
ACCOUNTS = 900


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """A storage emulator in memory, on free ports."""
    accounts = [f"account{number}" for number in range(ACCOUNTS)]
    with Azurite(tmp_path_factory.mktemp("azurite"), accounts=accounts) as server:
        yield server


@pytest.fixture(scope="session")
def _numbers() -> Iterator[int]:
    return iter(range(ACCOUNTS))


@pytest.fixture
def connection(azurite: Azurite, _numbers: Iterator[int]) -> str:
    """The connection string of a storage account that is empty."""
    return azurite.connection_string(f"account{next(_numbers)}")
