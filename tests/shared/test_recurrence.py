from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise

import pytest
from cronsim import CronSim
from dateutil.rrule import rrulestr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.localtime import instant, shown, zone
from shared.recurrence import Recurrence
from tests.shared.clockchanges import SAMPLE, ZONES, changes

NEW_YEAR = datetime(2026, 1, 1, 9)  # noqa: DTZ001 (a wall time)
BERLIN = zone("Europe/Berlin")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def heard(rule: Recurrence, after: str, count: int = 3, place: str = "Europe/Berlin") -> list[str]:
    """Names and instants of the next occurrences, as text."""
    coming = islice(rule.coming(utc(after), zone(place)), count)
    return [f"{each.name} {each.at:%dT%H:%MZ} {each.note}".rstrip() for each in coming]


@pytest.mark.parametrize(
    ("rule", "after", "expected"),
    [
        (
            "0 9 * * mon-fri",
            "2026-12-04T12:00",
            ["2026-12-07T09:00 07T08:00Z", "2026-12-08T09:00 08T08:00Z", "2026-12-09T09:00 09T08:00Z"],
        ),
        (
            "30 2 * * *",
            "2026-03-28T02:00",
            ["2026-03-29T02:30 29T01:00Z clocks skip 02:30: at 03:00 of 2026-03-29", "2026-03-30T02:30 30T00:30Z",
             "2026-03-31T02:30 31T00:30Z"],
        ),
        (
            "30 2 * * *",
            "2026-10-24T02:00",
            ["2026-10-25T02:30 25T00:30Z clocks show 02:30 twice: the first time", "2026-10-26T02:30 26T01:30Z",
             "2026-10-27T02:30 27T01:30Z"],
        ),
        (  # all of a gap at once, at its end
            "*/20 * * * *",
            "2026-03-29T00:30",
            ["2026-03-29T01:40 29T00:40Z", "2026-03-29T02:00 29T01:00Z clocks skip 02:00: at 03:00 of 2026-03-29",
             "2026-03-29T03:20 29T01:20Z"],
        ),
        (  # at rest while the hour is shown again
            "*/30 * * * *",
            "2026-10-24T23:40",
            ["2026-10-25T02:00 25T00:00Z clocks show 02:00 twice: the first time",
             "2026-10-25T02:30 25T00:30Z clocks show 02:30 twice: the first time", "2026-10-25T03:00 25T02:00Z"],
        ),
        ("0 0 29 2 *", "2026-01-01T00:00", ["2028-02-29T00:00 28T23:00Z", "2032-02-29T00:00 28T23:00Z",
                                            "2036-02-29T00:00 28T23:00Z"]),
    ],
)  # fmt: skip
def test_a_cron_expression_goes_by_the_wall_time_of_its_zone(rule: str, after: str, expected: list[str]) -> None:
    assert heard(Recurrence(rule), after) == expected


