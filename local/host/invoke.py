"""One call of one function: convert what came in, run it on the loop or on a thread, convert what came out."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from azure.functions import meta

from local.host.context import Attempt, Context, thread_storage
from local.host.functions import Function

log = logging.getLogger("Host")

_FIRST = Attempt()
_converters = meta.get_binding_registry()


@dataclass(frozen=True)
class Result:
    """How a call ended: `response` is the encoded answer of an HTTP function, `error` names what was raised."""

    succeeded: bool
    response: meta.Datum | None = None
    error: str = ""


class Invoker:
    """Calls functions: coroutines on this loop, others on `threads`, each for at most `timeout` seconds."""

    def __init__(self, timeout: float | None, threads: ThreadPoolExecutor) -> None:
        self._timeout = timeout
        self._threads = threads

    async def call(
        self,
        function: Function,
        datum: meta.Datum,
        metadata: Mapping[str, meta.Datum] | None = None,
        attempt: Attempt = _FIRST,
    ) -> Result:
        """Calls `function` with the trigger object made of `datum`, and logs how it ended; never raises its errors."""
        invocation = uuid.uuid4()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout) as deadline:
                returned = await self._run(function, datum, metadata, Context(function.name, invocation, attempt))
            response = None
            if function.trigger == "httpTrigger" and returned is not None:
                response = _converters.get("http").encode(returned, expected_type=None)
        except Exception as error:
            overran = isinstance(error, TimeoutError) and deadline.expired()
            reason = f"over the functionTimeout of {self._timeout:g} s" if overran else type(error).__name__
            log.error(
                "Executed 'Functions.%s' (Failed, Id=%s, Duration=%.0fms): %s",
                function.name,
                invocation,
                _milliseconds(started),
                reason,
                exc_info=None if overran else error,
            )
            return Result(succeeded=False, error=reason)
        log.info(
            "Executed 'Functions.%s' (Succeeded, Id=%s, Duration=%.0fms)",
            function.name,
            invocation,
            _milliseconds(started),
        )
        return Result(succeeded=True, response=response)

    async def _run(
        self,
        function: Function,
        datum: meta.Datum,
        metadata: Mapping[str, meta.Datum] | None,
        context: Context,
    ) -> Any:
        arguments = {function.argument: _converters.get(function.trigger).decode(datum, trigger_metadata=metadata)}
        if function.takes_context:
            arguments["context"] = context
        if function.is_async:
            return await function.call(**arguments)
        own = contextvars.copy_context()

        def on_thread() -> Any:
            thread_storage.invocation_id = context.invocation_id
            return function.call(**arguments)

        return await asyncio.get_running_loop().run_in_executor(self._threads, own.run, on_thread)


def _milliseconds(started: float) -> float:
    return (time.perf_counter() - started) * 1000
