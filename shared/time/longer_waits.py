"""Waits that grow with the time for which something has failed, for what is tried again without end."""

from __future__ import annotations

import time
from collections.abc import Callable


class LongerWaits:
    """Half of the time since the first failure of a `key`, but at least `shortest` and at most `longest` seconds.

    All failures of a process count together, so that many at once do not make the wait longer.
    """

    def __init__(self, shortest: float, longest: float, monotonic: Callable[[], float] | None = None) -> None:
        self.shortest, self.longest = shortest, longest
        self._monotonic = monotonic
        self._failing_since: dict[str, float] = {}

    def failed(self, key: str = "") -> float:
        """Return the seconds to wait after a failure."""
        now = (self._monotonic or time.monotonic)()
        elapsed = now - self._failing_since.setdefault(key, now)
        return min(self.longest, max(self.shortest, elapsed / 2))

    def succeeded(self, key: str = "") -> None:
        """Forget the failures of `key`."""
        self._failing_since.pop(key, None)
