from __future__ import annotations

import contextlib
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.time.holidays import Holidays
from tests.shared.call_counts import calls
from tests.shared.test_rule_text import check_plain

NEW_YEAR = date(2026, 1, 1)


def holidays(text: str, first: date, last: date) -> set[date]:
    """Return the dates of a calendar from `first` to `last`, both included."""
    found = Holidays(text, first)
    days = (first + timedelta(days=number) for number in range((last - first).days + 1))
    return {day for day in days if day in found}


CALENDAR = """BEGIN:VCALENDAR
VERSION:2.0
BEGIN:VEVENT
SUMMARY:Christmas: two days
DTSTART;VALUE=DATE:19701225
DTEND;VALUE=DATE:19701227
RRULE:FREQ=YEARLY;UNTIL=20281231T230000Z;BYMONTH=12;BYMONTH
 DAY=25
EXDATE;VALUE=DATE:20261225
EXDATE;VALUE=DATE:20251225
BEGIN:VALARM
TRIGGER:-PT15M
DURATION:PT5M
END:VALARM
END:VEVENT
BEGIN:VEVENT
SUMMARY:Once
DTSTART;VALUE=DATE:20270401
END:VEVENT
BEGIN:VEVENT
SUMMARY:As Outlook writes it
DTSTART;TZID=W. Europe Standard Time:20270501T000000
DTEND;TZID=W. Europe Standard Time:20270502T000000
END:VEVENT
BEGIN:VEVENT
SUMMARY:Called off
DTSTART;VALUE=DATE:20270601
STATUS:CANCELLED
END:VEVENT
BEGIN:VEVENT
SUMMARY:A meeting
DTSTART:20270701T090000Z
DURATION:PT1H
END:VEVENT
BEGIN:VEVENT
SUMMARY:Too late
DTSTART;VALUE=DATE:20400101
END:VEVENT
END:VCALENDAR
"""


def test_all_day_events_are_read_with_yearly_rules_and_exceptions() -> None:
    expected = ["2027-04-01", "2027-05-01", "2027-12-25", "2027-12-26", "2028-12-25", "2028-12-26"]
    for text in (CALENDAR, CALENDAR.replace("\n", "\r\n")):
        found = holidays(text, date(2026, 1, 1), date(2030, 1, 1))
        assert sorted(map(str, found)) == expected


def test_properties_after_an_alarm_belong_to_the_event() -> None:
    alarm = "BEGIN:VALARM\nTRIGGER:-PT15M\nEND:VALARM\n"
    text = calendar(f"DTSTART;VALUE=DATE:20261225\n{alarm}RRULE:FREQ=YEARLY")
    assert holidays(text, date(2027, 1, 1), date(2028, 1, 1)) == {date(2027, 12, 25)}


def test_unreadable_line_of_an_event_is_refused() -> None:
    with pytest.raises(ValueError, match="event 1: the line 'DTSTART;VALUE=DATE;:20261225' cannot be read"):
        holidays(calendar("DTSTART;VALUE=DATE;:20261225"), date(2026, 1, 1), date(2027, 1, 1))


