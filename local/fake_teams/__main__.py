"""Run a fake Teams from the command line: ``python -m local.fake_teams``."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

from local.fake_teams.api import Behaviour, Growth
from local.fake_teams.server import APP_ID, HOST, Options, Server
from local.fake_teams.world import HOME_TENANT


def parse_arguments(arguments: list[str]) -> tuple[Options, bool]:
    """Return the start options, and whether to stop with stdin."""
    parser = argparse.ArgumentParser(
        prog="python -m local.fake_teams", description="A fake Microsoft Teams on loopback."
    )
    scheme = parser.add_mutually_exclusive_group()
    scheme.add_argument("--tls", action="store_true", help="serve https (the default)")
    scheme.add_argument("--http", action="store_true", help="serve plain http, from which msal refuses tokens")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    parser.add_argument("--ca-file", type=Path, help="where to write the CA's certificate (default: a temporary file)")
    parser.add_argument("--app-url", help="the app's messaging endpoint, http://127.0.0.1:7071/api/messages")
    parser.add_argument("--app-id", default=APP_ID)
    parser.add_argument("--app-password", help="default: a random one, see GET /_fake/settings")
    parser.add_argument("--tenant", default=HOME_TENANT, help="the first tenant, in which the app is registered")
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--teams", type=int, default=1)
    parser.add_argument("--chats", type=int, default=1)
    parser.add_argument("--latency", type=float, default=0, help="delay of Bot Connector responses, in seconds")
    parser.add_argument("--no-limits", action="store_true", help="record requests over the rate limits, refuse none")
    parser.add_argument("--stop-with-stdin", action="store_true", help="end when stdin ends")
    given = parser.parse_args(arguments)
    password = {"app_password": given.app_password} if given.app_password else {}
    options = Options(
        port=given.port,
        tls=not given.http,
        ca_file=given.ca_file,
        app_id=given.app_id,
        tenant=given.tenant,
        behaviour=Behaviour(endpoint=given.app_url, latency=given.latency, enforce_limits=not given.no_limits),
        growth=Growth(people=given.people, teams=given.teams, chats=given.chats),
        **password,
    )
    return options, given.stop_with_stdin


async def run(options: Options, *, stop_with_stdin: bool) -> int:
    """Serve until a signal or the end of stdin, and return the exit code."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # The event loops of Windows have no signal handlers.
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopped.set))
    server = Server(options)
    try:
        await server.start()
    except OSError as error:
        reason = error.strerror or error
        print(f"Fake Teams cannot listen on {HOST}:{options.port} ({reason}): choose another --port", file=sys.stderr)
        return 1
    print(f"Fake Teams listening on {server.url}", flush=True)
    if stop_with_stdin:
        threading.Thread(target=_wait_for_stdin, args=(loop, stopped), daemon=True).start()
    await stopped.wait()
    await server.stop()
    return 0


def _wait_for_stdin(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    # A read of the file object sys.stdin would hold its lock while the interpreter exits.
    while os.read(0, 4096):
        continue
    loop.call_soon_threadsafe(stopped.set)


if __name__ == "__main__":
    start_options, with_stdin = parse_arguments(sys.argv[1:])
    sys.exit(asyncio.run(run(start_options, stop_with_stdin=with_stdin)))
