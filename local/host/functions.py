"""Load the functions of an app, check that the host supports them, and reduce them to plain values."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import azure.functions as func

from local.host.config import StartError, resolve_names

#: The supported triggers, each with the other bindings that a function with it may have.
TRIGGERS: Mapping[str, frozenset[str]] = {
    "httpTrigger": frozenset({"http"}),
    "queueTrigger": frozenset(),
    "timerTrigger": frozenset(),
}


@dataclass(frozen=True)
class Function:
    """One function: its callable, its trigger, and the trigger's binding with `%NAME%` resolved."""

    name: str
    call: Callable[..., Any]
    trigger: str
    argument: str
    binding: Mapping[str, Any]
    is_async: bool
    takes_context: bool


def load_app(module_name: str = "function_app") -> func.FunctionApp:
    """Import the module and return its only FunctionApp; raises `StartError`, or whatever the import raises."""
    module = importlib.import_module(module_name)
    apps = {id(value): value for value in vars(module).values() if isinstance(value, func.FunctionApp)}
    if len(apps) != 1:
        raise StartError(f"{module_name}.py must define exactly one FunctionApp, but defines {len(apps)}")
    return next(iter(apps.values()))


def index_functions(app: func.FunctionApp, environ: Mapping[str, str]) -> list[Function]:
    """Return the functions of `app`; raises `StartError` for an unsupported function or an unset `%NAME%`."""
    try:
        built = app.get_functions()
    except ValueError as error:
        raise StartError(str(error)) from None
    return [_read_function(function, environ) for function in built]


def _read_function(built: Any, environ: Mapping[str, str]) -> Function:
    name: str = built.get_function_name()
    bindings: list[dict[str, Any]] = [json.loads(text) for text in built.get_raw_bindings()]
    trigger: str = built.get_trigger().type
    if trigger not in TRIGGERS:
        raise StartError(f"function {name}: the local host does not support the trigger {trigger}")
    for binding in bindings:
        if binding["type"] != trigger and binding["type"] not in TRIGGERS[trigger]:
            raise StartError(f"function {name}: the local host does not support the binding {binding['type']}")
    if built.get_settings_dict("retry_policy"):
        raise StartError(f"function {name}: the local host does not support retry policies: remove @app.retry")
    trigger_binding = next(binding for binding in bindings if binding["type"] == trigger)
    try:
        resolved = {
            key: resolve_names(value, environ) if isinstance(value, str) else value
            for key, value in trigger_binding.items()
        }
    except StartError as error:
        raise StartError(f"function {name}: {error}") from None
    call = built.get_user_function()
    parameters = set(inspect.signature(call).parameters)
    argument: str = resolved["name"]
    if argument not in parameters or parameters - {argument, "context"}:
        raise StartError(f"function {name} must take the parameter {argument!r} and may also take only 'context'")
    return Function(
        name=name,
        call=call,
        trigger=trigger,
        argument=argument,
        binding=resolved,
        is_async=asyncio.iscoroutinefunction(call),
        takes_context="context" in parameters,
    )