def test_event_that_started_earlier_counts_from_the_first_date() -> None:
    assert holidays(CALENDAR, date(2027, 12, 26), date(2027, 12, 31)) == {date(2027, 12, 26)}


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ("DTSTART:20260701T090000Z", "no all-day event"),
        ("DTSTART;VALUE=DATE:20261301", "DTSTART must be a date such as .*, not '20261301'"),
        ("DTSTART;VALUE=DATE:20260102\nDTEND;VALUE=DATE:20260101", "does not have 1 to 366 whole days"),
        ("DTSTART;VALUE=DATE:20260101\nDURATION:1 day", "DURATION must be a length such as P1D, not '1 day'"),
        ("SUMMARY:No date", "event 1: has no DTSTART"),
        ("DTSTART;VALUE=DATE:20260101\nDTEND;VALUE=DATE:20280101", "does not have 1 to 366 whole days"),
        ("DTSTART;VALUE=DATE:20260101\nDTEND:20260102T120000", "does not have 1 to 366 whole days"),
        ("DTSTART;VALUE=DATE:20260101\nDURATION:PT36H", "does not have 1 to 366 whole days"),
        ("DTSTART;VALUE=DATE:20260101\nDURATION:-P1D", "does not have 1 to 366 whole days"),
        ("DTSTART:20260101T000000\nDTEND:20280101T000000", "does not have 1 to 366 whole days"),
        ("DTSTART:20260101T000000\nDURATION:PT30M", "no all-day event"),
        ("DTSTART:20260101T000000", "no all-day event"),
        ("DTSTART;VALUE=DATE:20260101\nRDATE;VALUE=PERIOD:20270101T000000Z/P1D", "RDATE must be a date"),
        ("DTSTART;VALUE=DATE:20260101\nRRULE:FREQ=HOURLY", "FREQ must be one of"),
        ("DTSTART;VALUE=DATE:20260101\nRECURRENCE-ID:20260101\nRRULE:FREQ=DAILY", "RECURRENCE-ID with an RRULE"),
        ("DTSTART;VALUE=DATE:20260101\nRRULE:FREQ=YEARLY;INTERVAL=0", "INTERVAL must be"),
        ("DTSTART;VALUE=DATE:20260101\nRRULE:FREQ=YEARLY;BYDAY=56MO", "numbers of BYDAY"),
        (
            "DTSTART;VALUE=DATE:20260101\nRRULE:FREQ=YEARLY;BYHOUR=0,1",
            "RRULE has BYHOUR, and a whole day has no time: leave it out",
        ),
        (
            "DTSTART;VALUE=DATE:20260101\nRRULE:FREQ=YEARLY;UNTIL=20301324T230000Z",
            "UNTIL must be a date such as .*, not '20301324T230000Z'",
        ),
        ("BEGIN:VEVENT\n" * 5000, "no all-day event"),
    ],
)
def test_unsupported_event_is_refused_with_one_line(event: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        holidays(calendar(event), date(2026, 1, 1), date(2027, 1, 1))


def calendar(*events: str) -> str:
    return "\n".join(["BEGIN:VCALENDAR", *(f"BEGIN:VEVENT\n{event}\nEND:VEVENT" for event in events), "END:VCALENDAR"])


@pytest.mark.parametrize(
    "event",
    [
        "DTSTART:20261231T000000\nDTEND:20270101T000000",
        "DTSTART:20261231T000000\nDURATION:PT24H",
        "DTSTART;VALUE=DATE:20261231\nDURATION:P1D",
        'DTSTART;TZID="(UTC+01:00) Amsterdam, Berlin":20261231T000000\nDTEND:20270101T000000',
        "dtstart;value=date:20261231",
        "DTSTART;VALUE=DATE:20261231 \nSTATUS:CONFIRMED\t",
        "DTSTART;VALUE=DATE:20261231\r",
        "SUMMARY:New Year's Eve\rDTSTART;VALUE=DATE:20261231\rDTEND;VALUE=DATE:20270101",
        "DTSTART;VALUE=DATE:20261231\nEND:VEVENT\nBEGIN:VEVENT\nDTSTART:20261230T000000\nDTEND:20261230T003000",
        "DTSTART;VALUE=DATE:20261231\nEND:VEVENT\nBEGIN:VEVENT\nDTSTART:20261230T000000\nDURATION:PT30M",
    ],
)
def test_all_day_event_is_read_in_every_spelling_and_a_meeting_at_midnight_is_not(event: str) -> None:
    for text in (calendar(event), calendar(event).replace("\n", "\r")):
        assert holidays(text, date(2026, 1, 1), date(2027, 12, 31)) == {date(2026, 12, 31)}


@pytest.mark.parametrize(
    ("start", "last"),
    [
        (";TZID=W. Europe Standard Time:20261225T000000\nDTEND:20261226T000000", "20301224T230000Z"),
        (";TZID=Customized:20261225T000000\nDTEND:20261226T000000", "20301224T230000Z"),
        (":20261225T000000\nDURATION:P1D", "20301225T080000Z"),
        (";VALUE=DATE:20261225", "20301225"),
    ],
)
def test_last_occurrence_counts_for_every_spelling_of_until(start: str, last: str) -> None:
    event = f"DTSTART{start}\nRRULE:FREQ=YEARLY;UNTIL={last};BYMONTHDAY=25;BYMONTH=12"
    found = holidays(calendar(event), date(2029, 1, 1), date(2032, 1, 1))
    assert found == {date(2029, 12, 25), date(2030, 12, 25)}


def test_until_the_year_9999_has_no_end() -> None:
    event = "DTSTART;VALUE=DATE:20261225\nRRULE:FREQ=YEARLY;UNTIL=99991231T235959Z"
    assert holidays(calendar(event), date(2100, 1, 1), date(2100, 12, 31)) == {date(2100, 12, 25)}


def test_overlapping_events_are_asked_for_in_any_order() -> None:
    events = ["DTSTART;VALUE=DATE:20261225\nDURATION:P5D", "DTSTART;VALUE=DATE:20261226", "DTSTART;VALUE=DATE:99991231"]
    found = Holidays(calendar(*events), date(2026, 12, 26), [date(2026, 1, 1)])
    asked = [date(2027, 1, 1), date(2026, 12, 25), date(2026, 12, 26), date(2026, 12, 29), date(2026, 1, 1)]
    assert [day in found for day in asked] == [False, False, True, True, True]


def test_too_many_events_that_recur_often_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 20 events that recur more often than each year"):
        holidays(calendar(*["DTSTART;VALUE=DATE:19000101\nRRULE:FREQ=WEEKLY"] * 21), NEW_YEAR, NEW_YEAR)
    ended = ["DTSTART;VALUE=DATE:20200101\nRRULE:FREQ=WEEKLY;UNTIL=20251230"] * 51
    text = calendar(*ended, "DTSTART;VALUE=DATE:20251224\nRRULE:FREQ=WEEKLY;UNTIL=20260107")
    assert holidays(text, NEW_YEAR, date(2026, 2, 1)) == {date(2026, 1, 7)}


def test_too_many_recurring_events_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 50 recurring events"):
        holidays(calendar(*["DTSTART;VALUE=DATE:19000101\nRRULE:FREQ=YEARLY"] * 51), NEW_YEAR, NEW_YEAR)


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=YEARLY;COUNT=400",
        "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=YEARLY;BYMONTHDAY=1;BYSETPOS=300",
        "FREQ=DAILY",
        "FREQ=WEEKLY;BYDAY=SA;COUNT=400",
        "FREQ=MONTHLY;BYDAY=MO,TU,WE;BYSETPOS=2",
    ],
)
def test_calendar_of_expensive_rules_is_read_in_bounded_time(rule: str) -> None:
    text = calendar(*[f"DTSTART;VALUE=DATE:19000101\nRRULE:{rule}"] * 10)
    assert calls(lambda: holidays(text, NEW_YEAR, NEW_YEAR)) < 40_000


