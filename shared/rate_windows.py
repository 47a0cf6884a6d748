"""The arithmetic of send slots within Teams' rate limits, on plain values.

Teams counts the requests of an app in a tenant over each second, and those of a conversation over several windows
("Rate limiting for bots", Microsoft Learn). Both windows are sliding. A token bucket with a burst of n would let 2n
through in one window, so there is none here. Times are whole microseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

SECOND = 1_000_000
#: A process takes the slots of at most this long at once, so that what it does not use is soon another's.
BLOCK = SECOND // 2
#: How far ahead slots are given out: what waits longer has none yet, so that an urgent message is never further
#: from its turn than this.
MAX_LEAD = SECOND
#: How late a slot may be used. At 45 a second, requests that are all late by 100 ms and then at once make 50 in a
#: second; half of that is left for their way to Teams.
MAX_LATENESS = SECOND // 20

#: Requests to one conversation by one bot: so many within so long.
WINDOWS = ((7, SECOND), (8, 2 * SECOND), (60, 30 * SECOND), (1800, 3600 * SECOND))
#: Windows are kept this much longer, since requests do not take equally long to arrive.
MARGIN = SECOND // 5
#: The hour is counted in parts of this length, the moments within it are not kept.
PART = 30 * SECOND
_EXACT = 60
_HOUR, _HOURLY = 3600 * SECOND, 1800


def grant(following: int, now: int, rate: int, wanted: int, ahead: int = MAX_LEAD) -> tuple[Sequence[int], int]:
    """Up to `wanted` slots, and the next free one after them; `following` is the lane's next free slot before.

    Slots lie evenly, `rate` a second, none before `now`, none later than `ahead` from it; they may be none.
    """
    gap = -(-SECOND // rate)
    first = max(following, now)
    count = min(wanted, max(1, BLOCK // gap), max(0, (now + ahead - first) // gap + 1))
    return [first + gap * turn for turn in range(count)], first + gap * count if count else following


@dataclass(frozen=True, slots=True)
class Sends:
    """What is known of a conversation's requests: the last 60 exactly, and counts of each half minute of the hour.

    `parts` maps the start of a part to its count. `held` is until when Teams asked us to wait.
    """

    recent: Sequence[int] = ()
    parts: dict[int, int] = field(default_factory=dict)
    held: int = 0

    def earliest(self, now: int) -> int:
        """The first moment from `now` on at which one more request keeps all windows."""
        at = max(now, self.held)
        for most, length in WINDOWS[:-1]:
            if len(self.recent) >= most:
                at = max(at, self.recent[-most] + length + MARGIN)
        return max(at, self._within_the_hour(at))

    def _within_the_hour(self, at: int) -> int:
        # A part counts as long as its last moment may lie within the hour.
        counted = sum(self.parts.values())
        for start in sorted(self.parts):
            if start + PART + _HOUR + MARGIN <= at:
                counted -= self.parts[start]
            elif counted >= _HOURLY:
                at = start + PART + _HOUR + MARGIN
                counted -= self.parts[start]
            else:
                break
        return at

    def sent(self, at: int) -> Sends:
        """The same after a request at `at`, which is not earlier than those before."""
        parts = {start: count for start, count in self.parts.items() if start + PART + _HOUR + MARGIN > at}
        part = at - at % PART
        parts[part] = parts.get(part, 0) + 1
        return replace(self, recent=(*self.recent, at)[-_EXACT:], parts=parts)

    def hold(self, until: int) -> Sends:
        """The same after Teams asked to wait until then."""
        return replace(self, held=max(self.held, until))
