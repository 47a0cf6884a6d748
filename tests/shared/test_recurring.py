"""The next occurrence of an announcement: by its rule and zone, and never on a date that it leaves out."""

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
from tests.shared.clockchanges import ALL, ZONES
from tests.shared.effort import calls

NOTIFICATION = {"recipients": [{"all": True}], "category": "news", "content": {"title": "Good morning"}}
NOW = datetime(2026, 12, 20, 12, tzinfo=UTC)


def announcement(**changes: Any) -> Announcement:
    return Announcement.model_validate({"rule": "0 9 * * *", "notification": NOTIFICATION} | changes)


def names(count: int, zone: str = "Europe/Berlin", **changes: Any) -> list[str]:
    return [each.name for each in islice(occurrences(announcement(**changes), NOW, load_zone(zone)), count)]


def calendar(*events: str) -> str:
    return "\n".join(["BEGIN:VCALENDAR", *(f"BEGIN:VEVENT\n{event}\nEND:VEVENT" for event in events), "END:VCALENDAR"])


CHRISTMAS = calendar("DTSTART;VALUE=DATE:20201225\nDTEND;VALUE=DATE:20201227\nRRULE:FREQ=YEARLY")


def test_left_out_dates_and_holidays_are_passed_over() -> None:
    assert names(3, skip=["2026-12-22", "2026-12-24"], holidays=CHRISTMAS) == [
        "2026-12-21T09:00",
        "2026-12-23T09:00",
        "2026-12-27T09:00",
    ]


def test_holidays_are_left_out_however_far_ahead_the_next_occurrence_is() -> None:
    free = calendar("DTSTART;VALUE=DATE:20201225\nRRULE:FREQ=YEARLY\nEXDATE;VALUE=DATE:20331225")
    assert names(1, rule="0 9 25 12 *", holidays=free) == ["2033-12-25T09:00"]


def test_one_whose_every_date_is_a_holiday_never_comes() -> None:
    assert names(1, rule="0 9 25 12 *", holidays=CHRISTMAS) == []


@pytest.mark.parametrize("rule", ["0 9 * * *", "59 23 * * *", f"FREQ=DAILY;BYHOUR={','.join(map(str, range(24)))}"])
def test_where_the_whole_year_is_a_holiday_that_is_known_at_once(rule: str) -> None:
    year = calendar("DTSTART;VALUE=DATE:20240101\nDTEND;VALUE=DATE:20250101\nRRULE:FREQ=YEARLY")
    assert names(1, rule=rule, start="2026-01-01T09:00", holidays=year) == []
    assert calls(lambda: names(1, rule=rule, start="2026-01-01T09:00", holidays=year)) < 1_000_000


def test_holidays_are_left_out_to_the_last_year() -> None:
    yearly = calendar("DTSTART;VALUE=DATE:20200602\nRRULE:FREQ=YEARLY")
    found = names(2, start="2300-06-01T09:00", holidays=yearly)
    assert found == ["2300-06-01T09:00", "2300-06-03T09:00"]


def test_start_and_end_are_wall_times_and_count() -> None:
    assert names(9, start="2026-12-24T09:00", end="2026-12-25T09:00") == ["2026-12-24T09:00", "2026-12-25T09:00"]


def test_an_rrule_counts_from_its_start() -> None:
    weekly = {"rule": "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO", "start": "2026-12-07T08:30"}
    assert names(2, **weekly) == ["2026-12-21T08:30", "2027-01-04T08:30"]


def test_one_for_each_ones_own_time_is_due_where_it_is_that_time_first() -> None:
    zone = schedule_zone(announcement(timeZone=RECIPIENT), "Europe/Berlin")
    found = next_occurrence(announcement(timeZone=RECIPIENT), NOW, zone)
    assert found
    assert (found.name, found.at) == ("2026-12-21T09:00", datetime(2026, 12, 20, 19, tzinfo=UTC))
    assert schedule_zone(announcement(), "Europe/Berlin") == load_zone("Europe/Berlin")
    assert schedule_zone(announcement(timeZone="Asia/Tokyo"), "Europe/Berlin") == load_zone("Asia/Tokyo")


@pytest.mark.parametrize("places", ZONES)
def test_nowhere_are_clocks_further_ahead_than_in_the_first_zone(places: list[str]) -> None:
    for name in places:
        for month in range(1, 13):
            ahead = datetime(2026, month, 15, tzinfo=load_zone(name)).utcoffset()
            assert ahead is not None
            assert ahead <= FIRST_ZONE_OFFSET
    assert datetime(2026, 7, 1, tzinfo=load_zone(FIRST_ZONE)).utcoffset() == FIRST_ZONE_OFFSET


@given(st.sampled_from(ALL), st.datetimes(datetime(2024, 1, 1), datetime(2030, 12, 31)))  # noqa: DTZ001 (wall times)
def test_a_daily_one_comes_in_every_zone_after_each_moment_and_each_name_once(zone: str, moment: datetime) -> None:
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
        ({"rule": "FREQ=DAILY"}, ("rule",)),  # from when on?
        ({"start": "2026-12-01T09:00Z"}, ("start",)),
        ({"start": "2026-12-01T09:00:30", "rule": "FREQ=DAILY"}, ("start",)),
        ({"start": "2026-12-02T09:00", "end": "2026-12-01T09:00"}, ("end",)),
        ({"end": "2400-12-01T09:00"}, ("end",)),
        ({"skip": ["2026-02-30"]}, ("skip", 0)),
        ({"holidays": calendar("DTSTART;VALUE=DATE:20201225\nRRULE:FREQ=DAILY")}, ("holidays",)),
        ({"timeZone": "Mars"}, ("timeZone",)),
        ({"notification": NOTIFICATION | {"schedule": {"at": "2026-12-01T09:00"}}}, ("notification",)),
        ({"notification": NOTIFICATION | {"expiresAt": "2026-12-01T09:00Z"}}, ("notification",)),
        ({"title": "x"}, ("title",)),
    ],
)
def test_what_cannot_recur_is_no_announcement_and_it_is_said_where(
    changes: dict[str, Any], where: tuple[str | int, ...]
) -> None:
    with pytest.raises(ValidationError) as refused:
        announcement(**changes)
    [error] = refused.value.errors()
    assert error["loc"] == where


@given(
    st.text() | st.from_regex(r"[*0-9,/-]+( [*0-9a-z,/#L-]+){4}") | st.from_regex(r"FREQ=[A-Z]+(;[A-Z]+=[0-9A-Z,]+)*")
)
def test_any_text_is_either_a_rule_or_no_announcement(rule: str) -> None:
    with contextlib.suppress(ValidationError):
        announcement(rule=rule, start="2026-12-01T09:00")
