"""Usual spellings of a rule mean the same; anything else is answered with one line (docs/odd-inputs.md, Times)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from shared.time.cron_text import check_cron
from shared.time.localtime import load_zone, to_utc
from shared.time.recurrence import Recurrence, check_rule, zone_of_rule

BERLIN = load_zone("Europe/Berlin")
START = datetime(2026, 12, 7, 9)  # noqa: DTZ001 (a wall time)
BEFORE = datetime(2026, 12, 1)  # noqa: DTZ001


def walls(
    rule: str, *, start: datetime | None = START, zone: str | None = "Europe/Berlin", count: int = 5
) -> list[str]:
    """Return the first wall times of a rule, after the checks of an announcement with this zone."""
    check_rule(rule, start, zone_name=zone)
    used = load_zone(zone or zone_of_rule(rule) or "UTC")
    return [f"{wall:%m-%dT%H:%M}" for wall in islice(Recurrence(rule, start, zone=used).wall_times(BEFORE), count)]


MONDAYS = ["12-07T09:00", "12-14T09:00", "12-21T09:00", "12-28T09:00"]


@pytest.mark.parametrize(
    "rule",
    [
        "RRULE:FREQ=WEEKLY;UNTIL=20261231T225959Z;BYDAY=MO",
        "FREQ=WEEKLY;UNTIL=20261231T235959;BYDAY=MO",
        "FREQ=WEEKLY;UNTIL=20261231;BYDAY=MO",
        "FREQ=WEEKLY;UNTIL=20261228T080000Z;BYDAY=MO",  # the instant of the last occurrence
        "rrule:freq=weekly;until=2026-12-31T22:59:59Z;byday=mo;",
        "FREQ=WEEKLY;UNTIL=2026-12-31;BYDAY=MO",
        "FREQ=WEEKLY;INTERVAL=1;COUNT=4;BYDAY=MO;WKST=SU;BYHOUR=9;BYMINUTE=0;BYSECOND=0",
        "FREQ=WEEKLY; UNTIL=20261231; BYDAY=MO",
        "DTSTART;TZID=Europe/Berlin:20261207T090000\nRRULE:FREQ=WEEKLY;COUNT=4;BYDAY=MO",
        "DTSTART;TZID=W. Europe Standard Time:20261207T090000\r\nRRULE:FREQ=WEEKLY;COU\r\n NT=4;BYDAY=MO\r\n",
        "DTSTART:20261207T080000Z RRULE:FREQ=WEEKLY;COUNT=4;BYDAY=MO",
        "DTSTART:20261207T090000\\nRRULE:FREQ=WEEKLY;COUNT=4",
        "  RRULE:FREQ=WEEKLY;COUNT=4\n  DTSTART:20261207T090000\n",
        "FREQ=WEEKLY;DTSTART=20261207T090000;COUNT=4",
        'BEGIN:VEVENT\nDTSTART;TZID="Europe/Berlin":20261207T090000\nDTEND:20261207T100000\n'
        "RRULE:FREQ=WEEKLY;COUNT=4\nEND:VEVENT",
        "RRULE:FREQ=WEEKLY;COUNT=5\nEXDATE;TZID=Europe/Berlin:20270104T090000",
        "RRULE:FREQ=WEEKLY;COUNT=6\nEXDATE;VALUE=DATE:20270104,20270111",
        "EXDATE:20270104T080000Z,20270111T090000\nRRULE:FREQ=WEEKLY;COUNT=6",
        "RRULE:FREQ=WEEKLY;COUNT=5\nEXDATE;TZID=America/New_York:20270104T030000",
    ],
)
def test_usual_spellings_of_an_rrule_mean_the_same(rule: str) -> None:
    """docs/odd-inputs.md, Times."""
    assert walls(rule) == MONDAYS
    assert walls(rule, start=START if "DTSTART" not in rule.upper() else None) == MONDAYS


def test_start_and_zone_are_those_of_the_rule_where_not_given() -> None:
    """docs/odd-inputs.md, Times."""
    rule = "DTSTART;TZID=Europe/Berlin:20261207T090000\nRRULE:FREQ=WEEKLY;BYDAY=MO;COUNT=4"
    assert walls(rule, start=None, zone=None) == MONDAYS
    assert zone_of_rule(rule) == "Europe/Berlin"
    assert zone_of_rule("DTSTART:20261207T080000Z\nRRULE:FREQ=WEEKLY") == "UTC"
    assert zone_of_rule("CRON_TZ=Asia/Tokyo 0 9 * * *") == "Asia/Tokyo"


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("FREQ=DAILY;UNTIL=20261231T225959Z", "UNTIL is a time in UTC.* write a local time without Z, such as 2026123"),
        ("DTSTART:20261207T080000Z\nRRULE:FREQ=DAILY", "DTSTART is a time in UTC.* without Z"),
        ("RRULE:FREQ=DAILY\nEXDATE:20261208T080000Z", "EXDATE is a time in UTC.* without Z"),
        ("RRULE:FREQ=DAILY\nEXDATE;TZID=Asia/Tokyo:20261208T080000", "EXDATE is a time in UTC.* without Z"),
    ],
)
def test_times_in_utc_are_refused_for_the_zones_of_recipients(rule: str, says: str) -> None:
    """docs/odd-inputs.md, Times."""
    start = None if "DTSTART" in rule else START
    with pytest.raises(ValueError, match=says) as refused:
        check_rule(rule, start, zone_name="recipient", is_recipient_time=True)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="names the zone Asia/Tokyo and timeZone is recipient: leave one of them out"):
        check_rule("CRON_TZ=Asia/Tokyo 0 9 * * *", None, zone_name="recipient", is_recipient_time=True)
    local = "DTSTART;TZID=Europe/Berlin:20261207T090000\nRRULE:FREQ=DAILY\nEXDATE;TZID=Europe/Berlin:20261208T090000"
    check_rule(local, None, zone_name="recipient", is_recipient_time=True)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("DTSTART:20261208T090000\nRRULE:FREQ=DAILY", "start is 2026-12-07T09:00:00 and DTSTART 2026-12-08T09:00:00"),
        ("DTSTART;TZID=Asia/Tokyo:20261207T090000\nRRULE:FREQ=DAILY", "the zone Asia/Tokyo and timeZone is Europe/B"),
        ("CRON_TZ=Asia/Tokyo 0 9 * * *", "names the zone Asia/Tokyo and timeZone is Europe/Berlin: leave one of"),
        ("DTSTART;TZID=Customized Time Zone:20261207T090000\nRRULE:FREQ=DAILY", "TZID: “Customized Time Zone” "),
        ("DTSTART;VALUE=DATE:20261207\nRRULE:FREQ=DAILY", "DTSTART needs a time of day, such as 20261207T090000"),
        ("DTSTART:20261207T090000+0100\nRRULE:FREQ=DAILY", "write the zone as TZID, and the time without offset"),
        ("DTSTART:20261307T090000\nRRULE:FREQ=DAILY", "DTSTART must be a date such as"),
        ("DTSTART:20261207T090000", "has no RRULE such as"),
        ("RRULE:FREQ=DAILY\nRRULE:FREQ=WEEKLY", "RRULE may be written at most once"),
        ("RRULE:FREQ=DAILY" + "\n" * 4000, "at most 4000 characters with all its lines"),
        ("RRULE:FREQ=DAILY\nRDATE:20261207T090000", "RDATE is not supported: write a second announcement"),
        ("RRULE:FREQ=DAILY\nSUMMARY:Stand-up", "SUMMARY is not a line of a rule: write DTSTART, RRULE and EXDATE"),
        ("FREQ=WEEKLY;BYWEEKDAY=MO", "'BYWEEKDAY' is not a part of an RRULE: did you mean BYDAY"),
        ("FREQ=WEEKLY;BYDAY=", "BYDAY has no value"),
        ("FREQ=DAILY;BYSECOND=30", "BYSECOND is not supported"),
    ],
)
def test_rule_that_says_too_much_or_too_little_is_refused(rule: str, says: str) -> None:
    """docs/odd-inputs.md, Times."""
    with pytest.raises(ValueError, match=says) as refused:
        walls(rule)
    assert "\n" not in str(refused.value)


def test_until_in_utc_is_exact_while_an_hour_is_repeated() -> None:
    rule = Recurrence("FREQ=DAILY;BYHOUR=2;BYMINUTE=30;UNTIL=20261025T003000Z", datetime(2026, 10, 24), zone=BERLIN)  # noqa: DTZ001
    assert [wall.day for wall in rule.wall_times(BEFORE.replace(month=1))] == [24, 25]


@given(st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)), st.sampled_from(["Europe/Berlin", "Asia/Tokyo"]))  # noqa: DTZ001
def test_until_in_utc_means_the_same_as_in_local_time(last: datetime, zone_name: str) -> None:
    """docs/odd-inputs.md, Times."""
    zone, last = load_zone(zone_name), last.replace(minute=7, second=0, microsecond=0)
    start, first = datetime(2026, 1, 1, 9), datetime(2025, 1, 1)  # noqa: DTZ001
    instant = to_utc(last, zone)
    spellings = [f"{last:%Y%m%dT%H%M%S}", f"{instant:%Y%m%dT%H%M%SZ}", f"{instant:%Y-%m-%dT%H:%M:%SZ}"]
    found = [
        list(Recurrence(f"RRULE:FREQ=DAILY;UNTIL={until}", start, zone=zone).wall_times(first)) for until in spellings
    ]
    assert found[0] == found[1] == found[2]
    assert all(wall <= last < wall + timedelta(days=1) for wall in found[0][-1:])


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("0 9 * * MON-FRI", "0 9 * * mon-fri"),
        (" 0  9\t* * 1-5 ", "0 9 * * 1-5"),
        ("@daily", "0 0 * * *"),
        ("@Hourly", "0 * * * *"),
        ("cron(0 9 * * *)", "0 9 * * *"),
        ("0 9 * * FRIL", "0 9 * * 5l"),
        ("0 9 L * *", "0 9 l * *"),
        ("0 9 LW * *", "0 9 lw * *"),
        ("0 9 * * mon#2,5L", "0 9 * * mon#2,5l"),
        ("*/59 */23 */30 */11 */7", "*/59 */23 */30 */11 */7"),
    ],
)
def test_usual_spellings_of_a_cron_expression_are_read(written: str, read: str) -> None:
    """docs/odd-inputs.md, Times."""
    assert check_cron(written) == read
    assert Recurrence(written)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("0 9 ? * MON-FRI", r"write \* for \?$"),
        ("*/90 * * * *", r"'\*/90' is only 0, since steps start again with each hour: write 0, or .* at most 59$"),
        ("*/60 * * * *", "write 0, or a step of at most 59"),
        ("0 */24 * * *", "again with each day: write 0, or a step of at most 23"),
        ("0 9 */31 * *", "again with each month: write 1, or a step of at most 30"),
        ("0 9 1 */12 *", "again with each year: write 1, or a step of at most 11"),
        ("0 9 * * */8", "again with each week"),
        ("50/15 * * * *", "write 50, or a step of at most 9"),
        ("10-20/15 * * * *", "write 10, or a step of at most 10"),
        ("0 0 9 ? * MON-FRI", "has 6 fields: leave out the seconds"),
        ("0 0 9 ? * MON-FRI 2026", "has 7 fields: leave out the seconds"),
        ("cron(0 9 ? * MON-FRI *)", "has 6 fields: .* the year"),
        ("rate(5 minutes)", "neither a cron expression of 5 fields"),
        ("H H * * *", "bad minute: H is a number that Jenkins chooses: write a number, such as 0"),
        ("H(0-29)/10 * * * *", "H is a number that Jenkins chooses"),
        ("0 22-2 * * *", "'22-2' runs backwards: write 22-23,0-2"),
        ("0 9 * * fri-mon", "write fri-sat,sun-mon"),
        ("0 9 * * sat-sun", "write sat,sun"),
        ("0 9 * * monday", "'monday' must consist of numbers from 0 to 7, or sun to sat"),
        ("0 9 15W * *", "bad day-of-month: '15w' must consist of numbers from 1 to 31"),
        ("*/0 * * * *", "must be a number from 1 on"),
        ("1,,2 * * * *", "bad minute"),
    ],
)
def test_other_cron_expression_is_answered_with_what_to_write(written: str, says: str) -> None:
    """docs/odd-inputs.md, Times."""
    with pytest.raises(ValueError, match=says) as refused:
        check_cron(written)
    assert "\n" not in str(refused.value)


@st.composite
def cron_fields(draw: st.DrawFn, first: int, last: int, names: str = "") -> str:
    def show(number: int) -> str:
        return names.split()[number - first] if names and number - first < len(names.split()) else str(number)

    low = draw(st.integers(first, last - 1))
    high = draw(st.integers(low + 1, last))
    step = draw(st.integers(1, high - low))
    forms = ["*", f"*/{step}", f"{low}-{high}", f"{low}-{high}/{step}", f"{low},{high}", f"{show(low)},{low}/{step}"]
    return draw(st.sampled_from(forms))


CRON = st.tuples(
    cron_fields(0, 59), cron_fields(0, 23), cron_fields(1, 28), cron_fields(1, 12, "JAN Feb mar apr"),
    cron_fields(0, 6, "SUN Mon tue wed"),
).map(" ".join)  # fmt: skip


@given(CRON, st.sampled_from(["{}", "  {} ", "cron({})", "CRON_TZ=Europe/Berlin {}", "TZ=Europe/Berlin\n{}"]))
def test_cron_expression_has_the_times_of_cronsim_in_every_spelling(expression: str, form: str) -> None:
    """docs/odd-inputs.md, Times."""
    found = islice(Recurrence(form.format(expression)).wall_times(BEFORE), 3)
    assert list(found) == list(islice(CronSim(expression, BEFORE), 3))


WORDS = ["DTSTART", "TZID", "RRULE", "EXDATE", "VALUE=DATE", "FREQ", "UNTIL", "BYDAY", "DAILY", "WEEKLY", "MO", "-1FR",
         "20261207T090000", "20261207", "99991231T235959Z", "00010101T000000", "Europe/Berlin", "Customized Time Zone",
         "CRON_TZ", "cron(", ")", "*", "*/7", "?", "H", "L", "9", "mon-fri", "COUNT", "2", "BEGIN:VEVENT"]  # fmt: skip
MARKS = [":", ";", "=", ",", "\n", "\r\n ", "\\n", " ", "/", "-", '"']
TEXTS = st.lists(st.sampled_from(WORDS) | st.sampled_from(MARKS) | st.text(max_size=3), max_size=14).map("".join)
LINES = st.builds(
    "DTSTART{}:{}\nRRULE:FREQ=DAILY;{}\nEXDATE{}:{}".format,
    st.sampled_from(["", ";TZID=Europe/Berlin", ";TZID=Nowhere", ";VALUE=DATE"]),
    st.sampled_from(["20261207T090000", "20261207T080000Z", "20261207", "99991231T235959Z", "00010101T000000Z", "x"]),
    st.sampled_from(["", "UNTIL=20261231T225959Z", "UNTIL=99991231T235959Z", "COUNT=3", "BYDAY=MO", "BYHOUR=9", "Z"]),
    st.sampled_from(["", ";TZID=Asia/Tokyo", ";TZID=Europe/Berlin"]),
    st.sampled_from(["20261208T090000", "20261208T080000Z,20261209", "99991231T235959", "00010101T000000", ",", "y"]),
)


@given(TEXTS | LINES, st.sampled_from([None, "Europe/Berlin", "recipient"]), st.booleans())
def test_any_rule_is_read_or_refused_with_one_line_in_plain_words(
    rule: str, zone_name: str | None, has_start: bool
) -> None:
    """docs/odd-inputs.md, Times."""
    start = START if has_start else None
    try:
        check_rule(rule, start, zone_name=zone_name, is_recipient_time=zone_name == "recipient")
    except ValueError as error:
        check_plain(str(error))
        return
    zone = None if zone_name == "recipient" else load_zone(zone_name or zone_of_rule(rule) or "UTC")
    now = datetime(2026, 12, 1, tzinfo=UTC)
    assert len(list(islice(Recurrence(rule, start, zone=zone).occurrences(now, zone or BERLIN), 2))) <= 2


def check_plain(message: str) -> None:
    """Check that an error for a person is one line without names of classes or regular expressions."""
    assert message
    assert "\n" not in message
    assert len(message) < 500
    for word in ("Error", "Exception", "NoneType", "object", "invalid literal", "(?", "\\d", "isoformat", "int()"):
        assert word not in message, message
