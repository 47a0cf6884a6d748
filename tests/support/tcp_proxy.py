"""A TCP proxy between a program and a server of this machine, which a test can cut and let through again."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Self

#: Longest time to start, to stop, and to cut.
TIMEOUT_SECONDS = 30


class TcpProxy:
    """Forwards connections to 127.0.0.1:`target`. It runs on its own thread, since a test may block while it waits.

    While it is cut, it resets all connections, also new ones: requests in flight get no answer.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._is_cut = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(TIMEOUT_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(TIMEOUT_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_SECONDS)
        self._loop.close()

    def cut(self) -> None:
        """Reset all connections, and each new one until `restore`."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(TIMEOUT_SECONDS)

    def restore(self) -> None:
        """Let connections through again."""
        self._is_cut.clear()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        self._is_cut.set()
        self._abort_all()

    def _abort_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _stop(self) -> None:
        self._server.close()
        await self._cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        if self._is_cut.is_set():
            writer.transport.abort()
            return
        with suppress(OSError):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
            both = {writer, to_server}
            self._writers |= both
            if self._is_cut.is_set():
                self._abort_all()
            await asyncio.gather(_forward(reader, to_server), _forward(from_server, writer))
            self._writers -= both


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Forward bytes until one side closes the connection."""
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
