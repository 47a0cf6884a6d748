from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.fake_teams.api import Behaviour, Growth
from local.fake_teams.client import FakeTeams
from local.fake_teams.rate_limits import SEND_WINDOWS, RateLimits, compute_wait
from tests.fake_teams.conftest import Bot


@pytest.mark.parametrize(
    ("times", "now", "wait", "limit"),
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
def test_window_is_full_while_its_nth_last_request_is_inside(
    times: list[float], now: float, wait: float, limit: str
) -> None:
    assert compute_wait(times, SEND_WINDOWS, now) == (wait, limit)


@given(st.lists(st.floats(0, 0.4), min_size=1, max_size=300))
def test_no_window_exceeds_its_limit(gaps: list[float]) -> None:
    limits, now, admitted = RateLimits(Behaviour()), 0.0, []
    for gap in gaps:
        now += gap
        if limits.admit("tenant", "conversation", now, reads=False) == 0:
            admitted.append(now)
    for requests, seconds in SEND_WINDOWS:
        for start in admitted:
            assert sum(start <= time < start + seconds for time in admitted) <= requests


def test_tenant_limit_covers_all_conversations_and_its_peak_counts_refused_requests() -> None:
    limits = RateLimits(Behaviour())
    waits = [limits.admit("tenant", f"conversation {number}", 0.5, reads=False) for number in range(60)]
    assert (waits.count(0), waits.count(1.0)) == (50, 10)
    assert limits.admit("another", "conversation 60", 0.5, reads=False) == 0
    assert limits.admit("tenant", "conversation 61", 1.5, reads=False) == 0
    assert limits.peaks == {"tenant": 60, "another": 1}
    assert limits.violation_count == 10


def test_reads_have_separate_limits() -> None:
    limits = RateLimits(Behaviour())
    assert [limits.admit("t", "c", 0.0, reads=True) > 0 for _ in range(15)] == [False] * 14 + [True]
    assert limits.admit("t", "c", 0.0, reads=False) == 0


def test_violations_are_recorded_without_enforcement() -> None:
    limits = RateLimits(Behaviour(enforce_limits=False))
    assert [limits.admit("t", "c", 0.0, reads=False) for _ in range(9)] == [0] * 9
    assert [violation.limit for violation in limits.violations] == ["7/1", "8/2"]


async def test_request_over_a_limit_is_429_with_retry_after(teams: FakeTeams, bot: Bot) -> None:
    conversation = (await teams.world()).people[0].conversation
    replies = await asyncio.gather(*(bot.send(conversation) for _ in range(8)))
    [refused] = [reply for reply in replies if reply.status != 201]
    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (429, "Throttled", "1")
    assert len(await teams.received()) == 7
    stats = await teams.stats()
    assert (stats.violation_count, stats.violations[0].conversation) == (1, conversation)
    assert stats.peaks == {teams.tenant: 8}


async def test_tenant_rate_and_retry_after_header_are_configurable(teams: FakeTeams, bot: Bot) -> None:
    await teams.set_behaviour(Behaviour(tenant_rate=2, retry_after=False))
    people = (await teams.grow(Growth(tenant=teams.tenant, people=3))).people
    replies = await asyncio.gather(*(bot.send(person.conversation) for person in people))
    refused = [reply for reply in replies if reply.status == 429]
    assert len(refused) == 1
    assert "Retry-After" not in refused[0].headers


async def test_limits_can_be_disabled(teams: FakeTeams, bot: Bot) -> None:
    await teams.set_behaviour(Behaviour(enforce_limits=False))
    conversation = (await teams.world()).people[0].conversation
    replies = await asyncio.gather(*(bot.send(conversation) for _ in range(20)))
    assert {reply.status for reply in replies} == {201}
    assert (await teams.stats()).violation_count > 0
