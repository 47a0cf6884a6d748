"""The arithmetic of slots: whatever is asked for and when, no window ever holds more than its limit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.rate_windows import BLOCK, MARGIN, MAX_LEAD, PART, SECOND, WINDOWS, Sends, grant


def most_within(times: Sequence[int], length: int) -> int:
    """The most of the sorted `times` that lie in any window [t, t + length)."""
    return max((bisect_left(times, at + length) - turn for turn, at in enumerate(times)), default=0)


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(1, 100)), max_size=60),
)
def test_granted_slots_never_exceed_the_rate_in_any_second(rate: int, asked: list[tuple[int, int]]) -> None:
    now, following, granted = 1_000 * SECOND, 0, list[int]()
    for pause, wanted in asked:
        now += pause
        slots, following = grant(following, now, rate, wanted)
        assert all(now <= slot <= now + MAX_LEAD for slot in slots)
        granted += slots
    assert granted == sorted(set(granted))
    assert most_within(granted, SECOND) <= rate


@given(st.integers(1, 1_000))
def test_an_idle_lane_gives_a_slot_at_once_and_half_a_second_at_most(rate: int) -> None:
    slots, _ = grant(0, SECOND, rate, 10_000)
    assert slots[0] == SECOND
    assert slots[-1] - slots[0] <= BLOCK


@pytest.mark.parametrize("rate", [1, 7, 45, 50, 1000])
def test_a_busy_lane_gives_the_whole_rate(rate: int) -> None:
    now, following, granted = 0, 0, 0
    while now < 60 * SECOND:
        slots, following = grant(following, now, rate, 10_000)
        granted += len(slots)
        now += SECOND // 20
    assert granted >= 60 * rate * 0.99


def test_nothing_is_given_out_further_ahead_than_a_second() -> None:
    following = 0
    while True:
        slots, following = grant(following, 0, 45, 1000)
        if not slots:
            break
    assert MAX_LEAD < following <= MAX_LEAD + SECOND // 45 + 1


def test_a_lane_that_is_held_gives_nothing() -> None:
    assert grant(20 * SECOND, 0, 45, 10) == ([], 20 * SECOND)


@given(st.lists(st.integers(0, 400 * SECOND) | st.integers(0, SECOND), min_size=1, max_size=200))
def test_a_conversation_keeps_each_of_its_windows(pauses: list[int]) -> None:
    sends, now, times = Sends(), 5_000 * SECOND, list[int]()
    for pause in pauses:
        now = sends.earliest(now + pause)
        times.append(now)
        sends = sends.sent(now)
    for most, length in WINDOWS:
        assert most_within(times, length) <= most


def test_a_flood_keeps_the_hour_and_gets_nearly_all_of_it() -> None:
    sends, now, times = Sends(), 7 * SECOND, list[int]()
    while len(times) < 4_000:
        now = sends.earliest(now)
        times.append(now)
        sends = sends.sent(now)
    assert most_within(times, 3600 * SECOND) <= 1800
    assert most_within(times, 3600 * SECOND) > 1700
    assert len(sends.recent) == 60
    assert len(sends.parts) <= 3600 * SECOND // PART + 2


def test_the_first_seven_may_go_at_once_and_the_eighth_waits() -> None:
    sends = Sends()
    for _ in range(7):
        assert sends.earliest(0) == 0
        sends = sends.sent(0)
    assert sends.earliest(0) == SECOND + MARGIN
    assert sends.earliest(3 * SECOND) == 3 * SECOND


def test_a_conversation_that_is_held_waits_until_then() -> None:
    assert Sends().hold(20 * SECOND).earliest(0) == 20 * SECOND
    assert Sends().hold(20 * SECOND).hold(5 * SECOND).earliest(0) == 20 * SECOND
