"""The script that grants permissions of Microsoft Graph: it knows those that the app uses, and grants no others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from local.processes import ROOT
from shared.teams import graph_answers

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell script")

SCRIPT = ROOT / "infra" / "grant-graph-permissions.sh"
USED = {each.permission for each in vars(graph_answers).values() if isinstance(each, graph_answers.Operation)}
#: Answers to its calls, which it records: `granted` is the number of assignments of the role.
AZ = """#!/bin/sh
echo "$@" >> "$AZ_CALLS"
case "$*" in
  *"ad sp show"*appRoles*) echo role-id ;;
  *"ad sp show"*) echo graph-id ;;
  *"cloud show"*) echo https://graph.example/ ;;
  *"--method get"*) echo "$AZ_GRANTED" ;;
esac
"""


def run(folder: Path, *arguments: str, granted: int = 0) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    (folder / "az").write_text(AZ)
    (folder / "az").chmod(0o755)
    calls = folder / "calls"
    calls.touch()
    environ = {"PATH": f"{folder}:{os.environ['PATH']}", "AZ_CALLS": str(calls), "AZ_GRANTED": str(granted)}
    done = subprocess.run(["sh", str(SCRIPT), *arguments], env=environ, check=False, capture_output=True, text=True)
    return done, calls.read_text().splitlines()


def test_script_and_document_name_the_permissions_that_the_app_uses() -> None:
    text = SCRIPT.read_text("utf-8")
    assert set(re.findall(r"^#   ([A-Z]\w+\.[\w.]+) +\w", text, re.MULTILINE)) == USED
    known = re.search(r'^KNOWN="([^"]+)"', text, re.MULTILINE)
    assert known
    assert set(known[1].split()) == USED
    document = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    assert set(re.findall(r"^\| `([A-Z]\w+\.[\w.]+)` \|", document, re.MULTILINE)) == USED


def test_each_wanted_permission_is_granted_once(tmp_path: Path) -> None:
    done, calls = run(tmp_path, "principal-id", "User.Read.All", "MailboxSettings.Read")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "User.Read.All is granted\nMailboxSettings.Read is granted\n"
    posts = [call for call in calls if "--method post" in call]
    url = "https://graph.example/v1.0/servicePrincipals/principal-id/appRoleAssignments"
    body = '{"principalId": "principal-id", "resourceId": "graph-id", "appRoleId": "role-id"}'
    assert posts == [f"rest --method post --url {url} --output none --body {body}"] * 2


def test_permission_that_was_granted_is_left_alone(tmp_path: Path) -> None:
    done, calls = run(tmp_path, "principal-id", "User.Read.All", granted=1)
    assert done.stdout == "User.Read.All was granted before\n"
    assert [call for call in calls if "--method post" in call] == []


def test_other_permissions_are_refused_before_any_call(tmp_path: Path) -> None:
    done, calls = run(tmp_path, "principal-id", "User.Read.All", "Mail.Read")
    assert (done.returncode, calls) == (2, [])
    assert done.stderr == "Mail.Read is not a permission that Herald uses\n"


def test_without_permissions_it_says_what_they_are(tmp_path: Path) -> None:
    done, calls = run(tmp_path, "principal-id")
    assert (done.returncode, calls) == (2, [])
    assert all(permission in done.stderr for permission in USED)
