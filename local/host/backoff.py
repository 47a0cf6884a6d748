"""The randomized exponential backoff of the Functions host, for polling and for retries."""

from __future__ import annotations

import random

#: How far a delay is moved at random, as a share of it, so that many pollers do not march in step.
SPREAD = 0.2


def backoff(failures: int, low: float, high: float) -> float:
    """Seconds to wait after `failures` (from 0) fruitless tries in a row, from `low` up to `high`.

    The first wait is `low`, the next are `low` plus `low` doubled each time within `SPREAD`: the Functions
    host's RandomizedExponentialBackoffStrategy.
    """
    if failures == 0 or low >= high:
        return min(low, high)
    growth = 2.0 ** min(failures - 1, 60)
    return min(high, low * (1 + random.uniform(1 - SPREAD, 1 + SPREAD) * growth))  # noqa: S311 (no secret)
