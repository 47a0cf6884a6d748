from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from local.host.ncrontab import Crontab, is_frequent, parse_schedule

START = datetime(2026, 11, 22, 8, 0, 0, tzinfo=UTC)  # a Sunday


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("0 * * * * *", "2026-11-22 08:00:00", "2026-11-22 08:01:00"),
        ("0 * * * * *", "2026-11-22 08:00:59.999999", "2026-11-22 08:01:00"),
        ("*/5 * * * * *", "2026-11-22 08:00:00.000001", "2026-11-22 08:00:05"),
        ("* * * * *", "2026-11-22 08:00:30", "2026-11-22 08:01:00"),
        ("30 9 * * *", "2026-11-22 09:30:00", "2026-11-23 09:30:00"),
        ("0 5/15 * * * *", "2026-11-22 08:36:00", "2026-11-22 08:50:00"),
        ("0 5/15 * * * *", "2026-11-22 08:51:00", "2026-11-22 09:05:00"),
        ("0 0 9-17/4 * * *", "2026-11-22 13:00:00", "2026-11-22 17:00:00"),
        ("0 0 17-9 * * *", "2026-11-22 17:00:00", "2026-11-23 09:00:00"),
        ("0 0,20,40 * * * *", "2026-11-22 08:20:00", "2026-11-22 08:40:00"),
        ("0 0 0 1 jan *", "2026-11-22 08:00:00", "2027-01-01 00:00:00"),
        ("0 0 8 * * Mon-Fri", "2026-11-22 08:00:00", "2026-11-23 08:00:00"),
        ("0 0 8 * * sunday", "2026-11-22 08:00:00", "2026-11-29 08:00:00"),
        ("0 0 0 13 * 5", "2026-11-22 08:00:00", "2027-08-13 00:00:00"),
        ("0 0 0 31 * *", "2026-11-22 08:00:00", "2026-12-31 00:00:00"),
        ("0 0 0 29 2 *", "2026-11-22 08:00:00", "2028-02-29 00:00:00"),
        ("59 59 23 31 12 *", "2026-12-31 23:59:59", "2027-12-31 23:59:59"),
        ("*/0 * * * * *", "2026-11-22 08:00:00", "2026-11-22 08:00:01"),
        ("01:30:00", "2026-11-22 08:00:00", "2026-11-22 09:30:00"),
    ],
)
def test_next_occurrence_is_later_and_follows_ncrontab(expression: str, after: str, expected: str) -> None:
    found = parse_schedule(expression).next(datetime.fromisoformat(after).replace(tzinfo=UTC))
    assert found == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "* * * *",
        "* * * * * * *",
        "60 * * * * *",
        "* 60 * * * *",
        "* * 24 * * *",
        "* * * 0 * *",
        "* * * 32 * *",
        "* * * * 13 *",
        "* * * * 0 *",
        "* * * * * 7",
        "* * * * * xyz",
        "*/x * * * * *",
        "*/-5 * * * * *",
        "1,,2 * * * * *",
        "1- * * * * *",
        "-1 * * * * *",
        "a * * * * *",
        "0 0 0 30 2 *",
        "@daily",
        "25:00:00",
        "00:00:00",
    ],
)
def test_invalid_or_impossible_schedule_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_schedule(expression)


@pytest.mark.parametrize("seed", range(40))
def test_next_equals_a_search_through_every_second(seed: int) -> None:
    rng = random.Random(seed)

    def field(low: int, high: int) -> str:
        first, last = sorted((rng.randint(low, high), rng.randint(low, high)))
        return rng.choice(
            ["*", f"{first}", f"{first}-{last}", f"*/{rng.randint(1, 9)}", f"{first}/7", f"{first},{last}"]
        )

    expression = " ".join(
        [
            field(0, 59),
            field(0, 59),
            field(0, 23),
            rng.choice(["*", "22-24", "*/2"]),
            "*",
            rng.choice(["*", "0-2", "1"]),
        ]
    )
    schedule = parse_schedule(expression)
    assert isinstance(schedule, Crontab)
    after = START + timedelta(seconds=rng.randint(0, 86_400))
    moment = after
    for _ in range(200_000):
        moment += timedelta(seconds=1)
        if (
            moment.second in schedule.seconds
            and moment.minute in schedule.minutes
            and moment.hour in schedule.hours
            and moment.day in schedule.days
            and moment.isoweekday() % 7 in schedule.weekdays
        ):
            assert schedule.next(after) == moment, expression
            return
    assert schedule.next(after) > moment, expression


@pytest.mark.parametrize(
    ("expression", "frequent"),
    [("* * * * * *", True), ("*/29 * * * * *", True), ("0 * * * * *", False), ("00:00:20", True), ("00:01:00", False)],
)
def test_schedule_of_less_than_a_minute_is_frequent(expression: str, frequent: bool) -> None:
    assert is_frequent(parse_schedule(expression), START) is frequent
