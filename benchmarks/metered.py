"""Meters of a function host: each storage operation is counted where it leaves, and `GET /api/meters` tells all.

`?reset=1` begins the count and the lag anew.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from typing import Any

import azure.functions as func
from azure.core.pipeline.transport import AioHttpTransport

from benchmarks.meters import Lag, peak_mb, resident_mb
from benchmarks.operations import NOTHING_THERE, operation

operations: Counter[str] = Counter()
lag = Lag()
blueprint = func.Blueprint()

_send = AioHttpTransport.send


async def _counted(self: AioHttpTransport, request: Any, **options: Any) -> Any:
    answer = await _send(self, request, **options)
    body = request.data if isinstance(request.data, bytes) else str(request.data or "").encode()
    name = operation(request.method, request.url, body, os.environ.get("HERALD_TABLE_PREFIX") or "Herald")
    if name.endswith(": receive") and b"<QueueMessage>" not in answer.body():
        name += NOTHING_THERE
    operations[name] += 1
    return answer


AioHttpTransport.send = _counted


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
