from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.preferences.quiet_hours import QuietHours
from shared.time.localtime import load_zone, to_utc, to_wall_time
from tests.shared.clock_changes import FIRST, LAST, SAMPLE, changes


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


WEEK = "mon-fri 18:00-08:00; sat,sun"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("18:00-08:00", "18:00-08:00"),
        ("18:00 – 8:00", "18:00-08:00"),
        ("Mon-Fri 18:00-8:00; Sat, Sun", WEEK),
        ("weekdays 18:00-08:00;weekend", WEEK),
        ("fri-mon 22:00-24:00", "fri-mon 22:00-00:00"),
        ("mon 00:00-24:00", "mon"),
        ("daily 12:00-13:00", "12:00-13:00"),
        ("OFF", "off"),
    ],
)
def test_quiet_hours_are_parsed_and_formatted(text: str, written: str) -> None:
    assert str(QuietHours.parse(text)) == written
    assert QuietHours.parse(written) == QuietHours.parse(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "write quiet hours as"),
        (";", "write quiet hours as"),
        ("18:00", "write quiet hours as"),
        ("mon tue 18:00-08:00", "write quiet hours as"),
        ("18:00-25:00", "not a time of day"),
        ("sometimes", "not a day of the week"),
        ("18:00-18:00", "has the same start and end"),
        ("mon-sun", "cannot cover the whole week"),
        ("00:00-24:00", "cannot cover the whole week"),
        ("08:00-18:00; 18:00-08:00", "cannot cover the whole week"),
        ("mon-thu; thu 12:00-06:00; fri-sun", "cannot cover the whole week"),
        ("mon 12:00-06:00; mon 06:00-12:00; tue-sun", "cannot cover the whole week"),
        ("18:00-08:00, sat,sun", "write quiet hours as"),
        ("18:00-08:00, mon-fri", "write quiet hours as"),
        ("; ".join(["mon 10:00-11:00"] * 15), "at most 14"),
    ],
)
def test_invalid_quiet_hours_are_refused_with_one_line(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        QuietHours.parse(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "zone", "at", "until"),
    [
        (WEEK, "Europe/Berlin", "2026-11-23T16:59", None),  # Monday 17:59
        (WEEK, "Europe/Berlin", "2026-11-23T17:00", "2026-11-24T07:00"),
        (WEEK, "Europe/Berlin", "2026-11-23T23:00", "2026-11-24T07:00"),  # midnight
        (WEEK, "Europe/Berlin", "2026-11-24T07:00", None),  # the end is not quiet
        (WEEK, "Europe/Berlin", "2026-11-27T20:00", "2026-11-30T07:00"),  # Friday evening, with the weekend
        (WEEK, "Europe/Berlin", "2026-11-29T12:00", "2026-11-30T07:00"),  # Sunday, with the next morning
        (WEEK, "Europe/Berlin", "2026-11-29T23:00", "2026-11-30T07:00"),  # Monday 00:00
        (WEEK, "Europe/Berlin", "2026-11-30T07:00", None),
        ("sun-thu 18:00-08:00; fri,sat", "Europe/Berlin", "2026-11-26T20:00", "2026-11-29T07:00"),
        ("mon-fri 22:00-07:00; mon 20:00-09:00; sun", "Europe/Berlin", "2026-11-29T12:00", "2026-11-30T08:00"),
        ("fri 18:00-08:00; sun", "Europe/Berlin", "2026-11-29T12:00", "2026-11-29T23:00"),  # Monday has no hours
        ("mon-fri 12:00-13:00; sun", "Europe/Berlin", "2026-11-29T12:00", "2026-11-29T23:00"),
        ("mon-fri 18:00-24:00; sun", "Europe/Berlin", "2026-11-29T12:00", "2026-11-29T23:00"),
        ("mon-fri 18:00-08:00", "Europe/Berlin", "2026-11-29T23:00", None),  # Sunday is not quiet
        ("18:00-08:00; sat,sun", "Europe/Berlin", "2026-11-27T20:00", "2026-11-30T07:00"),
        ("off", "Europe/Berlin", "2026-11-27T20:00", None),
        # The night in which clocks skip 02:00 to 03:00.
        ("22:00-08:00", "Europe/Berlin", "2026-03-28T22:00", "2026-03-29T06:00"),
        ("22:00-02:30", "Europe/Berlin", "2026-03-29T00:59", "2026-03-29T01:00"),
        ("22:00-02:30", "Europe/Berlin", "2026-03-29T01:00", None),
        ("02:30-04:00", "Europe/Berlin", "2026-03-29T01:00", "2026-03-29T02:00"),
        ("02:15-02:45", "Europe/Berlin", "2026-03-29T01:00", None),  # no such minute in this night
        # The night in which they repeat 02:00 to 03:00: the first of the two counts.
        ("22:00-02:30", "Europe/Berlin", "2026-10-25T00:29", "2026-10-25T00:30"),
        ("22:00-02:30", "Europe/Berlin", "2026-10-25T01:10", None),
        ("02:30-04:00", "Europe/Berlin", "2026-10-25T01:10", "2026-10-25T03:00"),
        ("sat", "Africa/Cairo", "2026-04-24T20:59", None),  # Friday 23:59
        ("fri", "Africa/Cairo", "2026-04-23T22:00", "2026-04-24T21:00"),  # starts at 01:00: midnight is skipped
        ("18:00-08:00", "Pacific/Kiritimati", "2026-11-23T04:00", "2026-11-23T18:00"),  # +14: 18:00 there
        ("18:00-08:00", "Pacific/Kiritimati", "2026-11-23T18:00", None),
        ("sat,sun", "Pacific/Kiritimati", "2026-11-27T10:00", "2026-11-29T10:00"),
        ("18:00-08:00", "Pacific/Pago_Pago", "2026-11-23T18:59", "2026-11-23T19:00"),  # -11: 07:59 there
        ("sat,sun", "Pacific/Pago_Pago", "2026-11-30T10:59", "2026-11-30T11:00"),
        ("fri", "Pacific/Apia", "2011-12-30T10:00", None),  # the Friday that the zone skipped
        ("thu,sat", "Pacific/Apia", "2011-12-30T09:59", "2011-12-31T10:00"),
    ],
)
def test_quiet_hours_follow_local_time(text: str, zone: str, at: str, until: str | None) -> None:
    assert QuietHours.parse(text).find_end(utc(at), load_zone(zone)) == (utc(until) if until else None)


