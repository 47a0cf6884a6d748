#!/usr/bin/env python3
"""Herald on your machine.

    python dev.py up [--once]                  the app, a storage emulator and a Teams-like chat; sends a first message
    python dev.py host [--port N] [--local]    the function host alone (Core Tools, where installed; --local: ours)
    python dev.py test [--full] [...]          every check and test; further arguments are for pytest
    python dev.py bench [names] [--quick]      the benchmarks; --json FILE writes their figures, --help says more

Python 3.8 or newer starts it: it makes .venv with the newest of Python 3.11 to 3.13 and installs what is needed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from local.bootstrap import Missing, Setup

#: Processes among which the tests are spread: more than two cores, as tests of processes wait for these.
TEST_WORKERS = 3

ROOT = Path(__file__).resolve().parent
RUNTIME, DEVELOPMENT, PEERS = "requirements.txt", "requirements-dev.txt", "requirements-bench.txt"


def up(setup: Setup, arguments: list[str]) -> int:
    setup.ensure_python(RUNTIME)
    setup.ensure_node()
    return become([str(setup.python), "-m", "local.up", *arguments], setup.environ())


def host(setup: Setup, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="dev.py host", description="The function host alone.")
    parser.add_argument("--port", type=int, default=7071, help="port on 127.0.0.1 (default: 7071)")
    parser.add_argument("--local", action="store_true", help="our local host, also where Core Tools are installed")
    options = parser.parse_args(arguments)
    setup.ensure_python(RUNTIME)
    func = None if options.local else shutil.which("func")
    if func:
        return attend([func, "start", "--port", str(options.port)], setup.environ())
    return become([str(setup.python), "-m", "local.host", "--port", str(options.port)], setup.environ())


def test(setup: Setup, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="dev.py test", description="Every check and test.")
    parser.add_argument("--full", action="store_true", help="also the long ones, and --cov")
    parser.add_argument("--cov", action="store_true", help="say which lines no test runs; takes twice the time")
    options, for_pytest = parser.parse_known_args(arguments)
    setup.ensure_python(RUNTIME, DEVELOPMENT)
    setup.ensure_node()
    selected = ["--hypothesis-profile", "full"] if options.full else ["-m", "not full"]
    workers = ["-n", str(TEST_WORKERS), "--dist", "loadgroup"]
    coverage = ["--cov", "--cov-report=term:skip-covered"] if options.full or options.cov else []
    steps = {
        "ruff": ["-m", "ruff", "check"],
        "format": ["-m", "ruff", "format", "--check", "--quiet"],
        "mypy": ["-m", "mypy"],
        "import-linter": ["-c", "from importlinter.cli import lint_imports_command as run; run()"],
        "pytest": ["-m", "pytest", *workers, *coverage, *selected, *for_pytest],
    }

    def run(name: str, output: int | None = None) -> tuple[subprocess.CompletedProcess[str], float]:
        begun = time.monotonic()
        command = [str(setup.python), *steps[name]]
        done = subprocess.run(command, cwd=str(ROOT), env=setup.environ(), check=False, stdout=output, text=True)
        return done, time.monotonic() - begun

    results = {}
    with ThreadPoolExecutor() as beside:  # mypy takes long where it has no cache: it goes on while the others do
        mypy = beside.submit(run, "mypy", subprocess.PIPE)
        for name in ("ruff", "format", "import-linter", "pytest"):
            print("\n== " + name, flush=True)
            results[name] = run(name)
    results["mypy"] = mypy.result()
    print("\n== mypy\n" + results["mypy"][0].stdout)
    codes = {name: done.returncode for name, (done, _) in results.items()}
    for name, (_, seconds) in results.items():
        print(f"{name:14} {seconds:6.1f} s  {f'failed (exit code {codes[name]})' if codes[name] else 'ok'}")
    return 1 if any(codes.values()) else 0


def bench(setup: Setup, arguments: list[str]) -> int:
    setup.ensure_python(RUNTIME, DEVELOPMENT)
    setup.ensure_node()
    peers = Setup(ROOT)
    peers.venv = setup.local / "peers"  # apart, so that what they need does not change what the app gets
    try:
        peers.ensure_python(PEERS)
    except Missing as error:
        print(f"Without the ways of sending of others: {error}", file=sys.stderr)
    return become([str(setup.python), "-m", "benchmarks", *arguments], setup.environ())


def become(command: Sequence[str], environ: dict[str, str]) -> int:
    """Run `command` in our place, so that it has our process id, our group and our signals."""
    os.chdir(str(ROOT))
    if os.name != "nt":
        sys.stdout.flush()
        os.execve(command[0], list(command), environ)  # noqa: S606 (no shell is meant)
    return attend(command, environ)  # on Windows, exec would give the console back before the program ends


def attend(command: Sequence[str], environ: dict[str, str]) -> int:
    """Run `command` as a child; 0 where we ended it because a signal asked us to."""
    asked: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int, _: object) -> None:
        asked.append(number)
        if child is not None and os.name != "nt" and number != signal.SIGINT:  # Ctrl-C reaches the child by itself
            child.send_signal(number)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), forward)
    child = subprocess.Popen(list(command), cwd=str(ROOT), env=environ)
    if asked:  # before there was a child to tell
        child.terminate()
    code = child.wait()
    return 0 if asked else code


COMMANDS: dict[str, Callable[[Setup, list[str]], int]] = {"up": up, "host": host, "test": test, "bench": bench}


def main(arguments: list[str]) -> int:
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None:
        print(__doc__)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    # So that a half-done install is ended with us, and not left to run without its lock.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return command(Setup(ROOT), arguments[1:])
    except Missing as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
