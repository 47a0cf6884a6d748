"""The rate limits of Teams as sliding windows (Teams, "Optimize your bot with rate limiting")."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from local.fake_teams.api import Behaviour, Violation

#: Permitted requests and seconds, for one bot in one conversation. A channel and its threads are one conversation.
SEND_WINDOWS = ((7, 1.0), (8, 2.0), (60, 30.0), (1800, 3600.0))
READ_WINDOWS = ((14, 1.0), (16, 2.0), (120, 30.0), (3600, 3600.0))
#: How many violations are stored with their details; further ones are only counted.
MAX_STORED_VIOLATIONS = 100


def compute_wait(times: Sequence[float], windows: Sequence[tuple[int, float]], now: float) -> tuple[float, str]:
    """Return the seconds that a request at `now` must wait after requests at `times` (ascending), and the window.

    0 if it is permitted. A window of n requests in s seconds is full while the n-th last request is younger than s.
    """
    longest, limit = 0.0, ""
    for requests, seconds in windows:
        if len(times) >= requests:
            wait = times[-requests] + seconds - now
            if wait > longest:
                longest, limit = wait, f"{requests}/{seconds:g}"
    return longest, limit


class RequestTimes:
    """The times of the most recent requests, as many as the largest window needs."""

    __slots__ = ("_max_count", "_windows", "times")

    def __init__(self, windows: Sequence[tuple[int, float]]) -> None:
        self.times: list[float] = []
        self._windows = windows
        self._max_count = max(requests for requests, _ in windows)

    def compute_wait(self, now: float) -> tuple[float, str]:
        return compute_wait(self.times, self._windows, now)

    def add(self, now: float) -> None:
        self.times.append(now)
        if len(self.times) >= 2 * self._max_count:
            del self.times[: -self._max_count]


@dataclass(slots=True)
class _TenantState:
    admitted: RequestTimes
    arrivals: deque[float]
    peak: int = 0


class RateLimits:
    """Admits requests, and records the busiest second of each tenant and each request over a limit.

    If limits are not enforced, every request is admitted, and violations are still recorded.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self.clear()

    def clear(self) -> None:
        self._tenants: dict[str, _TenantState] = {}
        self._conversations: dict[tuple[str, bool], RequestTimes] = {}
        self.violations: list[Violation] = []
        self.violation_count = 0

    @property
    def peaks(self) -> dict[str, int]:
        return {name: tenant.peak for name, tenant in self._tenants.items()}

    def admit(self, tenant: str, conversation: str, now: float, *, reads: bool) -> float:
        """Return 0 if the request is admitted, else the seconds to wait; a refused request does not count."""
        state = self._tenants.get(tenant)
        if state is None:
            state = self._tenants[tenant] = _TenantState(self._tenant_times(), deque())
        arrivals = state.arrivals
        arrivals.append(now)
        while arrivals[0] <= now - 1:
            arrivals.popleft()
        state.peak = max(state.peak, len(arrivals))

        times = self._conversations.get((conversation, reads))
        if times is None:
            windows = READ_WINDOWS if reads else SEND_WINDOWS
            times = self._conversations[(conversation, reads)] = RequestTimes(windows)

        wait, limit = times.compute_wait(now)
        tenant_wait, tenant_limit = state.admitted.compute_wait(now)
        if wait > 0:
            self._record_violation(tenant, conversation, limit, now)
        if tenant_wait > 0:
            self._record_violation(tenant, None, tenant_limit, now)
        wait = max(wait, tenant_wait)
        if wait > 0 and self._behaviour.enforce_limits:
            return wait
        times.add(now)
        state.admitted.add(now)
        return 0

    def apply_tenant_rate(self) -> None:
        """Restart the windows of all tenants with the current `tenant_rate`."""
        for state in self._tenants.values():
            state.admitted = self._tenant_times()

    def _tenant_times(self) -> RequestTimes:
        return RequestTimes(((self._behaviour.tenant_rate, 1.0),))

    def _record_violation(self, tenant: str, conversation: str | None, limit: str, now: float) -> None:
        self.violation_count += 1
        if len(self.violations) < MAX_STORED_VIOLATIONS:
            violation = Violation(tenant=tenant, conversation=conversation, limit=limit, monotonic=now)
            self.violations.append(violation)
