"""The clock of people and schedules: the real time or, on a developer's machine, a simulated one.

Policy, schedules, digests and expiry read `Services.clock`. Tokens, claims, slots, retries and the visibility of queue
messages use the real time, `Services.real_time`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

#: An example of `HERALD_CLOCK`: the simulated start, the real time of that start, and the speed.
CLOCK_EXAMPLE = "2027-03-28T00:55Z@2026-11-23T10:00Z*60"
#: Highest speed, in simulated seconds per real second.
MAX_SPEED = 100_000


def real_time() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def parse_clock(text: str) -> Callable[[], datetime]:
    """Return the clock that `text` describes (see `CLOCK_EXAMPLE`), or the real one for "".

    It stands still until the real time of its start. Raises `ValueError` with one line.
    """
    if not text:
        return real_time
    try:
        start_text, _, rest = text.partition("@")
        real_text, _, speed_text = rest.partition("*")
        start, real_start, speed = _parse_utc(start_text), _parse_utc(real_text), float(speed_text)
    except ValueError:
        raise ValueError(f"must be written like {CLOCK_EXAMPLE}") from None
    if not 0 < speed <= MAX_SPEED:
        raise ValueError(f"must have a speed above 0 and up to {MAX_SPEED}")

    def clock() -> datetime:
        return start + max(timedelta(), real_time() - real_start) * speed

    return clock


def format_clock(start: str, speed: float, real_start: datetime | None = None) -> str:
    """Return the `HERALD_CLOCK` that shows `start` (ISO 8601, UTC without an offset) at `real_start`, or now."""
    return f"{_parse_utc(start).isoformat()}@{(real_start or real_time()).isoformat()}*{speed}"


def _parse_utc(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
