"""CPU affinity: the measured processes have one core to themselves, the servers share the others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pin_processes(*, measured: bool) -> Iterator[None]:
    """Run processes that are started in this context on the first core (`measured`) or on the others.

    Changes nothing on systems without CPU affinity.
    """
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    first = {min(cores)}
    os.sched_setaffinity(0, first if measured or cores == first else cores - first)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
