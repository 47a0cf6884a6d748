"""Which core runs what, where the system lets us say so: what is measured has one to itself, its servers the others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pinned(*, measured: bool) -> Iterator[None]:
    """Processes started meanwhile run on the first core (`measured`) or on the others."""
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
