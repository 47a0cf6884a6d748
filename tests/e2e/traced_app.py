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

from shared.rate_windows import MAX_AHEAD, TenantLane
from shared.storage.rate_lanes import RateLanes

ROOT = Path(__file__).resolve().parents[2]

#: The slots that the current task took last, and the lane after them.
_taken: ContextVar[tuple[Sequence[int], TenantLane]] = ContextVar("taken", default=((), TenantLane()))
_take, _save_tenant = TenantLane.take, RateLanes.save_tenant


def _traced_take(
    self: TenantLane, now: int, rate: int, max_count: int, max_ahead: int = MAX_AHEAD
) -> tuple[Sequence[int], TenantLane]:
    taken = _take(self, now, rate, max_count, max_ahead)
    _taken.set(taken)
    return taken


async def _traced_save(self: RateLanes, tenant: str, lane: TenantLane, etag: str) -> str:
    written = await _save_tenant(self, tenant, lane, etag)
    slots, after = _taken.get()
    if lane is after:  # otherwise the lane is paused
        _append_to_trace(tenant, slots)
    return written


def _append_to_trace(tenant: str, slots: Sequence[int]) -> None:
    with Path(os.environ["TRACE"]).open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps([tenant, slot]) + "\n" for slot in slots))


TenantLane.take = _traced_take  # type: ignore[method-assign]
RateLanes.save_tenant = _traced_save  # type: ignore[method-assign]

app: func.FunctionApp = runpy.run_path(str(ROOT / "function_app.py"))["app"]