@pytest.mark.parametrize(
    ("more", "refusal"),
    [
        ("RRULE:FREQ=YEARLY;COUNT=501", "leave COUNT out"),
        ("RRULE:FREQ=YEARLY;BYDAY=MO;BYSETPOS=1,2", "several numbers in BYSETPOS"),
        ("RRULE:FREQ=YEARLY;COUNT=1\nRRULE:FREQ=YEARLY", "more than one RRULE"),
        ("RRULE:FREQ=YEARLY\nEXRULE:FREQ=YEARLY;INTERVAL=2", "EXRULE is not supported: write the dates as EXDATE"),
    ],
)
def test_unsupported_rule_is_refused(more: str, refusal: str) -> None:
    with pytest.raises(ValueError, match=refusal):
        holidays(calendar(f"DTSTART;VALUE=DATE:20261225\n{more}"), NEW_YEAR, NEW_YEAR)


@pytest.mark.parametrize(
    ("event", "days"),
    [
        ("DTSTART;VALUE=DATE:20261226\nDTEND;VALUE=DATE:20261226", ["12-26"]),  # the last day instead of the one after
        ("DTSTART;VALUE=DATE:20261226\nDURATION:P0D", ["12-26"]),
        ("DTSTART;VALUE=DATE:20261226\nDURATION:P1W", [f"12-{day}" for day in (26, 27, 28, 29, 30, 31)]),
        ("DTSTART:20261226T000000\nDTEND:20261226T000000\nX-MICROSOFT-CDO-ALLDAYEVENT:TRUE", ["12-26"]),
        ("DTSTART:20261226T000000Z\nDTEND:20261227T000000Z\nX-MICROSOFT-CDO-ALLDAYEVENT:TRUE", ["12-26"]),
        ("DTSTART;VALUE=DATE:20261128\nRRULE:FREQ=WEEKLY;UNTIL=20261212T070000Z;BYDAY=SA", ["11-28", "12-05", "12-12"]),
        ("DTSTART;VALUE=DATE:20261230\nRRULE:FREQ=DAILY;INTERVAL=1;COUNT=2", ["12-30", "12-31"]),
        ("DTSTART;VALUE=DATE:20261101\nRRULE:FREQ=MONTHLY;BYDAY=-1MO;WKST=SU", ["11-30", "12-28"]),
        ("DTSTART;VALUE=DATE:20261225\nRRULE:FREQ=YEARLY;BYHOUR=0;BYMINUTE=0", ["12-25"]),
        ("DTSTART;VALUE=DATE:20261205\nRRULE:FREQ=WEEKLY;COUNT=3\nEXDATE;TZID=Europe/Berlin:20261212T000000",
         ["12-05", "12-19"]),
        ("DTSTART;VALUE=DATE:20261205\nRRULE:FREQ=WEEKLY;COUNT=3\nEXDATE:20261211T230000Z", ["12-05", "12-19"]),
        ("DTSTART;VALUE=DATE:20261205\nRRULE:FREQ=WEEKLY;COUNT=2\nRDATE;VALUE=DATE:20261224,20261201",
         ["12-01", "12-05", "12-12", "12-24"]),
        ("DTSTART;VALUE=DATE:2026-12-26", ["12-26"]),
        ("DTSTART:20261226T000000\nDTEND:20261226T235959", ["12-26"]),
        ("DTSTART:20261226T000000\nDTEND:20261227T235900", ["12-26", "12-27"]),
    ],
)  # fmt: skip
def test_whole_days_are_read_as_calendars_export_them(event: str, days: list[str]) -> None:
    """docs/odd-inputs.md, Times."""
    written = calendar(event)
    for text in (written, written.replace("\n", "\r\n"), written.replace("\n", "\\r\\n")):
        assert [f"{day:%m-%d}" for day in sorted(holidays(text, date(2026, 11, 1), date(2026, 12, 31)))] == days


