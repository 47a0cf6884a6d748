"""Run Herald on one machine: a storage emulator, a chat like that of Teams, the app, and a first message."""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import webbrowser
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path

from local.first_message import TENANT, check_programs, send_first_message
from local.greeting import greet_visitors
from local.processes import (
    AZURITE_PORTS,
    HOST_PORT,
    PLAYGROUND_PORT,
    ROOT,
    Azurite,
    FunctionHost,
    Playground,
    Program,
    ProgramError,
    is_responding,
    is_taken,
)
from local.send import bypass_proxy
from shared.storage.clients import CONNECTION
from shared.time import clock

#: Delay before greeting is tried again after a failure.
CHECK_SECONDS = 1.0
#: The name of a run's log folder, and how many are kept.
RUN_PATTERN = "????-??-??_??-??-??"
MAX_KEPT_RUNS = 10
PLAYGROUND_NAME = "the Playground"
#: Seconds for which --clock stands still from the start of the app: enough for the first message, and to send another.
CLOCK_DELAY_SECONDS = 20.0


class StopSignal(KeyboardInterrupt):
    """A signal to stop; its argument is the number of the signal."""


def main() -> int:
    """Return the exit code: 0 after Ctrl-C, 128 plus the signal if it came before all was ready, 1 for a failure."""
    options = _parse_options()
    bypass_proxy()
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _raise_stop_signal)
    ready = False
    try:
        with ExitStack() as stack:
            programs, app_settings = _start(options, stack)
            ready = True
            if not options.once:
                _print_next_steps(options)
                asyncio.run(_serve(programs, app_settings))
    except ProgramError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(_explain(error), file=sys.stderr)
        return 1
    except StopSignal as stop:
        return 0 if ready else 128 + int(stop.args[0])
    return 0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dev.py up", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--once", action="store_true", help="exit with 0 after the delivery of the first message")
    parser.add_argument("--no-browser", action="store_true", help="do not open the chat in a browser")
    parser.add_argument("--host-port", type=int, default=HOST_PORT, metavar="N", help="port of the app")
    parser.add_argument("--playground-port", type=int, default=PLAYGROUND_PORT, metavar="N", help="port of the chat")
    parser.add_argument(
        "--azurite-ports", type=int, nargs=3, default=AZURITE_PORTS, metavar="N", help="ports of blob, queue and table"
    )
    parser.add_argument(
        "--data", type=Path, help="data folder of Azurite (default: .local/azurite; with --clock: in memory)"
    )
    parser.add_argument("--clock", metavar="TIME", help="start time of the clock for schedules: 2027-03-28T00:55Z")
    parser.add_argument("--speed", type=float, default=1.0, metavar="N", help="speed factor of this clock")
    delay_help = "seconds from the start of the app for which this clock stands still"
    parser.add_argument("--clock-delay", type=float, default=CLOCK_DELAY_SECONDS, metavar="N", help=delay_help)
    parser.add_argument("--logs", type=Path, default=ROOT / ".local" / "log", help="log folder")
    options = parser.parse_args()
    options.logs = _new_log_folder(options.logs)
    if options.speed != 1 and not options.clock:
        options.clock = clock.real_time().isoformat(timespec="seconds")
    # Rows from another time are wrong at this one: digests would be years late, or too early.
    options.data = options.data or (None if options.clock else ROOT / ".local" / "azurite")
    if options.clock:
        try:
            clock.parse_clock(clock.format_clock(options.clock, options.speed))
        except ValueError as error:
            parser.error(f"--clock must be a time such as 2027-03-28T00:55Z, and --speed a number over 0: {error}")
    return options


def _new_log_folder(logs: Path) -> Path:
    """Return the folder for the logs of this run, and delete those of all but the last runs."""
    runs = sorted(each for each in logs.glob(RUN_PATTERN) if each.is_dir())
    for old in runs[: len(runs) - MAX_KEPT_RUNS + 1]:
        shutil.rmtree(old, ignore_errors=True)
    return logs / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")  # noqa: DTZ005 (a name for the developer)


