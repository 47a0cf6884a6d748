#!/usr/bin/env python3
"""Run Herald on your machine.

    python dev.py up [--once]                  start the app, a storage emulator and a chat, and send a first message
    python dev.py host [--port N] [--local]    run only the function host (Core Tools if installed, unless --local)
    python dev.py send TITLE [TEXT] [...]      send a notification to the chat of `up`; see --help
    python dev.py status [ID]                  list notifications, or show what became of one
    python dev.py package [...]                build the Teams app package and an SBOM; see --help
    python dev.py test [--full] [...]          run all checks and tests; further arguments are for pytest
    python dev.py bench [names] [--quick]      run the benchmarks; see --help

It needs Python 3.8 or newer, creates .venv with the newest of Python 3.11 to 3.13, and installs the requirements.
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

from local.bootstrap import BENCH_ALONE, Setup, SetupError

#: Parallel test processes: more than two cores, because tests of processes often wait.
TEST_WORKERS = 3

ROOT = Path(__file__).resolve().parent
RUNTIME, DEVELOPMENT, CONTENDERS = "requirements.txt", "requirements-dev.txt", "requirements-bench.txt"


def run_up(setup: Setup, arguments: list[str]) -> int:
    setup.ensure_all(RUNTIME)
    return replace_process([str(setup.python), "-m", "local.up", *arguments], setup.environ())


def run_host(setup: Setup, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="dev.py host", description="Run only the function host.")
    parser.add_argument("--port", type=int, default=7071, help="port on 127.0.0.1 (default: 7071)")
    parser.add_argument("--local", action="store_true", help="run the local host even if Core Tools are installed")
    options = parser.parse_args(arguments)
    setup.ensure_python(RUNTIME)
    func = None if options.local else shutil.which("func")
    if func:
        return run_child([func, "start", "--port", str(options.port)], setup.environ())
    return replace_process([str(setup.python), "-m", "local.host", "--port", str(options.port)], setup.environ())


def run_send(setup: Setup, arguments: list[str]) -> int:
    setup.ensure_python(RUNTIME)
    return replace_process([str(setup.python), "-m", "local.send", *arguments], setup.environ())


def run_status(setup: Setup, arguments: list[str]) -> int:
    setup.ensure_python(RUNTIME)
    return replace_process([str(setup.python), "-m", "local.status", *arguments], setup.environ())


def run_package(setup: Setup, arguments: list[str]) -> int:
    setup.ensure_python(RUNTIME, DEVELOPMENT)
    return replace_process([str(setup.python), "-m", "local.package", *arguments], setup.environ())


def run_tests(setup: Setup, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="dev.py test", description="Run all checks and tests.")
    parser.add_argument("--full", action="store_true", help="also run the long tests, with --cov")
    parser.add_argument("--cov", action="store_true", help="report the lines that no test runs; takes twice as long")
    options, for_pytest = parser.parse_known_args(arguments)
    setup.ensure_all(RUNTIME, DEVELOPMENT)
    selected = ["--hypothesis-profile", "full"] if options.full else ["-m", "not full"]
    workers = ["-n", str(TEST_WORKERS), "--dist", "loadgroup"]
    coverage = ["--cov", "--cov-report=term:skip-covered"] if options.full or options.cov else []
    checks = {
        "ruff": ["-m", "ruff", "check"],
        "format": ["-m", "ruff", "format", "--check", "--quiet"],
        "mypy": ["-m", "mypy"],
        "import-linter": ["-c", "from importlinter.cli import lint_imports_command as run; run()"],
        "pytest": ["-m", "pytest", *workers, *coverage, *selected, *for_pytest],
    }

    def run(name: str, output: int | None = None) -> tuple[subprocess.CompletedProcess[str], float]:
        started = time.monotonic()
        command = [str(setup.python), *checks[name]]
        done = subprocess.run(command, cwd=str(ROOT), env=setup.environ(), check=False, stdout=output, text=True)
        return done, time.monotonic() - started

    results = {}
    with ThreadPoolExecutor() as executor:  # mypy takes long without a cache: it runs beside the others
        mypy = executor.submit(run, "mypy", subprocess.PIPE)
        for name in ("ruff", "format", "import-linter", "pytest"):
            print("\n== " + name, flush=True)
            results[name] = run(name)
    results["mypy"] = mypy.result()
    print("\n== mypy\n" + results["mypy"][0].stdout)
    codes = {name: done.returncode for name, (done, _) in results.items()}
    for name, (_, seconds) in results.items():
        print(f"{name:14} {seconds:6.1f} s  {f'failed (exit code {codes[name]})' if codes[name] else 'ok'}")
    return 1 if any(codes.values()) else 0


def run_benchmarks(setup: Setup, arguments: list[str]) -> int:
    setup.ensure_all(RUNTIME, DEVELOPMENT)
    contenders = Setup(ROOT)
    contenders.venv = setup.local / "peers"  # separate, so that their requirements do not change those of the app
    try:
        if not os.environ.get(BENCH_ALONE):
            contenders.ensure_python(CONTENDERS)
    except SetupError as error:
        print(f"The benchmarks run without the other SDKs: {error}", file=sys.stderr)
    return replace_process([str(setup.python), "-m", "benchmarks", *arguments], setup.environ())


def replace_process(command: Sequence[str], environ: dict[str, str]) -> int:
    """Replace this process by `command`, which keeps the process id, the group and the signals."""
    os.chdir(str(ROOT))
    if os.name != "nt":
        sys.stdout.flush()
        os.execve(command[0], list(command), environ)  # noqa: S606 (no shell is needed)
    return run_child(command, environ)  # on Windows, exec would return to the console before the program ends


def run_child(command: Sequence[str], environ: dict[str, str]) -> int:
    """Run `command` as a child and return its exit code; 0 after a signal."""
    received: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int, _: object) -> None:
        received.append(number)
        if child is not None and os.name != "nt" and number != signal.SIGINT:  # Ctrl-C reaches the child directly
            child.send_signal(number)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), forward)
    child = subprocess.Popen(list(command), cwd=str(ROOT), env=environ)
    if received:  # before the child was started
        child.terminate()
    code = child.wait()
    return 0 if received else code


COMMANDS: dict[str, Callable[[Setup, list[str]], int]] = {
    "up": run_up,
    "host": run_host,
    "send": run_send,
    "status": run_status,
    "package": run_package,
    "test": run_tests,
    "bench": run_benchmarks,
}


def main(arguments: list[str]) -> int:
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None:
        print(__doc__)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    # End an installation in progress with this process, because it would run on without the lock.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return command(Setup(ROOT), arguments[1:])
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
