"""The functions of an app: found in its module, checked, and reduced to plain values."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import azure.functions as func

from local.host.config import StartError, resolve_names
from local.host.timespan import parse_timespan

#: The triggers that the host serves, each with the bindings that may stand beside it.
TRIGGERS: Mapping[str, frozenset[str]] = {
    "httpTrigger": frozenset({"http"}),
    "queueTrigger": frozenset(),
    "timerTrigger": frozenset(),
}


@dataclass(frozen=True)
class RetryPolicy:
    """How often a failed call is repeated (-1: for ever), and the least and most seconds between two calls."""

    limit: int
    low: float
    high: float


@dataclass(frozen=True)
class Function:
    """One function: what calls it, by which binding (names resolved), and how it wants to be called."""

    name: str
    call: Callable[..., Any]
    trigger: str
    argument: str
    binding: Mapping[str, Any]
    is_async: bool
    takes_context: bool
    retry: RetryPolicy | None


def load_app(name: str = "function_app") -> func.FunctionApp:
    """The one FunctionApp of the module `name`, imported here; raises `StartError`, or what the import raises."""
    module = importlib.import_module(name)
    apps = _apps(module)
    if len(apps) != 1:
        raise StartError(f"{name}.py must hold one FunctionApp, and holds {len(apps)}")
    return apps[0]


def index(app: func.FunctionApp, environ: Mapping[str, str]) -> list[Function]:
    """The functions of `app`; raises `StartError` where one is not supported or a `%NAME%` is not set."""
    try:
        built = app.get_functions()
    except ValueError as error:
        raise StartError(str(error)) from None
    return [_function(function, environ) for function in built]


def _apps(module: ModuleType) -> list[func.FunctionApp]:
    found = {id(value): value for value in vars(module).values() if isinstance(value, func.FunctionApp)}
    return list(found.values())


def _function(built: Any, environ: Mapping[str, str]) -> Function:
    name: str = built.get_function_name()
    bindings: list[dict[str, Any]] = [json.loads(text) for text in built.get_raw_bindings()]
    trigger: str = built.get_trigger().type
    if trigger not in TRIGGERS:
        raise StartError(f"function {name}: the trigger {trigger} is not supported locally")
    for binding in bindings:
        if binding["type"] != trigger and binding["type"] not in TRIGGERS[trigger]:
            raise StartError(f"function {name}: the binding {binding['type']} is not supported locally")
    try:
        own = next(binding for binding in bindings if binding["type"] == trigger)
        resolved = {
            key: resolve_names(value, environ) if isinstance(value, str) else value for key, value in own.items()
        }
        retry = _retry(built.get_settings_dict("retry_policy") or {})
    except (StartError, ValueError) as error:
        raise StartError(f"function {name}: {error}") from None
    call = built.get_user_function()
    parameters = set(inspect.signature(call).parameters)
    argument: str = resolved["name"]
    if argument not in parameters or parameters - {argument, "context"}:
        raise StartError(f"function {name} must take {argument!r}, and beside it only 'context'")
    return Function(
        name=name,
        call=call,
        trigger=trigger,
        argument=argument,
        binding=resolved,
        is_async=asyncio.iscoroutinefunction(call),
        takes_context="context" in parameters,
        retry=retry if trigger == "timerTrigger" else None,
    )


def _retry(policy: Mapping[str, str]) -> RetryPolicy | None:
    if not policy:
        return None
    limit = int(policy["max_retry_count"])
    if policy["strategy"].replace("_", "").lower() == "fixeddelay":
        delay = _seconds(policy, "delay_interval")
        return RetryPolicy(limit, delay, delay)
    return RetryPolicy(limit, _seconds(policy, "minimum_interval"), _seconds(policy, "maximum_interval"))


def _seconds(policy: Mapping[str, str], name: str) -> float:
    if name not in policy:
        raise StartError(f"its retry policy needs {name}")
    return parse_timespan(policy[name]).total_seconds()
