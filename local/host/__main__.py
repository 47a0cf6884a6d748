"""Serve the `function_app` of the working directory until a signal: `python -m local.host`."""

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
from local.host.functions import Function, index_functions, load_app
from local.host.host import Host, bind_port, describe
from shared.states import SettingsError

#: The setting with the function key that `--require-keys` requires.
KEY_SETTING = "HERALD_LOCAL_KEY"

log = logging.getLogger("Host")


def main() -> None:
    """Run the host; exit with 0 after a drain, with 1 if it could not start or drain."""
    options = _parse_options()
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
        logging.getLogger("azure").setLevel(logging.WARNING)  # it logs each storage request
        asyncio.run(_serve(options, config))
    except StartError as error:
        _exit(1, str(error))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.host", description=__doc__)
    parser.add_argument("--port", type=int, default=7071, help="port on 127.0.0.1 (default 7071; 0: any)")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of a failing import")
    parser.add_argument("--require-keys", action="store_true", help=f"require the function key in {KEY_SETTING}")
    parser.add_argument("--stop-with-stdin", action="store_true", help="drain when standard input ends")
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
        raise StartError(f"{KEY_SETTING} is not set: set it to a function key, or omit --require-keys")
    with bind_port(options.port) as listener:
        functions = _load_functions(options.verbose)
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
                monitoring = asyncio.create_task(host.monitor())
                await asyncio.wait({monitoring, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if monitoring.done():
                    monitoring.result()
                log.info("Stopping: waiting for running functions")
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            drained = await host.stop()
    # As in Azure, the process ends without atexit handlers, and without waiting for the tasks and threads of the app.
    _exit(0 if drained else 1, "" if drained else "Some functions did not finish in time: messages return later")


def _load_functions(verbose: bool) -> list[Function]:
    try:
        return index_functions(load_app(), os.environ)
    except SettingsError as error:
        raise StartError(str(error)) from None
    except StartError:
        raise
    except Exception as error:  # noqa: BLE001 (an import may raise anything; it is reported as one line)
        if verbose:
            traceback.print_exc()
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise StartError(f"function_app.py cannot be imported: {reason} (--verbose shows the traceback)") from None


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if number == signal.SIGINT and stop.is_set():
            _exit(1, "Stopped without waiting for running functions")
        stop.set()

    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is None:
            continue
        if sys.platform == "win32":
            signal.signal(number, lambda number, _: loop.call_soon_threadsafe(on_signal, number))
        else:
            loop.add_signal_handler(number, on_signal, number)


def _stop_with_stdin(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def wait_for_end() -> None:
        # A read of the file object sys.stdin would hold its lock while the interpreter exits.
        while os.read(0, 4096):
            pass
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=wait_for_end, daemon=True).start()


def _exit(code: int, reason: str = "") -> None:
    with contextlib.suppress(OSError):  # the reader of the output may have ended
        if reason:
            print(reason, file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
