"""The preview says when an announcement comes for whom, and where a change of clocks moves it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from local.fake_teams.client import FakeTeams
from shared.contract.models import Announcement
from tests.support.digests import prefer
from tests.support.herald import Herald
from timer_digest.preview import main, preview

ANNOUNCEMENT: dict[str, Any] = {
    "rule": "30 2 * * *",
    "timeZone": "recipient",
    "notification": {"recipients": [{"all": True}], "category": "news", "content": {"title": "Good morning"}},
}
TENANT = "11111111-1111-1111-1111-111111111111"
NOBODY_ANSWERS = (
    "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5;"
    "QueueEndpoint=http://127.0.0.1:1/a;TableEndpoint=http://127.0.0.1:1/a"
)
#: The evening before clocks are put forward in Berlin.
EVENING = datetime(2027, 3, 27, 18, tzinfo=UTC)


def previewed(zones: list[str], count: int, **changes: Any) -> dict[str, list[tuple[str, str, str]]]:
    announcement = Announcement.model_validate(ANNOUNCEMENT | changes)
    found = preview(announcement, zones, count, EVENING)
    return {
        name: [(f"{each.wall:%d %H:%M}", f"{each.at:%d %H:%M}", each.note) for each in times]
        for name, times in found.items()
    }


def test_each_has_their_own_times_and_a_skipped_one_is_said_to_be_moved() -> None:
    assert previewed(["Europe/Berlin", "Tokyo Standard Time"], 2) == {
        "Europe/Berlin": [
            ("28 03:00", "28 01:00", "clocks skip 02:30: at 03:00 of 2027-03-28"),
            ("29 02:30", "29 00:30", ""),
        ],
        "Tokyo Standard Time": [("29 02:30", "28 17:30", ""), ("30 02:30", "29 17:30", "")],
    }


def test_of_each_ones_own_times_all_in_a_gap_are_shown_at_its_end() -> None:
    [times] = previewed(["Europe/Berlin"], 5, rule="*/15 2 * * *").values()
    at_its_end = [
        ("28 03:00", "28 01:00", f"clocks skip 02:{minute}: at 03:00 of 2027-03-28")
        for minute in ("00", "15", "30", "45")
    ]
    assert times == [*at_its_end, ("29 02:00", "29 00:00", "")]


def test_a_time_that_clocks_show_twice_is_said_to_be_the_first() -> None:
    [(wall, at, note)] = previewed(["Europe/Berlin"], 1, start="2027-10-31T00:00")["Europe/Berlin"]
    assert (wall, at, note) == ("31 02:30", "31 00:30", "clocks show 02:30 twice: the first time")


def test_who_lives_elsewhere_is_told_when_the_clocks_of_one_place_change() -> None:
    found = previewed(["Asia/Tokyo"], 2, rule="0 1 * * *", timeZone="Europe/Berlin")
    assert [(wall, note) for wall, _, note in found["Asia/Tokyo"]] == [
        ("28 09:00", ""),
        ("29 08:00", "60 minutes earlier than before: the clocks changed in Europe/Berlin"),
    ]


def test_how_much_earlier_it_comes_elsewhere_counts_from_the_time_before_a_gap_and_in_it() -> None:
    found = previewed(["Asia/Tokyo", "W. Europe Standard Time"], 3, timeZone="Europe/Berlin")
    earlier = "30 minutes earlier than before: the clocks changed in Europe/Berlin"
    skipped = "clocks skip 02:30: at 03:00 of 2027-03-28"
    assert [(wall, note) for wall, _, note in found["Asia/Tokyo"]] == [
        ("28 10:00", f"in Europe/Berlin {skipped}"),
        ("29 09:30", earlier),
        ("30 09:30", ""),
    ]
    assert [note for _, _, note in found["W. Europe Standard Time"]] == [skipped, "", ""]


def written(tmp_path: Path, value: Any) -> str:
    file = tmp_path / "announcement.json"
    file.write_text(json.dumps(value), encoding="utf-8")
    return str(file)


COMMAND = {"command": "schedule", "target": {"schedule": "morning"}, "announcement": ANNOUNCEMENT}


@pytest.mark.parametrize("value", [ANNOUNCEMENT, COMMAND], ids=["alone", "in its command"])
def test_the_command_line_prints_the_times_of_each_zone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: Any
) -> None:
    arguments = [written(tmp_path, value), "--count", "1", "--zone", "Europe/Berlin", "--after", "2027-03-27T18:00"]
    assert main(arguments) == 0
    [place, line] = capsys.readouterr().out.splitlines()
    assert place == "Europe/Berlin"
    assert line == "  Sun 2027-03-28 03:00  2027-03-28T01:00Z  clocks skip 02:30: at 03:00 of 2027-03-28"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (ANNOUNCEMENT | {"rule": "0 25 * * *"}, "/announcement/rule: "),
        ({"command": "cancel", "target": {"id": "x"}}, "contains no announcement"),
        ([], "announcement.json: must be a JSON object"),
    ],
)
def test_a_file_that_cannot_be_announced_is_refused_with_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: Any, said: str
) -> None:
    assert main([written(tmp_path, value)]) == 1
    assert said in capsys.readouterr().err


def test_a_file_that_is_no_json_is_told_where_it_ends_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "announcement.json"
    file.write_text('\n{"rule": "0 9 * * *",\n "timeZone" "recipient"}', encoding="utf-8")
    assert main([str(file)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{file}: is no JSON in UTF-8: ")
    assert line.endswith(" in line 3, column 13")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--after", "tomorrow"], "a date or time such as 2027-03-27, 2027-03-27T18:00 (both in UTC) or"),
        (["--after", "0001-01-01"], "must be in the years"),
        (["--after", "9999-12-31T23:59-12:00"], "must be in the years"),
        (["--count", "-1"], "a number from 1 to 1000, not '-1'"),
        (["--count", "0"], "a number from 1 to 1000, not '0'"),
        (["--count", "many"], "a number from 1 to 1000, not 'many'"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main([written(tmp_path, ANNOUNCEMENT), *arguments])
    assert left.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"argument {arguments[0]}: " in line
    assert said in line


def test_an_instant_without_an_offset_is_in_utc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = set()
    for after in ("2027-03-27T18:00", "2027-03-27T18:00Z", "2027-03-27T19:00+01:00"):
        assert main([written(tmp_path, ANNOUNCEMENT), "--zone", "Asia/Tokyo", "--after", after]) == 0
        said.add(capsys.readouterr().out)
    assert len(said) == 1


def test_a_zone_that_there_is_not_gets_the_helpful_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([written(tmp_path, ANNOUNCEMENT), "--zone", "Berlin"])
    assert left.value.code == 2
    assert "Europe/Berlin" in capsys.readouterr().err


@pytest.mark.azurite
async def test_people_are_told_by_the_clocks_of_the_zone_that_is_known_of_them(
    herald: Herald, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in herald.environ.items():
        monkeypatch.setenv(name, value)
    ada, bob, cleo = (await herald.grow(people=3)).people
    await prefer(herald, ada, time_zone="Asia/Tokyo")
    await prefer(herald, bob, time_zone="Asia/Tokyo")
    await prefer(herald, cleo, categories={"news": "digest"})
    asked = [f"--person={each.object_id.upper()}" for each in (ada, bob, cleo)] + [f"--person={TENANT}", "--count=1"]
    assert await asyncio.to_thread(main, [written(tmp_path, ANNOUNCEMENT), *asked, "--after=2027-03-27T18:00"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{cleo.object_id} has no time zone: UTC is used (HERALD_DEFAULT_TIME_ZONE)",
        f"{TENANT} is unknown to Herald: UTC is used (HERALD_DEFAULT_TIME_ZONE)",
        f"Asia/Tokyo: {ada.object_id}, {bob.object_id}",
        "  Mon 2027-03-29 02:30  2027-03-28T17:30Z",
        f"UTC: {cleo.object_id}, {TENANT}",
        "  Sun 2027-03-28 02:30  2027-03-28T02:30Z",
    ]


@pytest.mark.azurite
async def test_who_only_reads_needs_no_app_id_wherever_that_is(
    herald: Herald, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AzureWebJobsStorage", herald.environ["AzureWebJobsStorage"])
    monkeypatch.setenv("CONTAINER_NAME", "here")
    [ada] = (await herald.grow(people=1)).people
    await prefer(herald, ada, time_zone="Asia/Tokyo")
    asked = ["--tenant", herald.tenant, "--person", ada.object_id, "--count=1"]
    assert await asyncio.to_thread(main, [written(tmp_path, ANNOUNCEMENT), *asked]) == 0
    assert capsys.readouterr().out.startswith(f"Asia/Tokyo: {ada.object_id}\n")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AzureWebJobsStorage", "", "AzureWebJobsStorage is missing"),
        ("AzureWebJobsStorage", NOBODY_ANSWERS, "the storage of AzureWebJobsStorage does not answer"),
        ("HERALD_ALLOWED_TENANTS", f"{TENANT},{TENANT[:-1]}2", "--tenant is required"),
    ],
)
def test_who_cannot_be_looked_for_is_not_and_the_line_says_why(
    teams: FakeTeams,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    said: str,
) -> None:
    for known, good in (teams.settings | {"AzureWebJobsStorage": NOBODY_ANSWERS, name: value}).items():
        monkeypatch.setenv(known, good)
    with pytest.raises(SystemExit) as left:
        main([written(tmp_path, ANNOUNCEMENT), "--person", TENANT])
    assert left.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
