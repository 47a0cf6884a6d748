"""The next occurrence of an announcement, by its rule, its zone, and the dates that it skips."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.announcements import next_occurrence, occurrences, schedule_zone
from shared.contract.models import RECIPIENT, Announcement
from shared.time.localtime import FIRST_ZONE, FIRST_ZONE_OFFSET, load_zone
from tests.shared.call_counts import calls
from tests.shared.clock_changes import ALL, ZONES

NOTIFICATION = {"recipients": [{"all": True}], "category": "news", "content": {"title": "Good morning"}}
NOW = datetime(2026, 12, 20, 12, tzinfo=UTC)


def announcement(**changes: Any) -> Announcement:
    return Announcement.model_validate({"rule": "0 9 * * *", "notification": NOTIFICATION} | changes)


def names(count: int, zone: str = "Europe/Berlin", **changes: Any) -> list[str]:
    return [each.name for each in islice(occurrences(announcement(**changes), NOW, load_zone(zone)), count)]


def calendar(*events: str) -> str:
    return "\n".join(["BEGIN:VCALENDAR", *(f"BEGIN:VEVENT\n{event}\nEND:VEVENT" for event in events), "END:VCALENDAR"])


CHRISTMAS = calendar("DTSTART;VALUE=DATE:20201225\nDTEND;VALUE=DATE:20201227\nRRULE:FREQ=YEARLY")


def test_skipped_dates_and_holidays_have_no_occurrence() -> None:
    assert names(3, skip=["2026-12-22", "2026-12-24"], holidays=CHRISTMAS) == [
        "2026-12-21T09:00",
        "2026-12-23T09:00",
        "2026-12-27T09:00",
    ]


def test_holidays_are_skipped_years_ahead() -> None:
    free = calendar("DTSTART;VALUE=DATE:20201225\nRRULE:FREQ=YEARLY\nEXDATE;VALUE=DATE:20331225")
    assert names(1, rule="0 9 25 12 *", holidays=free) == ["2033-12-25T09:00"]


def test_rule_with_only_holidays_has_no_occurrence() -> None:
    assert names(1, rule="0 9 25 12 *", holidays=CHRISTMAS) == []


@pytest.mark.parametrize("rule", ["0 9 * * *", "59 23 * * *", f"FREQ=DAILY;BYHOUR={','.join(map(str, range(24)))}"])
def test_whole_year_of_holidays_is_passed_fast(rule: str) -> None:
    year = calendar("DTSTART;VALUE=DATE:20240101\nDTEND;VALUE=DATE:20250101\nRRULE:FREQ=YEARLY")
    assert names(1, rule=rule, start="2026-01-01T09:00", holidays=year) == []
    assert calls(lambda: names(1, rule=rule, start="2026-01-01T09:00", holidays=year)) < 1_000_000


def test_holidays_are_skipped_until_the_last_year() -> None:
    yearly = calendar("DTSTART;VALUE=DATE:20200602\nRRULE:FREQ=YEARLY")
    found = names(2, start="2300-06-01T09:00", holidays=yearly)
    assert found == ["2300-06-01T09:00", "2300-06-03T09:00"]


def test_start_and_end_are_included_wall_times() -> None:
    assert names(9, start="2026-12-24T09:00", end="2026-12-25T09:00") == ["2026-12-24T09:00", "2026-12-25T09:00"]


def test_rrule_counts_from_the_start_of_the_announcement() -> None:
    weekly = {"rule": "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO", "start": "2026-12-07T08:30"}
    assert names(2, **weekly) == ["2026-12-21T08:30", "2027-01-04T08:30"]


def test_announcement_in_each_recipients_zone_is_due_in_the_first_zone() -> None:
    zone = schedule_zone(announcement(timeZone=RECIPIENT), "Europe/Berlin")
    found = next_occurrence(announcement(timeZone=RECIPIENT), NOW, zone)
    assert found
    assert (found.name, found.at) == ("2026-12-21T09:00", datetime(2026, 12, 20, 19, tzinfo=UTC))
    assert schedule_zone(announcement(), "Europe/Berlin") == load_zone("Europe/Berlin")
    assert schedule_zone(announcement(timeZone="Asia/Tokyo"), "Europe/Berlin") == load_zone("Asia/Tokyo")


@pytest.mark.parametrize("names", ZONES)
def test_no_zone_has_a_larger_offset_than_the_first_zone(names: list[str]) -> None:
    for name in names:
        for month in range(1, 13):
            ahead = datetime(2026, month, 15, tzinfo=load_zone(name)).utcoffset()
            assert ahead is not None
            assert ahead <= FIRST_ZONE_OFFSET
    assert datetime(2026, 7, 1, tzinfo=load_zone(FIRST_ZONE)).utcoffset() == FIRST_ZONE_OFFSET


@given(st.sampled_from(ALL), st.datetimes(datetime(2024, 1, 1), datetime(2030, 12, 31)))  # noqa: DTZ001 (wall times)
def test_daily_announcement_occurs_in_every_zone_with_unique_names(zone: str, moment: datetime) -> None:
    after = moment.replace(tzinfo=UTC)
    found = list(islice(occurrences(announcement(), after, load_zone(zone)), 3))
    assert len({each.name for each in found}) == 3
    assert after < found[0].at < found[1].at < found[2].at


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"rule": "9"}, ("rule",)),
        ({"rule": ""}, ("rule",)),
        ({"rule": "FREQ=SECONDLY", "start": "2026-12-01T09:00"}, ("rule",)),
        ({"rule": "FREQ=DAILY"}, ("rule",)),  # without a start
        ({"start": "2026-12-01T09:00Z"}, ("start",)),
        ({"start": "2026-12-01T09:00:30", "rule": "FREQ=DAILY"}, ("start",)),
        ({"start": "2026-12-02T09:00", "end": "2026-12-01T09:00"}, ("end",)),
        ({"end": "2400-12-01T09:00"}, ("end",)),
        ({"skip": ["2026-02-30"]}, ("skip", 0)),
        ({"holidays": calendar("DTSTART;VALUE=DATE:20201225\nRRULE:FREQ=HOURLY")}, ("holidays",)),
        (
            {"rule": "RRULE:FREQ=DAILY;UNTIL=20261231T225959Z", "timeZone": "recipient", "start": "2026-12-01T09:00"},
            ("rule",),
        ),
        ({"rule": "DTSTART:20261207T090000\nRRULE:FREQ=DAILY", "start": "2026-12-01T09:00"}, ("rule",)),
        ({"rule": "DTSTART:20261207T090000\nRRULE:FREQ=DAILY", "start": "2026-12-01"}, ("start",)),
        ({"rule": "DTSTART:20261207T090000\nRRULE:FREQ=DAILY", "end": "2026-12-01T09:00"}, ("rule",)),
        ({"rule": "TZID=Europe/Berlin 0 9 * * *"}, ("rule",)),
        ({"rule": "CRON_TZ=Europe/Berlin 0 9 * * *", "timeZone": "America/New_York"}, ("rule",)),
        ({"rule": "0 9 ? * MON-FRI"}, ("rule",)),
        ({"rule": "*/90 * * * *"}, ("rule",)),
        ({"timeZone": "Mars"}, ("timeZone",)),
        ({"notification": NOTIFICATION | {"schedule": {"at": "2026-12-01T09:00"}}}, ("notification",)),
        ({"notification": NOTIFICATION | {"expiresAt": "2026-12-01T09:00Z"}}, ("notification",)),
        ({"title": "x"}, ("title",)),
    ],
)
def test_invalid_announcement_is_refused_at_its_field(changes: dict[str, Any], where: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError) as refused:
        announcement(**changes)
    [error] = refused.value.errors()
    assert error["loc"] == where


def test_start_and_zone_are_read_from_the_rule_where_not_given() -> None:
    """docs/odd-inputs.md, Times."""
    rule = "DTSTART;TZID=Europe/Berlin:20261228T090000\nRRULE:FREQ=WEEKLY;BYDAY=MO\nEXDATE;VALUE=DATE:20270104"
    written = announcement(rule=rule)
    zone = schedule_zone(written, "America/New_York")
    assert zone.key == "Europe/Berlin"
    found = [(each.name, each.at.hour) for each in islice(occurrences(written, NOW, zone), 2)]
    assert found == [("2026-12-28T09:00", 8), ("2027-01-11T09:00", 8)]
    assert schedule_zone(announcement(rule=rule, timeZone=RECIPIENT), "UTC").key == FIRST_ZONE
    assert schedule_zone(announcement(rule="TZ=Asia/Tokyo 0 9 * * *"), "UTC").key == "Asia/Tokyo"


def test_events_that_are_left_out_of_a_calendar_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """docs/odd-inputs.md, Times."""
    partly = calendar("DTSTART;VALUE=DATE:20261221", "DTSTART;VALUE=DATE:20261301")
    assert names(1, holidays=partly) == ["2026-12-22T09:00"]
    assert "The calendar of an announcement was read without event 2 (20261301): DTSTART must be a date" in caplog.text


@given(
    st.text() | st.from_regex(r"[*0-9,/-]+( [*0-9a-z,/#L-]+){4}") | st.from_regex(r"FREQ=[A-Z]+(;[A-Z]+=[0-9A-Z,]+)*")
)
def test_any_text_is_a_rule_or_refused(rule: str) -> None:
    with contextlib.suppress(ValidationError):
        announcement(rule=rule, start="2026-12-01T09:00")
