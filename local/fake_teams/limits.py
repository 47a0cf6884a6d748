"""Teams' rate limits, as sliding windows (Teams, "Optimize your bot with rate limiting")."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from local.fake_teams.api import Behaviour, Violation

#: Requests and seconds: what one bot may do in one conversation. A channel counts as one, its threads included.
SEND_WINDOWS = ((7, 1.0), (8, 2.0), (60, 30.0), (1800, 3600.0))
READ_WINDOWS = ((14, 1.0), (16, 2.0), (120, 30.0), (3600, 3600.0))
#: How many violations are kept with their details; the rest is only counted.
KEPT_VIOLATIONS = 100


def excess(times: Sequence[float], windows: Sequence[tuple[int, float]], now: float) -> tuple[float, str]:
    """How many seconds too early a request is at `now`, after those at `times` (ascending), and by which window.

    Zero or less: it fits. A window of n requests in s seconds is full while the n-th last is younger than s.
    """
    worst, limit = 0.0, ""
    for requests, seconds in windows:
        if len(times) >= requests:
            early = times[-requests] + seconds - now
            if early > worst:
                worst, limit = early, f"{requests}/{seconds:g}"
    return worst, limit


class Times:
    """The times of the last requests, as many as the widest window needs."""

    __slots__ = ("_keep", "_windows", "times")

    def __init__(self, windows: Sequence[tuple[int, float]]) -> None:
        self.times: list[float] = []
        self._windows = windows
        self._keep = max(requests for requests, _ in windows)

    def excess(self, now: float) -> tuple[float, str]:
        return excess(self.times, self._windows, now)

    def add(self, now: float) -> None:
        self.times.append(now)
        if len(self.times) >= 2 * self._keep:
            del self.times[: -self._keep]


@dataclass(slots=True)
class _Tenant:
    taken: Times
    arrivals: deque[float]
    peak: int = 0


class Limits:
    """Admits requests, and remembers the busiest second and each request over a limit.

    When limits are not enforced, everything is admitted and what would have been refused is still recorded.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self.clear()

    def clear(self) -> None:
        self._tenants: dict[str, _Tenant] = {}
        self._conversations: dict[tuple[str, bool], Times] = {}
        self.violations: list[Violation] = []
        self.violation_count = 0

    @property
    def peaks(self) -> dict[str, int]:
        return {name: tenant.peak for name, tenant in self._tenants.items()}

    def admit(self, tenant: str, conversation: str, now: float, *, reads: bool) -> float:
        """Seconds to wait, or 0 when the request is admitted; a refused one takes no room in the windows."""
        state = self._tenants.get(tenant)
        if state is None:
            state = self._tenants[tenant] = _Tenant(Times(((self._behaviour.tenant_rate, 1.0),)), deque())
        arrivals = state.arrivals
        arrivals.append(now)
        while arrivals[0] <= now - 1:
            arrivals.popleft()
        state.peak = max(state.peak, len(arrivals))

        times = self._conversations.get((conversation, reads))
        if times is None:
            windows = READ_WINDOWS if reads else SEND_WINDOWS
            times = self._conversations[(conversation, reads)] = Times(windows)

        wait, limit = times.excess(now)
        tenant_wait, tenant_limit = state.taken.excess(now)
        if wait > 0:
            self._violated(tenant, conversation, limit, now)
        if tenant_wait > 0:
            self._violated(tenant, None, tenant_limit, now)
        wait = max(wait, tenant_wait)
        if wait > 0 and self._behaviour.enforce_limits:
            return wait
        times.add(now)
        state.taken.add(now)
        return 0

    def rate_changed(self) -> None:
        """Begins the tenants' windows anew, at the rate that holds now."""
        for state in self._tenants.values():
            state.taken = Times(((self._behaviour.tenant_rate, 1.0),))

    def _violated(self, tenant: str, conversation: str | None, limit: str, now: float) -> None:
        self.violation_count += 1
        if len(self.violations) < KEPT_VIOLATIONS:
            violation = Violation(tenant=tenant, conversation=conversation, limit=limit, monotonic=now)
            self.violations.append(violation)
