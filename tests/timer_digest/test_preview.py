"""The preview shows the times of an announcement in each zone, and how clock changes move them."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from azure.core.pipeline.transport import AsyncHttpTransport

from local.fake_teams.client import FakeTeams
from shared.contract.models import Announcement
from tests.support.digests import set_preferences
from tests.support.herald import Herald
from timer_digest.preview import main, preview

ANNOUNCEMENT: dict[str, Any] = {
    "rule": "30 2 * * *",
    "timeZone": "recipient",
    "notification": {"recipients": [{"all": True}], "category": "news", "content": {"title": "Good morning"}},
}
TENANT = "11111111-1111-1111-1111-111111111111"
UNREACHABLE_STORAGE = (
    "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5;"
    "QueueEndpoint=http://127.0.0.1:1/a;TableEndpoint=http://127.0.0.1:1/a"
)
#: The evening before the clocks go forward in Berlin.
EVENING = datetime(2027, 3, 27, 18, tzinfo=UTC)


def preview_times(zones: list[str], count: int, **changes: Any) -> dict[str, list[tuple[str, str, str]]]:
    """Return day and wall time, day and UTC time, and note of each occurrence after `EVENING`, by zone."""
    announcement = Announcement.model_validate(ANNOUNCEMENT | changes)
    found = preview(announcement, zones, count, EVENING)
    return {
        name: [(f"{each.wall:%d %H:%M}", f"{each.at:%d %H:%M}", each.note) for each in times]
        for name, times in found.items()
    }


def test_recipient_times_differ_by_zone_and_name_a_skipped_time() -> None:
    assert preview_times(["Europe/Berlin", "Tokyo Standard Time"], 2) == {
        "Europe/Berlin": [
            ("28 03:00", "28 01:00", "clocks skip 02:30: at 03:00 of 2027-03-28"),
            ("29 02:30", "29 00:30", ""),
        ],
        "Tokyo Standard Time": [("29 02:30", "28 17:30", ""), ("30 02:30", "29 17:30", "")],
    }


def test_recipient_times_in_a_gap_are_all_at_its_end() -> None:
    [times] = preview_times(["Europe/Berlin"], 5, rule="*/15 2 * * *").values()
    skipped = [
        ("28 03:00", "28 01:00", f"clocks skip 02:{minute}: at 03:00 of 2027-03-28")
        for minute in ("00", "15", "30", "45")
    ]
    assert times == [*skipped, ("29 02:00", "29 00:00", "")]


def test_repeated_time_is_the_first_of_the_two() -> None:
    [(wall, at, note)] = preview_times(["Europe/Berlin"], 1, start="2027-10-31T00:00")["Europe/Berlin"]
    assert (wall, at, note) == ("31 02:30", "31 00:30", "clocks show 02:30 twice: the first time")


def test_note_names_the_zone_whose_clock_change_shifts_the_time() -> None:
    found = preview_times(["Asia/Tokyo"], 2, rule="0 1 * * *", timeZone="Europe/Berlin")
    assert [(wall, note) for wall, _, note in found["Asia/Tokyo"]] == [
        ("28 09:00", ""),
        ("29 08:00", "60 minutes earlier than before: the clocks changed in Europe/Berlin"),
    ]


def test_shift_is_measured_from_an_occurrence_at_the_end_of_a_gap() -> None:
    found = preview_times(["Asia/Tokyo", "W. Europe Standard Time"], 3, timeZone="Europe/Berlin")
    earlier = "30 minutes earlier than before: the clocks changed in Europe/Berlin"
    skipped = "clocks skip 02:30: at 03:00 of 2027-03-28"
    assert [(wall, note) for wall, _, note in found["Asia/Tokyo"]] == [
        ("28 10:00", f"in Europe/Berlin {skipped}"),
        ("29 09:30", earlier),
        ("30 09:30", ""),
    ]
    assert [note for _, _, note in found["W. Europe Standard Time"]] == [skipped, "", ""]


def write_file(tmp_path: Path, value: Any) -> str:
    file = tmp_path / "announcement.json"
    file.write_text(json.dumps(value), encoding="utf-8")
    return str(file)


COMMAND = {"command": "schedule", "target": {"schedule": "morning"}, "announcement": ANNOUNCEMENT}


@pytest.mark.parametrize("value", [ANNOUNCEMENT, COMMAND], ids=["announcement", "command"])
def test_command_line_prints_the_times_of_each_zone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: Any
) -> None:
    arguments = [write_file(tmp_path, value), "--count", "1", "--zone", "Europe/Berlin", "--after", "2027-03-27T18:00"]
    assert main(arguments) == 0
    [zone, line] = capsys.readouterr().out.splitlines()
    assert zone == "Europe/Berlin"
    assert line == "  Sun 2027-03-28 03:00  2027-03-28T01:00Z  clocks skip 02:30: at 03:00 of 2027-03-28"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (ANNOUNCEMENT | {"rule": "0 25 * * *"}, "/announcement/rule: "),
        ({"command": "cancel", "target": {"id": "x"}}, "contains no announcement"),
        ([], "announcement.json: must be a JSON object"),
    ],
)
def test_invalid_file_is_refused_with_its_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: Any, message: str
) -> None:
    assert main([write_file(tmp_path, value)]) == 1
    assert message in capsys.readouterr().err


def test_invalid_json_is_refused_with_line_and_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "announcement.json"
    file.write_text('\n{"rule": "0 9 * * *",\n "timeZone" "recipient"}', encoding="utf-8")
    assert main([str(file)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{file}: is not valid JSON: ")
    assert line.endswith(" in line 3, column 13")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--after", "tomorrow"], "a date or time such as 2027-03-27, 2027-03-27T18:00 (both in UTC) or"),
        (["--after", "0001-01-01"], "must be in the years"),
        (["--after", "9999-12-31T23:59-12:00"], "must be in the years"),
        (["--count", "-1"], "a number from 1 to 1000, not '-1'"),
        (["--count", "0"], "a number from 1 to 1000, not '0'"),
        (["--count", "many"], "a number from 1 to 1000, not 'many'"),
    ],
)
def test_invalid_argument_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([write_file(tmp_path, ANNOUNCEMENT), *arguments])
    assert exit_info.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"argument {arguments[0]}: " in line
    assert message in line


def test_time_without_an_offset_is_in_utc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = set()
    for after in ("2027-03-27T18:00", "2027-03-27T18:00Z", "2027-03-27T19:00+01:00"):
        assert main([write_file(tmp_path, ANNOUNCEMENT), "--zone", "Asia/Tokyo", "--after", after]) == 0
        outputs.add(capsys.readouterr().out)
    assert len(outputs) == 1


def test_unknown_zone_is_refused_with_a_suggestion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([write_file(tmp_path, ANNOUNCEMENT), "--zone", "Berlni"])
    assert exit_info.value.code == 2
    assert "Europe/Berlin" in capsys.readouterr().err


@pytest.mark.azurite
async def test_times_of_people_are_in_their_known_zone(
    herald: Herald, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in herald.environ.items():
        monkeypatch.setenv(name, value)
    ada, bob, cleo = (await herald.grow(people=3)).people
    await set_preferences(herald, ada, time_zone="Asia/Tokyo")
    await set_preferences(herald, bob, time_zone="Asia/Tokyo")
    await set_preferences(herald, cleo, categories={"news": "digest"})
    options = [f"--person={each.object_id.upper()}" for each in (ada, bob, cleo)] + [f"--person={TENANT}", "--count=1"]
    arguments = [write_file(tmp_path, ANNOUNCEMENT), *options, "--after=2027-03-27T18:00"]
    assert await asyncio.to_thread(main, arguments) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{cleo.object_id} has no time zone: UTC is used (HERALD_DEFAULT_TIME_ZONE)",
        f"{TENANT} is unknown to Herald: UTC is used (HERALD_DEFAULT_TIME_ZONE)",
        f"Asia/Tokyo: {ada.object_id}, {bob.object_id}",
        "  Mon 2027-03-29 02:30  2027-03-28T17:30Z",
        f"UTC: {cleo.object_id}, {TENANT}",
        "  Sun 2027-03-28 02:30  2027-03-28T02:30Z",
    ]


@pytest.mark.azurite
async def test_person_needs_no_app_id_in_a_container(
    herald: Herald, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AzureWebJobsStorage", herald.environ["AzureWebJobsStorage"])
    monkeypatch.setenv("CONTAINER_NAME", "here")
    [ada] = (await herald.grow(people=1)).people
    await set_preferences(herald, ada, time_zone="Asia/Tokyo")
    options = ["--tenant", herald.tenant, "--person", ada.object_id, "--count=1"]
    assert await asyncio.to_thread(main, [write_file(tmp_path, ANNOUNCEMENT), *options]) == 0
    assert capsys.readouterr().out.startswith(f"Asia/Tokyo: {ada.object_id}\n")


async def _do_not_wait(_: object, seconds: float) -> None:
    """Replace the wait between two attempts of a storage client."""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("AzureWebJobsStorage", "", "AzureWebJobsStorage is missing"),
        ("AzureWebJobsStorage", UNREACHABLE_STORAGE, "the storage of AzureWebJobsStorage does not answer"),
        ("HERALD_ALLOWED_TENANTS", f"{TENANT},{TENANT[:-1]}2", "--tenant is required"),
    ],
)
def test_person_that_cannot_be_looked_up_is_refused_with_the_reason(
    teams: FakeTeams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    message: str,
) -> None:
    monkeypatch.setattr(AsyncHttpTransport, "sleep", _do_not_wait)
    for each, text in (teams.settings | {"AzureWebJobsStorage": UNREACHABLE_STORAGE, name: value}).items():
        monkeypatch.setenv(each, text)
    with pytest.raises(SystemExit) as exit_info:
        main([write_file(tmp_path, ANNOUNCEMENT), "--person", TENANT])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
