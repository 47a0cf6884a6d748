"""Counts of what reached the fake: requests by operation and answer, and TCP connections."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from weakref import WeakKeyDictionary

from aiohttp import web


class Traffic:
    """Counts since the last `clear`; a connection that was open before counts again when it is used again."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.requests: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.connections: Counter[str] = Counter()
        self._numbers: WeakKeyDictionary[asyncio.Transport, int] = WeakKeyDictionary()
        self._surfaces: WeakKeyDictionary[asyncio.Transport, set[str]] = WeakKeyDictionary()
        self._opened = 0

    def connection(self, request: web.BaseRequest, surface: str) -> int:
        """The number of the request's connection, counted once for each surface that it is used for."""
        transport = request.transport
        if transport is None:
            return 0
        number = self._numbers.get(transport)
        if number is None:
            self._opened = number = self._opened + 1
            self._numbers[transport] = number
            self._surfaces[transport] = set()
        surfaces = self._surfaces[transport]
        if surface not in surfaces:
            surfaces.add(surface)
            self.connections[surface] += 1
        return number

    def answered(self, operation: str, request: web.BaseRequest, response: web.Response) -> None:
        """Counts a request by its status, or as `dropped` where nobody will read the answer."""
        gone = request.transport is None or request.transport.is_closing()
        self.requests[operation]["dropped" if gone else str(response.status)] += 1
