"""Slots and waiting times: no window ever has more requests than its limit, whatever is requested and when."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.rate_windows import (
    MAX_BLOCK,
    MAX_LEAD,
    PART_LENGTH,
    SECOND,
    WINDOW_MARGIN,
    WINDOWS,
    RequestHistory,
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
        assert all(now <= slot <= now + MAX_LEAD for slot in slots)
        granted += slots
    assert granted == sorted(set(granted))
    assert most_within(granted, SECOND) <= rate


@given(st.integers(1, 1_000))
def test_idle_lane_grants_a_slot_at_once_and_at_most_half_a_second_of_slots(rate: int) -> None:
    slots, _ = grant(0, SECOND, rate, 10_000)
    assert slots[0] == SECOND
    assert slots[-1] - slots[0] <= MAX_BLOCK


@pytest.mark.parametrize("rate", [1, 7, 45, 50, 1000])
def test_busy_lane_grants_the_full_rate(rate: int) -> None:
    now, next_slot, granted = 0, 0, 0
    while now < 60 * SECOND:
        slots, next_slot = grant(next_slot, now, rate, 10_000)
        granted += len(slots)
        now += SECOND // 20
    assert granted >= 60 * rate * 0.99


def test_slots_are_granted_at_most_a_second_ahead() -> None:
    next_slot = 0
    while True:
        slots, next_slot = grant(next_slot, 0, 45, 1000)
        if not slots:
            break
    assert MAX_LEAD < next_slot <= MAX_LEAD + SECOND // 45 + 1


def test_paused_lane_grants_nothing() -> None:
    assert grant(20 * SECOND, 0, 45, 10) == ([], 20 * SECOND)


@given(st.lists(st.integers(0, 400 * SECOND) | st.integers(0, SECOND), min_size=1, max_size=200))
def test_conversation_keeps_each_window(pauses: list[int]) -> None:
    history, now, times = RequestHistory(), 5_000 * SECOND, list[int]()
    for pause in pauses:
        now = history.earliest(now + pause)
        times.append(now)
        history = history.with_request(now)
    for limit, length in WINDOWS:
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