def test_a_day_that_a_zone_left_out_is_heard_at_the_first_instant_after_it() -> None:
    assert heard(Recurrence("0 9 * * *"), "2011-12-29T20:00", place="Pacific/Apia") == [
        "2011-12-30T09:00 30T10:00Z clocks skip 09:00: at 00:00 of 2011-12-31",
        "2011-12-31T09:00 30T19:00Z",
        "2012-01-01T09:00 31T19:00Z",
    ]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("FREQ=WEEKLY;BYDAY=MO", ["2026-11-23T09:00", "2026-11-30T09:00", "2026-12-07T09:00"]),
        ("RRULE:FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17", ["2026-11-27T17:00", "2026-12-25T17:00", "2027-01-29T17:00"]),
        ("freq=monthly;bymonthday=31", ["2026-12-31T09:00", "2027-01-31T09:00", "2027-03-31T09:00"]),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=TH", ["2026-12-03T09:00", "2026-12-17T09:00", "2026-12-31T09:00"]),
        ("FREQ=DAILY;COUNT=328", ["2026-11-23T09:00", "2026-11-24T09:00"]),
        ("FREQ=DAILY;UNTIL=20261124", ["2026-11-23T09:00", "2026-11-24T09:00"]),
        ("FREQ=DAILY;UNTIL=20261124T085959", ["2026-11-23T09:00"]),
        ("FREQ=DAILY;COUNT=3", []),
    ],
)
def test_a_recurrence_rule_counts_from_its_start(rule: str, expected: list[str]) -> None:
    coming = Recurrence(rule, NEW_YEAR).coming(utc("2026-11-22T12:00"), BERLIN)
    assert [each.name for each in islice(coming, 3)] == expected


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]),
    st.integers(1, 5),
    st.sampled_from(["", ";COUNT=7", ";UNTIL=20280101"]),
    st.sampled_from(["", ";BYDAY=MO,WE", ";BYMONTH=1,6", ";BYMONTHDAY=1,15", ";BYHOUR=8,17", ";BYYEARDAY=60",
                     ";BYWEEKNO=20", ";BYDAY=MO,TU;BYSETPOS=1"]),
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 12, 31)),  # noqa: DTZ001 (wall times)
)  # fmt: skip
def test_a_rule_is_heard_when_dateutil_says(freq: str, interval: int, ends: str, by: str, start: datetime) -> None:
    start = start.replace(second=0, microsecond=0)
    rule = f"FREQ={freq};INTERVAL={interval}{ends}{by}"
    expected = list(islice(rrulestr(rule.replace("0101", "0101T235959"), dtstart=start), 10))
    coming = Recurrence(rule, start).coming(instant(start, zone("UTC")) - timedelta(1), zone("UTC"))
    assert [each.wall for each in islice(coming, 10)] == expected


@pytest.mark.parametrize("names", ZONES)
def test_a_cron_expression_with_fixed_times_is_heard_when_cronsim_says(names: list[str]) -> None:
    for name in names:
        place = zone(name)
        for change in changes(name):
            for rule in ("30 0,2,23 * * *", "0 0 * * *", "10,45 1-3 * * *"):
                after = change - timedelta(hours=30)
                # Where several are in one gap, cronsim fires at once for each; here they are one.
                expected = {at.astimezone(UTC) for at in islice(CronSim(rule, after.astimezone(place)), 30)}
                ours = [each.at for each in islice(Recurrence(rule).coming(after, place), 20)]
                assert ours == sorted(expected)[:20], (name, rule, change)


@settings(deadline=None, derandomize=True)
@given(
    st.sampled_from(["*/15 * * * *", "* 2 * * *", "30 2 * * *", "0 0 * * *"]),
    st.sampled_from([name for name in SAMPLE if changes(name)]),
    st.integers(0, 3),
    st.timedeltas(timedelta(hours=-30), timedelta(hours=30)),
)
def test_a_rerun_from_any_instant_gives_an_occurrence_the_same_name(
    rule: str, name: str, turn: int, apart: timedelta
) -> None:
    place = zone(name)
    change = changes(name)[turn % len(changes(name))]
    run = list(islice(Recurrence(rule).coming(change - timedelta(hours=31), place), 400))
    later = Recurrence(rule).following(change + apart, place)
    assert later == next((each for each in run if each.at > change + apart), later)
    assert len({each.name for each in run}) == len(run)
    assert all(one.at < two.at for one, two in pairwise(run))


def test_what_is_skipped_or_before_the_start_or_after_the_end_is_not_heard() -> None:
    rule = Recurrence(
        "0 9 * * *",
        start=datetime(2026, 12, 23, 9),  # noqa: DTZ001 (wall times)
        end=datetime(2026, 12, 27, 9),  # noqa: DTZ001
        skip=frozenset({date(2026, 12, 25), date(2026, 12, 26)}),
    )
    assert [line[:16] for line in heard(rule, "2026-01-01T00:00", 9)] == [
        "2026-12-23T09:00",
        "2026-12-24T09:00",
        "2026-12-27T09:00",
    ]


