"""`python -m local.host`: serves the `function_app` of the working directory until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from local.host.config import HostConfig, StartError, apply_local_settings, load_host_config
from local.host.functions import Function, index, load_app
from local.host.host import Host, describe, reserve
from shared.states import SettingsError

#: The setting that holds the key which `--require-keys` asks for.
KEY_SETTING = "HERALD_LOCAL_KEY"

log = logging.getLogger("Host")


def main() -> None:
    """Runs the host; the exit code is 0 after a drain, 1 where it could not start or drain."""
    options = _options()
    logging.Formatter.converter = time.gmtime
    try:
        folder = Path.cwd()
        sys.path.insert(0, str(folder))
        apply_local_settings(folder, os.environ)
        config = load_host_config(folder)
        logging.basicConfig(
            stream=sys.stdout,
            level=config.logging.log_level.default,
            format="%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s",
            datefmt="%Y-%m-%dT%H:%M:%S",
        )
        logging.getLogger("azure").setLevel(logging.WARNING)  # else a line for each storage request
        asyncio.run(_serve(options, config))
    except StartError as error:
        _leave(1, str(error))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.host", description=__doc__)
    parser.add_argument("--port", type=int, default=7071, help="port on 127.0.0.1 (default 7071; 0: any)")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of a failing import")
    parser.add_argument("--require-keys", action="store_true", help=f"ask for the key in {KEY_SETTING}, as Azure does")
    parser.add_argument("--stop-with-stdin", action="store_true", help="drain at the end of standard input")
    options = parser.parse_args()
    if not 0 <= options.port <= 65_535:
        parser.error("--port must be from 0 to 65535")
    return options


async def _serve(options: argparse.Namespace, config: HostConfig) -> None:
    stop = asyncio.Event()
    _stop_on_signals(stop)
    if options.stop_with_stdin:
        _stop_with_stdin(stop)
    key = os.environ.get(KEY_SETTING) if options.require_keys else None
    if options.require_keys and not key:
        raise StartError(f"{KEY_SETTING} is not set: --require-keys needs the key to ask for")
    with reserve(options.port) as listener:
        functions = _load(options.verbose)
        host = Host(functions, config, os.environ, key)
        stopping = asyncio.create_task(stop.wait())
        starting = asyncio.create_task(host.start(listener))
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                port = listener.getsockname()[1]
                for function in functions:
                    print(describe(function, config, port))
                print(f"Listening on http://127.0.0.1:{port}", flush=True)
                watching = asyncio.create_task(host.watch())
                await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    watching.result()
                log.info("Stopping: running functions may finish")
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            drained = await host.stop()
    # As in Azure, the app sees no end: no atexit, no closing, and no waiting for its own tasks and threads.
    _leave(0 if drained else 1, "" if drained else "Some functions did not finish in time")


def _load(verbose: bool) -> list[Function]:
    try:
        return index(load_app(), os.environ)
    except SettingsError as error:
        raise StartError(str(error)) from None
    except StartError:
        raise
    except Exception as error:  # noqa: BLE001 (a module may raise anything; it becomes the one line)
        if verbose:
            traceback.print_exc()
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise StartError(f"function_app.py cannot be imported: {reason} (--verbose shows where)") from None


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def ask(number: int) -> None:
        if number == signal.SIGINT and stop.is_set():
            _leave(1, "Stopped at once")
        stop.set()

    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is None:
            continue
        if sys.platform == "win32":
            signal.signal(number, lambda number, _: loop.call_soon_threadsafe(ask, number))
        else:
            loop.add_signal_handler(number, ask, number)


def _stop_with_stdin(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def wait_for_end() -> None:
        # the bare descriptor: a reader that waits in a file object holds its lock while the interpreter ends
        while os.read(0, 4096):
            pass
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=wait_for_end, daemon=True).start()


def _leave(code: int, reason: str = "") -> None:
    with contextlib.suppress(OSError):  # whoever read our output may be gone
        if reason:
            print(reason, file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
