"""Invoke a function: convert the trigger data, run the function on the loop or on a thread, convert its result."""

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

from local.host.context import InvocationContext, thread_storage
from local.host.functions import Function

log = logging.getLogger("Host")

_converters = meta.get_binding_registry()


@dataclass(frozen=True)
class InvocationResult:
    """Whether an invocation succeeded; `response` is the encoded response of an HTTP function."""

    succeeded: bool
    response: meta.Datum | None = None


class Invoker:
    """Invokes coroutine functions on this loop and others on `threads`, each for at most `timeout` seconds."""

    def __init__(self, timeout: float | None, threads: ThreadPoolExecutor) -> None:
        self._timeout = timeout
        self._threads = threads

    async def invoke(
        self, function: Function, datum: meta.Datum, metadata: Mapping[str, meta.Datum] | None = None
    ) -> InvocationResult:
        """Invoke `function` with the trigger object made of `datum` and log the result; its errors are not raised."""
        invocation = uuid.uuid4()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout) as deadline:
                returned = await self._run(function, datum, metadata, InvocationContext(function.name, invocation))
            response = None
            if returned is not None:
                if function.trigger != "httpTrigger":  # as the Python worker answers
                    raise RuntimeError(f"function {function.name} returned a value: only an HTTP function may")
                response = _converters.get("http").encode(returned, expected_type=None)
        except Exception as error:
            timed_out = isinstance(error, TimeoutError) and deadline.expired()
            log.error(
                "Executed 'Functions.%s' (Failed, Id=%s, Duration=%.0fms): %s",
                function.name,
                invocation,
                _milliseconds_since(started),
                f"exceeded the functionTimeout of {self._timeout:g} s" if timed_out else type(error).__name__,
                exc_info=None if timed_out else error,
            )
            return InvocationResult(succeeded=False)
        log.info(
            "Executed 'Functions.%s' (Succeeded, Id=%s, Duration=%.0fms)",
            function.name,
            invocation,
            _milliseconds_since(started),
        )
        return InvocationResult(succeeded=True, response=response)

    async def _run(
        self,
        function: Function,
        datum: meta.Datum,
        metadata: Mapping[str, meta.Datum] | None,
        context: InvocationContext,
    ) -> Any:
        arguments = {function.argument: _converters.get(function.trigger).decode(datum, trigger_metadata=metadata)}
        if function.takes_context:
            arguments["context"] = context
        if function.is_async:
            return await function.call(**arguments)
        variables = contextvars.copy_context()

        def run_on_thread() -> Any:
            thread_storage.invocation_id = context.invocation_id
            return function.call(**arguments)

        return await asyncio.get_running_loop().run_in_executor(self._threads, variables.run, run_on_thread)


def _milliseconds_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
