from __future__ import annotations

from datetime import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.time.times_of_day import format_weekdays, parse_time_of_day, parse_weekday, parse_weekdays


@pytest.mark.parametrize(
    ("text", "expected"), [("9:00", time(9)), ("09:05", time(9, 5)), ("23.59", time(23, 59)), ("0:00", time())]
)
def test_time_of_day_is_parsed_from_hours_and_minutes(text: str, expected: time) -> None:
    assert parse_time_of_day(text) == expected


@pytest.mark.parametrize("text", ["", "24", "24:00", "12:60", "9:5", "-1:00", "٩:٠٠", "09:00:00", "9:00 am"])
def test_invalid_time_of_day_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time of day"):
        parse_time_of_day(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mon", {0}),
        ("Wednes", {2}),
        ("SUNDAY", {6}),
        ("mon-fri", {0, 1, 2, 3, 4}),
        ("fri-mon", {4, 5, 6, 0}),
        ("sat,sun", {5, 6}),
        ("tue, thu-fri", {1, 3, 4}),
        ("weekdays", {0, 1, 2, 3, 4}),
        ("Weekend", {5, 6}),
        ("daily", {0, 1, 2, 3, 4, 5, 6}),
    ],
)
def test_weekdays_are_parsed_from_names_and_spans(text: str, expected: set[int]) -> None:
    assert parse_weekdays(text) == expected


@pytest.mark.parametrize("text", ["", "mo", "mondays", "mon-", "-mon", "mon,", "mon-tue-wed", "someday"])
def test_invalid_weekdays_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a day of the week"):
        parse_weekdays(text)


@given(st.frozensets(st.integers(0, 6), min_size=1))
def test_formatted_weekdays_parse_to_the_same_days(days: frozenset[int]) -> None:
    assert parse_weekdays(format_weekdays(days)) == days


@pytest.mark.parametrize(
    ("days", "text"),
    [({0, 1, 2, 3, 4}, "mon-fri"), ({5, 6}, "sat,sun"), ({4, 5, 6, 0}, "fri-mon"), ({0, 2}, "mon,wed")],
)
def test_three_days_in_a_row_are_formatted_as_a_span(days: set[int], text: str) -> None:
    assert format_weekdays(days) == text


def test_weekday_names_may_be_shortened() -> None:
    assert [parse_weekday(name) for name in ("Mon.", "tues", "thursday")] == [0, 1, 3]
