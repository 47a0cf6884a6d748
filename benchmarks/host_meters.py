"""Meters of a function host, returned by `GET /api/meters`: storage operations, CPU, memory and loop lag.

Storage operations are counted as requests, with their retries. `?reset=1` resets the operations and the lag.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable

import azure.functions as func

from benchmarks.operations import EMPTY_RECEIVE, name_operation, observe_requests
from benchmarks.process_meters import LoopLag, peak_mb, resident_mb

operations: Counter[str] = Counter()
lag = LoopLag()
blueprint = func.Blueprint()


def _count(method: str, url: str, body: bytes, read_answer: Callable[[], bytes]) -> None:
    name = name_operation(method, url, body, os.environ.get("HERALD_TABLE_PREFIX") or "Herald")
    if name.endswith(": receive") and b"<QueueMessage>" not in read_answer():
        name += EMPTY_RECEIVE
    operations[name] += 1


_observation = observe_requests(_count)  # ends when it is deleted
_observation.__enter__()


@blueprint.route(route="meters", methods=["GET"], auth_level=func.AuthLevel.ANONYMOUS)
async def meters(req: func.HttpRequest) -> func.HttpResponse:
    if req.params.get("reset"):
        operations.clear()
        lag.start()
    figures = {
        "operations": operations,
        "cpu_s": time.process_time(),
        "resident_mb": resident_mb(),
        "peak_mb": peak_mb(),
        "lag_ms": lag.longest_ms,
        "lag_p99_ms": lag.p99_ms,
    }
    return func.HttpResponse(json.dumps(figures), mimetype="application/json")
