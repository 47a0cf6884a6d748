"""Audiences: the members of a team, the subscribers of a topic, everybody; each recipient once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from local.fake_teams.api import Behaviour, TeamsFault, TeamView
from local.status import describe_notification, describe_result
from notify.audience import MAX_TOKEN_CHARS
from shared.states import NotificationState, ReferenceKind, ReferenceStatus
from shared.storage import deliveries
from shared.teams.outcome import Outcome, Verdict
from tests.support.herald import HIGH_RATE, Herald, user


async def add_team(herald: Herald, members: int, **observed: str) -> TeamView:
    """Add a team, and store the references of the team and its members; hardly any request waits for a slot."""
    herald.services.rate_limiter._rate = HIGH_RATE
    await herald.grow(people=members)
    await herald.store_people(members)
    [team] = (await herald.grow(teams=1, members=members)).teams
    await herald.teams.set_behaviour(Behaviour(enforce_limits=False))
    known = {"service_url": herald.teams.service_url, "group": team.group_id} | observed
    save = herald.services.conversations.save
    await save(herald.tenant, ReferenceKind.TEAM, team.id, known, at=herald.clock(), status=ReferenceStatus.ACTIVE)
    await save(herald.tenant, ReferenceKind.TEAM, team.group_id, {"team": team.id}, at=herald.clock())
    # The General channel has the id of the team.
    channel = {"service_url": herald.teams.service_url, "conversation_type": "channel", "team": team.id}
    await save(
        herald.tenant, ReferenceKind.CONVERSATION, team.id, channel, at=herald.clock(), status=ReferenceStatus.ACTIVE
    )
    return team


async def received_by(herald: Herald) -> list[str]:
    return sorted(str(message.person) for message in await herald.received())


async def test_each_team_member_is_sent_the_notification_over_all_pages_of_the_roster(timed: Herald) -> None:
    object.__setattr__(timed.services.settings, "tenant_rate", 10)
    team = await add_team(timed, 120)
    submitted = await timed.submit({"team": team.id})
    await timed.run_until_idle()
    assert await received_by(timed) == sorted(team.members)
    assert (await timed.teams.stats()).count("pagedMembers") == 3
    after = await timed.reload(submitted)
    assert (after.state, after.total, after.counts) == (NotificationState.FINISHED, 120, '{"sent":120}')


async def test_group_id_names_the_team_and_overlapping_audiences_are_sent_once(timed: Herald) -> None:
    team = await add_team(timed, 8)
    topic = timed.services.topics
    for member in team.members[:4]:
        await topic.subscribe(timed.tenant, "releases", f"u:{member}")
    first = (await timed.teams.world()).people[0]
    submitted = await timed.submit(
        {"team": team.id},
        {"team": team.group_id},
        {"topic": "Releases"},
        {"all": True},
        {"user": first.object_id.upper()},
        {"conversation": first.conversation},
    )
    await timed.run_until_idle()
    assert await received_by(timed) == sorted(team.members)
    assert (await timed.reload(submitted)).total == 8


async def test_roster_request_that_fails_is_retried(timed: Herald) -> None:
    team = await add_team(timed, 5)
    await timed.teams.inject(
        TeamsFault(operation="pagedMembers", status=503, count=1),
        TeamsFault(operation="pagedMembers", status=412, code="PreconditionFailed", count=1),
        TeamsFault(operation="pagedMembers", drop=True, count=1),
    )
    submitted = await timed.submit({"team": team.id})
    assert (await timed.reload(submitted)).state is NotificationState.ACCEPTED
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 5}


async def test_throttled_roster_request_is_retried_after_retry_after(timed: Herald) -> None:
    team = await add_team(timed, 60)
    await timed.teams.inject(TeamsFault(operation="pagedMembers", status=429, retry_after=1, count=1))
    submitted = await timed.submit({"team": team.id})
    [(at, _, _)] = [each for each in timed.delayed if "expansions" in each]
    assert 0 < (at - timed.clock()).total_seconds() <= 1
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 60}


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
    ],
)
async def test_refused_roster_has_one_row_with_the_reason_and_no_channel_post(
    timed: Herald, fault: TeamsFault, reason: str, status: str
) -> None:
    team = await add_team(timed, 3)
    await timed.teams.inject(fault)
    submitted = await timed.submit({"team": team.id})
    await timed.run_until_idle()
    row = await timed.row(submitted, f"t:{team.id}")
    assert (row["state"], row["reason"]) == ("suppressed", reason)
    known = await timed.services.conversations.get(timed.tenant, ReferenceKind.TEAM, team.id)
    assert known
    assert known.status == status
    assert await timed.received() == []
    assert (await timed.reload(submitted)).counts == '{"suppressed":1}'


async def test_team_is_listed_to_the_end_whatever_a_page_is_answered(timed: Herald) -> None:
    """Answers of Teams: rosters."""
    faults = (
        TeamsFault(operation="pagedMembers", status=500, code="ServiceError", count=1),
        TeamsFault(operation="pagedMembers", status=403, code="BadArgument", count=2),
        TeamsFault(operation="pagedMembers", status=502, shape="html", count=1),
    )
    for fault in faults:
        team = await add_team(timed, 120)
        object.__setattr__(timed.services.settings, "tenant_rate", 10)  # pages of 50
        submitted = await timed.submit({"team": team.id})
        await timed.teams.inject(fault)
        await timed.run_until_idle()
        assert await timed.counts(submitted) == {"sent": 120}
        assert (await timed.reload(submitted)).state is NotificationState.FINISHED


async def test_team_is_listed_anew_when_its_continuation_token_has_expired(timed: Herald) -> None:
    """Answers of Teams: rosters."""
    team = await add_team(timed, 120)
    object.__setattr__(timed.services.settings, "tenant_rate", 10)
    submitted = await timed.submit({"team": team.id})
    await timed.teams.inject(TeamsFault(operation="pagedMembers", status=400, code="Bad Argument", count=1))
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 120}
    people = Counter(message.person for message in await timed.received())
    assert set(people.values()) == {1}


async def test_team_that_is_never_listed_fails_after_a_day_and_can_be_redriven(timed: Herald) -> None:
    """Answers of Teams: rosters."""
    timed.services.rate_limiter._real_time = timed.clock  # which passes a day
    team = await add_team(timed, 3)
    await timed.teams.inject(TeamsFault(operation="pagedMembers", status=500, code="ServiceError"))
    submitted = await timed.submit({"team": team.id})
    await timed.run_until_idle(1000)
    assert (await timed.reload(submitted)).state is NotificationState.FAILED
    [letter] = await timed.dead_letters()
    assert (letter["queue"], letter["reason"]) == ("expansions", "exhausted")
    assert (await timed.teams.stats()).requests["pagedMembers"]["500"] < 120
    await timed.teams.clear_faults()
    await timed.command("redrive", submitted)
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 3}


async def test_guest_without_an_object_id_is_counted_with_a_reason(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers of Teams: rosters."""
    team = await add_team(timed, 1)
    list_members = timed.services.connector.members

    async def with_guest(*args: Any) -> Outcome:
        outcome = await list_members(*args)
        odd = [{"id": "29:1x", "name": "Guest"}, {"id": "28:bot", "name": "Bot"}, {}, None, "x", {"aadObjectId": 5}]
        return replace(outcome, body={**outcome.body, "members": [*outcome.body["members"], *odd]})

    monkeypatch.setattr(timed.services.connector, "members", with_guest)
    submitted = await timed.submit({"team": team.id})
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 1, "suppressed": 1}
    assert (await timed.row(submitted, "t:29:1x"))["reason"] == "notInstalled"


