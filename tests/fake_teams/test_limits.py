from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.fake_teams.api import Behaviour, Growth
from local.fake_teams.client import FakeTeams
from local.fake_teams.limits import SEND_WINDOWS, Limits, excess
from tests.fake_teams.conftest import Bot


@pytest.mark.parametrize(
    ("times", "now", "early", "limit"),
    [
        ([], 0.0, 0.0, ""),
        ([0.0] * 6, 0.5, 0.0, ""),
        ([0.0] * 7, 0.75, 0.25, "7/1"),
        ([0.0] * 7, 1.0, 0.0, ""),
        ([0.0] * 7 + [1.0], 1.5, 0.5, "8/2"),
        ([float(second) / 2 for second in range(60)], 29.75, 0.25, "60/30"),
        ([float(second) * 2 for second in range(1800)], 3599.0, 1.0, "1800/3600"),
    ],
)
def test_a_window_is_full_while_its_nth_last_request_is_younger_than_it(
    times: list[float], now: float, early: float, limit: str
) -> None:
    assert excess(times, SEND_WINDOWS, now) == (early, limit)


@given(st.lists(st.floats(0, 0.4), min_size=1, max_size=300))
def test_no_window_ever_holds_more_than_it_may(gaps: list[float]) -> None:
    limits, now, admitted = Limits(Behaviour()), 0.0, []
    for gap in gaps:
        now += gap
        if limits.admit("tenant", "conversation", now, reads=False) == 0:
            admitted.append(now)
    for requests, seconds in SEND_WINDOWS:
        for start in admitted:
            assert sum(start <= time < start + seconds for time in admitted) <= requests


def test_the_tenant_limit_holds_over_all_conversations_and_its_peak_counts_refused_requests() -> None:
    limits = Limits(Behaviour())
    waits = [limits.admit("tenant", f"conversation {number}", 0.5, reads=False) for number in range(60)]
    assert (waits.count(0), waits.count(1.0)) == (50, 10)
    assert limits.admit("another", "conversation 60", 0.5, reads=False) == 0
    assert limits.admit("tenant", "conversation 61", 1.5, reads=False) == 0
    assert limits.peaks == {"tenant": 60, "another": 1}
    assert limits.violation_count == 10


def test_reads_have_limits_of_their_own() -> None:
    limits = Limits(Behaviour())
    assert [limits.admit("t", "c", 0.0, reads=True) > 0 for _ in range(15)] == [False] * 14 + [True]
    assert limits.admit("t", "c", 0.0, reads=False) == 0


def test_limits_that_are_not_enforced_are_still_recorded() -> None:
    limits = Limits(Behaviour(enforce_limits=False))
    assert [limits.admit("t", "c", 0.0, reads=False) for _ in range(9)] == [0] * 9
    assert [violation.limit for violation in limits.violations] == ["7/1", "8/2"]


async def test_what_is_over_a_limit_is_429_throttled_with_retry_after(teams: FakeTeams, bot: Bot) -> None:
    conversation = (await teams.world()).people[0].conversation
    replies = await asyncio.gather(*(bot.send(conversation) for _ in range(8)))
    [refused] = [reply for reply in replies if reply.status != 201]
    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (429, "Throttled", "1")
    assert len(await teams.received()) == 7
    stats = await teams.stats()
    assert (stats.violation_count, stats.violations[0].conversation) == (1, conversation)
    assert stats.peaks == {teams.tenant: 8}


async def test_the_tenant_limit_and_the_header_can_be_set(teams: FakeTeams, bot: Bot) -> None:
    await teams.behave(Behaviour(tenant_rate=2, retry_after=False))
    people = (await teams.grow(Growth(tenant=teams.tenant, people=3))).people
    replies = await asyncio.gather(*(bot.send(person.conversation) for person in people))
    refused = [reply for reply in replies if reply.status == 429]
    assert len(refused) == 1
    assert "Retry-After" not in refused[0].headers


async def test_limits_can_be_switched_off(teams: FakeTeams, bot: Bot) -> None:
    await teams.behave(Behaviour(enforce_limits=False))
    conversation = (await teams.world()).people[0].conversation
    replies = await asyncio.gather(*(bot.send(conversation) for _ in range(20)))
    assert {reply.status for reply in replies} == {201}
    assert (await teams.stats()).violation_count > 0
