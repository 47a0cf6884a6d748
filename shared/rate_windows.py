"""Compute slots and turns that keep Teams' rate limits, on plain values.

Teams limits the requests of a bot to a tenant per second, and those to a conversation over several windows ("Rate
limiting for bots", Microsoft Learn). All windows are sliding. A token bucket with a burst of n would allow 2n requests
in one window, so none is used. Times are whole microseconds since 1970.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

SECOND = 1_000_000
#: How far ahead slots are granted. Requests that wait longer have no slot yet, so an urgent one waits no longer than
#: this for the next slot, and a process that does not use its slots takes no more from the others.
MAX_AHEAD = SECOND // 2
#: The same while the storage is slow, and how much later than now the first slot may be then.
MAX_LEAD = SECOND
#: How late a slot may be used. At 45 requests a second, some that are 100 ms late and others in time make up to 50 in
#: a second; half of the 100 ms is left for the way to Teams.
MAX_LATENESS = SECOND // 20

#: The number of requests, and the length of the window.
Windows = Sequence[tuple[int, int]]
#: Limits for messages to one conversation, which its edits, deletions and creation share; the hour is the last.
SEND_WINDOWS: Windows = ((7, SECOND), (8, 2 * SECOND), (60, 30 * SECOND), (1800, 3600 * SECOND))
#: Windows of the turns of messages to one conversation. They hold less than Teams allows, so that messages that come
#: back late from their queue, whose delays are whole seconds, do not wait for each other.
TURN_WINDOWS: Windows = ((7, 14 * SECOND // 5), (56, 30 * SECOND), (1700, 3600 * SECOND))
#: Limits for lists of the members or channels of one conversation or team.
ROSTER_WINDOWS: Windows = ((14, SECOND), (16, 2 * SECOND), (120, 30 * SECOND), (3600, 3600 * SECOND))
#: Limit for Graph's requests about one team ("Microsoft Graph service-specific throttling limits", Microsoft Learn),
#: which documents none for the hour.
GRAPH_TEAM_WINDOWS: Windows = ((4, SECOND), (4 * 3600, 3600 * SECOND))
#: Added to each window, because requests take different times to arrive.
WINDOW_MARGIN = SECOND // 5
#: Requests of the last hour are counted in parts of this length; their exact times are not stored.
PART_LENGTH = 30 * SECOND

#: Longest pause of a lane. A stored time that is further ahead is not believed.
MAX_PAUSE = 900 * SECOND
#: After a pause, one request is sent first. The next ones follow after this time: other workers take their slots up to
#: 0.7 s ahead (2 s while the storage is slow), and have to know its answer by then.
PROBE_GAP = 2 * SECOND
#: Longest time that a message waits for its turn in the process, and longest time for which turns are reserved.
MAX_TURN_WAIT, MAX_TURN_LEAD = SECOND, 3600 * SECOND
#: Largest difference between the clocks of two workers.
MAX_SKEW = 60 * SECOND
#: A tenant is paused if Teams refuses requests to this many of its conversations within this time.
MAX_REFUSED_CONVERSATIONS, REFUSAL_WINDOW = 3, 5 * SECOND


def grant(next_slot: int, now: int, rate: int, max_count: int, max_ahead: int = MAX_AHEAD) -> tuple[Sequence[int], int]:
    """Return up to `max_count` slots, and the next free slot after them; `next_slot` is the next free slot before.

    Slots are evenly spaced, `rate` a second, from `now` on and at most `max_ahead` ahead. There may be none.
    """
    gap = -(-SECOND // rate)
    first = max(next_slot, now)
    count = min(max_count, max(0, (now + max_ahead - first) // gap + 1))
    return [first + gap * index for index in range(count)], first + gap * count if count else next_slot


@dataclass(frozen=True, slots=True)
class TenantLane:
    """The requests to a tenant: the next free slot, and the time until which the lane is or was paused.

    `refused` has the conversations to which Teams refused a request lately, each with the time.
    """

    next_slot: int = 0
    paused_until: int = 0
    refused: Sequence[tuple[int, str]] = ()

    def believed(self, now: int) -> TenantLane:
        """Return the lane without times that no worker writes: it then begins with a probe."""
        # Slots are never taken this far ahead: an older worker, which stores no pause, has paused the lane.
        is_paused = self.next_slot > now + 2 * MAX_LEAD + PROBE_GAP
        paused_until = max(self.paused_until, self.next_slot if is_paused else 0)
        if max(self.next_slot, paused_until) > now + MAX_PAUSE + MAX_SKEW:
            return replace(self, next_slot=now, paused_until=now)
        return replace(self, paused_until=paused_until)

    def take(self, now: int, rate: int, max_count: int, max_ahead: int = MAX_AHEAD) -> tuple[Sequence[int], TenantLane]:
        """Return up to `max_count` slots from `now` on, and the lane after them; after a pause, one slot first."""
        if self.paused_until and self.next_slot <= self.paused_until:
            probe = max(now, self.paused_until)
            return ([probe], replace(self, next_slot=probe + PROBE_GAP)) if probe <= now + max_ahead else ([], self)
        slots, next_slot = grant(self.next_slot, now, rate, max_count, max_ahead)
        return slots, replace(self, next_slot=next_slot)

    def with_pause(self, until: int) -> TenantLane:
        """Return the lane after Teams asked to wait until `until`."""
        if until <= self.paused_until:
            return self
        until = max(self.next_slot, until)  # slots before `next_slot` are taken: the next one is the probe
        return replace(self, next_slot=until, paused_until=until)

    def with_refusal(self, conversation: str, now: int, until: int) -> TenantLane:
        """Return the lane after Teams refused a request to `conversation` and asked to wait until `until`."""
        # Refusals at the same time are stored in any order.
        refused = [(at, name) for at, name in self.refused if abs(at - now) < REFUSAL_WINDOW and name != conversation]
        lane = replace(self, refused=(*refused, (now, conversation)))
        return lane.with_pause(until) if len(lane.refused) >= MAX_REFUSED_CONVERSATIONS else lane


@dataclass(frozen=True, slots=True)
class RequestHistory:
    """The requests to a conversation: the exact times of the last ones, and the count of each half minute of an hour.

    `parts` maps the start of each half minute to its count. `paused_until` is the time until which Teams asked to wait.
    `windows` are the limits that they keep.
    """

    recent: Sequence[int] = ()
    parts: dict[int, int] = field(default_factory=dict)
    paused_until: int = 0
    windows: Windows = SEND_WINDOWS

    def earliest(self, now: int) -> int:
        """Return the first time from `now` on at which one more request keeps all windows; any later one does, too."""
        at = max(now, self.paused_until)
        first_after_pause = bisect_left(self.recent, self.paused_until)
        if self.paused_until and first_after_pause < len(self.recent):  # it is the probe
            at = max(at, self.recent[first_after_pause] + PROBE_GAP)
        for limit, length in self.windows[:-1]:
            if len(self.recent) >= limit:
                at = max(at, self.recent[-limit] + length + WINDOW_MARGIN)
        return max(at, self._earliest_within_hour(at))

    def _earliest_within_hour(self, at: int) -> int:
        # A part counts until its end has left the hour. The oldest ones have to leave until there is room.
        limit, hour = self.windows[-1]
        counted = sum(self.parts.values())
        for start in sorted(self.parts):
            if start + PART_LENGTH + hour + WINDOW_MARGIN <= at:
                counted -= self.parts[start]
            elif counted >= limit:
                at = start + PART_LENGTH + hour + WINDOW_MARGIN
                counted -= self.parts[start]
            else:
                break
        return at

    def with_request(self, at: int) -> RequestHistory:
        """Return the history after one more request at `at`; it counts as not earlier than the last one."""
        at = max(at, self.recent[-1]) if self.recent else at
        expired = at - PART_LENGTH - self.windows[-1][1] - WINDOW_MARGIN
        parts = {start: count for start, count in self.parts.items() if start > expired}
        part = at - at % PART_LENGTH
        parts[part] = parts.get(part, 0) + 1
        longest = self.windows[-2][0]  # as many exact times as the longest window below the hour allows
        return replace(self, recent=(*self.recent, at)[-longest:], parts=parts)

    def without_request(self, at: int) -> RequestHistory:
        """Return the history without a request at `at`, if there is one: it was not sent."""
        if at not in self.recent:
            return self
        index, part = self.recent.index(at), at - at % PART_LENGTH
        parts = self.parts | {part: max(0, self.parts.get(part, 0) - 1)}
        return replace(self, recent=(*self.recent[:index], *self.recent[index + 1 :]), parts=parts)

    def with_pause(self, until: int) -> RequestHistory:
        """Return the history after Teams asked to wait until `until`."""
        return replace(self, paused_until=max(self.paused_until, until))

    def believed(self, now: int, ahead: int = 0) -> RequestHistory:
        """Return the history without times that no worker writes: more than `ahead` and a skew of clocks from `now`."""
        latest, pause = now + ahead + MAX_SKEW, self.paused_until
        return replace(
            self,
            recent=tuple(at for at in self.recent if at <= latest),
            parts={start: count for start, count in self.parts.items() if start <= latest},
            paused_until=pause if pause <= now + MAX_PAUSE + MAX_SKEW else 0,
        )


@dataclass(frozen=True, slots=True)
class ConversationLane:
    """The requests `sent` to a conversation, and the `turns` of all messages, in order.

    A turn is the time at which a message may be sent at the earliest: at once, or when it comes back from its queue.
    `expected` has the requests that this process has let pass; it is not stored.
    """

    sent: RequestHistory = field(default_factory=RequestHistory)
    turns: RequestHistory = field(default_factory=lambda: RequestHistory(windows=TURN_WINDOWS))
    expected: RequestHistory = field(default_factory=RequestHistory)

    def take_turn(self, now: int, *, has_turn: bool, urgent: bool) -> tuple[ConversationLane, int]:
        """Return the lane with one more message, and its turn; one within `MAX_TURN_WAIT` passes.

        A message that has reached its turn, or is urgent, does not wait for the turns of others. A turn that is further
        ahead than `MAX_TURN_LEAD`, or that of an urgent message, is not reserved.
        """
        may_pass_at = self._earliest(now, after_turns=not (has_turn or urgent))
        if may_pass_at <= now + MAX_TURN_WAIT:
            turns = self.turns if has_turn or urgent else self.turns.with_request(may_pass_at)
            return replace(self, turns=turns, expected=self.expected.with_request(may_pass_at)), may_pass_at
        if urgent:
            return self, may_pass_at
        # Also if it comes too late for its turn, or if the conversation was paused.
        next_turn = self._earliest(now, after_turns=True)
        is_reserved = next_turn <= now + MAX_TURN_LEAD
        return (replace(self, turns=self.turns.with_request(next_turn)) if is_reserved else self), next_turn

    def with_request(self, at: int, lapsed: int = 0) -> tuple[ConversationLane, int]:
        """Return the lane with a request at `at`, instead of one at `lapsed` that was not sent, and 0.

        If a window forbids it, return the lane as it is, and the first time that keeps all windows.
        """
        sent = self.sent.without_request(lapsed)
        earliest = sent.earliest(at)
        return (self, earliest) if earliest > at else (replace(self, sent=sent.with_request(at)), 0)

    def with_pause(self, until: int) -> ConversationLane:
        """Return the lane after Teams asked to wait until `until`."""
        return replace(self, sent=self.sent.with_pause(until))

    def is_reserved(self, now: int) -> bool:
        """Return whether a turn is reserved that is still to come."""
        return bool(self.turns.recent) and self.turns.recent[-1] > now + MAX_TURN_WAIT

    def _earliest(self, now: int, *, after_turns: bool) -> int:
        others = (self.expected, self.turns) if after_turns else (self.expected,)
        paused_until = self.sent.paused_until
        return max(
            self.sent.earliest(now), *(replace(each, paused_until=paused_until).earliest(now) for each in others)
        )