def _start(options: argparse.Namespace, stack: ExitStack) -> tuple[Sequence[Program], Mapping[str, str]]:
    """Start all programs and send the first message; return the programs, and the settings of the app.

    `stack` stops the host first, so that it can store its results.
    """
    ports = tuple(options.azurite_ports)
    _check_ports(
        {options.playground_port: (PLAYGROUND_NAME, "--playground-port")}
        | dict.fromkeys(ports, ("Azurite", "--azurite-ports"))
        | {options.host_port: ("the function host", "--host-port")}
    )
    started = time.monotonic()

    def progress(text: str) -> None:
        _print(f"{time.monotonic() - started:5.1f} s  {text}")

    def run(program: Program) -> None:
        programs.append(program)
        stack.callback(program.stop)

    programs: list[Program] = []
    stack.callback(_print, "Stopped")
    run(azurite := Azurite(options.logs, ports=ports, data=options.data))
    endpoint = f"http://127.0.0.1:{options.host_port}/api/messages"
    run(playground := Playground(options.logs, endpoint, port=options.playground_port))
    app_settings = {
        CONNECTION: azurite.connection_string(),
        "AZURE_FUNCTIONS_ENVIRONMENT": "Development",
        "HERALD_ALLOWED_TENANTS": TENANT,
        "HERALD_SERVICE_HOSTS": f"127.0.0.1:{playground.port}",
    }
    clock_start = clock.real_time() + timedelta(seconds=options.clock_delay)
    if options.clock:
        app_settings["HERALD_CLOCK"] = clock.format_clock(options.clock, options.speed, clock_start)
    run(host := FunctionHost(options.logs, app_settings, port=options.host_port))
    stack.callback(_print, "Stopping")

    addresses = (f"ports {ports[0]}, {ports[1]}, {ports[2]}", playground.url, host.url)
    for program, address in zip(programs, addresses, strict=True):
        program.wait_until_healthy()
        progress(f"{program.name + ' is healthy':36} {address}")
    asyncio.run(send_first_message(playground.url, app_settings, programs, progress))
    if options.clock:
        speed = f"{clock_start.astimezone():%H:%M:%S}, then runs {options.speed:g} times as fast"
        progress(f"The clock for schedules and digests  stays at {options.clock} until {speed}")
    return programs, app_settings


def _print_next_steps(options: argparse.Namespace) -> None:
    """Print what to do next, and open the chat in a browser."""
    python = "python" if shutil.which("python") else "python3"
    ports = tuple(options.azurite_ports)
    port_option = f" --azurite-ports {ports[0]} {ports[1]} {ports[2]}" if ports != AZURITE_PORTS else ""
    chat = f"http://127.0.0.1:{options.playground_port}"
    _print(
        f"\nThe chat:           {chat}\n"
        f'Send another:       {python} dev.py send "Build 42 failed"{port_option}\n'
        f"What became of it:  {python} dev.py status{port_option}\n"
        f"The logs:           {options.logs}\n"
        "Ctrl-C stops all programs."
    )
    has_display = sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if has_display and sys.stdout.isatty() and not options.no_browser:
        webbrowser.open(chat)


async def _serve(programs: Sequence[Program], app_settings: Mapping[str, str]) -> None:
    """Greet whoever opens the chat, and check the programs; raises `ProgramError` if one has ended."""
    playground = next(each for each in programs if isinstance(each, Playground))
    checking = asyncio.create_task(check_programs(programs))
    while not checking.done():
        greeting = asyncio.create_task(greet_visitors(playground.url, app_settings))
        await asyncio.wait({checking, greeting}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({checking}, timeout=CHECK_SECONDS)  # a program that has ended explains the failure
        greeting.cancel()
        [failure] = await asyncio.gather(greeting, return_exceptions=True)
        if not checking.done():
            _print(f"Nobody was greeted: {failure}")
    checking.result()


def _check_ports(ports: Mapping[int, tuple[str, str]]) -> None:
    """Raise `ProgramError` for the first taken port; `ports` holds the program and the option of each port."""
    for port, (program, option) in ports.items():
        if is_taken(port):
            chat = f"http://127.0.0.1:{port}"
            if program == PLAYGROUND_NAME and is_responding(f"{chat}/_debug/ping"):
                raise ProgramError(
                    f"`dev.py up` is already running, and its chat is {chat}: use it, or stop it with Ctrl-C there"
                )
            raise ProgramError(
                f"Port {port} for {program} is taken by {_find_listener(port)}: "
                f"stop it (another `dev.py up`?), or choose another port with {option}"
            )


def _find_listener(port: int) -> str:
    """Return the name of the program that listens on `port`, if lsof can find it."""
    if lsof := shutil.which("lsof"):
        command = [lsof, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
        fields = {line[0]: line[1:] for line in found}
        if "p" in fields and "c" in fields:
            return f"{fields['c']} (process {fields['p']})"
    return "another program"


def _explain(error: OSError) -> str:
    """Return what is wrong and what to do, in one line."""
    if error.errno == errno.ENOSPC:
        return f"The disk is full ({error.filename or ROOT}): free some space, and start again"
    return f"`dev.py up` failed: {error.strerror or error}{f' ({error.filename})' if error.filename else ''}"


def _print(text: str) -> None:
    with suppress(OSError):  # the terminal may be closed, but the programs must still be stopped
        print(text, flush=True)


def _raise_stop_signal(number: int, _: object) -> None:
    raise StopSignal(number)


if __name__ == "__main__":
    sys.exit(main())
