"""An event loop whose time jumps to the next timer when all of its tasks wait: a simulated day takes seconds."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

#: The real time at which every run begins.
START = datetime(2026, 11, 23, 10, tzinfo=UTC)


class _JumpingSelector(selectors.SelectSelector):
    """Adds the time that the loop would wait to `now`, instead of waiting. `now` is in seconds since the start."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "all tasks wait, and there is no timer: the run would never end"
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Nothing waits in reality: `to_thread` runs its function in the loop. It has no network."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 (passed on to who waits for it)
            future.set_exception(error)
        return future


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `main` in virtual time, and return its result; the module `time` shows the virtual time meanwhile."""
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        start = int(START.timestamp())
        patch.setattr(time, "monotonic", loop.time)
        patch.setattr(time, "time", lambda: start + loop.time())
        patch.setattr(time, "time_ns", lambda: start * 10**9 + int(loop.time() * 1e9))
        return runner.run(main())


def virtual_now() -> datetime:
    """Return the virtual time in UTC."""
    return datetime.fromtimestamp(time.time(), UTC)
