"""The invocation context that a function receives as its parameter `context`."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import azure.functions as func

#: `context.thread_local_storage`; `invocation_id` is set in the thread of a synchronous function.
thread_storage = threading.local()


@dataclass(frozen=True)
class TraceContext:
    """The W3C trace context of an invocation."""

    trace_parent: str
    trace_state: str = ""
    attributes: dict[str, str] = field(default_factory=dict)


class InvocationContext(func.Context):
    """The context of one invocation of `function`."""

    def __init__(self, function: str, invocation: UUID) -> None:
        self._function = function
        self._invocation = invocation

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
        return TraceContext(f"00-{self._invocation.hex}-{self._invocation.hex[:16]}-00")

    @property
    def retry_context(self) -> Any:
        return None  # functions with a retry policy are refused at start
