"""The clock of people and schedules: the real time or, on a developer's machine, a moved one.

Policy, schedules, digests and expiry read `Services.clock`. Tokens, claims, slots, retries and the visibility of queue
messages go by the real time, `Services.real_time`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

#: How `HERALD_CLOCK` is written: the time that it was, the real time at that moment, and how fast it goes.
FORM = "2027-03-28T00:55Z@2026-11-23T10:00Z*60"


def real_time() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def moved(text: str) -> Callable[[], datetime]:
    """The clock that `text` (`FORM`) describes; "" is the real one. Before that real time it stands still.

    Raises `ValueError` with one line.
    """
    if not text:
        return real_time
    try:
        start, _, rest = text.partition("@")
        since, _, speed = rest.partition("*")
        begun, anchor, times = _instant(start), _instant(since), float(speed)
    except ValueError:
        raise ValueError(f"must be written like {FORM}") from None
    if not 0 < times <= 100_000:
        raise ValueError("must go forward, at most 100000 times as fast as time")

    def clock() -> datetime:
        return begun + max(timedelta(), real_time() - anchor) * times

    return clock


def setting(start: str, speed: float, since: datetime | None = None) -> str:
    """The value of `HERALD_CLOCK` by which it is `start` (ISO 8601, UTC where it names no zone) at `since`, or now."""
    begun = _instant(start)
    return f"{begun.isoformat()}@{(since or real_time()).isoformat()}*{speed}"


def _instant(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
