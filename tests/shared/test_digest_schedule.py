from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.preferences.digest_schedule import DigestSchedule
from shared.time.localtime import load_zone, to_utc, to_wall_time
from tests.shared.clock_changes import ALL, FIRST, LAST, SAMPLE, ZONES, changes


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("daily 09:00", "daily 09:00"),
        ("Daily 9:00", "daily 09:00"),
        ("weekdays 17:00", "weekdays 17:00"),
        (" weekly  Monday 9.30 ", "weekly mon 09:30"),
        ("OFF", "off"),
    ],
)
def test_digest_schedule_is_parsed_and_formatted(text: str, written: str) -> None:
    assert str(DigestSchedule.parse(text)) == written
    assert DigestSchedule.parse(written) == DigestSchedule.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "09:00", "weekly 09:00", "monthly 09:00", "daily 25:00", "weekly xyz 09:00", "daily 9:00 10:00"],
)
def test_invalid_digest_schedule_is_refused_with_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"write a digest schedule|is not a (time of day|day of the week)") as refused:
        DigestSchedule.parse(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("rule", "zone", "after", "last", "at"),
    [
        ("daily 09:00", "Europe/Berlin", "2026-11-23T07:59", None, "2026-11-23T08:00"),
        ("daily 09:00", "Europe/Berlin", "2026-11-23T08:00", None, "2026-11-24T08:00"),  # strictly after
        ("daily 17:00", "Europe/Berlin", "2026-11-23T12:00", "2026-11-23", "2026-11-24T16:00"),  # was at 09:00 before
        ("weekdays 17:00", "Europe/Berlin", "2026-11-27T16:00", "2026-11-27", "2026-11-30T16:00"),
        ("weekly mon 09:00", "Europe/Berlin", "2026-11-23T08:00", "2026-11-23", "2026-11-30T08:00"),
        ("weekly sun 02:30", "Europe/Berlin", "2026-03-27T00:00", None, "2026-03-29T01:00"),  # in the gap
        ("weekly sun 02:30", "Europe/Berlin", "2026-10-20T00:00", None, "2026-10-25T00:30"),  # the first of two
        ("daily 02:30", "Europe/Berlin", "2026-10-25T00:30", "2026-10-25", "2026-10-26T01:30"),  # not the second
        ("daily 00:00", "Africa/Cairo", "2026-04-23T20:00", "2026-04-23", "2026-04-23T22:00"),  # midnight is skipped
        # From east to west across the date line: the local date has had its digest already.
        ("daily 09:00", "Pacific/Pago_Pago", "2026-11-23T19:30", "2026-11-24", "2026-11-25T20:00"),
        ("weekly tue 09:00", "Pacific/Pago_Pago", "2026-11-23T19:30", "2026-11-24", "2026-12-01T20:00"),
        ("daily 09:00", "Pacific/Kiritimati", "2026-11-23T20:30", "2026-11-23", "2026-11-24T19:00"),
        # From 23:00 to midnight clocks skip an hour: a minute late, and still Saturday's.
        ("daily 23:59", "America/Nuuk", "2024-03-30T12:00", "2024-03-29", "2024-03-31T01:00"),
        ("daily 23:59", "America/Nuuk", "2024-03-31T01:00", "2024-03-30", "2024-04-01T00:59"),
        # Friday 30 December 2011 was skipped: its weekly digest is sent on Saturday, at once, and counts as Saturday's.
        ("weekly fri 09:00", "Pacific/Apia", "2011-12-29T00:00", None, "2011-12-30T10:00"),
        ("daily 09:00", "Pacific/Apia", "2011-12-30T10:00", "2011-12-31", "2011-12-31T19:00"),
        ("weekly sat 09:00", "Pacific/Kwajalein", "1993-08-15T00:00", None, "1993-08-21T12:00"),
    ],
)
def test_next_time_is_after_the_instant_and_on_a_later_date(
    rule: str, zone: str, after: str, last: str | None, at: str
) -> None:
    previous = date.fromisoformat(last) if last else None
    due = DigestSchedule.parse(rule).next_time(utc(after), load_zone(zone), previous)
    assert due is not None
    assert due.at == utc(at)
    assert previous is None or due.date > previous


