"""The package of the app: what `.funcignore` leaves is all that the app needs, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from local.processes import ROOT
from tests.support.package import link_packages, package_files, unpack_package

FOLDERS = {"messages", "notify", "shared", "timer_digest"}
FILES = {"function_app.py", "host.json", "requirements.txt"}
#: What a folder of the app may have beside Python: data, and the licence of a schema.
DATA = {".json", ".txt"}


def test_package_has_what_the_app_needs_and_nothing_else() -> None:
    files = package_files()
    assert {file.parts[0] for file in files} == FOLDERS | FILES
    assert [file for file in files if file.suffix not in {".py", *DATA} and str(file) not in FILES] == []


#: Load the app in the current folder as Microsoft's worker does in Azure, and print the names of its functions.
LOAD = """
import asyncio
from pathlib import Path
from tests.host.library_worker import start_worker
print(*asyncio.run(start_worker(Path.cwd())).names)
"""
#: Like the settings in Azure.
ENVIRON = {
    "MicrosoftAppId": "5f0c1b52-8f5e-4a57-9d0b-6b1d3c0f7a11",
    "MicrosoftAppTenantId": "0d6a1c9e-7a52-4b1f-9a35-2f6f3d1b8c44",
    "MicrosoftAppType": "UserAssignedMSI",
    "AzureWebJobsStorage__queueServiceUri": "https://example.queue.core.windows.net",
    "AzureWebJobsStorage__tableServiceUri": "https://example.table.core.windows.net",
    "AzureWebJobsStorage__credential": "managedidentity",
}


@pytest.mark.skipif(sys.version_info < (3, 13), reason="the library worker needs Python 3.13 or later")
def test_library_worker_loads_the_package_with_only_its_requirements(tmp_path: Path) -> None:
    """The local host does the same in `tests/e2e/test_missing_setting.py`."""
    app = unpack_package(tmp_path / "app")
    packages = link_packages(tmp_path / "packages", ["azure-functions-runtime", "azurefunctions-extensions-base"])
    (packages / "tests").symlink_to(ROOT / "tests")
    environ = ENVIRON | {"PATH": os.defpath, "PYTHONPATH": str(packages)}
    command = [sys.executable, "-S", "-c", LOAD]
    done = subprocess.run(command, cwd=app, env=environ, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"messages", "ingest_message", "expand_audience", "send_delivery", "tick_each_minute"} <= {
        *done.stdout.split()
    }


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "requirements-bench.txt"])
def test_each_locked_package_has_hashes_and_no_registry(name: str) -> None:
    lock = (ROOT / name).read_text("utf-8")
    pins = re.findall(r"^(\w\S*==\S+.*(?:\n {4}.*)*)", lock, re.MULTILINE)
    assert len(pins) > 40
    assert [pin for pin in pins if "--hash=sha256:" not in pin] == []
    entries = re.sub(
        r"^(?:#.*|\w\S*==[^\\\n]*\\| {4}--hash=sha256:[0-9a-f]{64}(?: \\)?)$\n?", "", lock, flags=re.MULTILINE
    )
    assert entries == ""


def test_each_locked_node_package_has_a_hash_and_no_registry() -> None:
    lock = json.loads((ROOT / "local" / "node" / "package-lock.json").read_text("utf-8"))
    packages = {name: each for name, each in lock["packages"].items() if name and not each.get("link")}
    downloaded = {name: each for name, each in packages.items() if name != "none"}
    assert [name for name, each in downloaded.items() if not each.get("integrity", "").startswith("sha512-")] == []
    assert [name for name, each in packages.items() if "://" in str(each.get("resolved", ""))] == []
