"""The app of `function_app.py` that also records each send slot that it takes: `[tenant, slot]`, one a line.

The function host imports it instead of the app. The environment variable `TRACE` is the file, which all hosts share.
"""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path

import azure.functions as func

from shared.rate_windows import MAX_LEAD, grant
from shared.storage.rate_lanes import RateLanes
from shared.teams import rate_limiter

ROOT = Path(__file__).resolve().parents[2]

#: The latest grant of the current task: the slots, and the next free one after them.
_granted: ContextVar[tuple[Sequence[int], int]] = ContextVar("granted", default=((), 0))
_save_tenant = RateLanes.save_tenant


def _traced_grant(
    next_slot: int, now: int, rate: int, max_count: int, lead: int = MAX_LEAD
) -> tuple[Sequence[int], int]:
    granted = grant(next_slot, now, rate, max_count, lead)
    _granted.set(granted)
    return granted


async def _traced_save(self: RateLanes, tenant: str, next_slot: int, etag: str) -> str:
    written = await _save_tenant(self, tenant, next_slot, etag)
    slots, after = _granted.get()
    if next_slot == after:  # otherwise the lane is paused
        _append_to_trace(tenant, slots)
    return written


def _append_to_trace(tenant: str, slots: Sequence[int]) -> None:
    with Path(os.environ["TRACE"]).open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps([tenant, slot]) + "\n" for slot in slots))


rate_limiter.grant = _traced_grant  # type: ignore[attr-defined]
RateLanes.save_tenant = _traced_save  # type: ignore[method-assign]

app: func.FunctionApp = runpy.run_path(str(ROOT / "function_app.py"))["app"]