def test_quiet_lasts_to_the_next_week_when_clocks_skip_its_only_open_minute() -> None:
    quiet = QuietHours.parse("mon-sat; sun 00:00-02:30; sun 02:31-24:00")
    assert quiet.find_end(utc("2026-03-28T12:00"), load_zone("Europe/Berlin")) == utc("2026-04-05T00:30")


def test_whole_days_leave_no_gap_before_hours() -> None:
    """docs/odd-inputs.md, Times."""
    card = QuietHours.daily(time(18), time(8), [5, 6])
    zone = load_zone("Europe/Berlin")
    for text in (WEEK, "sat-sun; mon-fri 18:00-08:00", str(card)):
        for at in ("2026-11-28T12:00", "2026-11-29T12:00", "2026-11-30T03:00"):
            assert QuietHours.parse(text).find_end(utc(at), zone) == utc("2026-11-30T07:00")


CLOCKS = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
SPANS = st.builds(
    "{} {}-{}".format, st.sampled_from(["daily", "mon-fri", "sat,sun", "fri-mon", "wed"]), CLOCKS, CLOCKS
) | st.sampled_from(["sat,sun", "sun", "mon"])


def twelve_hours(at: time) -> str:
    return f"{at.hour % 12 or 12}:{at.minute:02} {'pm' if at.hour >= 12 else 'am'}"


FORMS = ["{}-{}", "{} – {}", "from {} to {}", "{} until {}", "daily {}-{}", "{}-{} every day", "between {} and {}"]


@given(st.times(), st.times(), st.sampled_from(FORMS), st.booleans())
def test_spellings_of_hours_mean_the_same(start: time, end: time, form: str, is_twelve: bool) -> None:
    """docs/odd-inputs.md, Times."""
    if (start.hour, start.minute) == (end.hour, end.minute):
        return
    show = twelve_hours if is_twelve else "{:%H:%M}".format
    assert str(QuietHours.parse(form.format(show(start), show(end)))) == f"{start:%H:%M}-{end:%H:%M}"


@st.composite
def quiet_hours(draw: st.DrawFn) -> QuietHours:
    text = "; ".join(draw(st.lists(SPANS, min_size=1, max_size=3)))
    try:
        return QuietHours.parse(text)
    except ValueError:
        return QuietHours.parse("18:00-08:00")


INSTANTS = st.datetimes(FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None), timezones=st.just(UTC))


@given(quiet_hours(), st.sampled_from(SAMPLE), INSTANTS, st.booleans(), st.timedeltas(timedelta(-1), timedelta(1)))
def test_quiet_is_continuous_until_its_end(
    quiet: QuietHours, name: str, at: datetime, near: bool, apart: timedelta
) -> None:
    zone = load_zone(name)
    if near and changes(name):
        at = min(changes(name), key=lambda change: abs(change - at)) + apart
    until = quiet.find_end(at, zone)
    day = to_wall_time(at, zone).date()
    spans = [span for step in (-1, 0, 1) for span in quiet.spans_on(day + timedelta(step))]
    assert (until is not None) == any(to_utc(start, zone) <= at < to_utc(end, zone) for start, end in spans)
    if until is not None:
        assert until > at
        assert quiet.find_end(until, zone) is None
        assert quiet.find_end(at + (until - at) / 2, zone) == until
        assert quiet.find_end(until - timedelta(microseconds=1), zone) == until


@given(quiet_hours(), st.sampled_from(SAMPLE), INSTANTS)
def test_wall_time_decides_on_days_without_a_clock_change(quiet: QuietHours, name: str, at: datetime) -> None:
    if any(abs(change - at) < timedelta(days=3) for change in changes(name)):
        return
    wall = to_wall_time(at, load_zone(name))
    minute = wall.hour * 60 + wall.minute
    hit, after_whole_day = (
        False,
        any(span.is_whole_day and (wall.weekday() - 1) % 7 in span.days for span in quiet.spans),
    )
    for span in quiet.spans:
        start, end = (each.hour * 60 + each.minute for each in (span.start, span.end))
        today, yesterday = (day % 7 in span.days for day in (wall.weekday(), wall.weekday() - 1))
        hit |= (today and start <= minute < (end if start < end else 1440)) or (yesterday and start >= end > minute)
        hit |= today and after_whole_day and start > end > minute
    assert (quiet.find_end(at, load_zone(name)) is not None) == hit
