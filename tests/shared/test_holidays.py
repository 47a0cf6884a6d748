from __future__ import annotations

from datetime import date

import pytest

from shared.holidays import holidays

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


def test_the_whole_days_of_a_calendar_are_read_with_what_recurs_each_year() -> None:
    expected = ["2027-04-01", "2027-05-01", "2027-12-25", "2027-12-26", "2028-12-25", "2028-12-26"]
    for text in (CALENDAR, CALENDAR.replace("\n", "\r\n")):
        found = holidays(text, date(2026, 1, 1), date(2030, 1, 1))
        assert sorted(map(str, found)) == expected


def test_an_event_that_began_before_the_first_date_counts_with_the_days_that_are_left() -> None:
    assert holidays(CALENDAR, date(2027, 12, 26), date(2027, 12, 31)) == {date(2027, 12, 26)}


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ("DTSTART:20260701T090000Z", "no event for whole days"),
        ("DTSTART;VALUE=DATE:20261301", "is no date"),
        ("DTSTART;VALUE=DATE:20260101\nDTEND;VALUE=DATE:20260101", "has 0 days"),
        ("DTSTART;VALUE=DATE:20260101\nDTEND;VALUE=DATE:20280101", "has 730 days"),
        ("DTSTART;VALUE=DATE:20260101\nDURATION:P2D", "DURATION, which is not read"),
        ("DTSTART;VALUE=DATE:20260101\nRRULE:FREQ=DAILY", "only FREQ=YEARLY"),
        ("DTSTART;VALUE=DATE:20260101\nRRULE:FREQ=YEARLY;INTERVAL=0", "INTERVAL must be"),
    ],
)
def test_an_event_that_cannot_be_read_is_refused_with_one_line(event: str, says: str) -> None:
    calendar = f"BEGIN:VCALENDAR\nBEGIN:VEVENT\n{event}\nEND:VEVENT\nEND:VCALENDAR"
    with pytest.raises(ValueError, match=says):
        holidays(calendar, date(2026, 1, 1), date(2027, 1, 1))


def test_what_is_no_calendar_is_refused() -> None:
    with pytest.raises(ValueError, match="no iCalendar file"):
        holidays("<html>", date(2026, 1, 1), date(2027, 1, 1))
