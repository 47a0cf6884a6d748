from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise, takewhile

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from shared.time.localtime import load_zone, to_wall_time
from shared.time.recurrence import Recurrence
from tests.shared.call_counts import calls
from tests.shared.clock_changes import SAMPLE, ZONES, changes
from tests.shared.naive_rrule import WEEKDAYS, naive

NEW_YEAR = datetime(2026, 1, 1, 9)  # noqa: DTZ001 (a wall time)
BERLIN = load_zone("Europe/Berlin")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def next_occurrences(rule: Recurrence, after: str, count: int = 3, zone: str = "Europe/Berlin") -> list[str]:
    """Return the names and instants of the next occurrences, as text."""
    coming = islice(rule.occurrences(utc(after), load_zone(zone)), count)
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
        (  # one occurrence for a gap, at its end
            "*/20 * * * *",
            "2026-03-29T00:30",
            ["2026-03-29T01:40 29T00:40Z", "2026-03-29T02:00 29T01:00Z clocks skip 02:00: at 03:00 of 2026-03-29",
             "2026-03-29T03:20 29T01:20Z"],
        ),
        (  # pauses while the hour is repeated
            "*/30 * * * *",
            "2026-10-24T23:40",
            ["2026-10-25T02:00 25T00:00Z clocks show 02:00 twice: the first time",
             "2026-10-25T02:30 25T00:30Z clocks show 02:30 twice: the first time", "2026-10-25T03:00 25T02:00Z"],
        ),
        ("0 0 29 2 *", "2026-01-01T00:00", ["2028-02-29T00:00 28T23:00Z", "2032-02-29T00:00 28T23:00Z",
                                            "2036-02-29T00:00 28T23:00Z"]),
    ],
)  # fmt: skip
def test_cron_expression_follows_the_wall_time_of_its_zone(rule: str, after: str, expected: list[str]) -> None:
    assert next_occurrences(Recurrence(rule), after) == expected


def test_occurrence_on_a_day_that_the_zone_skipped_is_at_the_first_instant_after_it() -> None:
    assert next_occurrences(Recurrence("0 9 * * *"), "2011-12-29T20:00", zone="Pacific/Apia") == [
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
        ("FREQ=YEARLY;BYWEEKNO=48;BYDAY=TU", ["2026-11-24T09:00", "2027-11-30T09:00", "2028-11-28T09:00"]),
    ],
)
def test_rrule_counts_from_its_start(rule: str, expected: list[str]) -> None:
    coming = Recurrence(rule, NEW_YEAR).occurrences(utc("2026-11-22T12:00"), BERLIN)
    assert [each.name for each in islice(coming, 3)] == expected


def lists(*numbers: int) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(numbers), min_size=1, max_size=3, unique=True).map(
        lambda some: ",".join(map(str, some))
    )


