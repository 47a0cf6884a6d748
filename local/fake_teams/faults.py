"""Faults that were ordered: which one meets a request, and what it does."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from dataclasses import dataclass, field

from aiohttp import web

from local.fake_teams.api import Fault
from local.fake_teams.errors import EntraRefusal, Refusal, answer, html

#: Faults which name no operation meet these alone.
CONNECTOR = frozenset(
    ("create", "send", "reply", "update", "delete", "members", "pagedMembers", "member", "team", "channels")
)


@dataclass(slots=True)
class _Ordered:
    fault: Fault
    since: float
    struck: int = 0
    seen: Counter[str] = field(default_factory=Counter)


def in_share(fault: Fault, conversation: str, turn: int) -> bool:
    """Whether the `turn`-th request of a conversation falls in the fault's share; the same in every run."""
    if fault.share >= 1:
        return True
    digest = hashlib.blake2b(f"{fault.seed}\n{conversation}\n{turn}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < fault.share * 2**64


class Faults:
    """The ordered faults, oldest first."""

    def __init__(self) -> None:
        self._ordered: list[_Ordered] = []

    def clear(self) -> None:
        self._ordered.clear()

    def order(self, fault: Fault, now: float) -> None:
        self._ordered.append(_Ordered(fault, now))

    def listed(self) -> list[tuple[Fault, int]]:
        """Each fault, and how often it acted."""
        return [(ordered.fault, ordered.struck) for ordered in self._ordered]

    def meet(
        self,
        operation: str,
        now: float,
        *,
        tenant: str | None = None,
        person: str | None = None,
        conversation: str = "",
    ) -> Fault | None:
        """The fault that this request meets, if any; `conversation` is the id without a thread's suffix."""
        for ordered in self._ordered:
            fault = ordered.fault
            if fault.operation != operation and not (fault.operation is None and operation in CONNECTOR):
                continue
            if (
                (fault.tenant and fault.tenant != tenant)
                or (fault.person and fault.person != person)
                or (fault.conversation and fault.conversation.partition(";")[0] != conversation)
                or (fault.count is not None and ordered.struck >= fault.count)
            ):
                continue
            begin = ordered.since + fault.after
            if now < begin or (fault.seconds is not None and now >= begin + fault.seconds):
                continue
            ordered.seen[conversation] += 1
            if in_share(fault, conversation, ordered.seen[conversation]):
                ordered.struck += 1
                return fault
        return None


async def strike(fault: Fault, request: web.BaseRequest) -> web.Response | None:
    """Waits the fault's delay and gives its answer; None when it was only a delay."""
    await asyncio.sleep(fault.delay)
    if fault.drop:
        return drop(request)
    if fault.status is None:
        return None
    if fault.shape == "html":
        response = html(fault.status)
    elif fault.shape == "empty":
        response = web.Response(status=fault.status)
    else:
        refusal = _refusal(fault, fault.status)
        response = answer(fault.status, refusal.nested if fault.shape == "nested" else refusal.body)
    if fault.retry_after is not None:
        response.headers["Retry-After"] = str(fault.retry_after)
    return response


def drop(request: web.BaseRequest) -> web.Response:
    """Closes the connection at once; the returned response, which the caller must return, is never sent."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _refusal(fault: Fault, status: int) -> Refusal:
    if fault.operation != "token":
        return Refusal(status, fault.code, fault.message)
    if status >= 500:
        text = fault.message or "The service is temporarily unavailable."
        return EntraRefusal(status, fault.code or "temporarily_unavailable", 90033, text)
    text = fault.message or "Invalid client secret provided."
    return EntraRefusal(status, fault.code or "invalid_client", 7000215, text)
