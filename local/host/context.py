"""The invocation context: what a function sees when it takes `context`."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import azure.functions as func

#: What `context.thread_local_storage` is; `invocation_id` is set in the thread of a synchronous function.
thread_storage = threading.local()


@dataclass(frozen=True)
class Failure:
    """The error of the attempt before this one."""

    message: str
    source: str = ""
    stack_trace: str = ""


@dataclass(frozen=True)
class Attempt:
    """Which try of a call this is: `retry_count` repeats so far, of `max_retry_count` at most."""

    retry_count: int = 0
    max_retry_count: int = 0
    exception: Failure | None = None


@dataclass(frozen=True)
class Trace:
    """The W3C trace context of the call."""

    trace_parent: str
    trace_state: str = ""
    attributes: dict[str, str] = field(default_factory=dict)


class Context(func.Context):
    """One call of `function`."""

    def __init__(self, function: str, invocation: UUID, attempt: Attempt) -> None:
        self._function = function
        self._invocation = invocation
        self._attempt = attempt

    @property
    def invocation_id(self) -> str:
        return str(self._invocation)

    @property
    def thread_local_storage(self) -> Any:
        return thread_storage

    @property
    def function_name(self) -> str:
        return self._function

    @property
    def function_directory(self) -> str:
        return "."

    @property
    def trace_context(self) -> Any:
        return Trace(f"00-{self._invocation.hex}-{self._invocation.hex[:16]}-00")

    @property
    def retry_context(self) -> Any:
        return self._attempt
