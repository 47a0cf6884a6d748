from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.time.localtime import load_zone, second_utc, to_utc, to_wall_time
from tests.shared.clock_changes import ALL, SAMPLE, ZONES, changes


@pytest.mark.parametrize(
    ("zone", "wall", "utc"),
    [
        ("Europe/Berlin", "2026-12-01T09:00", "2026-12-01T08:00"),
        ("Europe/Berlin", "2026-07-01T09:00", "2026-07-01T07:00"),
        ("Europe/Berlin", "2026-03-29T02:30", "2026-03-29T01:00"),  # in the gap: the first instant after it
        ("Europe/Berlin", "2026-03-29T02:00", "2026-03-29T01:00"),
        ("Europe/Berlin", "2026-03-29T03:00", "2026-03-29T01:00"),
        ("Europe/Berlin", "2026-10-25T02:30", "2026-10-25T00:30"),  # repeated: the first of the two
        ("Australia/Lord_Howe", "2026-10-04T02:15", "2026-10-03T15:30"),  # a gap of half an hour
        ("Pacific/Apia", "2011-12-30T12:00", "2011-12-30T10:00"),  # a day that this zone skipped
        ("Pacific/Kiritimati", "2026-01-01T00:00", "2025-12-31T10:00"),  # +14
        ("Pacific/Pago_Pago", "2026-01-01T00:00", "2026-01-01T11:00"),  # -11
        ("UTC", "2026-01-01T00:00", "2026-01-01T00:00"),
    ],
)
def test_wall_time_is_converted_to_utc(zone: str, wall: str, utc: str) -> None:
    assert to_utc(datetime.fromisoformat(wall), load_zone(zone)) == datetime.fromisoformat(utc).replace(tzinfo=UTC)


@given(
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 12, 31)),  # noqa: DTZ001 (wall times)
    st.sampled_from(ALL),
)
def test_utc_shows_the_wall_time_or_is_the_end_of_a_gap(wall: datetime, zone: str) -> None:
    at = to_utc(wall, load_zone(zone))
    shown = at.astimezone(load_zone(zone)).replace(tzinfo=None)
    if shown != wall:
        just_before = (at - timedelta(seconds=1)).astimezone(load_zone(zone)).replace(tzinfo=None)
        assert just_before < wall < shown


@pytest.mark.parametrize("names", ZONES)
def test_skipped_time_is_the_end_of_the_gap_and_repeated_time_the_first_of_two(
    names: list[str],
) -> None:
    for name in names:
        zone = load_zone(name)
        for change in changes(name):
            old = to_wall_time(change - timedelta(seconds=1), zone) + timedelta(seconds=1)
            new = to_wall_time(change, zone)
            inside = min(old, new) + abs(new - old) / 2
            if new > old:
                assert {to_utc(wall, zone) for wall in (old, inside, new)} == {change}, name
                assert second_utc(inside, zone) is None, name
            else:
                assert to_utc(inside, zone) == change - (old - inside), name
                assert second_utc(inside, zone) == change + (inside - new), name
            assert to_utc(max(old, new) + timedelta(hours=3), zone) > change, name


@given(
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 12, 31)),  # noqa: DTZ001 (wall times)
    st.timedeltas(timedelta(), timedelta(days=2)),
    st.sampled_from(SAMPLE),
)
def test_later_wall_time_is_never_an_earlier_instant(wall: datetime, later: timedelta, name: str) -> None:
    assert to_utc(wall, load_zone(name)) <= to_utc(wall + later, load_zone(name))


@pytest.mark.parametrize(
    ("zone", "at", "wall"),
    [
        ("Pacific/Kiritimati", "2026-01-01T10:00", "2026-01-02T00:00"),
        ("Pacific/Pago_Pago", "2026-01-01T10:00", "2025-12-31T23:00"),
        ("Europe/Berlin", "2026-10-25T01:30", "2026-10-25T02:30"),  # the second time
    ],
)
def test_instant_is_converted_to_wall_time(zone: str, at: str, wall: str) -> None:
    assert to_wall_time(datetime.fromisoformat(at).replace(tzinfo=UTC), load_zone(zone)) == datetime.fromisoformat(wall)
