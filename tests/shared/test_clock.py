"""The clock of people can be simulated on a developer's machine, and nowhere else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from shared.settings import load_settings
from shared.states import SettingsError
from shared.time import clock

START = datetime(2027, 3, 28, 0, 55, tzinfo=UTC)
DEVELOPMENT = {"AZURE_FUNCTIONS_ENVIRONMENT": "Development"}


def test_clock_runs_from_its_start_at_its_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 11, 23, 10, tzinfo=UTC)
    monkeypatch.setattr(clock, "real_time", lambda: now)
    moved = clock.parse_clock(clock.format_clock("2027-03-28T00:55Z", 60))
    assert moved() == START
    now += timedelta(seconds=10)
    assert moved() == START + timedelta(minutes=10)


def test_clock_stands_still_until_its_real_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 11, 23, 10, tzinfo=UTC)
    monkeypatch.setattr(clock, "real_time", lambda: now)
    moved = clock.parse_clock(clock.format_clock("2027-03-28T00:55Z", 60, now + timedelta(seconds=20)))
    for seconds, minutes in ((0, 0), (19, 0), (2, 1)):
        now += timedelta(seconds=seconds)
        assert moved() == START + timedelta(minutes=minutes)


def test_start_without_offset_is_utc() -> None:
    assert clock.format_clock("2027-03-28T00:55", 1).startswith("2027-03-28T00:55:00+00:00@")


def test_empty_setting_is_the_real_time() -> None:
    assert clock.parse_clock("") is clock.real_time


@pytest.mark.parametrize("text", ["tomorrow", "2027-03-28T00:55Z", f"{clock.CLOCK_EXAMPLE}0000000", "@*", "x@y*1"])
def test_invalid_clock_stops_the_start_with_one_line(text: str) -> None:
    with pytest.raises(SettingsError, match="HERALD_CLOCK") as refused:
        load_settings(DEVELOPMENT | {"HERALD_CLOCK": text})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["WEBSITE_SITE_NAME", "CONTAINER_NAME", "AZURE_FUNCTIONS_ENVIRONMENT"])
def test_simulated_clock_is_refused_outside_development(name: str) -> None:
    deployed = {"MicrosoftAppId": "a", "MicrosoftAppPassword": "b", "MicrosoftAppTenantId": "c"}
    moved = DEVELOPMENT | deployed | {"HERALD_CLOCK": clock.CLOCK_EXAMPLE}
    assert load_settings(moved).clock == clock.CLOCK_EXAMPLE
    with pytest.raises(SettingsError, match="HERALD_CLOCK"):
        load_settings(moved | {name: "Production"})