@st.composite
def rules(draw: st.DrawFn) -> str:
    frequency = draw(st.sampled_from(["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]))
    days = st.lists(st.sampled_from(WEEKDAYS), min_size=1, max_size=4, unique=True)
    numbers = st.sampled_from(["", "1", "2", "-1", "-2", "5", "-5"] if frequency in ("MONTHLY", "YEARLY") else [""])
    by = {
        "BYMONTH": lists(1, 2, 6, 12),
        "BYMONTHDAY": lists(1, 13, 15, 29, 31, -1, -2, -31),
        "BYYEARDAY": lists(1, 60, 200, 366, -1, -60, -366),
        "BYDAY": st.builds(lambda number, some: ",".join(number + day for day in some), numbers, days),
        "BYHOUR": lists(0, 8, 17),
        "BYSETPOS": lists(1, 2, 3, -1, -2),
    }
    allowed = [name for name in by if frequency in ONLY_WITH.get(name, frequency)]
    chosen = draw(st.lists(st.sampled_from(allowed), max_size=3, unique=True))
    if chosen == ["BYSETPOS"]:
        chosen = ["BYDAY", "BYSETPOS"]
    parts = [f"{name}={draw(by[name])}" for name in chosen]
    weeks = draw(lists(1, 2, 20, 51)) if frequency == "YEARLY" and not chosen else ""
    parts += [f"BYWEEKNO={weeks}", "BYDAY=MO,TH,SU"] if weeks else []
    ends = draw(st.sampled_from(["", "", "COUNT=1", "COUNT=7", "UNTIL=20270214"]))
    week = draw(st.sampled_from(["", "", *(f"WKST={day}" for day in WEEKDAYS)]))
    interval = f"INTERVAL={draw(st.integers(1, 1 if weeks else 4))}"
    return ";".join(filter(None, [f"FREQ={frequency}", interval, ends, week, *parts]))


ONLY_WITH = {"BYMONTHDAY": "DAILY MONTHLY YEARLY", "BYYEARDAY": "YEARLY", "BYSETPOS": "MONTHLY YEARLY"}


@given(
    rules(),
    st.datetimes(datetime(2024, 1, 1), datetime(2026, 12, 31)),  # noqa: DTZ001 (wall times)
    st.integers(0, 1500),
)
def test_rrule_has_the_occurrences_of_the_naive_model(rule: str, start: datetime, later: int) -> None:
    start, last = start.replace(second=0, microsecond=0), date(2031, 1, 1)
    expected = naive(rule, start, last)
    for after in (start - timedelta(days=1), start + timedelta(days=later)):
        walls = takewhile(lambda wall: wall.date() <= last, Recurrence(rule, start).wall_times(after))
        assert list(walls) == [wall for wall in expected if wall > after]


def test_week_numbers_are_right_in_all_years() -> None:
    for day in WEEKDAYS:
        rule, start = f"FREQ=YEARLY;WKST={day};BYWEEKNO=1,51;BYDAY={','.join(WEEKDAYS)}", NEW_YEAR.replace(year=2096)
        walls = takewhile(lambda wall: wall.year < 2120, Recurrence(rule, start).wall_times(start - timedelta(days=1)))
        assert list(walls) == naive(rule, start, date(2119, 12, 31))


@pytest.mark.parametrize("names", ZONES)
def test_cron_expression_with_fixed_times_has_the_occurrences_of_cronsim(names: list[str]) -> None:
    for name in names:
        zone = load_zone(name)
        for change in changes(name):
            for rule in ("30 0,2,23 * * *", "0 0 * * *", "10,45 1-3 * * *"):
                after = change - timedelta(hours=30)
                # cronsim fires once for each time in a gap; here they are one.
                expected = {at.astimezone(UTC) for at in islice(CronSim(rule, after.astimezone(zone)), 30)}
                ours = [each.at for each in islice(Recurrence(rule).occurrences(after, zone), 20)]
                assert ours == sorted(expected)[:20], (name, rule, change)


@given(
    st.sampled_from(["*/15 * * * *", "* 2 * * *", "30 2 * * *", "0 0 * * *"]),
    st.sampled_from([name for name in SAMPLE if changes(name)]),
    st.integers(0, 3),
    st.timedeltas(timedelta(hours=-30), timedelta(hours=30)),
)
def test_occurrence_has_the_same_name_from_any_instant(
    rule: str, name: str, change_index: int, apart: timedelta
) -> None:
    zone = load_zone(name)
    change = changes(name)[change_index % len(changes(name))]
    run = list(islice(Recurrence(rule).occurrences(change - timedelta(hours=31), zone), 400))
    later = next(Recurrence(rule).occurrences(change + apart, zone), None)
    assert later == next((each for each in run if each.at > change + apart), later)
    assert len({each.name for each in run}) == len(run)
    assert all(one.at < two.at for one, two in pairwise(run))


def test_start_end_and_skipped_dates_limit_the_occurrences() -> None:
    rule = Recurrence(
        "0 9 * * *",
        start=datetime(2026, 12, 23, 9),  # noqa: DTZ001 (wall times)
        end=datetime(2026, 12, 27, 9),  # noqa: DTZ001
        skip=frozenset({date(2026, 12, 25), date(2026, 12, 26)}),
    )
    assert [line[:16] for line in next_occurrences(rule, "2026-01-01T00:00", 9)] == [
        "2026-12-23T09:00",
        "2026-12-24T09:00",
        "2026-12-27T09:00",
    ]


def test_bysetpos_counts_from_the_first_of_the_month_in_which_a_rule_starts() -> None:
    rule = Recurrence("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=2;COUNT=2", datetime(2026, 4, 15, 9))  # noqa: DTZ001
    found = [line[:16] for line in next_occurrences(rule, "2026-01-01T00:00")]
    assert found == ["2026-05-04T09:00", "2026-06-02T09:00"]


def test_every_wall_time_in_a_gap_has_an_occurrence_at_its_end() -> None:
    coming = Recurrence("*/20 2 * * *").occurrences_by_wall_time(utc("2026-03-28T12:00"), BERLIN)
    assert [(each.name[-5:], f"{each.at:%dT%H:%M}") for each in islice(coming, 4)] == [
        ("02:00", "29T01:00"),
        ("02:20", "29T01:00"),
        ("02:40", "29T01:00"),
        ("02:00", "30T00:00"),
    ]


def test_next_occurrence_of_a_rule_of_centuries_is_found_fast() -> None:
    hourly = Recurrence(f"FREQ=DAILY;BYHOUR={','.join(map(str, range(24)))}", datetime(1900, 1, 1))  # noqa: DTZ001
    assert next_occurrences(hourly, "2290-01-01T00:00", 1) == ["2290-01-01T02:00 01T01:00Z"]
    assert calls(lambda: next_occurrences(hourly, "2290-01-01T00:00", 1)) < 1000


@pytest.mark.parametrize(
    "rule",
    [
        "* * */20 * 1L",
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30;COUNT=10000",
        "FREQ=YEARLY;INTERVAL=4;BYMONTH=2;BYMONTHDAY=29",
    ],
)
def test_rule_without_occurrences_ends_fast(rule: str) -> None:
    never = Recurrence(rule, NEW_YEAR)
    assert next(never.occurrences(utc("2026-01-01T00:00"), BERLIN), None) is None
    # Evaluated to the year 9999 it would be some millions.
    assert calls(lambda: next(never.occurrences(utc("2026-01-01T00:00"), BERLIN), None)) < 500_000


@pytest.mark.parametrize(
    ("rule", "skipped", "expected"),
    [
        ("FREQ=YEARLY;INTERVAL=25", date(2026, 1, 1), "2051-01-01T09:00"),
        ("0 9 29 2 */7", date(2032, 2, 29), "2060-02-29T09:00"),
    ],
)
def test_rare_rule_continues_after_a_skipped_date(rule: str, skipped: date, expected: str) -> None:
    rests = Recurrence(rule, NEW_YEAR, skip=frozenset({skipped}))
    assert next(rests.occurrences(utc("2025-12-31T00:00"), BERLIN)).name == expected


def test_skipped_dates_decades_apart_do_not_end_a_rule() -> None:
    rule = Recurrence("FREQ=YEARLY", NEW_YEAR, skip=frozenset({date(2026, 1, 1)}))
    found = [each.wall.year for each in islice(rule.occurrences(utc("2025-01-01T00:00"), BERLIN), 40)]
    assert found == list(range(2027, 2067))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("* * * * *", "2035-12-30T00:00 29T23:00Z"), ("FREQ=DAILY;BYHOUR=9", "2035-12-30T09:00 30T08:00Z")],
)
def test_ten_years_of_skipped_dates_are_passed_fast(rule: str, expected: str) -> None:
    skip = frozenset(date(2026, 1, 1) + timedelta(days=number) for number in range(3650))
    rests = Recurrence(rule, NEW_YEAR, skip=skip)
    assert next_occurrences(rests, "2026-01-01T00:00", 1) == [expected]
    assert calls(lambda: next_occurrences(rests, "2026-01-01T00:00", 1)) < 200_000


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("", "neither a cron expression of 5 fields"),
        ("@reboot", "neither a cron expression of 5 fields"),
        ("0 0 9 * * *", "has 6 fields: leave out the seconds"),
        ("60 * * * *", "bad minute"),
        ("0 9 * * xyz", "bad day-of-week"),
        ("0 9 30 2 *", "bad day-of-month"),
        ("0 9 * * " + ",".join("1" * 300), "at most 500 characters"),
        ("=", "is not a part of an RRULE"),
        ("BYDAY=MO", "FREQ must be one of"),
        ("FREQ=HOURLY", "FREQ must be one of"),
        ("FREQ=DAILY;FREQ=DAILY", "at most once"),
        ("FREQ=DAILY;X=1", "'X' is not a part of an RRULE such as FREQ=WEEKLY;BYDAY=MO$"),
        ("FREQ=DAILY\nRDATE:20260102T090000", "RDATE is not supported"),
        ("FREQ=DAILY;INTERVAL=0", "INTERVAL must be one number"),
        ("FREQ=DAILY;COUNT=99999", "COUNT must be one number"),
        ("FREQ=DAILY;BYMINUTE=1,2", "BYMINUTE must be one number"),
        ("FREQ=DAILY;BYHOUR=25", "BYHOUR must be numbers from 0 to 23$"),
        ("FREQ=DAILY;BYMONTH=0", "BYMONTH must be numbers from 1 to 12$"),
        ("FREQ=DAILY;BYMONTH=1,13", "BYMONTH must be"),
        ("FREQ=DAILY;BYMONTH=-1", "BYMONTH must be"),
        ("FREQ=DAILY;BYMONTHDAY=0", "BYMONTHDAY must be numbers from 1 to 31, or from -31 to -1"),
        ("FREQ=MONTHLY;BYMONTHDAY=-32", "BYMONTHDAY must be"),
        ("FREQ=WEEKLY;BYMONTHDAY=1", "BYMONTHDAY is only supported with a FREQ of DAILY or MONTHLY or YEARLY"),
        ("FREQ=YEARLY;BYYEARDAY=0", "BYYEARDAY must be"),
        ("FREQ=YEARLY;BYYEARDAY=400", "BYYEARDAY must be"),
        ("FREQ=MONTHLY;BYYEARDAY=1", "BYYEARDAY is only supported with a FREQ of YEARLY"),
        ("FREQ=YEARLY;BYWEEKNO=0;BYDAY=MO", "BYWEEKNO must be"),
        ("FREQ=YEARLY;BYWEEKNO=53;BYDAY=MO", "BYWEEKNO must be"),
        ("FREQ=YEARLY;BYWEEKNO=20", "BYWEEKNO needs BYDAY"),
        ("FREQ=YEARLY;INTERVAL=2;BYWEEKNO=1;BYDAY=MO", "BYWEEKNO cannot be combined with an INTERVAL"),
        ("FREQ=YEARLY;BYWEEKNO=1;BYDAY=MO,TU;BYSETPOS=1", "BYWEEKNO cannot be combined with an INTERVAL"),
        ("FREQ=MONTHLY;BYDAY=MO;BYSETPOS=" + ",".join(map(str, range(1, 14))), "BYSETPOS has at most 12"),
        ("FREQ=DAILY;BYMINUTE=0,30", "BYMINUTE must be one number"),
        ("FREQ=MONTHLY;BYWEEKNO=20;BYDAY=MO", "BYWEEKNO is only supported with"),
        ("FREQ=YEARLY;BYWEEKNO=20;BYDAY=1MO", "BYDAY may have numbers only"),
        ("FREQ=MONTHLY;BYDAY=10MO", "numbers of BYDAY must be from 1 to 5 here, or from -5 to -1"),
        ("FREQ=MONTHLY;BYDAY=-99MO", "numbers of BYDAY"),
        ("FREQ=MONTHLY;BYDAY=0MO", "numbers of BYDAY"),
        ("FREQ=YEARLY;BYDAY=56MO", "numbers of BYDAY must be from 1 to 53"),
        ("FREQ=YEARLY;BYMONTH=12;BYDAY=8MO", "numbers of BYDAY"),
        ("FREQ=MONTHLY;BYDAY=MO,-1FR", "two rules"),
        ("FREQ=WEEKLY;BYDAY=MON", "BYDAY must consist of MO"),
        ("FREQ=WEEKLY;WKST=1", "WKST must be one of"),
        ("FREQ=MONTHLY;BYSETPOS=1", "BYSETPOS needs another BY part"),
        ("FREQ=MONTHLY;BYDAY=MO;BYSETPOS=0", "BYSETPOS must be"),
        ("FREQ=WEEKLY;BYDAY=MO,FR;BYSETPOS=1", "BYSETPOS is only supported with a FREQ of MONTHLY or YEARLY"),
        ("FREQ=DAILY;BYSETPOS=99,53", "BYSETPOS is only supported with"),
        ("FREQ=WEEKLY;BYDAY=2MO", "BYDAY may have numbers only"),
        ("FREQ=DAILY;COUNT=2;UNTIL=20271231", "cannot be combined"),
        ("FREQ=DAILY;UNTIL=20261231T000000Z", "without Z"),
        ("FREQ=DAILY;UNTIL=202712", "UNTIL must be"),
        ("FREQ=DAILY;UNTIL=20271301", "UNTIL must be"),
    ],
)
def test_invalid_rule_is_refused_with_one_line(rule: str, says: str) -> None:
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
def test_invalid_start_or_end_is_refused(start: datetime | None, end: datetime | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Recurrence("FREQ=DAILY", start, end)


@given(st.text(st.sampled_from("0123456789*/,-#LW ;=ABDEFIKLMNOPRQUYT"), max_size=40) | st.text(max_size=20))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    try:
        rule = Recurrence(text, NEW_YEAR)
    except ValueError:
        return
    found = next(rule.occurrences(utc("2026-01-01T00:00"), BERLIN), None)
    assert found is None or to_wall_time(found.at, BERLIN) >= NEW_YEAR
