from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.localtime import instant, zone


@pytest.mark.parametrize(
    ("place", "wall", "utc"),
    [
        ("Europe/Berlin", "2026-12-01T09:00", "2026-12-01T08:00"),
        ("Europe/Berlin", "2026-07-01T09:00", "2026-07-01T07:00"),
        ("Europe/Berlin", "2026-03-29T02:30", "2026-03-29T01:00"),  # in the gap: the first instant after it
        ("Europe/Berlin", "2026-03-29T02:00", "2026-03-29T01:00"),
        ("Europe/Berlin", "2026-03-29T03:00", "2026-03-29T01:00"),
        ("Europe/Berlin", "2026-10-25T02:30", "2026-10-25T00:30"),  # shown twice: the first of the two
        ("Australia/Lord_Howe", "2026-10-04T02:15", "2026-10-03T15:30"),  # a gap of half an hour
        ("Pacific/Apia", "2011-12-30T12:00", "2011-12-30T10:00"),  # a day that this zone left out
        ("Pacific/Kiritimati", "2026-01-01T00:00", "2025-12-31T10:00"),  # +14
        ("Pacific/Pago_Pago", "2026-01-01T00:00", "2026-01-01T11:00"),  # -11
        ("UTC", "2026-01-01T00:00", "2026-01-01T00:00"),
    ],
)
def test_a_wall_time_is_one_instant(place: str, wall: str, utc: str) -> None:
    assert instant(datetime.fromisoformat(wall), zone(place)) == datetime.fromisoformat(utc).replace(tzinfo=UTC)


@given(
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 12, 31)),  # noqa: DTZ001 (wall times)
    st.timezone_keys(allow_prefix=False),
)
def test_clocks_show_the_wall_time_then_or_have_just_jumped_over_it(wall: datetime, place: str) -> None:
    at = instant(wall, zone(place))
    shown = at.astimezone(zone(place)).replace(tzinfo=None)
    if shown != wall:
        just_before = (at - timedelta(seconds=1)).astimezone(zone(place)).replace(tzinfo=None)
        assert just_before < wall < shown


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../../etc/passwd", "/etc/passwd", "Europe", "\0"])
def test_what_is_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no IANA time zone"):
        zone(name)
