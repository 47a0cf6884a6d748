from __future__ import annotations

import re
import subprocess
import sys
import zoneinfo
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tzlocal.windows_tz import win_tz

from shared.time.localtime import load_chosen_zone, load_zone
from shared.time.zone_names import (
    ABBREVIATIONS,
    LEGACY_WINDOWS_NAMES,
    find_zone,
    load_iana_zone,
    suggest_zones,
    suggest_zones_of_rule,
)
from tests.shared.clock_changes import ALL
from tests.shared.test_rule_text import check_plain


def test_every_windows_name_has_the_offsets_of_its_cldr_zone() -> None:
    for windows, iana in win_tz.items():
        for month in (1, 7):
            at = datetime(2026, month, 1, tzinfo=UTC)
            assert at.astimezone(load_zone(windows)).utcoffset() == at.astimezone(load_zone(iana)).utcoffset(), windows


def test_every_iana_name_is_found_in_any_case() -> None:
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
        ("Europe/Kiev", "Europe/Kiev"),  # a former IANA name stays as given
    ],
)
def test_windows_name_is_found_in_any_case_and_spacing(name: str, key: str) -> None:
    assert load_zone(name).key == key


def test_every_legacy_windows_name_is_found_in_any_case() -> None:
    assert {name: load_zone(name.upper()).key for name in LEGACY_WINDOWS_NAMES} == LEGACY_WINDOWS_NAMES


@pytest.mark.parametrize(
    ("city", "zone"),
    [
        ("Berlin", "Europe/Berlin"),
        ("Zürich", "Europe/Zurich"),
        ("são paulo ", "America/Sao_Paulo"),
        ("buenos aires", "America/Argentina/Buenos_Aires"),  # not its former name America/Buenos_Aires
        ("Kiev", "Europe/Kyiv"),
    ],
)
def test_city_is_found_by_its_present_name(city: str, zone: str) -> None:
    assert load_zone(city).key == zone


@pytest.mark.parametrize(
    ("name", "suggestions"),
    [
        ("Europe/Berln", ["Europe/Berlin"]),
        ("Amercia/New_York", ["America/New_York"]),
        ("BST", ["Europe/London", "Asia/Dhaka", "Pacific/Bougainville"]),
        ("cst", ["America/Chicago", "Asia/Shanghai", "America/Havana"]),
        ("IST", ["Asia/Kolkata", "Europe/Dublin", "Asia/Jerusalem"]),
        ("Pacific Time", ["America/Los_Angeles"]),
        ("W. Europe Summer Time", ["Europe/Berlin"]),
        ("CET-1CEST,M3.5.0,M10.5.0/3", ["Europe/Berlin", "Europe/Budapest", "Europe/Paris", "Europe/Warsaw"]),
        ("CET-1CEST", ["Europe/Berlin", "Europe/Budapest", "Europe/Paris", "Europe/Warsaw"]),
        ("GMT0BST,M3.5.0/1,M10.5.0", ["Europe/London"]),
        ("W. Europe Standart Time", ["Europe/Berlin"]),
        ("(UTC+01:00) Amsterdam, Berlin, Bern, Rome", ["Europe/Amsterdam", "Europe/Berlin", "Europe/Rome"]),
    ],
)
def test_unknown_name_is_answered_with_suggestions(name: str, suggestions: list[str]) -> None:
    found = suggest_zones_of_rule(name) or suggest_zones(name)
    assert found[: len(suggestions)] == suggestions
    with pytest.raises(ValueError, match=r"is not a time zone\. Did you mean ") as refused:
        load_zone(name)
    assert all(zone in str(refused.value) for zone in found)
    assert "\n" not in str(refused.value)
    assert all(load_zone(zone).key == zone for zone in found)


def test_abbreviations_have_several_zones_and_are_no_iana_names() -> None:
    for abbreviation, zones in ABBREVIATIONS.items():
        assert find_zone(abbreviation) is None
        assert len(zones) > 1
        assert [load_zone(zone).key for zone in zones] == zones
        assert suggest_zones(abbreviation.upper()) == zones


@pytest.mark.parametrize(
    ("offset", "fixed"),
    [
        ("+02:00", ", or Etc/GMT-2 for a fixed offset"),
        ("UTC+1", ", or Etc/GMT-1 for a fixed offset"),
        ("GMT −5", ", or Etc/GMT+5 for a fixed offset"),
        ("utc-12", ", or Etc/GMT+12 for a fixed offset"),
        ("+0530", ""),
        ("UTC-13", ""),
        ("+15", ""),
    ],
)
def test_offset_is_answered_with_what_to_write_instead(offset: str, fixed: str) -> None:
    with pytest.raises(ValueError, match="is an offset") as refused:
        load_zone(offset)
    expected = f"“{offset}” is an offset, not a time zone; write a zone such as Europe/Berlin{fixed}"
    assert str(refused.value) == expected


