"""Inject faults: select the fault that matches a request, and apply it."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from dataclasses import dataclass, field

from aiohttp import web

from local.fake_teams.api import TeamsFault
from local.fake_teams.errors import ConnectorError, EntraError, GraphError, html_response, json_response

#: The operations that a fault without an operation matches.
CONNECTOR_OPERATIONS = frozenset(
    ("create", "send", "reply", "update", "delete", "members", "pagedMembers", "member", "team", "channels")
)

GRAPH_OPERATIONS = frozenset(
    (
        "user", "users", "groupMembers", "catalogue", "mailboxSettings", "batch",
        "installedApps", "installApp", "teamInstalledApps", "installAppInTeam",
    )
)  # fmt: skip


@dataclass(slots=True)
class _ActiveFault:
    fault: TeamsFault
    since: float
    applied: int = 0
    matches: Counter[str] = field(default_factory=Counter)


def is_in_share(fault: TeamsFault, conversation: str, request_number: int) -> bool:
    """Return whether this request of a conversation is in the fault's share; the same in every run."""
    if fault.share >= 1:
        return True
    digest = hashlib.blake2b(f"{fault.seed}\n{conversation}\n{request_number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < fault.share * 2**64


class FaultInjector:
    """The active faults, oldest first."""

    def __init__(self) -> None:
        self._active: list[_ActiveFault] = []

    def clear(self) -> None:
        self._active.clear()

    def add(self, fault: TeamsFault, now: float) -> None:
        self._active.append(_ActiveFault(fault, now))

    def list_faults(self) -> list[tuple[TeamsFault, int]]:
        """Return each fault, and how often it was applied."""
        return [(active.fault, active.applied) for active in self._active]

    def match(
        self,
        operation: str,
        now: float,
        *,
        tenant: str | None = None,
        person: str | None = None,
        group: str | None = None,
        conversation: str = "",
    ) -> TeamsFault | None:
        """Return the first fault that matches this request; `conversation` is the id without a thread's suffix.

        For Graph, `conversation` is the person or group that the request is about.
        """
        for active in self._active:
            fault = active.fault
            if fault.operation != operation and not (fault.operation is None and operation in CONNECTOR_OPERATIONS):
                continue
            if (
                (fault.tenant and fault.tenant != tenant)
                or (fault.person and fault.person != person)
                or (fault.group and fault.group != group)
                or (fault.conversation and fault.conversation.partition(";")[0] != conversation)
                or (fault.count is not None and active.applied >= fault.count)
            ):
                continue
            start = active.since + fault.after
            if now < start or (fault.seconds is not None and now >= start + fault.seconds):
                continue
            active.matches[conversation] += 1
            if is_in_share(fault, conversation, active.matches[conversation]):
                active.applied += 1
                return fault
        return None


async def apply_fault(fault: TeamsFault, request: web.BaseRequest) -> web.Response | None:
    """Wait for the fault's delay and return its response; None if it is only a delay."""
    await asyncio.sleep(fault.delay)
    if fault.drop:
        return _drop_connection(request)
    if fault.status is None:
        return None
    if fault.shape == "html":
        response = html_response(fault.status)
    elif fault.shape == "empty":
        response = web.Response(status=fault.status)
    else:
        error = _to_error(fault, fault.status)
        response = json_response(fault.status, error.nested if fault.shape == "nested" else error.body)
    if fault.retry_after is not None:
        response.headers["Retry-After"] = str(fault.retry_after)
    return response


def _drop_connection(request: web.BaseRequest) -> web.Response:
    """Close the connection; the caller must return the response, which is never sent."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _to_error(fault: TeamsFault, status: int) -> ConnectorError:
    if fault.operation in GRAPH_OPERATIONS:
        return GraphError(status, fault.code, fault.message)
    if fault.operation != "token":
        return ConnectorError(status, fault.code, fault.message)
    if status >= 500:
        text = fault.message or "The service is temporarily unavailable."
        return EntraError(status, fault.code or "temporarily_unavailable", 90033, text)
    text = fault.message or "Invalid client secret provided."
    return EntraError(status, fault.code or "invalid_client", 7000215, text)