@pytest.mark.parametrize(
    "rule",
    [
        "* * */20 * 1L",
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30;COUNT=10000",
        "FREQ=YEARLY;INTERVAL=4;BYMONTH=2;BYMONTHDAY=29",
    ],
)
def test_a_rule_that_is_never_heard_ends_soon(rule: str) -> None:
    begun = time.process_time()
    assert Recurrence(rule, NEW_YEAR).following(utc("2026-01-01T00:00"), BERLIN) is None
    assert time.process_time() - begun < 3  # followed to the year 9999 it is over 5


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("* * * * *", "2035-12-30T00:00 29T23:00Z"), ("FREQ=DAILY;BYHOUR=9", "2035-12-30T09:00 30T08:00Z")],
)
def test_ten_years_of_dates_to_skip_are_passed_at_once(rule: str, expected: str) -> None:
    skip = frozenset(date(2026, 1, 1) + timedelta(days=number) for number in range(3650))
    begun = time.process_time()
    assert heard(Recurrence(rule, NEW_YEAR, skip=skip), "2026-01-01T00:00", 1) == [expected]
    assert time.process_time() - begun < 3


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("", "no cron expression of 5 fields"),
        ("@daily", "no cron expression of 5 fields"),
        ("0 0 9 * * *", "no cron expression of 5 fields"),
        ("60 * * * *", "bad minute"),
        ("0 9 * * xyz", "bad day-of-week"),
        ("0 9 30 2 *", "bad day-of-month"),
        ("0 9 * * " + ",".join("1" * 300), "at most 500 characters"),
        ("=", "no RRULE"),
        ("BYDAY=MO", "FREQ must be one of"),
        ("FREQ=HOURLY", "FREQ must be one of"),
        ("FREQ=DAILY;FREQ=DAILY", "at most once"),
        ("FREQ=DAILY;X=1", "no RRULE"),
        ("FREQ=DAILY\nEXDATE:20260102T090000", "no RRULE"),
        ("FREQ=DAILY;INTERVAL=0", "INTERVAL must be a number"),
        ("FREQ=DAILY;COUNT=99999", "COUNT must be a number"),
        ("FREQ=DAILY;BYMINUTE=1,2", "BYMINUTE must be a number"),
        ("FREQ=DAILY;BYHOUR=25", "hour must be in 0..23"),
        ("FREQ=WEEKLY;BYDAY=2MO", "BYDAY has numbers only"),
        ("FREQ=DAILY;COUNT=2;UNTIL=20271231", "exclude each other"),
        ("FREQ=DAILY;UNTIL=20261231T000000Z", "without Z"),
    ],
)
def test_a_rule_that_cannot_be_read_is_refused_with_one_helpful_line(rule: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        Recurrence(rule, NEW_YEAR)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        (None, None, "needs a start"),
        (utc("2026-01-01T09:00"), None, "start must be a wall time"),
        (NEW_YEAR.replace(second=1), None, "in whole minutes"),
        (NEW_YEAR, NEW_YEAR.replace(year=2400), "end must be a wall time"),
        (NEW_YEAR, NEW_YEAR - timedelta(1), "end must not be before start"),
    ],
)
def test_a_start_and_an_end_are_wall_times_in_order(start: datetime | None, end: datetime | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Recurrence("FREQ=DAILY", start, end)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.text(st.sampled_from("0123456789*/,-#LW ;=ABDEFIKLMNOPRQUYT"), max_size=40) | st.text(max_size=20))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    try:
        rule = Recurrence(text, NEW_YEAR)
    except ValueError:
        return
    found = rule.following(utc("2026-01-01T00:00"), BERLIN)
    assert found is None or shown(found.at, BERLIN) >= NEW_YEAR
