"""The host: everything that listens for one app, started in order and drained together."""

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

from local.host.backoff import backoff
from local.host.config import ONCE, HostConfig, StartError, resolve_connection
from local.host.functions import Function
from local.host.http_trigger import HttpListener, http_route
from local.host.invoke import Invoker
from local.host.queue_trigger import Polling, QueueListener
from local.host.timer_store import TABLE, TimerStore, host_id
from local.host.timer_trigger import TimerListener
from shared.states import SettingsError
from shared.storage.clients import CONNECTION, open_storage

#: How long a message is invisible while it is processed, in seconds (fixed in Azure), and the setting that
#: shortens it for tests.
LEASE_SECONDS = 600
LEASE_SETTING = "HERALD_LOCAL_VISIBILITY_SECONDS"
#: The setting for the number of threads of synchronous functions (Functions' own; Python's default without).
THREADS_SETTING = "PYTHON_THREADPOOL_THREAD_COUNT"
#: How long the start waits for the storage, and a stop for what is running, in seconds.
STORAGE_PATIENCE = 30.0
GRACE = 30.0

_HINT = "start Azurite, or set the setting to a storage account that is up"

log = logging.getLogger("Host")


class Host:
    """Runs `functions` on the running loop, with the settings in `environ`.

    A `key` makes HTTP functions that are not anonymous ask for it. Raises `StartError` where a binding or a
    setting is unusable.
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
        polling = Polling(queues, queues.polling_limit(environ), _lease(environ))
        self._http = HttpListener(_by(functions, "httpTrigger"), config.extensions.http.route_prefix, invoker, key)
        self._queues = [
            QueueListener(function, self._account(function), polling, invoker)
            for function in _by(functions, "queueTrigger")
        ]
        self._timers = [self._timer(function) for function in _by(functions, "timerTrigger")]
        self._listeners: list[QueueListener | TimerListener] = [*self._queues, *self._timers]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, listener: socket.socket) -> None:
        """Waits for the storage, runs the timers of the start, opens `listener`, and starts polling.

        Raises `StartError` where the storage stays out of reach or the port is taken.
        """
        for queues, tables in self._accounts.values():
            await self._resources.enter_async_context(queues)
            await self._resources.enter_async_context(tables)
        await self._reach_storage()
        try:
            await asyncio.gather(*(timer.start() for timer in self._timers))
        except AzureError as error:
            raise StartError(f"The storage does not take the timers' status: {type(error).__name__}") from None
        try:
            await self._http.start(listener)
        except OSError as error:
            raise port_taken(listener.getsockname()[1], error) from None
        self._tasks = [asyncio.create_task(part.run()) for part in self._listeners]

    async def watch(self) -> None:
        """Waits for ever, unless a listener breaks: raises its error."""
        await asyncio.gather(*self._tasks, asyncio.Event().wait())

    async def stop(self, grace: float | None = None) -> bool:
        """Takes nothing new, lets what runs finish within `grace` seconds (GRACE), and says whether all of it did."""
        for part in self._listeners:
            part.stop()
        ending = [*self._tasks, asyncio.create_task(self._http.stop())]
        _, late = await asyncio.wait(ending, timeout=GRACE if grace is None else grace)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._resources.aclose()
        return not late

    def _account(self, function: Function) -> QueueServiceClient:
        name = resolve_connection(function.binding.get("connection", ""), self._environ)
        return self._open(name)[0]

    def _timer(self, function: Function) -> TimerListener:
        table = self._open(CONNECTION)[1].get_table_client(TABLE)
        try:
            return TimerListener(function, TimerStore(table, host_id(self._environ)), self._invoker)
        except ValueError as error:
            raise StartError(f"function {function.name}: {error}") from None

    def _open(self, connection: str) -> tuple[QueueServiceClient, TableServiceClient]:
        if connection not in self._accounts:
            try:
                self._accounts[connection] = open_storage(self._environ, connection)
            except SettingsError as error:
                raise StartError(str(error)) from None
        return self._accounts[connection]

    async def _reach_storage(self) -> None:
        for name, (queues, tables) in self._accounts.items():
            give_up = asyncio.get_running_loop().time() + STORAGE_PATIENCE
            failures = 0
            while not await self._answers(name, queues, tables):
                if asyncio.get_running_loop().time() > give_up:
                    raise StartError(f"The storage of {name} did not answer within {STORAGE_PATIENCE:.0f} s: {_HINT}")
                if failures == 0:
                    log.warning("The storage of %s does not answer at %s yet: %s", name, queues.primary_hostname, _HINT)
                await asyncio.sleep(backoff(failures, 0.1, 1.0))
                failures += 1

    async def _answers(self, name: str, queues: QueueServiceClient, tables: TableServiceClient) -> bool:
        try:
            if self._queues:
                async for _ in queues.list_queues(results_per_page=1, **ONCE):
                    break
            if self._timers and name == CONNECTION:
                await tables.create_table_if_not_exists(TABLE, **ONCE)
        except HttpResponseError as error:
            if (error.status_code or 500) < 500:
                raise StartError(f"The storage of {name} refuses us: {error.message.splitlines()[0]}") from None
            return False
        except AzureError:
            return False
        return True


def describe(function: Function, config: HostConfig, port: int) -> str:
    """One line for a person: the function's name, and what calls it."""
    if function.trigger == "httpTrigger":
        methods = ",".join(function.binding.get("methods", ())) or "any method"
        route = http_route(function, config.extensions.http.route_prefix)
        return f"  {function.name}: [{methods}] http://127.0.0.1:{port}/{route.template}"
    what = function.binding["queueName"] if function.trigger == "queueTrigger" else function.binding["schedule"]
    return f"  {function.name}: {function.trigger} {what}"


def reserve(port: int) -> socket.socket:
    """A socket bound to `port` of 127.0.0.1 (0: any) that does not listen yet; raises `StartError` if it is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform == "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        # so that a port is free at once after a restart; one that listens is refused nevertheless
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise port_taken(port, error) from None
    return listener


def port_taken(port: int, error: OSError) -> StartError:
    return StartError(f"Port {port} is taken: stop what listens there or choose another with --port ({error.strerror})")


def _by(functions: Sequence[Function], trigger: str) -> list[Function]:
    return [function for function in functions if function.trigger == trigger]


def _lease(environ: Mapping[str, str]) -> int:
    return _whole_number(environ, LEASE_SETTING) or LEASE_SECONDS


def _whole_number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name)
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise StartError(f"{name} must be a whole number from 1, not {text!r}")
    return int(text)
