"""The Teams app package: what `dev.py package` builds from `app_package/`."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from local.package import FILES, SOURCE, PackageError, fill_in, read_deployment, write_package
from local.processes import NODE_MODULES
from messages.commands.parser import COMMANDS, UnknownCommand, parse_command

VALUES = {
    "APP_ID": "0d6a1c9e-7a52-4b1f-9a35-2f6f3d1b8c44",
    "BOT_ID": "5f0c1b52-8f5e-4a57-9d0b-6b1d3c0f7a11",
    "HOST": "func-abc.azurewebsites.net",
    "DEVELOPER_NAME": 'Example "Quality" Ltd',
    "WEBSITE_URL": "https://www.example.com",
    "PRIVACY_URL": "https://www.example.com/privacy",
    "TERMS_URL": "https://www.example.com/terms",
}


@pytest.fixture
def manifest() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fill_in(VALUES)["manifest.json"])
    return found


def test_package_has_its_files_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        write_package(fill_in(VALUES), tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as package:
        assert package.namelist() == list(FILES)
        assert "{{" not in package.read("manifest.json").decode()


def test_manifest_has_the_ids_and_the_host(manifest: dict[str, Any]) -> None:
    [bot] = manifest["bots"]
    assert (manifest["id"], bot["botId"], manifest["validDomains"]) == (
        VALUES["APP_ID"],
        VALUES["BOT_ID"],
        [VALUES["HOST"]],
    )
    assert manifest["webApplicationInfo"] == {"id": VALUES["BOT_ID"]}  # so that Graph may install the app for people
    assert manifest["developer"]["name"] == VALUES["DEVELOPER_NAME"]
    assert set(bot["scopes"]) == {"personal", "team", "groupChat"}
    assert manifest["supportsChannelFeatures"] == "tier1"
    assert "authorization" not in manifest  # Herald uses no resource-specific permission


def find_manifest_faults(file: Path) -> list[str]:
    """Return what Microsoft's package for manifests finds wrong in one; it has the schemas of all versions."""
    code = """
        const {AppManifestUtils} = require("@microsoft/app-manifest");
        AppManifestUtils.readAndValidateTeamsManifest(process.argv[1])
            .then(([, faults]) => console.log(JSON.stringify(faults)));
    """
    command = [shutil.which("node") or "node", "-e", code, str(file)]
    done = subprocess.run(command, cwd=NODE_MODULES.parent, check=True, capture_output=True, text=True)
    found: list[str] = json.loads(done.stdout)
    return found


def test_manifest_is_valid_for_microsofts_own_package(manifest: dict[str, Any], tmp_path: Path) -> None:
    valid, invalid = tmp_path / "manifest.json", tmp_path / "invalid.json"
    valid.write_bytes(fill_in(VALUES)["manifest.json"])
    invalid.write_text(json.dumps(manifest | {"accentColor": "red"}), "utf-8")
    assert find_manifest_faults(valid) == []
    [fault] = find_manifest_faults(invalid)
    assert fault.startswith("/accentColor ")


@pytest.mark.parametrize("missing", sorted(VALUES))
def test_missing_value_is_one_line_with_the_option(missing: str) -> None:
    with pytest.raises(PackageError, match=r"^--\w+") as error:
        fill_in(VALUES | {missing: ""})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("language", ["en", "de"])
def test_each_command_that_teams_suggests_is_one_that_herald_understands(
    manifest: dict[str, Any], language: str
) -> None:
    translations = json.loads((SOURCE / "de.json").read_text("utf-8"))
    for number, commands in enumerate(manifest["bots"][0]["commandLists"]):
        for index, command in enumerate(commands["commands"]):
            key = f"bots[0].commandLists[{number}].commands[{index}]"
            title = command["title"] if language == "en" else translations[f"{key}.title"]
            text = command["description"] if language == "en" else translations[f"{key}.description"]
            known = {name for each in COMMANDS for name in each.names[language]}
            assert title in known or title.rsplit(" ", 1)[0] in known, title
            assert not isinstance(parse_command(title), UnknownCommand)
            assert len(title) <= 32
            assert len(text) <= 128


def test_each_text_is_translated(manifest: dict[str, Any]) -> None:
    keys = {key for key in json.loads((SOURCE / "de.json").read_text("utf-8")) if key != "$schema"}
    lists = manifest["bots"][0]["commandLists"]
    expected = {f"{part}.{length}" for part in ("name", "description") for length in ("short", "full")}
    expected |= {
        f"bots[0].commandLists[{number}].commands[{index}].{part}"
        for number, commands in enumerate(lists)
        for index in range(len(commands["commands"]))
        for part in ("title", "description")
    }
    assert keys == expected


@pytest.mark.parametrize(("name", "size"), [("color.png", 192), ("outline.png", 32)])
def test_icons_have_the_sizes_that_teams_requires(name: str, size: int) -> None:
    content = (SOURCE / name).read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">II", content[16:24]) == (size, size)


def test_ids_come_from_the_deployment_that_azd_chose_last(tmp_path: Path) -> None:
    assert read_deployment(tmp_path) == {}
    (tmp_path / "config.json").write_text('{"version": 1, "defaultEnvironment": "herald"}')
    assert read_deployment(tmp_path) == {}
    (tmp_path / "herald").mkdir()
    (tmp_path / "herald" / ".env").write_text(
        f'AZURE_ENV_NAME="herald"\nHERALD_APP_ID="{VALUES["BOT_ID"]}"\nHERALD_ENDPOINT="https://x/api/messages"\n'
    )
    found = read_deployment(tmp_path)
    assert (found["HERALD_APP_ID"], found["HERALD_ENDPOINT"]) == (VALUES["BOT_ID"], "https://x/api/messages")


def test_outputs_that_the_package_reads_are_those_of_the_template() -> None:
    template = (Path(SOURCE).parent / "infra" / "main.bicep").read_text("utf-8")
    outputs = set(re.findall(r"^output (\w+) ", template, re.MULTILINE))
    assert {"HERALD_APP_ID", "HERALD_ENDPOINT"} <= outputs
