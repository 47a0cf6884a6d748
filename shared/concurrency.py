"""Run the same work on many values, a limited number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

#: Rows that are read or written, or messages that are put, at the same time.
MAX_CONCURRENT = 32

T = TypeVar("T")
R = TypeVar("R")


async def gather_limited(values: Sequence[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    """What `work` returns for each of `values`, in their order, `MAX_CONCURRENT` of them at the same time.

    Raises what the first of them raised, when all have ended: none goes on behind the back of who tries again.
    """
    gate = asyncio.Semaphore(MAX_CONCURRENT)

    async def one(value: T) -> R:
        async with gate:
            return await work(value)

    results = await asyncio.gather(*map(one, values), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]
