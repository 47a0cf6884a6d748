"""Do the same work for many values, a limited number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

#: Storage operations that run at the same time.
MAX_CONCURRENT = 32

T = TypeVar("T")
R = TypeVar("R")


async def gather_limited(values: Sequence[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    """Return the results of `work` for each value, in order; at most `MAX_CONCURRENT` run at the same time.

    If some raise, the first exception is raised after all have ended, so that none is still running when the caller
    tries again.
    """
    semaphore = asyncio.Semaphore(MAX_CONCURRENT)

    async def limited(value: T) -> R:
        async with semaphore:
            return await work(value)

    results = await asyncio.gather(*map(limited, values), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]