def test_suggested_fixed_offset_has_that_offset() -> None:
    at = datetime(2026, 7, 1, tzinfo=UTC)
    for hours in range(-12, 15):
        with pytest.raises(ValueError, match="for a fixed offset") as refused:
            load_zone(f"{hours:+}:00")
        [zone] = re.findall(r"Etc/GMT[+-]\d+", str(refused.value))
        assert at.astimezone(load_zone(zone)).utcoffset() == timedelta(hours=hours)


def test_zone_data_comes_from_the_locked_package_and_not_the_machine(tmp_path: Path) -> None:
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
def test_text_that_names_no_zone_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone"):
        load_zone(name)


def test_text_without_similar_name_is_answered_with_an_example() -> None:
    with pytest.raises(ValueError, match="is not a time zone; write one such as Europe/Berlin"):
        load_zone("Mars/Olympus")


def test_heavy_packages_are_not_imported_with_the_time_modules() -> None:
    modules = "localtime, recurrence, holidays; from shared.preferences import digest_schedule, quiet_hours, pause"
    heavy = "{'cronsim', 'dateutil', 'icalendar', 'tzlocal', 'difflib', 'importlib.resources'}"
    code = f"import sys; from shared.time import {modules}; assert not {heavy} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("W. Europe Daylight Time", "Europe/Berlin"),
        ("eastern daylight time", "America/New_York"),
        ("tzone://Microsoft/Utc", "Etc/UTC"),
        ("Z", "Etc/UTC"),
        (":Europe/Berlin", "Europe/Berlin"),
        ("/usr/share/zoneinfo/Europe/Berlin", "Europe/Berlin"),
        ("/mozilla.org/20050126_1/America/Argentina/Buenos_Aires", "America/Argentina/Buenos_Aires"),
        ("/freeassociation.sourceforge.net/Europe/Berlin", "Europe/Berlin"),
        ("EST5EDT", "EST5EDT"),
    ],
)
def test_other_spellings_of_a_zone_are_found(name: str, key: str) -> None:
    """docs/odd-inputs.md, Times."""
    assert load_zone(name).key == load_chosen_zone(f" {name.upper()} ").key == key


@pytest.mark.parametrize(
    "name", ["Customized Time Zone", "customized time zone 1", "Customised Time Zone", "tzone://Microsoft/Custom"]
)
def test_zone_that_one_computer_defines_is_unknown(name: str) -> None:
    """docs/odd-inputs.md, Times."""
    assert find_zone(name) is None  # so a client that has it gets the next best zone
    with pytest.raises(ValueError, match="is a time zone that one computer defines, without known rules"):
        load_zone(name)


@pytest.mark.parametrize(("name", "zone"), [("EST", "America/New_York"), ("mst", "America/Denver")])
def test_abbreviation_without_daylight_saving_time_is_answered_with_both_zones(name: str, zone: str) -> None:
    """docs/odd-inputs.md, Times."""
    with pytest.raises(ValueError, match=f"Write {zone} for the time zone with it, or Etc/GMT"):
        load_chosen_zone(name)
    assert load_zone(name).key == name.upper()  # stored before, or of a client


PIECES = ["Europe", "Berlin", "/", ":", "_", " ", "Standard Time", "Daylight Time", "UTC", "GMT", "+", "-", "01:00",
          "5", "CET", "EST", "M3.5.0", ",", "(", ")", "<+03>", "Customized", "tzone://Microsoft/", "\n"]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=8).map("".join))
def test_any_text_is_a_zone_or_answered_with_one_line(text: str) -> None:
    """docs/odd-inputs.md, Times."""
    try:
        assert load_chosen_zone(text).key in ALL
    except ValueError as error:
        check_plain(str(error))


@given(
    st.sampled_from([*win_tz, *ALL]), st.sampled_from(["{}", " {} ", ":{}", "/usr/share/zoneinfo/{}"]), st.booleans()
)
def test_spellings_of_a_zone_mean_the_same(name: str, form: str, is_upper: bool) -> None:
    """docs/odd-inputs.md, Times."""
    if form.strip() != "{}" and "/" not in name:
        return
    text = form.format(name.upper() if is_upper else name.lower())
    assert load_zone(text).key == load_zone(name).key
