from __future__ import annotations

import subprocess
import sys
import zoneinfo
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import pytest
from tzlocal.windows_tz import win_tz

from shared.time.localtime import load_zone
from shared.time.zone_names import LEGACY, UnknownZone, load_iana_zone
from tests.shared.clockchanges import ALL


def test_every_windows_name_is_a_zone_with_the_same_clocks_as_cldr_says() -> None:
    for windows, iana in win_tz.items():
        for month in (1, 7):
            at = datetime(2026, month, 1, tzinfo=UTC)
            assert at.astimezone(load_zone(windows)).utcoffset() == at.astimezone(load_zone(iana)).utcoffset(), windows


def test_every_iana_name_is_its_zone_in_any_case() -> None:
    assert [load_zone(name.upper()).key for name in ALL] == ALL
    assert [load_zone(name.lower().replace("_", " ")).key for name in ALL] == ALL


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("W. Europe Standard Time", "Europe/Berlin"),
        ("w. europe  standard time ", "Europe/Berlin"),
        ("FLE Standard Time", "Europe/Kyiv"),  # CLDR says Europe/Kiev
        ("India Standard Time", "Asia/Kolkata"),
        ("UTC", "UTC"),
        ("Europe/Kiev", "Europe/Kiev"),  # an old name stays as it was given
    ],
)
def test_a_name_is_found_as_people_and_systems_write_it(name: str, key: str) -> None:
    assert load_zone(name).key == key


def test_every_name_that_systems_still_tell_is_a_zone_in_any_case() -> None:
    assert {name: load_zone(name.upper()).key for name in LEGACY} == LEGACY


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("Berlin", "Europe/Berlin"),
        ("Zürich", "Europe/Zurich"),
        ("São Paulo", "America/Sao_Paulo"),
        ("buenos aires", "America/Argentina/Buenos_Aires"),
        ("Europe/Berln", "Europe/Berlin"),
        ("Amercia/New_York", "America/New_York"),
        ("India", "Asia/Kolkata"),
        ("de", "Europe/Berlin"),
        ("UK", "Europe/London"),
        ("USA", "America/Los_Angeles"),
        ("CEST", "Europe/Berlin"),
        ("PST", "America/Los_Angeles"),
        ("Pacific Time", "America/Los_Angeles"),
        ("W. Europe Daylight Time", "Europe/Berlin"),
        ("W. Europe Standart Time", "Europe/Berlin"),
        ("(UTC+01:00) Amsterdam, Berlin, Bern, Rome, Stockholm, Vienna", "Europe/Vienna"),
        ("+02:00", "Europe/Berlin"),
        ("UTC+2", "Africa/Johannesburg"),
        ("GMT −5", "America/New_York"),
        ("+0530", "Asia/Kolkata"),
        ("UTC-11:00", "Pacific/Pago_Pago"),
        ("UTC-12", "Etc/GMT+12"),
    ],
)
def test_what_is_no_name_is_answered_with_the_zones_that_may_be_meant(name: str, suggestion: str) -> None:
    with pytest.raises(UnknownZone) as refused:
        load_zone(name)
    assert suggestion in refused.value.suggestions
    assert suggestion in str(refused.value)
    assert "\n" not in str(refused.value)
    assert all(load_zone(each).key == each for each in refused.value.suggestions)


def test_an_offset_is_told_to_know_no_daylight_saving_time_and_when_each_zone_has_it() -> None:
    with pytest.raises(UnknownZone, match=r"no daylight saving time; .*all year Africa/.*in summer Europe/Berlin"):
        load_zone("UTC+02:00")
    with pytest.raises(UnknownZone, match="no zone has it") as refused:
        load_zone("+15")
    assert refused.value.suggestions == ()
    with pytest.raises(UnknownZone, match="all year") as refused:
        load_zone("+01")
    assert "Africa/Casablanca" not in refused.value.suggestions  # not in Ramadan


def test_the_clocks_of_a_zone_are_those_of_the_locked_package_whatever_the_machine_has(tmp_path: Path) -> None:
    tokyo = files("tzdata").joinpath("zoneinfo", "Asia", "Tokyo").read_bytes()
    (tmp_path / "Europe").mkdir()
    (tmp_path / "Europe" / "Sofia").write_bytes(tokyo)
    load_zone.cache_clear()
    load_iana_zone.cache_clear()
    zoneinfo.reset_tzpath([tmp_path])
    try:
        assert load_zone("Europe/Sofia").utcoffset(datetime(2026, 1, 1)) == timedelta(hours=2)  # noqa: DTZ001 (a wall time)
    finally:
        zoneinfo.reset_tzpath()


@pytest.mark.parametrize("name", ["", " ", "Mars/Olympus", "../../etc/passwd", "/etc/passwd", "\0", "posixrules",
                                  "right/Europe/Paris", "localtime", "Factory", "x" * 100_000])  # fmt: skip
def test_what_is_no_zone_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(UnknownZone, match="is no IANA time zone and no Windows one"):
        load_zone(name)


def test_what_only_few_need_is_not_loaded_with_the_modules_that_everything_needs() -> None:
    modules = "localtime, recurrence, holidays; from shared.preferences import digest_schedule, quiet_hours, pause"
    heavy = "{'cronsim', 'dateutil', 'tzlocal', 'difflib', 'importlib.resources'}"
    code = f"import sys; from shared.time import {modules}; assert not {heavy} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
