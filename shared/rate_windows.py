"""Compute slots and waiting times that keep Teams' rate limits, on plain values.

Teams limits the requests of a bot to a tenant per second, and those to a conversation over several windows ("Rate
limiting for bots", Microsoft Learn). All windows are sliding. A token bucket with a burst of n would allow 2n requests
in one window, so none is used. Times are whole microseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

SECOND = 1_000_000
#: Longest time whose slots one process takes at once: slots that it does not use are lost to the others.
MAX_BLOCK = SECOND // 2
#: How far ahead slots are granted. Requests that wait longer have no slot yet, so an urgent one never waits longer
#: than this for the next slot.
MAX_LEAD = SECOND
#: How late a slot may be used. At 45 requests a second, some that are 100 ms late and others in time make up to 50 in
#: a second; half of the 100 ms is left for the way to Teams.
MAX_LATENESS = SECOND // 20

#: Limits for one conversation: the number of requests, and the length of the window.
WINDOWS = ((7, SECOND), (8, 2 * SECOND), (60, 30 * SECOND), (1800, 3600 * SECOND))
#: Added to each window, because requests take different times to arrive.
WINDOW_MARGIN = SECOND // 5
#: Requests of the last hour are counted in parts of this length; their exact times are not stored.
PART_LENGTH = 30 * SECOND
#: Requests whose exact times are stored: as many as the longest window below the hour allows.
_MAX_EXACT = 60
_HOUR, _MAX_PER_HOUR = 3600 * SECOND, 1800


def grant(next_slot: int, now: int, rate: int, max_count: int, lead: int = MAX_LEAD) -> tuple[Sequence[int], int]:
    """Return up to `max_count` slots, and the next free slot after them; `next_slot` is the next free slot before.

    Slots are evenly spaced, `rate` a second, from `now` on and at most `lead` ahead. There may be none.
    """
    gap = -(-SECOND // rate)
    first = max(next_slot, now)
    count = min(max_count, max(1, MAX_BLOCK // gap), max(0, (now + lead - first) // gap + 1))
    return [first + gap * index for index in range(count)], first + gap * count if count else next_slot


@dataclass(frozen=True, slots=True)
class RequestHistory:
    """The requests to a conversation: the times of the last 60, and the count of each half minute of the last hour.

    `parts` maps the start of each half minute to its count. `paused_until` is the time until which Teams asked to wait.
    """

    recent: Sequence[int] = ()
    parts: dict[int, int] = field(default_factory=dict)
    paused_until: int = 0

    def earliest(self, now: int) -> int:
        """Return the first time from `now` on at which one more request keeps all windows."""
        at = max(now, self.paused_until)
        for limit, length in WINDOWS[:-1]:
            if len(self.recent) >= limit:
                at = max(at, self.recent[-limit] + length + WINDOW_MARGIN)
        return max(at, self._earliest_within_hour(at))

    def _earliest_within_hour(self, at: int) -> int:
        # A part counts until its end has left the hour.
        counted = sum(self.parts.values())
        for start in sorted(self.parts):
            if start + PART_LENGTH + _HOUR + WINDOW_MARGIN <= at:
                counted -= self.parts[start]
            elif counted >= _MAX_PER_HOUR:
                at = start + PART_LENGTH + _HOUR + WINDOW_MARGIN
                counted -= self.parts[start]
            else:
                break
        return at

    def with_request(self, at: int) -> RequestHistory:
        """Return the history after one more request at `at`, which is not earlier than the last one."""
        expired = at - PART_LENGTH - _HOUR - WINDOW_MARGIN
        parts = {start: count for start, count in self.parts.items() if start > expired}
        part = at - at % PART_LENGTH
        parts[part] = parts.get(part, 0) + 1
        return replace(self, recent=(*self.recent, at)[-_MAX_EXACT:], parts=parts)

    def with_pause(self, until: int) -> RequestHistory:
        """Return the history after Teams asked to wait until `until`."""
        return replace(self, paused_until=max(self.paused_until, until))
