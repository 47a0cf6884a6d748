"""Measure this process: the lag of its event loop, and its memory.

It needs only the standard library, as the contenders use it in an environment of their own.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from pathlib import Path
from typing import Self

#: Seconds between two wake-ups of the task that measures the lag of the loop.
PROBE_SECONDS = 0.005

_STATUS = Path("/proc/self/status")


class LoopLag:
    """Measure how late a task that asks to be woken every `PROBE_SECONDS` is woken; starts on entering the context."""

    def __init__(self) -> None:
        self._delays: list[float] = []
        self._probe_task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._probe_task
        self._probe_task.cancel()

    def start(self) -> None:
        """Start in the running loop, or reset the measurement."""
        self._delays.clear()
        if self._probe_task is None:
            self._probe_task = asyncio.create_task(self._probe())

    @property
    def longest_ms(self) -> float:
        return 1000 * max(self._delays, default=0.0)

    @property
    def p99_ms(self) -> float:
        ordered = sorted(self._delays)
        return 1000 * ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else 0.0

    async def _probe(self) -> None:
        due = time.perf_counter() + PROBE_SECONDS
        while True:
            await asyncio.sleep(due - time.perf_counter())
            now = time.perf_counter()
            self._delays.append(max(0.0, now - due))
            due = now + PROBE_SECONDS


def resident_mb() -> float:
    """Return the resident memory of this process in MB, or its peak on systems without /proc."""
    return _status_mb("VmRSS")


def peak_mb() -> float:
    """Return the peak resident memory of this process in MB."""
    return _status_mb("VmHWM")


def _status_mb(field: str) -> float:
    if _STATUS.exists():
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
        return int(lines[field].split()[0]) / 1024
    if sys.platform == "win32":
        return math.nan
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