@pytest.mark.parametrize(
    "body",
    [{}, {"members": None, "conversations": {}}, {"members": [], "continuationToken": "x" * (MAX_TOKEN_CHARS + 1)}],
    ids=["none", "of another type", "a token that cannot be stored"],
)
async def test_answer_without_a_list_does_not_look_like_an_empty_team(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any]
) -> None:
    """Answers of Teams: rosters and channels."""
    team, connector = await add_team(timed, 3), timed.services.connector

    async def without_list(*_: Any) -> Outcome:
        return Outcome(Verdict.DONE, body=body)

    with monkeypatch.context() as patch:
        patch.setattr(connector, "members", without_list)
        patch.setattr(connector, "channels", without_list)
        roster = await timed.submit({"team": team.id})
        channel = await timed.submit({"channel": {"teamId": team.id, "channelId": team.channels[-1].id}})
        await timed.advance_clock(60)
    await timed.run_until_idle()
    assert (await timed.counts(roster), await timed.counts(channel)) == ({"sent": 3}, {"sent": 1})


async def test_list_of_channels_with_ids_of_odd_types_refuses_only_the_channel(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers of Teams: channels."""
    team = await add_team(timed, 1)

    async def odd_ids(*_: Any) -> Outcome:
        return Outcome(Verdict.DONE, body={"conversations": [None, 5, {}, {"id": None}, {"id": []}, {"id": {}}]})

    monkeypatch.setattr(timed.services.connector, "channels", odd_ids)
    unknown = {"channel": {"teamId": team.id, "channelId": "19:unknown@thread.tacv2"}}
    submitted = await timed.submit(unknown, {"user": team.members[0]})
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 1, "suppressed": 1}


async def test_channel_that_neither_teams_nor_an_event_has_shown_gets_no_request(timed: Herald) -> None:
    """Answers of Teams: channels."""
    team, other = await add_team(timed, 3), await add_team(timed, 3)
    foreign = other.channels[0].id
    for channel in (foreign, "19:unknown@thread.tacv2"):
        submitted = await timed.submit({"channel": {"teamId": team.id, "channelId": channel}})
        await timed.run_until_idle()
        assert await timed.counts(submitted) == {"suppressed": 1}, channel
    assert (await timed.teams.stats()).count("send") == 0
    submitted = await timed.submit({"channel": {"teamId": team.id, "channelId": team.channels[-1].id}})
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 1}


async def test_team_without_the_bot_causes_no_request(timed: Herald) -> None:
    team = await add_team(timed, 3)
    save = timed.services.conversations.save
    await save(timed.tenant, ReferenceKind.TEAM, team.id, {}, at=timed.clock(), status=ReferenceStatus.UNINSTALLED)
    for identifier in (team.id, team.group_id, "19:nobody@thread.tacv2"):
        submitted = await timed.submit({"team": identifier})
        await timed.run_until_idle()
        assert await timed.counts(submitted) == {"suppressed": 1}
    assert (await timed.teams.stats()).requests == {}


async def test_topic_is_sent_page_by_page_to_its_subscribers_only(timed: Herald) -> None:
    await timed.grow(people=13, chats=1)
    object.__setattr__(timed.services.settings, "tenant_rate", 1)  # pages of five
    people = await timed.store_people(13)
    chat = (await timed.teams.world()).chats[0].id
    observed = {"service_url": timed.teams.service_url}
    save = timed.services.conversations.save
    await save(
        timed.tenant, ReferenceKind.CONVERSATION, chat, observed, at=timed.clock(), status=ReferenceStatus.ACTIVE
    )
    topics = timed.services.topics
    for each in (*(f"u:{person.object_id}" for person in people[:11]), f"c:{chat}"):
        await topics.subscribe(timed.tenant, "releases", each)
    await topics.unsubscribe(timed.tenant, "releases", f"u:{people[0].object_id}")
    await topics.subscribe(timed.tenant, "other", f"u:{people[12].object_id}")
    submitted = await timed.submit({"topic": "releases"})
    object.__setattr__(timed.services.settings, "tenant_rate", 45)
    submitted = await timed.expand(submitted)
    await timed.run_until_idle()
    assert {m.person or m.conversation for m in await timed.received()} == {
        *(each.object_id for each in people[1:11]),
        chat,
    }
    assert (await timed.reload(submitted)).total == 11


@pytest.mark.parametrize("recipient", [{"topic": "nobody's"}, {"all": True}])
async def test_empty_audience_is_finished_with_total_zero_and_says_so(
    timed: Herald, recipient: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    submitted = await timed.submit(recipient)
    await timed.run_until_idle()
    after = await timed.reload(submitted)
    assert (after.state, after.total, after.counts) == (NotificationState.FINISHED, 0, "{}")
    assert describe_result(after) == "0 recipients"
    assert describe_notification(after, {}, [])[1] == "deliveries: none, 0 recipients"
    [line] = [line for line in caplog.messages if "is an audience of nobody" in line]
    assert f"Recipient /recipients/0 of notification {after.key} (source {after.source}, id {after.id})" in line


async def test_team_that_nobody_knows_is_logged_and_has_a_row_with_the_reason(
    timed: Herald, caplog: pytest.LogCaptureFixture
) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    submitted = await timed.submit({"team": "19:unknown@thread.tacv2"})
    await timed.run_until_idle()
    assert describe_result(await timed.reload(submitted)) == "1 suppressed"
    [line] = [line for line in caplog.messages if "whose members Teams does not list" in line]
    assert f"(source {submitted.source}, id {submitted.id})" in line


async def test_empty_topic_among_other_recipients_is_logged_and_the_others_are_sent_it(
    timed: Herald, caplog: pytest.LogCaptureFixture
) -> None:
    await timed.grow(people=1)
    [ada] = await timed.store_people(1)
    await timed.submit({"topic": "nobody's"}, {"user": ada.object_id}, {"all": True})
    await timed.run_until_idle()
    assert await received_by(timed) == [ada.object_id]
    [line] = [line for line in caplog.messages if "is an audience of nobody" in line]
    assert "Recipient /recipients/0 " in line


async def test_existing_rows_far_apart_in_a_large_partition_are_found(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "MAX_RANGE_ROWS", 10)
    monkeypatch.setattr(deliveries, "RANGE_FACTOR", 1)
    await timed.grow(people=30)
    people = await timed.store_people(30)
    await timed.teams.set_behaviour(Behaviour(enforce_limits=False))
    submitted = await timed.submit(*map(user, people))
    recipients = sorted(f"u:{person.object_id}" for person in people)
    some = [recipients[0], "u:00000000-0000-4000-8000-000000000000", recipients[-1]]
    messages = await timed.services.deliveries.add(submitted.key, "0", dict.fromkeys(some, 0), timed.clock())
    assert sorted(each.recipient for each in messages) == sorted(some)
    assert sum((await timed.counts(submitted)).values()) == 31


async def test_mark_of_a_team_whose_list_was_refused_decays(timed: Herald) -> None:
    """Answers of Teams: marks."""
    team = await add_team(timed, 3)
    await timed.teams.inject(
        TeamsFault(operation="pagedMembers", status=403, code="BotNotInConversationRoster", count=1)
    )
    for days, counts in ((0, {"suppressed": 1}), (1, {"suppressed": 1}), (8, {"sent": 3}), (0, {"sent": 3})):
        timed.clock.offset += timedelta(days=days)
        submitted = await timed.submit({"team": team.id})
        await timed.run_until_idle()
        assert await timed.counts(submitted) == counts
    assert (await timed.teams.stats()).requests["pagedMembers"] == {"403": 1, "200": 2}
    channel = await timed.submit({"channel": {"teamId": team.id, "channelId": team.id}})
    await timed.run_until_idle()
    assert await timed.counts(channel) == {"sent": 1}


@pytest.mark.parametrize("status", [307, 400, 405, 418])
async def test_answer_that_says_nothing_about_the_team_is_asked_again(timed: Herald, status: int) -> None:
    """Answers of Teams: rosters."""
    team = await add_team(timed, 3)
    await timed.teams.inject(TeamsFault(operation="pagedMembers", status=status, count=2))
    submitted = await timed.submit({"team": team.id})
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 3}
