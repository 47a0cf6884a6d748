"""What `dev.py` needs before it can run the rest: `.venv`, and the Node packages in `.local/node`.

Standard library alone, in a syntax that an old Python can read too: so that it can say what is missing.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

#: The Pythons that azure-functions and botbuilder run on, the newest first.
PYTHONS = ("3.13", "3.12", "3.11")
#: The oldest Node that Azurite and the Playground run on.
NODE = 20
#: Seconds between two looks at a lock that another process holds.
LOCK_LOOK = 0.2

#: Variables that would lead a child to another Python or into another environment than ours.
_MISLEADING = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX", "PIP_USER")
#: Lines of pip and npm that name an error, and those of them that say nothing about it.
_ERROR = re.compile(r"^\s*(ERROR:|npm (ERR!|error)|\w*Error:)", re.IGNORECASE)
_NOISE = re.compile(r"complete log of this run|npm (ERR!|error)\s*(code|errno|path|stack|syscall|$)", re.IGNORECASE)
#: What Debian's Python says where it cannot make a .venv yet.
_ADVICE = re.compile(r"^\s*(apt install \S+)", re.MULTILINE)


class Missing(Exception):
    """Something that must be there is not; the text is one line which says what to do."""


class Setup:
    """Makes and checks the environments of the checkout in `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.local = root / ".local"
        self.node_folder = self.local / "node"

    @property
    def python(self) -> Path:
        """The interpreter of `.venv`."""
        return self.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def environ(self) -> dict[str, str]:
        """The environment for what runs in `.venv`, as if that were activated, whichever is active now."""
        kept = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
        path = os.pathsep.join([str(self.python.parent), kept.get("PATH", os.defpath)])
        kept.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of the many processes would compile all sources anew
        return {**kept, "VIRTUAL_ENV": str(self.venv), "PATH": path}

    def ensure_python(self, *names: str) -> None:
        """`.venv` with the packages of these requirements files; immediate where they have not changed.

        Raises `Missing`.
        """
        marker, unfinished = self.venv / ".herald-installed", self.venv / ".herald-unfinished"
        wanted = {digest(self.root / name) for name in names}

        def done() -> bool:
            return self.python.exists() and marker.exists() and wanted <= set(marker.read_text("utf-8").split())

        def install() -> None:
            if unfinished.exists() or not self._venv_works():
                self._make_venv()
            unfinished.touch()
            marker.unlink(missing_ok=True)
            requirements = [part for name in names for part in ("-r", str(self.root / name))]
            options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
            with step("Installing the Python packages"):
                self._run("pip", [str(self.python), "-m", "pip", "install", *options, *requirements], self.root)
            marker.write_text("\n".join(sorted(wanted)), "utf-8")
            unfinished.unlink()

        self._once(done, install)

    def ensure_node(self) -> None:
        """Node, and the packages of `local/node/package-lock.json`; raises `Missing`."""
        program = node()
        source = self.root / "local" / "node"
        marker = self.node_folder / ".installed"
        wanted = digest(source / "package.json", source / "package-lock.json")

        def done() -> bool:
            return marker.exists() and marker.read_text("utf-8") == wanted

        def install() -> None:
            marker.unlink(missing_ok=True)
            self.node_folder.mkdir(parents=True, exist_ok=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copyfile(source / name, self.node_folder / name)
            options = ["--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--no-progress"]
            with step("Installing Azurite and the Playground"):
                self._run("npm", [*npm(program), "ci", *options], self.node_folder)
            marker.write_text(wanted, "utf-8")

        self._once(done, install)

    def _once(self, done: Callable[[], bool], install: Callable[[], None]) -> None:
        if done():
            return
        self.local.mkdir(exist_ok=True)
        with lock(self.local / "setup.lock"):
            if not done():  # another process may just have done it
                install()

    def _venv_works(self) -> bool:
        python = str(self.python)
        return self.python.exists() and version(python) in PYTHONS and _succeeds(python, "-m", "pip", "-V")

    def _make_venv(self) -> None:
        python = find_python(f"{sys.version_info[0]}.{sys.version_info[1]}")
        with step(f"Making {self.venv.name} with Python {version(*python)}"):
            self._run("venv", [*python, "-m", "venv", "--clear", str(self.venv)], self.root)

    def _run(self, tool: str, command: Sequence[str], folder: Path) -> None:
        log = self.local / "log" / (tool + ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            code = subprocess.run(
                command,
                cwd=str(folder),
                env={**self.environ(), "PIP_USER": "0"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        if code:
            raise Missing(f"{tool} failed: {reason(log.read_text('utf-8', 'replace'))} (all it said: {log})")


def find_python(running: str) -> list[str]:
    """The command of the newest Python that the app runs on: this one, of version `running` ("3.11"), or one on PATH.

    Raises `Missing`.
    """
    for wanted in PYTHONS:
        if wanted == running:
            return [sys.executable]
        for command in (["py", "-" + wanted], ["python" + wanted], ["python3"], ["python"]):
            program = shutil.which(command[0])
            if program and version(program, *command[1:]) == wanted:
                return [program, *command[1:]]
    raise Missing(
        f"Python {', '.join(PYTHONS[:0:-1])} or {PYTHONS[0]} is needed, and this is {running}: "
        "install one from https://www.python.org and run this again"
    )


def version(*command: str) -> str:
    """Which Python `command` runs, as "3.11"; empty where it runs none."""
    asked = [*command, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def node() -> str:
    """The path of a Node that is new enough; raises `Missing`."""
    program = shutil.which("node")
    if program is None:
        raise Missing(f"Node {NODE} or newer is needed and `node` is not on PATH: install it from https://nodejs.org")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    found = re.match(r"v(\d+)\.", said)
    if not found or int(found[1]) < NODE:
        raise Missing(
            f"Node {NODE} or newer is needed, and {program} is {said or 'not working'}: install it from https://nodejs.org"
        )
    return program


def npm(program: str) -> list[str]:
    """The command of the npm that came with the Node `program`; raises `Missing`."""
    script = Path(program).parent / "node_modules" / "npm" / "bin" / "npm-cli.js"  # where Windows has it
    if script.exists():
        return [program, str(script)]
    found = shutil.which("npm")
    if found is None:
        raise Missing("npm is not on PATH: install Node with npm from https://nodejs.org")
    return [found]


def digest(*paths: Path) -> str:
    """SHA-256 of the files, as hex digits."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()


def reason(output: str) -> str:
    """The line of the output of pip, npm or venv that says best why it failed."""
    if advice := _ADVICE.search(output):
        return f"run `{advice[1]}` first"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.search(line) and not _NOISE.search(line)]
    if errors and errors[0].startswith("npm"):
        return errors[0]  # npm explains afterwards, pip before
    return (errors or lines or ["it said nothing"])[-1]


@contextmanager
def step(what: str) -> Iterator[None]:
    """A progress line: `what`, and how long it took."""
    begun = time.monotonic()
    print(what + " ... ", end="", flush=True)
    try:
        yield
    except BaseException:
        print("failed", flush=True)
        raise
    print(f"{time.monotonic() - begun:.1f} s", flush=True)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, which the system lets go when we end, however we end."""
    with path.open("a+b") as file:
        if not _try_lock(file):
            print("Waiting for another dev.py that installs ...", flush=True)
            while not _try_lock(file):
                time.sleep(LOCK_LOOK)
        yield


def _try_lock(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
