"""Microsoft's library worker (package azure-functions-runtime), driven by messages like those of the Functions host.

The worker gets the classes of these messages from its host process, which is not published. Those here have only what
the worker uses of `FunctionRpc.proto` (Azure/azure-functions-language-worker-protobuf).
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Message(SimpleNamespace):
    """A message of the protocol; a field that was not given is None."""

    def __getattr__(self, name: str) -> Any:
        return None


class TypedData(SimpleNamespace):
    """A value of one kind, such as `TypedData(string="a")`, or none."""

    def WhichOneof(self, _: str) -> str | None:  # noqa: N802 (protobuf)
        return next(iter(vars(self)), None)


class ParameterBinding(Message):
    def WhichOneof(self, _: str) -> str:  # noqa: N802 (protobuf)
        return "data"


class StatusResult(Message):
    Success, Failure = "success", "failure"


class BindingInfo(Message):
    out, inout, undefined = 1, 2, 0


class Protocol(SimpleNamespace):
    """The module of message classes that the worker receives."""

    TypedData, ParameterBinding, StatusResult, BindingInfo = TypedData, ParameterBinding, StatusResult, BindingInfo

    def __getattr__(self, name: str) -> Any:
        return Message


class LibraryWorker:
    """The worker with the functions of one app."""

    def __init__(self, functions: Mapping[str, str]) -> None:
        self._functions = functions

    @property
    def names(self) -> Collection[str]:
        """The names of the functions."""
        return self._functions.keys()

    async def invoke(self, function: str, data: TypedData, metadata: Mapping[str, TypedData] | None = None) -> Any:
        """Invoke a function with the data of its trigger; return the `InvocationResponse`."""
        import azure_functions_runtime

        request = Message(
            invocation_id=str(uuid.uuid4()),
            function_id=self._functions[function],
            input_data=[ParameterBinding(name="value", data=data)],
            trigger_metadata=metadata or {},
            trace_context=Message(trace_parent="", trace_state="", attributes={}),
            retry_context=Message(),
        )
        return await azure_functions_runtime.invocation_request(Message(request=Message(invocation_request=request)))


async def start_worker(folder: Path) -> LibraryWorker:
    """Load the app in `folder`, whose script is the setting PYTHON_SCRIPT_FILE_NAME."""
    import azure_functions_runtime

    start = Message(function_app_directory=str(folder), capabilities={})
    properties = {"host": "127.0.0.1", "protos": Protocol()}
    request = Message(request=Message(worker_init_request=start), properties=properties)
    response = await azure_functions_runtime.worker_init_request(request)
    assert response.result.status == StatusResult.Success, response.result.exception
    indexed = await azure_functions_runtime.functions_metadata_request(request)
    return LibraryWorker({each.name: each.function_id for each in indexed.function_metadata_results})
