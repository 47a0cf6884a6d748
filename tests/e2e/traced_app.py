"""The app of `function_app.py`, that writes down each send slot which it takes: `[tenant, slot]`, a line each.

The function host imports it in the app's place; `TRACE` names the file, which several hosts share.
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

#: What this task asks the lane for: the slots, and the next free one after them.
_asked: ContextVar[tuple[Sequence[int], int]] = ContextVar("asked", default=((), 0))
_save_tenant = RateLanes.save_tenant


def _asked_for(next_slot: int, now: int, rate: int, max_count: int, lead: int = MAX_LEAD) -> tuple[Sequence[int], int]:
    asked = grant(next_slot, now, rate, max_count, lead)
    _asked.set(asked)
    return asked


async def _moved(self: RateLanes, tenant: str, next_slot: int, etag: str) -> str:
    written = await _save_tenant(self, tenant, next_slot, etag)
    slots, after = _asked.get()
    if next_slot == after:  # else the lane is held
        _write_down(tenant, slots)
    return written


def _write_down(tenant: str, slots: Sequence[int]) -> None:
    with Path(os.environ["TRACE"]).open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps([tenant, slot]) + "\n" for slot in slots))


rate_limiter.grant = _asked_for  # type: ignore[attr-defined]
RateLanes.save_tenant = _moved  # type: ignore[method-assign]

app: func.FunctionApp = runpy.run_path(str(ROOT / "function_app.py"))["app"]
