"""Times that each reader sees in their own zone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from shared.cards.reader_times import escape_around_times, has_reader_time, reader_time, with_local_times
from shared.time.localtime import load_zone

BERLIN = load_zone("Europe/Berlin")


def test_reader_time_is_two_functions_of_the_instant_in_utc() -> None:
    at = datetime(2026, 7, 1, 1, 30, 59, 999999, tzinfo=BERLIN)
    text = "Until " + reader_time(at)
    assert text == "Until {{DATE(2026-06-30T23:30:59Z, SHORT)}} {{TIME(2026-06-30T23:30:59Z)}}"
    assert with_local_times(text, BERLIN) == "Until 2026-07-01 01:30"
    assert with_local_times(text) == "Until 2026-06-30 23:30 UTC"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{{TIME(2026-11-29T10:00:00+02:00)}}", "08:00 UTC"),
        ("{{DATE(2026-11-29T10:00:00Z)}}, {{DATE(2026-11-29T10:00:00Z,LONG)}}", "2026-11-29, 2026-11-29"),
        ("{{DATE(2026-13-29T10:00:00Z)}}", "{{DATE(2026-13-29T10:00:00Z)}}"),
        ("{{TIME(10:00)}} {{name}}", "{{TIME(10:00)}} {{name}}"),
    ],
)
def test_functions_are_shown_as_times_and_other_braces_stay(text: str, shown: str) -> None:
    assert with_local_times(text) == shown


def test_only_functions_are_not_escaped() -> None:
    time = reader_time(datetime(2026, 7, 1, tzinfo=UTC))
    assert escape_around_times(f"*a* {time} <at>b</at> {{{{c}}}}") == rf"\*a\* {time} &lt;at>b&lt;/at> \{{\{{c\}}\}}"
    assert has_reader_time(time)
    assert not has_reader_time("{{DATE(tomorrow)}}")