@pytest.mark.parametrize(
    ("until", "zone", "last"),
    [
        ("20261211T225959Z", "", "2026-12-11"),  # the end of a day in Berlin
        ("20261211T225959Z", "Europe/Berlin", "2026-12-11"),
        ("20261211T230000Z", "", "2026-12-12"),  # midnight in Berlin
        ("20261212T075959Z", "", "2026-12-11"),  # the end of a day in Los Angeles
        ("20261212T075959Z", "America/Los_Angeles", "2026-12-11"),
        ("20261212T080000Z", "", "2026-12-12"),  # midnight there
        ("20261212T235959Z", "", "2026-12-12"),
        ("20261212", "Europe/Berlin", "2026-12-12"),
        ("20261212T235959", "", "2026-12-12"),
    ],
)
def test_until_of_whole_days_is_read_in_the_zone_of_the_calendar(until: str, zone: str, last: str) -> None:
    """docs/odd-inputs.md, Times."""
    text = calendar(f"DTSTART;VALUE=DATE:20261201\nRRULE:FREQ=DAILY;UNTIL={until}")
    if zone:
        text = text.replace("BEGIN:VEVENT", f"X-WR-TIMEZONE:{zone}\nBEGIN:VEVENT")
    assert max(holidays(text, date(2026, 12, 1), date(2026, 12, 31))) == date.fromisoformat(last)


