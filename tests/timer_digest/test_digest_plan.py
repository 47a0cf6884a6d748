"""The time of a digest, and the order of its entries."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.preferences.categories import Category
from shared.preferences.digest_schedule import DigestSchedule
from shared.preferences.preferences import Preferences
from shared.queue_messages import Delivery
from shared.records import StoredNotification
from shared.states import NotificationState
from shared.time.localtime import load_zone, to_wall_time
from timer_digest.digest_plan import DigestPreferences, digest_times, newest_digest_time
from timer_digest.thread_groups import DigestEntry, group_by_priority

BERLIN = load_zone("Europe/Berlin")
DAILY = DigestSchedule.parse("daily 09:00")
MONDAY = date(2026, 11, 23)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("since", "now", "last", "expected"),
    [
        pytest.param("2026-11-23T07:00", "2026-11-23T07:59", None, None, id="before the time"),
        pytest.param("2026-11-23T07:00", "2026-11-23T08:00", None, MONDAY, id="at the time"),
        pytest.param("2026-11-23T08:00", "2026-11-23T08:10", None, None, id="eligible at the time"),
        pytest.param("2026-11-23T07:00", "2026-11-23T08:10", MONDAY, None, id="the date had its digest"),
        pytest.param("2026-11-20T07:00", "2026-11-23T07:59", None, MONDAY - timedelta(1), id="yesterday, late"),
        pytest.param("2026-11-20T07:00", "2026-11-23T08:10", None, MONDAY, id="one digest after an outage"),
        pytest.param("2020-01-01T00:00", "2026-11-23T08:10", None, MONDAY, id="held for years"),
    ],
)
def test_newest_time_after_the_oldest_eligible_delivery(
    since: str, now: str, last: date | None, expected: date | None
) -> None:
    digest_time = newest_digest_time(DAILY, at(since), at(now), BERLIN, last)
    assert (digest_time.date if digest_time else None) == expected


@pytest.mark.parametrize("rule", ["daily 09:00", "weekdays 17:00", "weekly sun 23:30"])
def test_weekly_schedule_has_a_digest_after_a_long_outage(rule: str) -> None:
    assert newest_digest_time(DigestSchedule.parse(rule), at("2020-01-01"), at("2026-11-25T12:00"), BERLIN, None)


def test_quiet_hours_defer_a_digest_and_keep_its_date_free() -> None:
    digest_preferences = DigestPreferences(Preferences(quiet="20:00-10:30"), BERLIN, "en", DAILY)
    digest_time, next_at = digest_times(at("2026-11-23T07:00"), digest_preferences, at("2026-11-23T08:00"), None)
    assert (digest_time, next_at) == (None, at("2026-11-23T09:30"))
    digest_time, next_at = digest_times(at("2026-11-23T07:00"), digest_preferences, at("2026-11-23T09:30"), None)
    assert digest_time
    assert (digest_time.date, next_at) == (MONDAY, at("2026-11-24T08:00"))


ZONES = [
    "Pacific/Kiritimati", "Pacific/Pago_Pago", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Africa/Cairo"
]  # fmt: skip
RULES = ["daily 00:00", "daily 02:30", "daily 09:00", "daily 23:59", "weekdays 17:00", "weekly sun 02:00"]
MOMENTS = st.integers(0, 6 * 365 * 24 * 60).map(lambda minutes: at("2024-01-01") + timedelta(minutes=minutes))


@given(
    start=MOMENTS,
    ticks=st.lists(
        st.tuples(st.integers(1, 60 * 60), st.sampled_from(ZONES), st.sampled_from(RULES)), min_size=1, max_size=40
    ),
)
def test_one_digest_a_date_while_zone_and_schedule_change(start: datetime, ticks: list[tuple[int, str, str]]) -> None:
    now, last = start, None
    since, sent = now, []
    for minutes, zone, rule in ticks:
        now += timedelta(minutes=minutes)
        digest_time, next_at = digest_times(
            since, DigestPreferences(Preferences(), ZoneInfo(zone), "en", DigestSchedule.parse(rule)), now, last
        )
        assert next_at is None or next_at > now
        if digest_time:
            assert since < digest_time.at <= now
            sent.append(digest_time.date)
            last, since = digest_time.date, now
    assert sent == sorted(set(sent))


@given(start=MOMENTS, zone=st.sampled_from(ZONES))
def test_one_digest_each_day_in_every_zone(start: datetime, zone: str) -> None:
    digest_preferences = DigestPreferences(Preferences(), ZoneInfo(zone), "en", DigestSchedule.parse("daily 02:30"))
    now, last, dates = start, None, []
    for _ in range(10):
        _, next_at = digest_times(None, digest_preferences, now, last)
        assert next_at
        digest_time, _ = digest_times(now, digest_preferences, next_at, last)
        assert digest_time
        now, last = next_at, digest_time.date
        dates.append(digest_time.date)
    assert dates == [dates[0] + timedelta(number) for number in range(10)]
    assert to_wall_time(now, digest_preferences.zone).date() == dates[-1]


def entry(key: str, minute: int, **data: Any) -> DigestEntry:
    """Return the entry of a notification of this title, created this many minutes after 08:00."""
    whole = {"recipients": [{"all": True}], "category": "builds", "content": {"title": key}, **data}
    notification = StoredNotification(
        key=key,
        tenant="t",
        source="/ci",
        id=key,
        content_hash="",
        data=orjson.dumps(whole),
        state=NotificationState.EXPANDED,
        created=at("2026-11-23T08:00") + timedelta(minutes=minute),
        shards=1,
    )
    return DigestEntry(Delivery(key, "0", "u:1", "", 0), notification, Category(name="builds"))


def test_urgent_groups_first_then_the_newest() -> None:
    thread = {"thread": {"key": "t"}}
    entries = [
        entry("old", 0),
        entry("urgent", 1, priority="urgent"),
        entry("first", 2, **thread),
        entry("new", 3),
        entry("second", 4, **thread),
        entry("pager", 0, priority="urgent"),
    ]
    found = [[each.notification.key for each in group] for group in group_by_priority(entries)]
    assert found == [["urgent"], ["pager"], ["second", "first"], ["new"], ["old"]]


def test_group_with_an_urgent_entry_is_urgent() -> None:
    thread = {"thread": {"key": "t"}}
    entries = [entry("urgent", 0, priority="urgent", **thread), entry("new", 9), entry("resolved", 1, **thread)]
    assert [group[0].notification.key for group in group_by_priority(entries)] == ["resolved", "new"]
