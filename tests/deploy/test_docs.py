"""The documents about deployment: every file, setting and command that they name exists."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import dev
from local.processes import ROOT

DOCS = [ROOT / "docs" / name for name in ("deploy.md", "security.md", "migrate-company-communicator.md")]
documents = pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)


def code_of(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text) + re.findall(r"^ {0,3}```\n(.*?)```", text, re.MULTILINE | re.DOTALL)


@documents
def test_each_file_that_is_named_exists(document: Path) -> None:
    text = document.read_text("utf-8")
    named = {
        each.split("::")[0] for each in code_of(text) if re.fullmatch(r"[\w./-]+\.(md|py|json|bicep)(::\w+)?", each)
    }
    links = {link.split("#")[0] for link in re.findall(r"\]\((?!http)([^)#]+)", text)}
    assert named | links
    made = {name for name in named if name.startswith(".local/")}  # by `dev.py`
    assert [name for name in named - made if not (ROOT / name).exists()] == []
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


@documents
def test_each_test_that_is_named_exists(document: Path) -> None:
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", document.read_text("utf-8")):
        assert f"def {name}(" in (ROOT / path).read_text("utf-8"), name


@documents
def test_each_command_of_the_project_exists(document: Path) -> None:
    text = document.read_text("utf-8")
    for command in re.findall(r"python dev\.py (\w+)", text):
        assert command in dev.COMMANDS
    for module in re.findall(r"python\s+-m ([\w.]+)", text):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists()


def test_each_setting_of_the_deployment_is_a_parameter() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    parameters = (ROOT / "infra" / "main.parameters.json").read_text("utf-8")
    assert json.loads(parameters)
    outputs = set(re.findall(r"^output (\w+) ", (ROOT / "infra" / "main.bicep").read_text("utf-8"), re.MULTILINE))
    for name in set(re.findall(r"`(HERALD_\w+)`", text)) - outputs:
        assert f"${{{name}" in parameters, name