def test_occurrence_that_was_moved_or_called_off_alone_does_not_count() -> None:
    """docs/odd-inputs.md, Times."""
    weekly = "UID:a\nDTSTART;VALUE=DATE:20261205\nRRULE:FREQ=WEEKLY;COUNT=4"
    moved = "UID:a\nRECURRENCE-ID;VALUE=DATE:20261212\nDTSTART;VALUE=DATE:20261213"
    off = "UID:a\nRECURRENCE-ID;VALUE=DATE:20261219\nDTSTART;VALUE=DATE:20261219\nSTATUS:CANCELLED"
    other = "UID:b\nDTSTART;VALUE=DATE:20261219"
    found = holidays(calendar(moved, weekly, off), date(2026, 12, 1), date(2026, 12, 31))
    assert sorted(day.day for day in found) == [5, 13, 26]
    found = holidays(calendar(weekly, off, moved, other), date(2026, 12, 1), date(2026, 12, 31))
    assert sorted(day.day for day in found) == [5, 13, 19, 26]


def test_event_that_cannot_be_read_is_left_out_and_named() -> None:
    """docs/odd-inputs.md, Times."""
    good = "DTSTART;VALUE=DATE:20261225"
    bad = ["DTSTART;VALUE=DATE:20261301", "DTSTART;VALUE=DATE:20261226\nRRULE:FREQ=SECONDLY",
           "DTSTART;VALUE=DATE:20261227\nDTEND;VALUE=DATE:20261201", "DTSTART;VALUE=DATE:20261228\nRRULE;:FREQ=DAILY",
           "SUMMARY:Nothing"]  # fmt: skip
    found = Holidays(calendar(*bad, good, "DTSTART:20261229T090000"), NEW_YEAR)
    assert [day for day in range(1, 32) if date(2026, 12, day) in found] == [25]
    assert [line.partition(":")[0] for line in found.left_out] == [
        "event 1 (20261301)", "event 2 (20261226)", "event 3 (20261227)", "event 4 (20261228)", "event 5",
    ]  # fmt: skip
    for line in found.left_out:
        check_plain(line)


@given(
    st.dates(date(2026, 1, 1), date(2026, 12, 1)),
    st.integers(1, 20),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Tokyo"]),
)
def test_spellings_of_whole_days_mean_the_same(first: date, length: int, zone: str) -> None:
    """docs/odd-inputs.md, Times."""
    end = first + timedelta(days=length)
    spellings = [
        f"DTSTART;VALUE=DATE:{first:%Y%m%d}\nDTEND;VALUE=DATE:{end:%Y%m%d}",
        f"DTSTART;VALUE=DATE:{first:%Y%m%d}\nDURATION:P{length}D",
        f"DTSTART;VALUE=DATE:{first:%Y%m%d}\nRRULE:FREQ=DAILY;COUNT={length}",
        f"DTSTART;TZID={zone}:{first:%Y%m%d}T000000\nDTEND;TZID={zone}:{end:%Y%m%d}T000000",
        f"DTSTART:{first:%Y%m%d}T000000\nDTEND:{end:%Y%m%d}T000000\nX-MICROSOFT-CDO-ALLDAYEVENT:TRUE",
    ]
    expected = {first + timedelta(days=number) for number in range(length)}
    for event in spellings:
        assert holidays(calendar(event), date(2026, 1, 1), date(2027, 1, 1)) == expected


