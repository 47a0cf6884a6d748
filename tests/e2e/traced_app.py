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
_move_tenant = RateLanes.move_tenant


def _asked_for(following: int, now: int, rate: int, wanted: int, ahead: int = MAX_LEAD) -> tuple[Sequence[int], int]:
    asked = grant(following, now, rate, wanted, ahead)
    _asked.set(asked)
    return asked


async def _moved(self: RateLanes, tenant: str, following: int, etag: str) -> str:
    written = await _move_tenant(self, tenant, following, etag)
    slots, after = _asked.get()
    if following == after:  # else the lane is held
        _write_down(tenant, slots)
    return written


def _write_down(tenant: str, slots: Sequence[int]) -> None:
    with Path(os.environ["TRACE"]).open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps([tenant, slot]) + "\n" for slot in slots))


rate_limiter.grant = _asked_for  # type: ignore[attr-defined]
RateLanes.move_tenant = _moved  # type: ignore[method-assign]

app: func.FunctionApp = runpy.run_path(str(ROOT / "function_app.py"))["app"]
