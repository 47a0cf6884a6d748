"""Counts of the requests to the fake by operation and status, and of its TCP connections."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from weakref import WeakKeyDictionary

from aiohttp import web


class Traffic:
    """Counts since the last `clear`; an older connection counts again with its next request."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.requests: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.connections: Counter[str] = Counter()
        self._numbers: WeakKeyDictionary[asyncio.Transport, int] = WeakKeyDictionary()
        self._surfaces: WeakKeyDictionary[asyncio.Transport, set[str]] = WeakKeyDictionary()
        self._opened = 0

    def count_connection(self, request: web.BaseRequest, surface: str) -> int:
        """Count the request's connection once for each surface, and return its number."""
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

    def count_response(self, operation: str, request: web.BaseRequest, response: web.Response) -> None:
        """Count a request by its status, or as `dropped` if its connection is closed."""
        closed = request.transport is None or request.transport.is_closing()
        self.requests[operation]["dropped" if closed else str(response.status)] += 1