def test_schedule_that_is_off_has_no_time() -> None:
    assert DigestSchedule.parse("off").next_time(FIRST, load_zone("UTC"), None) is None


@pytest.mark.parametrize("names", ZONES)
def test_daily_schedule_has_one_digest_on_every_local_date(names: list[str]) -> None:
    for number, name in enumerate(names):
        zone, rule = load_zone(name), DigestSchedule.parse(("daily 00:00", "daily 02:30", "daily 23:59")[number % 3])
        now, last, sent = FIRST, to_wall_time(FIRST, zone).date(), list[date]()
        while (due := rule.next_time(now, zone, last)) and due.at < LAST:
            now, last = due.at, due.date
            sent.append(due.date)
            assert due.at == to_utc(datetime.combine(due.date, rule.at), zone), name
        assert sent == [sent[0] + timedelta(days=number) for number in range(len(sent))], name
        assert len(sent) >= (LAST - FIRST).days - 2, name


@pytest.mark.parametrize(
    ("zone", "missing"),
    [
        ("Pacific/Apia", "2011-12-30"),
        ("Pacific/Fakaofo", "2011-12-30"),
        ("Pacific/Kiritimati", "1994-12-31"),
        ("Pacific/Kwajalein", "1993-08-21"),
    ],
)
def test_date_that_the_zone_skipped_has_no_digest_and_its_neighbours_have_one_each(zone: str, missing: str) -> None:
    left_out = date.fromisoformat(missing)
    now, last, sent = datetime.combine(left_out, time(), UTC) - timedelta(days=5), date.min, list[date]()
    for _ in range(9):
        due = DigestSchedule.parse("daily 09:00").next_time(now, load_zone(zone), last)
        assert due is not None
        assert to_wall_time(due.at, load_zone(zone)).date() == due.date
        now, last = due.at, due.date
        sent.append(due.date)
    assert left_out not in sent
    assert set(sent) == {sent[0] + timedelta(days=day) for day in range(10)} - {left_out}


@pytest.mark.parametrize("names", ZONES)
def test_weekly_schedule_has_one_digest_a_week_across_every_clock_change(names: list[str]) -> None:
    for name in names:
        zone = load_zone(name)
        for change in changes(name):
            day = to_wall_time(change, zone).strftime("%a")
            now, last, dates = change - timedelta(days=15), None, list[date]()
            for _ in range(4):
                due = DigestSchedule.parse(f"weekly {day} 02:30").next_time(now, zone, last)
                assert due is not None
                now, last = due.at, due.date
                dates.append(due.date)
            assert all(later - earlier == timedelta(days=7) for earlier, later in pairwise(dates))
            assert to_wall_time(change, zone).date() in dates, name


@dataclass(frozen=True)
class Change:
    """A change of preferences, and the share of the time to the next digest before it (1: the digest is sent)."""

    rule: str
    zone: str
    passed: float


RULES = st.builds(
    "{} {:02}:{:02}".format,
    st.sampled_from(["daily", "weekdays", "weekly mon", "weekly sun"]),
    st.integers(0, 23),
    st.integers(0, 59),
)


@given(
    st.sampled_from([change for name in SAMPLE for change in changes(name)]),
    st.lists(
        st.builds(
            Change,
            RULES,
            st.sampled_from(SAMPLE) | st.sampled_from(ALL),
            st.just(1.0) | st.floats(0, 1, exclude_max=True),
        ),
        min_size=2,
        max_size=12,
    ),
)
def test_no_local_date_has_two_digests_whatever_a_person_changes(start: datetime, edits: list[Change]) -> None:
    now, last = start - timedelta(days=3), None
    for edit in edits:
        due = DigestSchedule.parse(edit.rule).next_time(now, load_zone(edit.zone), last)
        assert due is not None
        assert due.at > now
        assert last is None or due.date > last
        # A time in a gap up to midnight is the next date's first instant.
        assert to_wall_time(due.at, load_zone(edit.zone)).date() - due.date in (timedelta(), timedelta(days=1))
        now += (due.at - now) * edit.passed
        last = due.date if edit.passed == 1 else last
