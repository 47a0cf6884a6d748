"""Who a notification goes to: the members of a team, the subscribers of a topic, each of all of them once."""

from __future__ import annotations

from typing import Any

import pytest

from local.fake_teams.api import Behaviour, TeamsFault, TeamView
from shared.states import NotificationState, ReferenceKind, ReferenceStatus
from shared.storage import deliveries
from tests.support.herald import Herald, user


async def team(herald: Herald, members: int, **seen: str) -> TeamView:
    """A team whose members all are known."""
    await herald.grow(people=members)
    await herald.people(members)
    [grown] = (await herald.grow(teams=1, members=members)).teams
    await herald.teams.set_behaviour(Behaviour(enforce_limits=False))
    known = {"service_url": herald.teams.service_url, "group": grown.group_id} | seen
    save = herald.services.conversations.save
    await save(herald.tenant, ReferenceKind.TEAM, grown.id, known, at=herald.clock(), status=ReferenceStatus.ACTIVE)
    await save(herald.tenant, ReferenceKind.TEAM, grown.group_id, {"team": grown.id}, at=herald.clock())
    # Its General channel has the id of the team itself.
    channel = {"service_url": herald.teams.service_url, "conversation_type": "channel", "team": grown.id}
    await save(
        herald.tenant, ReferenceKind.CONVERSATION, grown.id, channel, at=herald.clock(), status=ReferenceStatus.ACTIVE
    )
    return grown


async def told(herald: Herald) -> list[str]:
    return sorted(str(message.person) for message in await herald.received())


async def test_each_member_of_a_team_is_told_by_itself_over_all_pages_of_its_roster(timed: Herald) -> None:
    object.__setattr__(timed.services.settings, "tenant_rate", 10)
    grown = await team(timed, 120)
    asked = await timed.ask({"team": grown.id})
    await timed.run()
    assert await told(timed) == sorted(grown.members)
    assert (await timed.teams.stats()).count("pagedMembers") == 3
    after = await timed.now(asked)
    assert (after.state, after.total, after.counts) == (NotificationState.FINISHED, 120, '{"sent":120}')


async def test_a_team_is_known_by_its_group_id_too_and_overlaps_are_sent_once(timed: Herald) -> None:
    grown = await team(timed, 8)
    topic = timed.services.topics
    for member in grown.members[:4]:
        await topic.subscribe(timed.tenant, "releases", f"u:{member}")
    first = (await timed.teams.world()).people[0]
    asked = await timed.ask(
        {"team": grown.id},
        {"team": grown.group_id},
        {"topic": "Releases"},
        {"all": True},
        {"user": first.object_id.upper()},
        {"conversation": first.conversation},
    )
    await timed.run()
    assert await told(timed) == sorted(grown.members)
    assert (await timed.now(asked)).total == 8


async def test_a_roster_that_teams_does_not_tell_at_the_moment_is_asked_for_later(timed: Herald) -> None:
    grown = await team(timed, 5)
    await timed.teams.inject(
        TeamsFault(operation="pagedMembers", status=503, count=1),
        TeamsFault(operation="pagedMembers", status=412, code="PreconditionFailed", count=1),
        TeamsFault(operation="pagedMembers", drop=True, count=1),
    )
    asked = await timed.ask({"team": grown.id})
    assert (await timed.now(asked)).state is NotificationState.ACCEPTED
    await timed.run()
    assert await timed.counts(asked) == {"sent": 5}


async def test_a_throttled_roster_waits_as_long_as_teams_says_and_loses_nobody(timed: Herald) -> None:
    grown = await team(timed, 60)
    await timed.teams.inject(TeamsFault(operation="pagedMembers", status=429, retry_after=1, count=1))
    asked = await timed.ask({"team": grown.id})
    [(at, _, _)] = [each for each in timed.kept if "expansions" in each]
    assert 0 < (at - timed.clock()).total_seconds() <= 1
    await timed.run()
    assert await timed.counts(asked) == {"sent": 60}


