from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.preferences.categories import load_categories
from shared.states import SettingsError


def declared(folder: Path, value: object) -> str:
    path = folder / "categories.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return str(path)


def test_without_a_file_every_category_has_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (load_categories("").of("builds").on_unknown, load_categories("").of("builds").simulate) == ("resend", False)


def test_declared_category_has_its_settings_and_others_those_of_default(tmp_path: Path) -> None:
    file = declared(tmp_path, [{"name": "payments", "onUnknown": "stop"}, {"name": "default", "simulate": True}])
    assert load_categories(file).of("payments").on_unknown == "stop"
    assert not load_categories(file).of("payments").simulate
    assert load_categories(file).of("builds").simulate


def test_file_in_the_apps_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared(tmp_path, [{"name": "builds", "simulate": True}])
    monkeypatch.chdir(tmp_path)
    assert load_categories("").of("builds").simulate


@pytest.mark.parametrize("value", ["no json", {"name": "x"}, [{"name": ""}], [{"name": "x", "onUnknwon": "stop"}]])
def test_invalid_file_stops_the_start_with_one_line(tmp_path: Path, value: object) -> None:
    with pytest.raises(SettingsError) as refused:
        load_categories(declared(tmp_path, value))
    assert "categories.json" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_file_without_end_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="/dev/zero: has more than"):
        load_categories("/dev/zero")


def test_missing_configured_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="HERALD_CATEGORIES_FILE"):
        load_categories(str(tmp_path / "missing.json"))
