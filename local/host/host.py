"""The host: the listeners of one app, which start in order and drain together."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

from azure.core.exceptions import AzureError, HttpResponseError
from azure.data.tables.aio import TableServiceClient
from azure.storage.queue.aio import QueueServiceClient

from local.host.backoff import backoff_seconds
from local.host.config import SINGLE_ATTEMPT, HostConfig, StartError, resolve_connection
from local.host.functions import Function
from local.host.http_trigger import HttpListener, compile_function_route
from local.host.invoker import Invoker
from local.host.queue_trigger import PollingOptions, QueueListener
from local.host.timer_store import TABLE, TimerStore, build_host_id
from local.host.timer_trigger import TimerListener
from shared.states import SettingsError
from shared.storage.clients import CONNECTION, open_storage

#: How long a message is invisible while it is processed (fixed in Azure), and the setting that shortens it for tests.
LEASE_SECONDS = 600
LEASE_SETTING = "HERALD_LOCAL_VISIBILITY_SECONDS"
#: The setting of Functions for the number of threads for synchronous functions (default: Python's).
THREADS_SETTING = "PYTHON_THREADPOOL_THREAD_COUNT"
#: How long the start waits for the storage, and a stop for running functions.
STORAGE_START_SECONDS = 30.0
DRAIN_SECONDS = 30.0

_STORAGE_HINT = "start Azurite, or change this setting to an available storage account"

log = logging.getLogger("Host")


class Host:
    """Runs `functions` on the running loop, with the settings in `environ`.

    With a `key`, HTTP functions that are not anonymous require it. Raises `StartError` for an invalid setting.
    """

    def __init__(
        self, functions: Sequence[Function], config: HostConfig, environ: Mapping[str, str], key: str | None = None
    ) -> None:
        self._environ = environ
        self._accounts: dict[str, tuple[QueueServiceClient, TableServiceClient]] = {}
        self._resources = AsyncExitStack()
        self._threads = ThreadPoolExecutor(_whole_number(environ, THREADS_SETTING), thread_name_prefix="function")
        timeout = config.function_timeout
        self._invoker = invoker = Invoker(timeout.total_seconds() if timeout else None, self._threads)
        queues = config.extensions.queues
        polling = PollingOptions(queues, queues.max_polling_seconds(environ), _lease_seconds(environ))
        prefix = config.extensions.http.route_prefix
        self._http = HttpListener(_with_trigger(functions, "httpTrigger"), prefix, invoker, key)
        self._queues = [
            QueueListener(function, self._open_queues(function), polling, invoker)
            for function in _with_trigger(functions, "queueTrigger")
        ]
        self._timers = [self._create_timer(function) for function in _with_trigger(functions, "timerTrigger")]
        self._listeners: list[QueueListener | TimerListener] = [*self._queues, *self._timers]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, listener: socket.socket) -> None:
        """Wait for the storage, run timers with `run_on_startup`, open `listener`, and start polling.

        Raises `StartError` if the storage does not answer or the port is taken.
        """
        for queues, tables in self._accounts.values():
            await self._resources.enter_async_context(queues)
            await self._resources.enter_async_context(tables)
        await self._wait_for_storage()
        try:
            await asyncio.gather(*(timer.start() for timer in self._timers))
        except AzureError as error:
            raise StartError(
                f"The status of the timers cannot be stored ({type(error).__name__}): check {CONNECTION}"
            ) from None
        try:
            await self._http.start(listener)
        except OSError as error:
            raise _port_taken(listener.getsockname()[1], error) from None
        self._tasks = [asyncio.create_task(each.run()) for each in self._listeners]

    async def monitor(self) -> None:
        """Wait forever, or until a listener fails; raises its error."""
        await asyncio.gather(*self._tasks, asyncio.Event().wait())

    async def stop(self, grace: float | None = None) -> bool:
        """Stop listening, wait up to `grace` seconds (DRAIN_SECONDS) for functions, return whether all finished."""
        for each in self._listeners:
            each.stop()
        ending = [*self._tasks, asyncio.create_task(self._http.stop())]
        _, late = await asyncio.wait(ending, timeout=DRAIN_SECONDS if grace is None else grace)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._resources.aclose()
        return not late

    def _open_queues(self, function: Function) -> QueueServiceClient:
        name = resolve_connection(function.binding.get("connection", ""), self._environ)
        return self._open(name)[0]

    def _create_timer(self, function: Function) -> TimerListener:
        table = self._open(CONNECTION)[1].get_table_client(TABLE)
        try:
            return TimerListener(function, TimerStore(table, build_host_id(self._environ)), self._invoker)
        except ValueError as error:
            raise StartError(f"function {function.name}: {error}") from None

    def _open(self, connection: str) -> tuple[QueueServiceClient, TableServiceClient]:
        if connection not in self._accounts:
            try:
                self._accounts[connection] = open_storage(self._environ, connection)
            except SettingsError as error:
                raise StartError(str(error)) from None
        return self._accounts[connection]

    async def _wait_for_storage(self) -> None:
        for name, (queues, tables) in self._accounts.items():
            deadline = asyncio.get_running_loop().time() + STORAGE_START_SECONDS
            failures = 0
            while not await self._is_reachable(name, queues, tables):
                if asyncio.get_running_loop().time() > deadline:
                    waited = f"within {STORAGE_START_SECONDS:.0f} s"
                    raise StartError(f"The storage of {name} did not answer {waited}: {_STORAGE_HINT}")
                if failures == 0:
                    log.warning(
                        "The storage of %s does not answer at %s yet: %s", name, queues.primary_hostname, _STORAGE_HINT
                    )
                await asyncio.sleep(backoff_seconds(failures, 0.1, 1.0))
                failures += 1

    async def _is_reachable(self, name: str, queues: QueueServiceClient, tables: TableServiceClient) -> bool:
        try:
            if self._queues:
                async for _ in queues.list_queues(results_per_page=1, **SINGLE_ATTEMPT):
                    break
            if self._timers and name == CONNECTION:
                await tables.create_table_if_not_exists(TABLE, **SINGLE_ATTEMPT)
        except HttpResponseError as error:
            if (error.status_code or 500) < 500:
                reason = error.message.splitlines()[0]
                raise StartError(
                    f"The storage of {name} refuses the request ({reason}): check its account and key"
                ) from None
            return False
        except AzureError:
            return False
        return True


def describe(function: Function, config: HostConfig, port: int) -> str:
    """Return one line for the console: the function's name and its route, queue or schedule."""
    if function.trigger == "httpTrigger":
        methods = ",".join(function.binding.get("methods", ())) or "any method"
        route = compile_function_route(function, config.extensions.http.route_prefix)
        return f"  {function.name}: [{methods}] http://127.0.0.1:{port}/{route.template}"
    source = function.binding["queueName"] if function.trigger == "queueTrigger" else function.binding["schedule"]
    return f"  {function.name}: {function.trigger} {source}"


def bind_port(port: int) -> socket.socket:
    """Return a socket bound to `port` of 127.0.0.1 (0: any), not yet listening; raises `StartError` if it is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform == "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        # A port can be used again at once after a restart; one on which a program listens is still refused.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise _port_taken(port, error) from None
    return listener


def _port_taken(port: int, error: OSError) -> StartError:
    return StartError(f"Port {port} is taken ({error.strerror}): stop its program, or choose another port with --port")


def _with_trigger(functions: Sequence[Function], trigger: str) -> list[Function]:
    return [function for function in functions if function.trigger == trigger]


def _lease_seconds(environ: Mapping[str, str]) -> int:
    return _whole_number(environ, LEASE_SETTING) or LEASE_SECONDS


def _whole_number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name)
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise StartError(f"{name} must be a whole number from 1, not {text!r}")
    return int(text)
