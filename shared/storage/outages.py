"""Repeat a storage operation while the storage fails, for a worker that alone knows something."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import chain, repeat
from typing import TypeVar

from azure.core.exceptions import AzureError, HttpResponseError

T = TypeVar("T")

#: How long a function repeats an operation, from its begin on: nine minutes, and below `functionTimeout` in host.json,
#: which would end the process, by more than the storage client takes for its own retries.
OUTAGE_SECONDS = 555.0
#: Delays before an operation is repeated; the last one again and again.
RETRY_DELAYS_SECONDS = (0.1, 0.5, 1.0, 2.0)
#: Statuses of a request that the storage understood and refused: it would refuse it again.
_REFUSED = (400, 409, 411, 412, 413, 414)

log = logging.getLogger(__name__)


async def outlast_faults(operation: Callable[[], Awaitable[T]], seconds: float = OUTAGE_SECONDS) -> T:
    """Execute an operation, and repeat it for `seconds` while it raises `AzureError`; then raise that error.

    A write whose answer was lost is repeated, too, and may meet itself: it then raises `Conflict`.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + seconds
    for delay in chain(RETRY_DELAYS_SECONDS, repeat(RETRY_DELAYS_SECONDS[-1])):
        try:
            return await operation()
        except AzureError as error:
            if not is_outage(error) or clock() + delay > until:
                raise
            if delay == RETRY_DELAYS_SECONDS[0]:
                log.warning("The storage failed, and is asked again until it answers: %s", type(error).__name__)
        await asyncio.sleep(delay)
    raise AssertionError("the delays have no end")


def is_outage(error: AzureError) -> bool:
    """Return whether the request failed because the storage, or a table or queue, is away: another try may succeed."""
    return not (isinstance(error, HttpResponseError) and error.status_code in _REFUSED)
