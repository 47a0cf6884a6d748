"""Meters of a function host, returned by `GET /api/meters`: storage operations, CPU, memory and loop lag.

Storage operations are counted in the transport of the Azure SDK. `?reset=1` resets the operations and the lag.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from typing import Any

import azure.functions as func
from azure.core.pipeline.transport import AioHttpTransport

from benchmarks.operations import EMPTY_RECEIVE, name_operation
from benchmarks.process_meters import LoopLag, peak_mb, resident_mb

operations: Counter[str] = Counter()
lag = LoopLag()
blueprint = func.Blueprint()

_send = AioHttpTransport.send


async def _count_and_send(self: AioHttpTransport, request: Any, **options: Any) -> Any:
    answer = await _send(self, request, **options)
    body = request.data if isinstance(request.data, bytes) else str(request.data or "").encode()
    name = name_operation(request.method, request.url, body, os.environ.get("HERALD_TABLE_PREFIX") or "Herald")
    if name.endswith(": receive") and b"<QueueMessage>" not in answer.body():
        name += EMPTY_RECEIVE
    operations[name] += 1
    return answer


AioHttpTransport.send = _count_and_send


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
