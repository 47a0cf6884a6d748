"""Remember what this process has stored already, to save a request to the storage."""

from __future__ import annotations

from collections.abc import Hashable


class Remembered:
    """A set of at most `limit` values, which forgets all of them when there would be more."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: set[Hashable] = set()

    def __contains__(self, value: Hashable) -> bool:
        return value in self._values

    def add(self, value: Hashable) -> None:
        if len(self._values) >= self._limit:
            self._values.clear()
        self._values.add(value)
