"""The rate limits of Teams and of Graph as sliding windows.

Sources: Teams, "Optimize your bot with rate limiting"; Graph, "Microsoft Graph service-specific throttling limits".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from local.fake_teams.api import Behaviour, Violation

#: Permitted requests and seconds, for one bot in one conversation. A channel and its threads are one conversation.
SEND_WINDOWS = ((7, 1.0), (8, 2.0), (60, 30.0), (1800, 3600.0))
READ_WINDOWS = ((14, 1.0), (16, 2.0), (120, 30.0), (3600, 3600.0))
#: The limits of Graph for one app in one tenant: installed apps by method, and all requests to Teams.
GRAPH_WINDOWS: dict[str, tuple[str, tuple[tuple[int, float], ...]]] = {
    "installedApps": ("GET installedApps", ((60, 1.0),)),
    "teamInstalledApps": ("GET installedApps", ((60, 1.0),)),
    "installApp": ("POST installedApps", ((30, 1.0),)),
    "installAppInTeam": ("POST installedApps", ((30, 1.0),)),
}
GRAPH_TEAM_WINDOWS = ((4, 1.0),)
GRAPH_TEAMS_WINDOWS = ((15_000, 10.0),)
#: The operations of Graph that Teams serves; the others are those of the directory and of Exchange.
GRAPH_TEAMS_OPERATIONS = frozenset((*GRAPH_WINDOWS, "catalogue"))
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


class Arrivals:
    """The requests of the last second, and the most of any second."""

    __slots__ = ("_times", "peak")

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self.peak = 0

    def add(self, now: float) -> None:
        self._times.append(now)
        while self._times[0] <= now - 1:
            self._times.popleft()
        self.peak = max(self.peak, len(self._times))


@dataclass(slots=True)
class _TenantState:
    admitted: RequestTimes
    arrivals: Arrivals


class Violations:
    """The requests over a limit: the first ones with their details, and their number."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.stored: list[Violation] = []
        self.count = 0

    def record(self, tenant: str, conversation: str | None, limit: str, now: float) -> None:
        self.count += 1
        if len(self.stored) < MAX_STORED_VIOLATIONS:
            self.stored.append(Violation(tenant=tenant, conversation=conversation, limit=limit, monotonic=now))


class _Limits:
    """The violations of limits since the last `clear`."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._violations = Violations()
        self.clear()

    def clear(self) -> None:
        self._violations.clear()

    @property
    def violations(self) -> list[Violation]:
        return self._violations.stored

    @property
    def violation_count(self) -> int:
        return self._violations.count


class RateLimits(_Limits):
    """Admits requests, and records the busiest second of each tenant and each request over a limit.

    If limits are not enforced, every request is admitted, and violations are still recorded.
    """

    def clear(self) -> None:
        self._tenants: dict[str, _TenantState] = {}
        self._conversations: dict[tuple[str, bool], RequestTimes] = {}
        super().clear()

    @property
    def peaks(self) -> dict[str, int]:
        return {name: tenant.arrivals.peak for name, tenant in self._tenants.items()}

    def admit(self, tenant: str, conversation: str, now: float, *, reads: bool) -> float:
        """Return 0 if the request is admitted, else the seconds to wait; a refused request does not count."""
        state = self._tenants.get(tenant)
        if state is None:
            state = self._tenants[tenant] = _TenantState(self._tenant_times(), Arrivals())
        state.arrivals.add(now)

        times = self._conversations.get((conversation, reads))
        if times is None:
            windows = READ_WINDOWS if reads else SEND_WINDOWS
            times = self._conversations[(conversation, reads)] = RequestTimes(windows)

        wait, limit = times.compute_wait(now)
        tenant_wait, tenant_limit = state.admitted.compute_wait(now)
        if wait > 0:
            self._violations.record(tenant, conversation, limit, now)
        if tenant_wait > 0:
            self._violations.record(tenant, None, tenant_limit, now)
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


class GraphLimits(_Limits):
    """Admits requests to Graph, and records the busiest second of each operation and each request over a limit."""

    def clear(self) -> None:
        self._times: dict[tuple[str, str], RequestTimes] = {}
        self._arrivals: dict[tuple[str, str], Arrivals] = {}
        super().clear()

    @property
    def peaks(self) -> dict[str, dict[str, int]]:
        """The most requests of an operation and tenant in any second, including refused ones."""
        peaks: dict[str, dict[str, int]] = {}
        for (operation, tenant), arrivals in self._arrivals.items():
            peaks.setdefault(operation, {})[tenant] = arrivals.peak
        return peaks

    def admit(self, operation: str, tenant: str, group: str | None, now: float) -> float:
        """Return 0 if the request is admitted, else the seconds to wait; `group` is the id of a team's group."""
        self._arrivals.setdefault((operation, tenant), Arrivals()).add(now)
        limits: list[tuple[str, str, str | None, tuple[tuple[int, float], ...]]] = []
        if operation in GRAPH_WINDOWS:
            name, windows = GRAPH_WINDOWS[operation]
            limits.append((name, tenant, None, windows))
        if operation in GRAPH_TEAMS_OPERATIONS:
            limits.append(("Teams", tenant, None, GRAPH_TEAMS_WINDOWS))
        if group is not None:
            limits.append(("team", group, group, GRAPH_TEAM_WINDOWS))
        longest = 0.0
        counted = []
        for name, subject, team, windows in limits:
            times = self._times.setdefault((name, subject), RequestTimes(windows))
            counted.append(times)
            wait, limit = times.compute_wait(now)
            if wait > 0:
                self._violations.record(tenant, team, f"{name} {limit}", now)
                longest = max(longest, wait)
        if longest > 0 and self._behaviour.enforce_limits:
            return longest
        for times in counted:
            times.add(now)
        return 0
