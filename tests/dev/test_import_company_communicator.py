"""The import from Company Communicator: tables in its documented shape, with holes."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from local.import_company_communicator import TEAMS, USERS, import_all, read_team, read_user
from shared.states import ReferenceKind
from shared.storage.conversations import Conversations
from tests.support.memory import MemoryAccount, MemoryTable

TENANT, OTHER = "0000000a-0000-4000-8000-000000000001", "0000000b-0000-4000-8000-000000000001"
SERVICE_URL = "https://smba.trafficmanager.net/emea/"
TEAM_COUNT = 300
#: Changes of a row that leave it out, and a part of the reason.
HOLES: list[tuple[dict[str, Any], str]] = [
    ({"AadId": None}, "no Entra object id"),
    ({"AadId": "ada@example.com"}, "no Entra object id"),
    ({"TenantId": ""}, "no tenant"),
    ({"TenantId": OTHER}, "HERALD_ALLOWED_TENANTS"),
    ({"ServiceUrl": None}, "no serviceUrl"),
    ({"ServiceUrl": "https://evil.example.com/"}, "no serviceUrl"),
    ({"ConversationId": None}, "no chat with the bot"),
    ({"UserType": "Guest"}, "a guest"),
]


def person_of(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000002"


def user_row(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "PartitionKey": USERS, "RowKey": person_of(number), "Name": f"Person {number}",
        "Upn": f"p{number}@example.com", "AadId": person_of(number).upper(), "UserId": f"29:{number}",
        "ConversationId": f"a:{number}", "ServiceUrl": SERVICE_URL, "TenantId": TENANT, "UserType": "Member",
    }  # fmt: skip
    return {name: value for name, value in (row | changes).items() if value is not None}


def team_row(number: int, **changes: Any) -> dict[str, Any]:
    team = f"19:team{number}@thread.tacv2"
    row = {
        "PartitionKey": TEAMS, "RowKey": team, "TeamId": team, "Name": f"Team {number}", "ServiceUrl": SERVICE_URL,
        "TenantId": TENANT,
    }  # fmt: skip
    return {name: value for name, value in (row | changes).items() if value is not None}


@pytest.fixture
async def accounts(monkeypatch: pytest.MonkeyPatch) -> tuple[MemoryAccount, Conversations]:
    """Return Company Communicator's account with its tables, and Herald's conversations in another one."""
    source, target = MemoryAccount(), MemoryAccount()
    monkeypatch.setattr("local.import_company_communicator.Table", MemoryTable)
    monkeypatch.setattr(
        "local.import_company_communicator.open_storage",
        lambda _, connection="": (source, source) if connection else (target, target),
    )
    for name in (USERS, TEAMS):
        await source.get_table_client(name).create_table()
    table = MemoryTable(target.get_table_client("HeraldConversations"))
    await table.create()
    return source, Conversations(table)


@pytest.mark.parametrize("people", [800, pytest.param(10_000, marks=pytest.mark.full)])
async def test_people_and_teams_with_holes_are_imported_once(
    accounts: tuple[MemoryAccount, Conversations], people: int
) -> None:
    source, conversations = accounts
    chance, expected = random.Random(1), Counter[str]()
    users, teams = MemoryTable(source.get_table_client(USERS)), MemoryTable(source.get_table_client(TEAMS))
    for number in range(people):
        changes, reason = chance.choice(HOLES) if number % 10 == 0 else ({}, "")
        await users.insert(user_row(number, **changes))
        expected[reason] += 1
    for number in range(TEAM_COUNT):
        await teams.insert(team_row(number, **({"TeamId": None} if number % 10 == 0 else {})))

    dry = await import_all({}, frozenset({TENANT}), dry_run=True)
    assert dry.imported == {"people": people - people // 10, "teams": TEAM_COUNT - TEAM_COUNT // 10}
    assert await conversations.get(TENANT, ReferenceKind.USER, person_of(1)) is None
    report = await import_all({}, frozenset({TENANT}), dry_run=False)
    assert (report.imported, report.left_out) == (dry.imported, dry.left_out)
    for reason in {reason for _, reason in HOLES}:
        found = sum(n for (kind, why), n in report.left_out.items() if kind == "people" and reason in why)
        assert found == expected[reason] > 0
    known = await conversations.get(TENANT, ReferenceKind.USER, person_of(1))
    assert known
    assert (known.conversation_id, known.service_url, known.user_id) == ("a:1", SERVICE_URL, "29:1")
    alias = await conversations.get(TENANT, ReferenceKind.CONVERSATION, "a:1")
    assert alias
    assert alias.user == person_of(1)
    again = await import_all({}, frozenset({TENANT}), dry_run=False)
    assert (again.imported, again.known) == ({}, report.imported)


async def test_interrupted_import_is_completed_by_the_next(
    accounts: tuple[MemoryAccount, Conversations], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, conversations = accounts
    users = MemoryTable(source.get_table_client(USERS))
    for number in range(50):
        await users.insert(user_row(number))
    saved, save = 0, Conversations.save

    async def fail_later(self: Conversations, *arguments: Any, **options: Any) -> None:
        nonlocal saved
        saved += 1
        if saved > 33:
            raise OSError("interrupted")
        await save(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Conversations, "save", fail_later)
        with pytest.raises(OSError, match="interrupted"):
            await import_all({}, frozenset({TENANT}), dry_run=False)
    report = await import_all({}, frozenset({TENANT}), dry_run=False)
    assert report.imported["people"] + report.known["people"] == 50
    found = await asyncio.gather(
        *(conversations.get(TENANT, ReferenceKind.CONVERSATION, f"a:{number}") for number in range(50))
    )
    assert all(found)


async def test_what_herald_knows_already_is_kept(accounts: tuple[MemoryAccount, Conversations]) -> None:
    source, conversations = accounts
    await MemoryTable(source.get_table_client(USERS)).insert(user_row(1))
    newer = {"conversation_id": "a:new", "service_url": SERVICE_URL}
    await conversations.save(TENANT, ReferenceKind.USER, person_of(1), newer, at=datetime.now(UTC))
    report = await import_all({}, frozenset({TENANT}), dry_run=False)
    assert (report.imported["people"], report.known["people"]) == (0, 1)
    known = await conversations.get(TENANT, ReferenceKind.USER, person_of(1))
    assert known
    assert known.conversation_id == "a:new"


def test_rows_are_read_whatever_their_columns_hold() -> None:
    for value in (None, "", 5, "x" * 600, "19:a/b@thread.tacv2"):
        assert isinstance(read_team(team_row(1, TeamId=value), frozenset({TENANT})), str)
        assert isinstance(read_user(user_row(1, AadId=value), frozenset({TENANT})), str)
