"""Slots and waiting times: no window ever has more requests than its limit, whatever is requested and when."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.rate_windows import (
    MAX_AHEAD,
    MAX_TURN_WAIT,
    PART_LENGTH,
    PROBE_GAP,
    ROSTER_WINDOWS,
    SECOND,
    SEND_WINDOWS,
    TURN_WINDOWS,
    WINDOW_MARGIN,
    ConversationLane,
    RequestHistory,
    TenantLane,
    grant,
)


def most_within(times: Sequence[int], length: int) -> int:
    """Return the largest number of the sorted `times` in any window [t, t + length)."""
    return max((bisect_left(times, at + length) - index for index, at in enumerate(times)), default=0)


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, 100)), max_size=60),
)
def test_granted_slots_never_exceed_the_rate_in_any_second(rate: int, requests: list[tuple[int, int]]) -> None:
    now, next_slot, granted = 1_000 * SECOND, 0, list[int]()
    for pause, count in requests:
        now += pause
        slots, next_slot = grant(next_slot, now, rate, count)
        assert all(now <= slot <= now + MAX_AHEAD for slot in slots)
        granted += slots
    assert granted == sorted(set(granted))
    assert most_within(granted, SECOND) <= rate


@given(st.integers(1, 1_000))
def test_idle_lane_grants_a_slot_at_once_and_at_most_half_a_second_of_slots(rate: int) -> None:
    slots, _ = grant(0, SECOND, rate, 10_000)
    assert slots[0] == SECOND
    assert slots[-1] - slots[0] <= MAX_AHEAD


@pytest.mark.parametrize("rate", [1, 7, 45, 50, 1000])
def test_busy_lane_grants_the_full_rate(rate: int) -> None:
    now, next_slot, granted = 0, 0, 0
    while now < 60 * SECOND:
        slots, next_slot = grant(next_slot, now, rate, 10_000)
        granted += len(slots)
        now += SECOND // 20
    assert granted >= 60 * rate * 0.99


def test_slots_are_granted_at_most_half_a_second_ahead() -> None:
    next_slot = 0
    while True:
        slots, next_slot = grant(next_slot, 0, 45, 1000)
        if not slots:
            break
    assert MAX_AHEAD < next_slot <= MAX_AHEAD + SECOND // 45 + 1


def test_paused_lane_grants_nothing() -> None:
    assert grant(20 * SECOND, 0, 45, 10) == ([], 20 * SECOND)


@given(st.lists(st.integers(0, 400 * SECOND) | st.integers(0, SECOND), min_size=1, max_size=200))
def test_conversation_keeps_each_window(pauses: list[int]) -> None:
    history, now, times = RequestHistory(), 5_000 * SECOND, list[int]()
    for pause in pauses:
        now = history.earliest(now + pause)
        times.append(now)
        history = history.with_request(now)
    for limit, length in SEND_WINDOWS:
        assert most_within(times, length) <= limit


def test_flood_keeps_the_limit_of_the_hour_and_uses_nearly_all_of_it() -> None:
    history, now, times = RequestHistory(), 7 * SECOND, list[int]()
    while len(times) < 4_000:
        now = history.earliest(now)
        times.append(now)
        history = history.with_request(now)
    assert most_within(times, 3600 * SECOND) <= 1800
    assert most_within(times, 3600 * SECOND) > 1700
    assert len(history.recent) == 60
    assert len(history.parts) <= 3600 * SECOND // PART_LENGTH + 2


def test_seven_requests_may_be_sent_at_once_and_the_eighth_waits() -> None:
    history = RequestHistory()
    for _ in range(7):
        assert history.earliest(0) == 0
        history = history.with_request(0)
    assert history.earliest(0) == SECOND + WINDOW_MARGIN
    assert history.earliest(3 * SECOND) == 3 * SECOND


def test_paused_conversation_waits_until_the_end_of_the_pause() -> None:
    assert RequestHistory().with_pause(20 * SECOND).earliest(0) == 20 * SECOND
    assert RequestHistory().with_pause(20 * SECOND).with_pause(5 * SECOND).earliest(0) == 20 * SECOND


def test_rosters_have_windows_of_their_own() -> None:
    """14 lists a second and 16 in two, of 7 and 8 messages."""
    history, times = RequestHistory(windows=ROSTER_WINDOWS), list[int]()
    for _ in range(300):
        times.append(history.earliest(times[-1] if times else 0))
        history = history.with_request(times[-1])
    assert [most_within(times, length) for _, length in ROSTER_WINDOWS] == [14, 16, 120, 300]


def test_one_request_probes_a_conversation_after_a_pause() -> None:
    """Answers of Teams: `Retry-After`."""
    history = RequestHistory().with_request(SECOND).with_pause(20 * SECOND)
    probed = history.with_request(history.earliest(30 * SECOND))
    assert probed.recent[-1] == 30 * SECOND
    assert probed.earliest(30 * SECOND) == 30 * SECOND + PROBE_GAP
    assert probed.earliest(40 * SECOND) == 40 * SECOND


def test_one_request_probes_a_tenant_after_a_pause() -> None:
    """Answers of Teams: `Retry-After`."""
    lane = TenantLane(next_slot=SECOND).with_pause(20 * SECOND)
    assert lane.take(5 * SECOND, 45, 10) == ([], lane)
    [probe], lane = lane.take(20 * SECOND, 45, 10)
    assert probe == 20 * SECOND
    assert lane.take(20 * SECOND, 45, 10) == ([], lane)
    slots, _ = lane.take(probe + PROBE_GAP, 45, 10)
    assert (slots[0], len(slots)) == (probe + PROBE_GAP, 10)


@pytest.mark.parametrize("year", [2100, 9999])
def test_stored_pause_beyond_the_cap_is_not_believed(year: int) -> None:
    """Answers of Teams: `Retry-After` in the far future, as an older instance has stored it."""
    now, far = 1_800_000_000 * SECOND, (year - 1970) * 366 * 24 * 3600 * SECOND
    for lane in (TenantLane(next_slot=far), TenantLane(next_slot=now, paused_until=far)):
        assert lane.believed(now).take(now, 45, 10)[0] == [now]
    history = RequestHistory((now, far), {far: 1800, now: 1}, paused_until=far).believed(now)
    assert history.earliest(now) == now


def test_pause_of_an_older_instance_is_respected() -> None:
    """Such an instance moves the next slot, and stores no pause."""
    lane = TenantLane(next_slot=300 * SECOND).believed(0)
    assert (lane.paused_until, lane.take(0, 45, 10)[0]) == (300 * SECOND, [])


def test_tenant_is_paused_once_teams_refuses_three_conversations_within_five_seconds() -> None:
    lane = TenantLane()
    for at, conversation in ((0, "a"), (1, "a"), (2, "b"), (9, "c"), (10, "a")):
        lane = lane.with_refusal(conversation, at * SECOND, 100 * SECOND)
        assert not lane.paused_until
    assert lane.with_refusal("b", 12 * SECOND, 100 * SECOND).paused_until == 100 * SECOND
    lane = TenantLane()
    for at, conversation in ((3, "a"), (2, "b"), (1, "c")):  # in the order in which they are stored
        lane = lane.with_refusal(conversation, at * SECOND, 100 * SECOND)
    assert lane.paused_until == 100 * SECOND


@given(
    st.lists(
        st.tuples(st.integers(0, 4 * SECOND) | st.just(0), st.booleans(), st.booleans(), st.integers(0, 3 * SECOND)),
        max_size=150,
    )
)
def test_messages_that_pass_keep_the_windows_and_reserved_turns_have_room(
    arrivals: list[tuple[int, bool, bool, int]],
) -> None:
    """The requests of one process: some messages are new, some come back `late` for their turn, some are urgent."""
    lane, now, passed, reserved = ConversationLane(), 5_000 * SECOND, list[int](), list[int]()
    for pause, urgent, returns, late in arrivals:
        now += pause
        has_turn = returns and bool(reserved)
        if has_turn:
            now = max(now, reserved.pop(0)) + late
        lane, at = lane.take_turn(now, has_turn=has_turn, urgent=urgent)
        if at <= now + MAX_TURN_WAIT:
            passed.append(at)
        elif not urgent:
            assert not reserved or at >= reserved[-1]
            reserved.append(at)
    for limit, length in SEND_WINDOWS:
        assert most_within(sorted(passed), length) <= limit
    for limit, length in TURN_WINDOWS:
        assert most_within(reserved, length) <= limit


def test_request_that_was_not_sent_takes_no_room() -> None:
    lane = ConversationLane()
    for _ in range(7):
        lane, later = lane.with_request(SECOND)
        assert not later
    full, later = lane.with_request(SECOND)
    assert (full, later) == (lane, 2 * SECOND + WINDOW_MARGIN)
    lane, later = lane.with_request(later, lapsed=SECOND)
    assert (later, len(lane.sent.recent), sum(lane.sent.parts.values())) == (0, 7, 7)
