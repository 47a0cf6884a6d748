"""Herald on one machine: a storage emulator, a Teams-like chat, the app, and a first message through all of it."""

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

from local.first_message import TENANT, first_message
from local.processes import (
    AZURITE_PORTS,
    HOST_PORT,
    PLAYGROUND_PORT,
    ROOT,
    Azurite,
    Failed,
    FunctionHost,
    Playground,
    Program,
    is_taken,
)
from local.send import use_no_proxy
from shared.storage.clients import CONNECTION
from shared.time import clock

#: Seconds between two looks whether all programs still run.
WATCH = 0.5
#: Real seconds from the start of the app for which a moved clock stands still: the first message has come by then, and
#: there is time to put another.
STANDS = timedelta(seconds=20)


class Stopped(KeyboardInterrupt):
    """A signal, whose number it holds, asks us to end."""


def main() -> int:
    """The exit code: 0 after Ctrl-C, or 128 plus the signal where that came before all was ready; 1 for a failure."""
    options = _options()
    use_no_proxy()
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _stop)
    ready = False
    try:
        with ExitStack() as stack:
            programs = _start(options, stack)
            ready = True
            if not options.once:
                _serve(options, programs)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    except Stopped as stopped:
        return 0 if ready else 128 + int(stopped.args[0])
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dev.py up", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--once", action="store_true", help="end with 0 as soon as the first message is delivered")
    parser.add_argument("--host-port", type=int, default=HOST_PORT, metavar="N", help="port of the app")
    parser.add_argument("--playground-port", type=int, default=PLAYGROUND_PORT, metavar="N", help="port of the chat")
    parser.add_argument(
        "--azurite-ports", type=int, nargs=3, default=AZURITE_PORTS, metavar="N", help="ports of blob, queue and table"
    )
    parser.add_argument(
        "--data", type=Path, help="folder of what Azurite keeps (default: .local/azurite; with --clock nothing is kept)"
    )
    parser.add_argument("--clock", metavar="TIME", help="let it be this time for schedules: 2027-03-28T00:55Z")
    parser.add_argument("--speed", type=float, default=1.0, metavar="N", help="and let it go so many times as fast")
    parser.add_argument("--logs", type=Path, default=ROOT / ".local" / "log", help="folder of the logs")
    options = parser.parse_args()
    if options.speed != 1 and not options.clock:
        options.clock = clock.real_time().isoformat(timespec="seconds")
    # Rows stored at one time make no sense at another: digests would be late by years, or come too soon.
    options.data = options.data or (None if options.clock else ROOT / ".local" / "azurite")
    if options.clock:
        try:
            clock.parse_clock(clock.format_clock(options.clock, options.speed))
        except ValueError as error:
            parser.error(f"--clock must be a time such as 2027-03-28T00:55Z, and --speed a number over 0: {error}")
    return options


def _start(options: argparse.Namespace, stack: ExitStack) -> Sequence[Program]:
    """Start all, send the first message; `stack` stops them, the host first: it stores what it has done."""
    ports = tuple(options.azurite_ports)
    _refuse_taken(
        dict.fromkeys(ports, ("Azurite", "--azurite-ports"))
        | {options.playground_port: ("the Playground", "--playground-port")}
        | {options.host_port: ("the function host", "--host-port")}
    )
    begun = time.monotonic()

    def progress(what: str) -> None:
        _say(f"{time.monotonic() - begun:5.1f} s  {what}")

    def run(program: Program) -> None:
        programs.append(program)
        stack.callback(program.stop)

    programs: list[Program] = []
    stack.callback(_say, "Stopped")
    run(azurite := Azurite(options.logs, ports=ports, data=options.data))
    endpoint = f"http://127.0.0.1:{options.host_port}/api/messages"
    run(playground := Playground(options.logs, endpoint, port=options.playground_port))
    app_settings = {
        CONNECTION: azurite.connection_string(),
        "AZURE_FUNCTIONS_ENVIRONMENT": "Development",
        "HERALD_ALLOWED_TENANTS": TENANT,
        "HERALD_SERVICE_HOSTS": f"127.0.0.1:{playground.port}",
    }
    goes_at = clock.real_time() + STANDS
    if options.clock:
        app_settings["HERALD_CLOCK"] = clock.format_clock(options.clock, options.speed, goes_at)
    run(host := FunctionHost(options.logs, app_settings, port=options.host_port))
    stack.callback(_say, "Stopping")

    where = (f"ports {ports[0]}, {ports[1]}, {ports[2]}", playground.url, host.url)
    for program, place in zip(programs, where, strict=True):
        program.wait_until_healthy()
        progress(f"{program.name + ' is healthy':36} {place}")
    asyncio.run(first_message(playground.url, app_settings, programs, progress))
    if options.clock:
        going = f"goes {options.speed:g} times as fast from {goes_at.astimezone():%H:%M:%S} on"
        progress(f"The clock of schedules and digests  stands at {options.clock}, and {going}")
    return programs


def _serve(options: argparse.Namespace, programs: Sequence[Program]) -> None:
    """Say how to go on, and watch the programs; raises `Failed` when one has ended."""
    port = options.azurite_ports[1]
    elsewhere = f" --queue-port {port}" if port != AZURITE_PORTS[1] else ""
    send = f'"Build 42 failed" "Stage test failed"{elsewhere}'
    _say(
        f"\nThe chat:      http://127.0.0.1:{options.playground_port}\n"
        f"Send another:  {_quoted(sys.executable)} {_quoted(str(ROOT / 'local' / 'send.py'))} {send}\n"
        f"The logs:      {options.logs}\n"
        "Ctrl-C stops all."
    )
    while True:
        time.sleep(WATCH)
        for program in programs:
            program.check()


def _refuse_taken(ports: Mapping[int, tuple[str, str]]) -> None:
    """Raises `Failed` for the first port that is taken; `ports` says for whom each is, and which option moves it."""
    for port, (program, option) in ports.items():
        if is_taken(port):
            raise Failed(
                f"Port {port} for {program} is taken by {_holder(port)}: "
                f"end that (another `dev.py up`?), or choose another port with {option}"
            )


def _holder(port: int) -> str:
    """Name the program that listens on `port`, as far as the system tells."""
    if lsof := shutil.which("lsof"):
        asked = [lsof, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"]
        found = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
        named = {line[0]: line[1:] for line in found}
        if "p" in named and "c" in named:
            return f"{named['c']} (process {named['p']})"
    return "another program"


def _quoted(path: str) -> str:
    return f'"{path}"' if " " in path else path


def _say(text: str) -> None:
    with suppress(OSError):  # the terminal may have been closed, and the programs must be stopped nevertheless
        print(text, flush=True)


def _stop(number: int, _: object) -> None:
    raise Stopped(number)


if __name__ == "__main__":
    sys.exit(main())
