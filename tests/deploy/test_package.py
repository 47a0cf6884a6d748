"""The package of the app: what `.funcignore` leaves is all that the app needs, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local.processes import ROOT

FOLDERS = {"messages", "notify", "shared", "timer_digest"}
FILES = {"function_app.py", "host.json", "requirements.txt"}
#: What a folder of the app may have beside Python: data, and the licence of a schema.
DATA = {".json", ".txt"}


def package_files() -> list[Path]:
    """Return the tracked files that `.funcignore` leaves, which has the patterns of `.gitignore`."""

    def listed(*options: str) -> set[str]:
        command = ["git", "-c", "safe.directory=*", "ls-files", "-z", *options]  # a container may have another user
        output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        return {name for name in output.split("\0") if name}

    return sorted(Path(name) for name in listed() - listed("--cached", "--ignored", "--exclude-from=.funcignore"))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for file in package_files():
        target = tmp_path / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, target)
    return tmp_path


def test_package_has_what_the_app_needs_and_nothing_else() -> None:
    files = package_files()
    assert {file.parts[0] for file in files} == FOLDERS | FILES
    assert [file for file in files if file.suffix not in {".py", *DATA} and str(file) not in FILES] == []


def test_app_is_imported_from_its_package_alone(package: Path) -> None:
    code = (
        "import function_app, sys\n"
        "print(sorted(each.get_function_name() for each in function_app.app.get_functions()))\n"
        "own = [m.__file__ for n, m in sys.modules.items() if n.split('.')[0] in ('shared', 'notify', 'messages')]\n"
        f"assert all(f is None or f.startswith({str(package)!r}) for f in own), own\n"
    )
    environ = {
        "AZURE_FUNCTIONS_ENVIRONMENT": "Development",
        "AzureWebJobsStorage": "UseDevelopmentStorage=true",
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=package, env=environ, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name in ("messages", "ingest_message", "expand_audience", "send_delivery", "tick_each_minute"):
        assert f"'{name}'" in done.stdout
