from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.preferences.pause import MAX_PAUSE, parse_pause
from shared.time.localtime import load_zone
from tests.shared.clock_changes import ALL


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "now", "zone", "until"),
    [
        ("2h", "2026-11-23T13:30", "Europe/Berlin", "2026-11-23T15:30"),
        ("30m", "2026-11-23T13:30", "Europe/Berlin", "2026-11-23T14:00"),
        ("for 45 minutes", "2026-11-23T13:30", "Europe/Berlin", "2026-11-23T14:15"),
        ("3d", "2026-11-23T13:30", "Europe/Berlin", "2026-11-26T13:30"),
        ("1 week", "2026-11-23T13:30", "Europe/Berlin", "2026-11-30T13:30"),
        ("Until 14:00", "2026-11-23T12:30", "Europe/Berlin", "2026-11-23T13:00"),
        ("until 14:00", "2026-11-23T13:00", "Europe/Berlin", "2026-11-24T13:00"),  # it is 14:00 now
        ("until monday", "2026-11-25T13:30", "Europe/Berlin", "2026-11-30T08:00"),
        ("until Mon", "2026-11-23T03:00", "Europe/Berlin", "2026-11-30T08:00"),  # a Monday: the next one
        ("until tue 7:15", "2026-11-23T13:30", "Europe/Berlin", "2026-11-24T06:15"),
        ("until 2026-12-24", "2026-11-23T13:30", "Europe/Berlin", "2026-12-24T08:00"),
        ("until 2026-12-24 09:30", "2026-11-23T13:30", "Europe/Berlin", "2026-12-24T08:30"),
        ("tomorrow", "2026-11-23T13:30", "Europe/Berlin", "2026-11-24T08:00"),
        ("until  tomorrow 14:00", "2026-11-23T13:30", "Europe/Berlin", "2026-11-24T13:00"),
        # Around the night in which clocks skip 02:00 to 03:00.
        ("24h", "2026-03-28T12:00", "Europe/Berlin", "2026-03-29T12:00"),
        ("1d", "2026-03-28T12:00", "Europe/Berlin", "2026-03-29T11:00"),
        ("1d", "2026-03-28T01:30", "Europe/Berlin", "2026-03-29T01:00"),
        ("until 02:30", "2026-03-29T00:30", "Europe/Berlin", "2026-03-29T01:00"),
        ("tomorrow", "2026-03-28T20:00", "Europe/Berlin", "2026-03-29T07:00"),
        # Around the night in which they repeat 02:00 to 03:00.
        ("2h", "2026-10-24T23:30", "Europe/Berlin", "2026-10-25T01:30"),
        ("until 02:30", "2026-10-24T23:30", "Europe/Berlin", "2026-10-25T00:30"),
        ("until 02:30", "2026-10-25T01:10", "Europe/Berlin", "2026-10-25T01:30"),  # from 02:10, the second time
        ("until 02:05", "2026-10-25T01:10", "Europe/Berlin", "2026-10-26T01:05"),
        # +14 and -11, where it is another day.
        ("tomorrow", "2026-11-23T12:00", "Pacific/Kiritimati", "2026-11-24T19:00"),
        ("tomorrow", "2026-11-23T10:00", "Pacific/Pago_Pago", "2026-11-23T20:00"),
        ("until 00:00", "2026-11-23T12:00", "Pacific/Kiritimati", "2026-11-24T10:00"),
        ("until monday", "2026-11-22T11:00", "Pacific/Kiritimati", "2026-11-29T19:00"),
    ],
)
def test_pause_ends_in_the_time_of_its_zone(text: str, now: str, zone: str, until: str) -> None:
    assert parse_pause(text, utc(now), load_zone(zone)) == utc(until)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "write a pause as 2h, 30m"),
        ("until", "write a pause as"),
        ("a while", "write a pause as"),
        ("0h", "not a time of day|write a pause as"),
        ("2 fortnights", "write a pause as|not a date|not a time of day"),
        ("until 25:00", "not a time of day"),
        ("until 2026-13-01", "not a date"),
        ("until 2026-11-22", "is in the past"),
        ("until 2026-11-23 09:00", "is in the past"),
        ("until 0001-01-01", "is in the past"),
        ("99999w", "at most 366 days"),
        ("until 9999-12-31 23:59", "at most 366 days"),
        ("until 2026-12-24 09:00 sharp", "write a pause as"),
    ],
)
@pytest.mark.parametrize("zone", ["Europe/Berlin", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_invalid_pause_is_refused_with_one_line(text: str, says: str, zone: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        parse_pause(text, utc("2026-11-23T20:30"), load_zone(zone))
    assert "\n" not in str(refused.value)


WORDS = ["for", "until", "tomorrow", "monday", "2h", "30m", "3", "d", "14:00", "2026-12-24", "9999-12-31", "0:00", "²"]


@given(
    st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join) | st.text(max_size=12),
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001
    st.sampled_from(ALL),
)
def test_any_text_is_a_pause_that_ends_later_or_is_refused(text: str, now: datetime, name: str) -> None:
    try:
        until = parse_pause(text, now, load_zone(name))
    except ValueError:
        return
    assert now < until < now + MAX_PAUSE + timedelta(days=2)
