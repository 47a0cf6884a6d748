"""Preferences are stored without loss, and fit into their column."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from shared.preferences.preferences import FOREVER, MAX_ENTRIES, Preferences, TooManyPreferences, decode_preferences
from shared.states import Mode

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)
ALL = Preferences(
    time_zone="Europe/Berlin",
    locale="de",
    stopped=True,
    default=Mode.DIGEST,
    categories={"builds": Mode.OFF},
    paused_until=FOREVER,
    quiet="18:00-08:00",
    digest="daily 09:00",
    topics=("releases",),
    own_actions=True,
    version=3,
).mute("build/42", FOREVER, NOW)


@pytest.mark.parametrize("preferences", [Preferences(), ALL])
def test_decoded_preferences_equal_the_encoded_ones(preferences: Preferences) -> None:
    assert decode_preferences(preferences.encode()) == preferences


def test_fields_of_a_newer_version_are_ignored() -> None:
    assert decode_preferences('{"added": 1, "locale": "de"}') == Preferences(locale="de")


def test_next_mute_removes_those_that_have_ended() -> None:
    preferences = Preferences().mute("over", NOW, NOW).mute("other", FOREVER, NOW)
    assert (preferences.muted_until("over"), preferences.muted_until("other")) == (None, FOREVER)


def test_too_many_entries_are_refused() -> None:
    preferences = Preferences()
    for turn in range(MAX_ENTRIES):
        preferences = preferences.with_topic(f"t{turn}")
    with pytest.raises(TooManyPreferences, match="topics"):
        preferences.with_topic("one more")


def test_preferences_larger_than_a_column_are_refused() -> None:
    long = {f"{turn:03}" + "x" * 250: Mode.OFF for turn in range(MAX_ENTRIES)}
    Preferences(categories=long).encode()
    with pytest.raises(TooManyPreferences, match="long names"):
        Preferences(categories=long, topics=tuple(f"{turn}{'y' * 98}" for turn in range(MAX_ENTRIES))).encode()
