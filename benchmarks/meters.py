"""What a process can say of itself: how long its event loop stood still, and its memory. Standard library alone."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from pathlib import Path
from typing import Self

#: Seconds between two beats of the heart that measures the lag of the loop.
BEAT = 0.005

_STATUS = Path("/proc/self/status")


class Lag:
    """How late a task that asks to be woken every 5 ms is woken, from entering it on."""

    def __init__(self) -> None:
        self._late: list[float] = []
        self._beating: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._beating
        self._beating.cancel()

    def start(self) -> None:
        """Begin, or begin anew, in the running loop."""
        self._late.clear()
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())

    @property
    def longest_ms(self) -> float:
        return 1000 * max(self._late, default=0.0)

    @property
    def p99_ms(self) -> float:
        ordered = sorted(self._late)
        return 1000 * ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else 0.0

    async def _beat(self) -> None:
        due = time.perf_counter() + BEAT
        while True:
            await asyncio.sleep(due - time.perf_counter())
            now = time.perf_counter()
            self._late.append(max(0.0, now - due))
            due = now + BEAT


def resident_mb() -> float:
    """The memory that this process has now, in MB; where only the peak is known, that."""
    return _status_mb("VmRSS")


def peak_mb() -> float:
    """The most memory that this process ever had, in MB."""
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
