"""The deployment package of the app, as `azd deploy` makes it: the tracked files that `.funcignore` leaves."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

from packaging.markers import default_environment

from local.processes import ROOT
from local.sbom import LOCK, select_locked


def package_files() -> list[Path]:
    """Return the files of the package, relative to the repository. `.funcignore` has the patterns of `.gitignore`."""

    def listed(*options: str) -> set[str]:
        command = ["git", "-c", "safe.directory=*", "ls-files", "-z", *options]  # a container may have another user
        output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        return {name for name in output.split("\0") if name}

    return sorted(Path(name) for name in listed() - listed("--cached", "--ignored", "--exclude-from=.funcignore"))


def unpack_package(folder: Path) -> Path:
    """Copy the package to this folder, and return it."""
    for file in package_files():
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, target)
    return folder


def link_packages(folder: Path, more: Iterable[str] = ()) -> Path:
    """Link in this folder what is installed of `requirements.txt`, and of `more` packages; return the folder.

    It is the only import path of a Python that runs with `-S`.
    """
    folder.mkdir()
    locked = select_locked(LOCK.read_text("utf-8"), default_environment())  # type: ignore[arg-type]
    for name in (*(entry.partition("==")[0] for entry in locked), *more):
        package = distribution(re.sub(r"\[.*", "", name))
        for top in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(package.locate_file(top))))
    return folder
