"""Run Herald on one machine: a storage emulator, a chat like that of Teams, the app, and a first message."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path

from local.first_message import TENANT, send_first_message
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
    is_taken,
)
from local.send import bypass_proxy
from shared.storage.clients import CONNECTION
from shared.time import clock

#: How often the programs are checked.
CHECK_SECONDS = 0.5
#: How long --clock stands still from the start of the app: enough for the first message, and to send another.
CLOCK_START_DELAY = timedelta(seconds=20)


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
            programs = _start(options, stack)
            ready = True
            if not options.once:
                _wait_for_signal(options, programs)
    except ProgramError as error:
        print(error, file=sys.stderr)
        return 1
    except StopSignal as stop:
        return 0 if ready else 128 + int(stop.args[0])
    return 0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dev.py up", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--once", action="store_true", help="exit with 0 after the delivery of the first message")
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
    parser.add_argument("--logs", type=Path, default=ROOT / ".local" / "log", help="log folder")
    options = parser.parse_args()
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


def _start(options: argparse.Namespace, stack: ExitStack) -> Sequence[Program]:
    """Start all programs and send the first message; `stack` stops the host first, so that it can store its results."""
    ports = tuple(options.azurite_ports)
    _check_ports(
        dict.fromkeys(ports, ("Azurite", "--azurite-ports"))
        | {options.playground_port: ("the Playground", "--playground-port")}
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
    clock_start = clock.real_time() + CLOCK_START_DELAY
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
    return programs


def _wait_for_signal(options: argparse.Namespace, programs: Sequence[Program]) -> None:
    """Print the next steps, and check the programs until a signal; raises `ProgramError` if one has ended."""
    port = options.azurite_ports[1]
    port_option = f" --queue-port {port}" if port != AZURITE_PORTS[1] else ""
    arguments = f'"Build 42 failed" "Stage test failed"{port_option}'
    _print(
        f"\nThe chat:      http://127.0.0.1:{options.playground_port}\n"
        f"Send another:  {_quote(sys.executable)} {_quote(str(ROOT / 'local' / 'send.py'))} {arguments}\n"
        f"The logs:      {options.logs}\n"
        "Ctrl-C stops all programs."
    )
    while True:
        time.sleep(CHECK_SECONDS)
        for program in programs:
            program.check()


def _check_ports(ports: Mapping[int, tuple[str, str]]) -> None:
    """Raise `ProgramError` for the first taken port; `ports` holds the program and the option of each port."""
    for port, (program, option) in ports.items():
        if is_taken(port):
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


def _quote(path: str) -> str:
    return f'"{path}"' if " " in path else path


def _print(text: str) -> None:
    with suppress(OSError):  # the terminal may be closed, but the programs must still be stopped
        print(text, flush=True)


def _raise_stop_signal(number: int, _: object) -> None:
    raise StopSignal(number)


if __name__ == "__main__":
    sys.exit(main())
