"""The randomized exponential backoff of the Functions host, for polling queues and retrying storage requests."""

from __future__ import annotations

import random

#: Jitter as a share of the delay, so that several pollers do not run in step.
JITTER_SHARE = 0.2


def backoff_seconds(failures: int, low: float, high: float) -> float:
    """Return the seconds to wait after `failures` (from 0) failed or empty attempts in a row.

    The first delay is `low`, later ones are `low` plus a doubling, jittered `low`, at most `high`: the
    RandomizedExponentialBackoffStrategy of the Functions host.
    """
    if failures == 0 or low >= high:
        return min(low, high)
    growth = 2.0 ** min(failures - 1, 60)
    jitter = random.uniform(1 - JITTER_SHARE, 1 + JITTER_SHARE)  # noqa: S311 (no secret)
    return min(high, low * (1 + jitter * growth))
