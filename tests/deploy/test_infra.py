"""The Bicep templates: what is used is declared, and what the app needs is set. No compiler is at hand to check it.

`pycep` parses the files (syntax only); the rest compares the declarations of the files with their uses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pycep import BicepParser

from local.bootstrap import PYTHON_VERSIONS
from local.processes import ROOT
from shared.settings import GRAPH_URL, Settings
from shared.teams.hosts import TEAMS_HOSTS

INFRA = ROOT / "infra"
FILES = sorted(INFRA.rglob("*.bicep"))
#: Settings that the template does not have: a developer's, and those that Azure sets itself.
NOT_IN_TEMPLATE = {"HERALD_CLOCK", "AZURE_FUNCTIONS_ENVIRONMENT", "WEBSITE_SITE_NAME", "CONTAINER_NAME"}

by_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


@cache
def parse(file: Path) -> Mapping[str, Any]:
    parsed: Mapping[str, Any] = BicepParser().parse(text=file.read_text("utf-8"))
    return parsed


def names(file: Path, kind: str) -> set[str]:
    return set(parse(file).get(kind, {}))


def modules(file: Path) -> Mapping[str, tuple[str, str]]:
    """Return the path and the text of each module of a file by its name."""
    text = file.read_text("utf-8")
    found = re.finditer(r"^module (\w+) '([^']+)' = (?:if \([^)]*\) )?\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    return {each[1]: (each[2], each[3]) for each in found}


def passed(body: str) -> set[str]:
    """Return the names of the parameters that a module gets."""
    params = re.search(r"^  params: \{\n(.*?)^  \}", body, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^    (\w+):", params[1], re.MULTILINE)) if params else set()


@by_file
def test_each_declaration_is_used_and_each_use_is_declared(file: Path) -> None:
    text = re.sub(r"^ *//.*", "", file.read_text("utf-8"), flags=re.MULTILINE)
    declared = re.findall(r"^(?:param|var) (\w+)", text, re.MULTILINE)
    assert [name for name in declared if len(re.findall(rf"\b{name}\b", text)) < 2] == []
    declared += re.findall(r"^(?:resource|module) (\w+)", text, re.MULTILINE)
    assert len(declared) == len(set(declared))
    loops = {name for pair in re.findall(r"for \(?(\w+)(?:, (\w+)\))? in", text) for name in pair if name}
    used = set(re.findall(r"\$\{([a-z]\w+)", text))
    used |= set(re.findall(r"^ +\w+: ([a-z]\w+)(?:\.\w+)*$", text, re.MULTILINE))
    assert used - {*declared, *loops, "environment", "subscription", "true", "false"} == set()


@by_file
def test_each_module_gets_its_parameters_and_has_the_outputs_that_are_used(file: Path) -> None:
    text = file.read_text("utf-8")
    for name, (path, body) in modules(file).items():
        if path.startswith("br/"):
            continue
        target = file.parent / path
        required = {each for each, value in parse(target)["parameters"].items() if value.get("default") is None}
        assert required <= passed(body) <= names(target, "parameters"), name
        assert set(re.findall(rf"\b{name}\.outputs\.(\w+)", text)) <= names(target, "outputs"), name
    used = set(re.findall(r"\b(\w+)\.outputs\.", text))
    assert used <= modules(file).keys()


def test_parameters_file_has_the_parameters_of_the_template() -> None:
    parameters = json.loads((INFRA / "main.parameters.json").read_text("utf-8"))["parameters"]
    assert parameters.keys() == names(INFRA / "main.bicep", "parameters")


def test_each_setting_of_the_app_is_in_the_template() -> None:
    text = "".join(file.read_text("utf-8") for file in FILES)
    settings = {str(field.alias) for field in Settings.model_fields.values()} - NOT_IN_TEMPLATE
    assert [name for name in sorted(settings) if not re.search(rf"\b{name}: ", text)] == []
    written = set(re.findall(r"\b((?:HERALD_|Microsoft|To(?:Bot|Channel)From)\w+): ", text))
    assert written <= settings


@pytest.mark.parametrize("name", ["main.bicep", "app/app.bicep"])
def test_each_secret_is_a_secure_parameter(name: str) -> None:
    text = (INFRA / name).read_text("utf-8")
    secure = set(re.findall(r"^@secure\(\)\n(?:@description\(.*\)\n)?param (\w+)", text, re.MULTILINE))
    assert secure == {"botAppPassword", "botAppCertificate"}


def test_each_role_is_assigned() -> None:
    text = (INFRA / "app/roles.bicep").read_text("utf-8")
    roles = re.findall(r"^var (\w+) = '[0-9a-f-]{36}'", text, re.MULTILINE)
    assert len(roles) == 4
    assigned = re.findall(r"for role in [^\n]*\[([^\]]+)\]", text) + re.findall(r"Definitions', (\w+)\)", text)
    assert set(roles) <= set(re.split(r", ", ", ".join(assigned)))


def test_app_runs_on_the_newest_supported_python() -> None:
    assert f"version: '{PYTHON_VERSIONS[0]}'" in (INFRA / "app/app.bicep").read_text("utf-8")


def test_storage_has_no_keys_and_the_app_knows_each_service_by_its_endpoint() -> None:
    main, app = ((INFRA / name).read_text("utf-8") for name in ("main.bicep", "app/app.bicep"))
    assert "allowSharedKeyAccess: false" in main
    assert "allowBlobPublicAccess: false" in main
    assert "disableLocalAuth: true" in main
    services = re.findall(r"AzureWebJobsStorage__(\w+)ServiceUri", app)
    assert services == ["blob", "queue", "table"]
    assert "AccountKey" not in main + app


def test_clouds_name_the_hosts_that_the_app_knows() -> None:
    clouds = json.loads((INFRA / "clouds.json").read_text("utf-8"))
    hosts = {host for cloud in clouds.values() for host in cloud["serviceHosts"].split(",")}
    assert hosts == TEAMS_HOSTS
    assert {name: cloud["graph"] for name, cloud in clouds.items()} == {
        "public": GRAPH_URL, "gcc": GRAPH_URL,
        "gcchigh": "https://graph.microsoft.us", "dod": "https://dod-graph.microsoft.us",
    }  # fmt: skip
    allowed = re.search(r"@allowed\(\[([^\]]+)\]\)\n@description\('Microsoft cloud", (INFRA / "main.bicep").read_text())
    assert allowed
    assert {name.strip(" '") for name in allowed[1].split(",")} == clouds.keys()