def test_text_without_calendar_is_refused() -> None:
    with pytest.raises(ValueError, match="is not an iCalendar file"):
        holidays("<html>", date(2026, 1, 1), date(2027, 1, 1))


TIME_ZONE = """BEGIN:VTIMEZONE
TZID:Customized
BEGIN:STANDARD
DTSTART:16010101T000000
RRULE:FREQ=SECONDLY
TZOFFSETFROM:+0200
TZOFFSETTO:+0100
END:STANDARD
END:VTIMEZONE"""


def test_rules_of_a_time_zone_are_not_evaluated() -> None:
    event = "BEGIN:VEVENT\nDTSTART;TZID=Customized:20261225T000000\nDURATION:P1D\nEND:VEVENT"
    text = f"BEGIN:VCALENDAR\n{TIME_ZONE}\n{event}\nEND:VCALENDAR"
    assert holidays(text, date(2026, 12, 1), date(2027, 12, 1)) == {date(2026, 12, 25)}
    assert calls(lambda: holidays(text, NEW_YEAR, NEW_YEAR)) < 20_000


@pytest.mark.parametrize(
    "line",
    [
        "DTSTART" + ";" * 60_000,
        "DTSTART;" + '"' * 60_000 + ":20261225",
        "DTSTART;A=" + "," * 60_000 + ":20261225",
        "DTSTART;A=" + "\\" * 60_000 + ":20261225",
        "DTSTART;" + " " * 60_000 + "A=B:20261225",
        "A:B\n" * 15_000,
        "DTSTART:2026\n " * 4_500,
        "EXDATE:" + "20261225," * 6_500,
        "BEGIN:VTIMEZONE\n" * 2_000 + "END:VTIMEZONE\n" * 2_000,
    ],
    ids=lambda line: line[:12].strip(),
)
def test_calendar_as_large_as_a_command_is_read_in_bounded_time(line: str) -> None:
    def read() -> None:
        with contextlib.suppress(ValueError):
            holidays(calendar(line, "DTSTART;VALUE=DATE:20261225"), NEW_YEAR, NEW_YEAR)

    assert calls(read) < 2_000_000


PARTS = ["COUNT", "UNTIL", "BYDAY", "BYSETPOS", "BYMONTH", "INTERVAL", "BYHOUR"]
RULES = st.lists(st.tuples(st.sampled_from(PARTS), st.text("-0123456789MO,TZ", max_size=12)).map("=".join), max_size=3)
VALUES = st.one_of(
    st.from_regex(r"[0-9]{8}(T[0-9]{6}Z?)?", fullmatch=True),
    st.sampled_from(["20261225", "20261226T000000", "P1D", "PT36H", "99991231", "00010101", "VEVENT", "VALARM"]),
    RULES.map(lambda parts: ";".join(["FREQ=YEARLY", *parts])),
    st.text(max_size=20),
)
STARTS = ["DTSTART", "DTSTART;VALUE=DATE", "DTSTART;TZID=Europe/Berlin"]
NAMES = st.sampled_from([*STARTS, "DTEND", "DURATION", "RRULE", "EXDATE", "RDATE", "STATUS", "BEGIN", "END", "X"])


@given(lines=st.lists(st.tuples(NAMES, VALUES).map(":".join), max_size=8))
def test_any_text_is_read_or_refused_with_one_line(lines: list[str]) -> None:
    try:
        found = holidays(calendar("\n".join(lines)), date(2026, 12, 1), date(2027, 1, 31))
    except ValueError as error:
        check_plain(str(error))
    else:
        assert all(date(2026, 12, 1) <= day <= date(2027, 1, 31) for day in found)
