"""Install what `dev.py` needs: `.venv`, and the Node packages in `.local/node`.

It uses only the standard library and the syntax of old Pythons, so that it can report a missing requirement.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

#: The Pythons that azure-functions and botbuilder support, newest first.
PYTHON_VERSIONS = ("3.13", "3.12", "3.11")
#: The oldest major version of Node that Azurite and the Playground support.
MIN_NODE_VERSION = 20
#: The installer of Python packages, if there is none on PATH.
UV = "uv==0.13.9"
#: The files that npm needs. The package `none` stands in for what others import and this stack does not use,
#: such as telemetry and SQL databases: 140 of 220 MB.
NODE_FILES = ("package.json", "package-lock.json", "none/package.json", "none/index.js")
#: The environment variable that leaves the other SDKs out of the benchmarks: checkouts of Herald are compared without.
BENCH_ALONE = "HERALD_BENCH_ALONE"
#: How often a lock of another process is tried again.
LOCK_RETRY_SECONDS = 0.2

#: The version of the Python that runs this.
_RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"
_PIP_OPTIONS = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--retries", "2")
#: Variables that would make a child use another Python or another environment.
_OVERRIDES = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX", "PIP_USER")
#: Lines of pip and npm that report an error, and those of them without a reason.
_ERROR = re.compile(r"^\s*(ERROR:|npm (ERR!|error)|\w*Error:)", re.IGNORECASE)
_NOISE = re.compile(r"complete log of this run|npm (ERR!|error)\s*(code|errno|path|stack|syscall|$)", re.IGNORECASE)
#: Output of pip, uv and npm that shows what a person can do, which their own last line often does not.
_EXPLANATIONS = (
    (
        re.compile(r"No space left on device|ENOSPC", re.IGNORECASE),
        "the disk is full: free 1 GB, and run this again",
    ),
    (
        re.compile(r"ProxyError|proxy CONNECT|tunneling socket|connect\w* to (the )?proxy|tunnel error", re.IGNORECASE),
        "the proxy of HTTPS_PROXY cannot be used: correct or unset it, and run this again",
    ),
    (
        re.compile(
            r"NewConnectionError|NameResolutionError|Failed to establish a new connection|ConnectTimeout|dns error|"
            r"client error \(Connect\)|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH",
            re.IGNORECASE,
        ),
        "the package registry cannot be reached: check the network, a proxy (HTTPS_PROXY), or the registry that pip or "
        "npm is configured to use, and run this again",
    ),
    (
        re.compile(r"CERTIFICATE_VERIFY_FAILED|SELF_SIGNED_CERT|UnknownIssuer", re.IGNORECASE),
        "the certificate of the package registry is not trusted: set SSL_CERT_FILE, PIP_CERT and NODE_EXTRA_CA_CERTS "
        "to your organisation's certificate authority, and run this again",
    ),
)
#: The advice of Debian's Python if it cannot create a .venv.
_ADVICE = re.compile(r"^\s*(apt install \S+)", re.MULTILINE)


class SetupError(Exception):
    """A requirement is missing; the message is one line: what is missing, and what to do."""


class Setup:
    """Creates and checks the environments of the checkout in `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.local = root / ".local"
        self.node_folder = self.local / "node"
        self._children: list[subprocess.Popen[bytes]] = []

    @property
    def python(self) -> Path:
        """The interpreter of `.venv`."""
        return self.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def environ(self) -> dict[str, str]:
        """Return the environment for programs in `.venv`, as if it were activated."""
        environ = {name: value for name, value in os.environ.items() if name not in _OVERRIDES}
        path = os.pathsep.join([str(self.python.parent), environ.get("PATH", os.defpath)])
        environ.pop("PYTHONDONTWRITEBYTECODE", None)  # without the cache, each process would compile all sources
        return {**environ, "VIRTUAL_ENV": str(self.venv), "PATH": path}

    def ensure_python(self, *names: str) -> None:
        """Install the packages of these requirements files in `.venv`, unless they are installed.

        Raises `SetupError`.
        """
        marker, unfinished = self.venv / ".herald-installed", self.venv / ".herald-unfinished"
        digests = {file_digest(self.root / name) for name in names}

        def is_installed() -> bool:
            return self.python.exists() and marker.exists() and digests <= set(marker.read_text("utf-8").split())

        def install() -> None:
            if unfinished.exists() or not self._is_venv_usable():
                self._create_venv("--without-pip")  # installing pip takes as long as all other packages
            unfinished.touch()
            marker.unlink(missing_ok=True)
            requirements = [part for name in names for part in ("-r", str(self.root / name))]
            with print_progress("Installing the Python packages"):
                if not self._install_with_uv(requirements):
                    if not _succeeds(str(self.python), "-m", "pip", "-V"):
                        self._create_venv()
                        unfinished.touch()
                    self._run(
                        "pip", [str(self.python), "-m", "pip", "install", *_PIP_OPTIONS, *requirements], self.root
                    )
            marker.write_text("\n".join(sorted(digests)), "utf-8")
            unfinished.unlink()

        self._install_once("python", is_installed, install)

    def ensure_all(self, *names: str) -> None:
        """Install the packages of these requirements files, and beside that the Node packages; raises `SetupError`."""
        find_node()
        with ThreadPoolExecutor(max_workers=1) as executor:
            node = executor.submit(self.ensure_node)
            try:
                self.ensure_python(*names)
                node.result()
            except BaseException:
                for child in list(self._children):  # else the executor would wait for npm
                    child.kill()
                raise

    def ensure_node(self) -> None:
        """Find Node, and install the packages of `local/node/package-lock.json`; raises `SetupError`."""
        program = find_node()
        source = self.root / "local" / "node"
        marker = self.node_folder / ".installed"
        digest = file_digest(*(source / name for name in NODE_FILES))

        def is_installed() -> bool:
            return marker.exists() and marker.read_text("utf-8") == digest

        def install() -> None:
            marker.unlink(missing_ok=True)
            self.node_folder.mkdir(parents=True, exist_ok=True)
            for name in NODE_FILES:
                (self.node_folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, self.node_folder / name)
            options = ["--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--no-progress"]
            with print_progress("Installing Azurite and the Playground"):
                self._run("npm", [*find_npm(program), "ci", *options], self.node_folder)
            marker.write_text(digest, "utf-8")

        self._install_once("node", is_installed, install)

    def _install_with_uv(self, requirements: Sequence[str]) -> bool:
        """Install with uv, which takes a fraction of pip's time; return False if uv cannot be used here.

        Raises `SetupError` if pip would fail for the same reason.
        """
        own_uv = self.python.with_name("uv.exe" if os.name == "nt" else "uv")
        uv = shutil.which("uv") or str(own_uv)
        if not Path(uv).exists():
            pip = [*find_python(_RUNNING), "-m", "pip", "--python", str(self.python)]
            try:
                self._run("uv", [*pip, "install", *_PIP_OPTIONS, UV], self.root)
            except SetupError as error:
                if any(explanation in str(error) for _, explanation in _EXPLANATIONS):
                    raise
                return False
        try:  # uv does not know the registry that pip is configured to use
            self._run("uv", [uv, "pip", "install", "--python", str(self.python), *requirements], self.root)
        except (SetupError, OSError):
            return False
        return True

    def _install_once(self, name: str, is_installed: Callable[[], bool], install: Callable[[], None]) -> None:
        if is_installed():
            return
        self.local.mkdir(exist_ok=True)
        with hold_lock(self.local / f"{name}.lock"):
            if not is_installed():  # another process may have installed it meanwhile
                install()

    def _is_venv_usable(self) -> bool:
        python = str(self.python)
        return self.python.exists() and python_version(python) in PYTHON_VERSIONS

    def _create_venv(self, *options: str) -> None:
        python = find_python(_RUNNING)
        with print_progress(f"Creating {self.venv.name} with Python {python_version(*python)}"):
            self._run("venv", [*python, "-m", "venv", "--clear", *options, str(self.venv)], self.root)

    def _run(self, tool: str, command: Sequence[str], folder: Path) -> None:
        log = self.local / "log" / (tool + ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        environ = {**self.environ(), "PIP_USER": "0"}
        with log.open("wb") as output:
            child = subprocess.Popen(
                command, cwd=str(folder), env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
            self._children.append(child)
            try:
                code = child.wait()
            except BaseException:
                child.kill()
                raise
            finally:
                self._children.remove(child)
        if code:
            reason = find_reason(log.read_text("utf-8", "replace"))
            raise SetupError(f"{tool} failed: {reason} (full output: {log})")


def find_python(running: str) -> list[str]:
    """Return the command of the newest supported Python: this one, of version `running` ("3.11"), or one on PATH.

    Raises `SetupError`.
    """
    for version in PYTHON_VERSIONS:
        if version == running:
            return [sys.executable]
        for command in (["py", "-" + version], ["python" + version], ["python3"], ["python"]):
            program = shutil.which(command[0])
            if program and python_version(program, *command[1:]) == version:
                return [program, *command[1:]]
    raise SetupError(
        f"Python {', '.join(PYTHON_VERSIONS[:0:-1])} or {PYTHON_VERSIONS[0]} is needed, and this is {running}: "
        "install one from https://www.python.org and run this again"
    )


def python_version(*command: str) -> str:
    """Return the version of the Python that `command` runs, such as "3.11"; empty if it runs none."""
    query = [*command, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def find_node() -> str:
    """Return the path of a supported Node; raises `SetupError`."""
    program = shutil.which("node")
    if program is None:
        raise SetupError(
            f"Node {MIN_NODE_VERSION} or newer is needed, and `node` is not on PATH: install it from https://nodejs.org"
        )
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    found = re.match(r"v(\d+)\.", version)
    if not found or int(found[1]) < MIN_NODE_VERSION:
        state = version or "not working"
        raise SetupError(
            f"Node {MIN_NODE_VERSION} or newer is needed, and {program} is {state}: install it from https://nodejs.org"
        )
    return program


def find_npm(program: str) -> list[str]:
    """Return the command of the npm that belongs to the Node `program`; raises `SetupError`."""
    script = Path(program).parent / "node_modules" / "npm" / "bin" / "npm-cli.js"  # its location on Windows
    if script.exists():
        return [program, str(script)]
    found = shutil.which("npm")
    if found is None:
        raise SetupError("npm is not on PATH: install Node with npm from https://nodejs.org")
    return [found]


def file_digest(*paths: Path) -> str:
    """Return the SHA-256 digest of the files in hexadecimal."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()


def find_reason(output: str) -> str:
    """Return the line of the output of pip, npm or venv that best explains its failure."""
    if advice := _ADVICE.search(output):
        return f"run `{advice[1]}` first"
    for pattern, explanation in _EXPLANATIONS:
        if pattern.search(output):
            return explanation
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.search(line) and not _NOISE.search(line)]
    if errors and errors[0].startswith("npm"):
        return errors[0]  # npm reports the reason first, pip last
    return (errors or lines or ["no output"])[-1]


@contextmanager
def print_progress(action: str) -> Iterator[None]:
    """Print a line when `action` begins, and one with its duration; two actions may go on at once."""
    started = time.monotonic()
    print(f"{action} ...", flush=True)
    try:
        yield
    except BaseException:
        print(f"{action}: failed", flush=True)
        raise
    print(f"{action}: {time.monotonic() - started:.1f} s", flush=True)


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; the operating system releases it at the end of the process."""
    with path.open("a+b") as file:
        if not _try_lock(file):
            print("Waiting for an installation by another dev.py ...", flush=True)
            while not _try_lock(file):
                time.sleep(LOCK_RETRY_SECONDS)
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