@pytest.mark.parametrize(
    ("fault", "reason", "status"),
    [
        (
            TeamsFault(operation="pagedMembers", status=403, code="BotNotInConversationRoster"),
            "notInstalled",
            "uninstalled",
        ),
        (TeamsFault(operation="pagedMembers", status=403, code="NotEnoughPermissions"), "notPermitted", "active"),
        (TeamsFault(operation="pagedMembers", status=404, code="ConversationNotFound"), "notPermitted", "active"),
        (TeamsFault(operation="pagedMembers", status=500, code="ServiceError"), "notPermitted", "active"),
    ],
)
async def test_a_team_that_does_not_tell_its_members_has_one_row_that_says_why_and_no_channel_is_posted_to(
    timed: Herald, fault: TeamsFault, reason: str, status: str
) -> None:
    grown = await team(timed, 3)
    await timed.teams.inject(fault)
    asked = await timed.ask({"team": grown.id})
    await timed.run()
    row = await timed.row(asked, f"t:{grown.id}")
    assert (row["state"], row["reason"]) == ("suppressed", reason)
    known = await timed.services.conversations.get(timed.tenant, ReferenceKind.TEAM, grown.id)
    assert known
    assert known.status == status
    assert await timed.received() == []
    assert (await timed.now(asked)).counts == '{"suppressed":1}'


async def test_where_the_bot_is_not_in_the_team_nothing_is_asked(timed: Herald) -> None:
    grown = await team(timed, 3)
    save = timed.services.conversations.save
    await save(timed.tenant, ReferenceKind.TEAM, grown.id, {}, at=timed.clock(), status=ReferenceStatus.UNINSTALLED)
    for name in (grown.id, grown.group_id, "19:nobody@thread.tacv2"):
        asked = await timed.ask({"team": name})
        await timed.run()
        assert await timed.counts(asked) == {"suppressed": 1}
    assert (await timed.teams.stats()).requests == {}


async def test_a_topic_goes_to_its_subscribers_page_by_page_and_to_nobody_else(timed: Herald) -> None:
    await timed.grow(people=13, chats=1)
    object.__setattr__(timed.services.settings, "tenant_rate", 1)  # pages of five
    people = await timed.people(13)
    chat = (await timed.teams.world()).chats[0].id
    seen = {"service_url": timed.teams.service_url}
    save = timed.services.conversations.save
    await save(timed.tenant, ReferenceKind.CONVERSATION, chat, seen, at=timed.clock(), status=ReferenceStatus.ACTIVE)
    topics = timed.services.topics
    for each in (*(f"u:{person.object_id}" for person in people[:11]), f"c:{chat}"):
        await topics.subscribe(timed.tenant, "releases", each)
    await topics.unsubscribe(timed.tenant, "releases", f"u:{people[0].object_id}")
    await topics.subscribe(timed.tenant, "other", f"u:{people[12].object_id}")
    asked = await timed.ask({"topic": "releases"})
    object.__setattr__(timed.services.settings, "tenant_rate", 45)
    asked = await timed.expand(asked)
    await timed.run()
    assert {m.person or m.conversation for m in await timed.received()} == {
        *(each.object_id for each in people[1:11]),
        chat,
    }
    assert (await timed.now(asked)).total == 11


@pytest.mark.parametrize("recipient", [{"topic": "nobody's"}, {"all": True}])
async def test_an_audience_of_nobody_is_finished_with_nobody(timed: Herald, recipient: dict[str, Any]) -> None:
    asked = await timed.ask(recipient)
    await timed.run()
    after = await timed.now(asked)
    assert (after.state, after.total, after.counts) == (NotificationState.FINISHED, 0, "{}")


async def test_recipients_that_lie_far_apart_in_a_large_partition_are_found(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "MAX_RANGE_ROWS", 10)
    monkeypatch.setattr(deliveries, "RANGE_FACTOR", 1)
    await timed.grow(people=30)
    people = await timed.people(30)
    await timed.teams.set_behaviour(Behaviour(enforce_limits=False))
    asked = await timed.ask(*map(user, people))
    ends = sorted(f"u:{each.object_id}" for each in people)
    some = [ends[0], "u:00000000-0000-4000-8000-000000000000", ends[-1]]
    messages = await timed.services.deliveries.add(asked.key, "0", dict.fromkeys(some, 0), timed.clock())
    assert sorted(each.recipient for each in messages) == sorted(some)
    assert sum((await timed.counts(asked)).values()) == 31
