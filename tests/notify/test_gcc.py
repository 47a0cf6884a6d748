"""Answers of Teams: `InvalidBotApiHost` names the host of the GCC cloud, which is asked then and kept."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from local.fake_teams.api import Operation, TeamsFault
from shared.states import ReferenceKind
from tests.notify.test_audience import add_team
from tests.support.herald import Herald, user


@pytest.fixture
def gcc(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the serviceUrl of the GCC cloud: the same fake Teams, spelled differently."""
    url = timed.teams.service_url.rstrip("/")
    assert url != timed.teams.service_url
    monkeypatch.setattr("shared.teams.connector.GCC", url)
    return url


async def service_url_of(herald: Herald, kind: ReferenceKind, identifier: str) -> str:
    reference = await herald.services.conversations.get(herald.tenant, kind, identifier)
    assert reference
    return reference.service_url


async def refuse_host(herald: Herald, *operations: Operation) -> None:
    """Let Teams answer the next request of each operation by naming another host."""
    for operation in operations:
        await herald.teams.inject(TeamsFault(operation=operation, status=403, code="InvalidBotApiHost", count=1))


@pytest.mark.parametrize("command", ["", "edit", "recall"])
async def test_message_is_sent_edited_and_deleted_at_the_host_that_an_answer_names(
    timed: Herald, gcc: str, command: str
) -> None:
    await timed.grow(people=1)
    [ada] = await timed.store_people(1)
    operation: Operation = {"": "send", "edit": "update", "recall": "delete"}[command]  # type: ignore[assignment]
    if not command:
        await refuse_host(timed, operation)
    submitted = await timed.submit(user(ada))
    await timed.run_until_idle()
    if command:
        await refuse_host(timed, operation)
        await timed.command(command, submitted, **({"content": {"title": "New"}} if command == "edit" else {}))
        await timed.run_until_idle()
    assert await timed.counts(submitted) == {"recalled" if command == "recall" else "sent": 1}
    row = await timed.row(submitted, f"u:{ada.object_id}")
    assert (row.get("refused_change", ""), row.get("maybe_twice", False)) == ("", False)
    assert (await timed.teams.stats()).requests[operation].get("403") == 1
    assert await service_url_of(timed, ReferenceKind.USER, ada.object_id) == gcc
    await timed.submit(user(ada))
    await timed.run_until_idle()
    assert (await timed.teams.stats()).requests[operation].get("403") == 1


async def test_chat_is_created_at_the_host_that_an_answer_names(timed: Herald, gcc: str) -> None:
    [ada] = (await timed.grow(people=1)).people
    await timed.store_tenant()
    await refuse_host(timed, "create")
    submitted = await timed.submit(user(ada))
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 1}
    assert await service_url_of(timed, ReferenceKind.USER, ada.object_id) == gcc


@pytest.mark.parametrize("operations", [["pagedMembers"], ["channels"]])
async def test_team_is_listed_at_the_host_that_an_answer_names(
    timed: Herald, gcc: str, operations: Sequence[Operation]
) -> None:
    team = await add_team(timed, 2)
    await refuse_host(timed, *operations)
    new_channel = (await timed.grow(teams=1, members=1)).teams[0].id
    recipient = {"channel": {"teamId": team.id, "channelId": new_channel}}
    await timed.submit({"team": team.id} if operations == ["pagedMembers"] else recipient)
    await timed.run_until_idle()
    assert (await timed.teams.stats()).requests[operations[0]] == {"403": 1, "200": 1}
    assert await service_url_of(timed, ReferenceKind.TEAM, team.id) == gcc
