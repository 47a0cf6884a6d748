from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import azure.functions as func
import pytest

from local.host.config import (
    HostConfig,
    StartError,
    apply_local_settings,
    load_host_config,
    resolve_connection,
    resolve_names,
)
from local.host.functions import index_functions
from local.host.host import Host


def test_defaults_of_functions_apply_without_host_json(tmp_path: Path) -> None:
    config = load_host_config(tmp_path)
    queues = config.extensions.queues
    assert config.extensions.http.route_prefix == "api"
    assert config.function_timeout == timedelta(minutes=30)
    assert (queues.batch_size, queues.threshold, queues.max_dequeue_count) == (16, 8, 5)
    assert (queues.visibility_timeout, queues.message_encoding) == (timedelta(0), "base64")
    assert queues.max_polling_seconds({}) == 60
    assert queues.max_polling_seconds({"AZURE_FUNCTIONS_ENVIRONMENT": "Development"}) == 2


def test_values_of_host_json_are_used(tmp_path: Path) -> None:
    queues = {
        "batchSize": 32, "newBatchThreshold": 0, "maxPollingInterval": "00:00:05", "visibilityTimeout": "00:00:30",
        "maxDequeueCount": 2, "messageEncoding": "None",
    }  # fmt: skip
    text = {
        "version": "2.0",
        "functionTimeout": "-1",
        "logging": {"logLevel": {"default": "Warning", "Host": "Error"}},
        "extensions": {"http": {"routePrefix": ""}, "queues": queues, "serviceBus": {}},
    }
    (tmp_path / "host.json").write_text(json.dumps(text), "utf-8-sig")
    config = load_host_config(tmp_path)
    found = config.extensions.queues
    assert config.function_timeout is None
    assert config.logging.log_level.default == "WARNING"
    assert config.extensions.http.route_prefix == ""
    assert (found.batch_size, found.threshold, found.max_dequeue_count) == (32, 0, 2)
    assert found.visibility_timeout == timedelta(seconds=30)
    assert found.message_encoding == "none"
    assert found.max_polling_seconds({"AZURE_FUNCTIONS_ENVIRONMENT": "Development"}) == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"extensions": {"queues": {"batchSize": 33}}}', "extensions.queues.batchSize cannot be 33"),
        ('{"extensions": {"queues": {"batchSize": 0}}}', "batchSize"),
        ('{"extensions": {"queues": {"newBatchThreshold": -1}}}', "newBatchThreshold"),
        ('{"extensions": {"queues": {"maxDequeueCount": 0}}}', "maxDequeueCount"),
        ('{"extensions": {"queues": {"maxPollingInterval": "00:00:00.05"}}}', "maxPollingInterval"),
        ('{"extensions": {"queues": {"visibilityTimeout": "30"}}}', "visibilityTimeout"),
        ('{"extensions": {"queues": {"messageEncoding": "utf8"}}}', "messageEncoding"),
        ('{"functionTimeout": "soon"}', "functionTimeout"),
        ('{"logging": {"logLevel": {"default": "Loud"}}}', "logging.logLevel.default"),
        ('{"version": ', "host.json cannot be read"),
        ("[]", "host.json must be a JSON object"),
    ],
)
def test_invalid_host_json_is_one_line_that_names_the_value(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "host.json").write_text(text)
    with pytest.raises(StartError) as caught:
        load_host_config(tmp_path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_local_settings_are_added_and_existing_variables_win(tmp_path: Path) -> None:
    values = {"Given": "file", "New": "file", "Number": 5, "Empty": ""}
    (tmp_path / "local.settings.json").write_text(json.dumps({"Values": values}))
    environ = {"Given": "environment"}
    apply_local_settings(tmp_path, environ)
    assert environ == {
        "Given": "environment", "New": "file", "Number": "5", "AZURE_FUNCTIONS_ENVIRONMENT": "Development",
    }  # fmt: skip


def test_environment_is_development_unless_it_is_set(tmp_path: Path) -> None:
    environ = {"AZURE_FUNCTIONS_ENVIRONMENT": "Production"}
    apply_local_settings(tmp_path, environ)
    assert environ == {"AZURE_FUNCTIONS_ENVIRONMENT": "Production"}


@pytest.mark.parametrize(
    "text", ["{", '{"IsEncrypted": true, "Values": {"a": "b"}}', '{"Values": []}', '{"Values": {"a": {}}}']
)
def test_invalid_local_settings_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "local.settings.json").write_text(text)
    with pytest.raises(StartError, match=r"^local\.settings\.json.*$"):
        apply_local_settings(tmp_path, {})


def test_names_in_bindings_are_replaced_from_the_environment() -> None:
    assert resolve_names("a-%ONE%-%T:WO%", {"ONE": "1", "T__WO": "2"}) == "a-1-2"


def test_unset_name_is_one_line_with_the_name_and_the_function() -> None:
    app = func.FunctionApp()

    @app.queue_trigger(arg_name="msg", queue_name="%QUEUE%", connection="")
    async def work(msg: func.QueueMessage) -> None: ...

    with pytest.raises(StartError, match=r"^function work: %QUEUE% is not set.*$"):
        index_functions(app, {})


@pytest.mark.parametrize(
    ("name", "environ", "setting"),
    [
        ("", {}, "AzureWebJobsStorage"),
        ("AzureWebJobsStorage", {"AzureWebJobsStorage": "x"}, "AzureWebJobsStorage"),
        ("Other", {"Other": "x"}, "Other"),
        ("Other", {"AzureWebJobsOther": "x", "Other": "y"}, "AzureWebJobsOther"),
        ("Other", {"AzureWebJobsOther__accountName": "x"}, "AzureWebJobsOther"),
    ],
)
def test_connection_prefers_the_setting_with_the_prefix(name: str, environ: dict[str, str], setting: str) -> None:
    assert resolve_connection(name, environ) == setting


async def test_unset_connection_is_one_line() -> None:
    app = func.FunctionApp()

    @app.queue_trigger(arg_name="msg", queue_name="q", connection="Elsewhere")
    async def work(msg: func.QueueMessage) -> None: ...

    with pytest.raises(StartError, match=r"^Elsewhere is missing.*$"):
        Host(index_functions(app, {}), HostConfig(), {})


def _with_output() -> func.FunctionApp:
    app = func.FunctionApp()

    @app.route(route="x")
    @app.queue_output(arg_name="out", queue_name="q", connection="")
    async def bad(req: func.HttpRequest, out: func.Out[str]) -> None: ...

    return app


def _with_blob_trigger() -> func.FunctionApp:
    app = func.FunctionApp()

    @app.blob_trigger(arg_name="blob", path="x/y", connection="")
    async def bad(blob: func.InputStream) -> None: ...

    return app


def _with_other_argument() -> func.FunctionApp:
    app = func.FunctionApp()

    @app.route(route="x")
    async def bad(request: func.HttpRequest) -> None: ...

    return app


def _with_retry_policy() -> func.FunctionApp:
    app = func.FunctionApp()

    @app.timer_trigger(arg_name="timer", schedule="0 * * * * *")
    @app.retry(strategy="fixed_delay", max_retry_count="3", delay_interval="00:00:01")
    async def bad(timer: func.TimerRequest) -> None: ...

    return app


@pytest.mark.parametrize("create_app", [_with_output, _with_blob_trigger, _with_other_argument, _with_retry_policy])
def test_unsupported_function_stops_the_start_with_one_line(create_app: Any) -> None:
    with pytest.raises(StartError, match=r"^function bad.*$"):
        index_functions(create_app(), {})


def test_unsupported_route_stops_the_start_with_one_line() -> None:
    app = func.FunctionApp()

    @app.route(route="items/{id:int}")
    async def bad(req: func.HttpRequest) -> None: ...

    with pytest.raises(StartError, match=r"^function bad: route 'api/items/\{id:int\}' is not supported: use .*$"):
        Host(index_functions(app, {}), HostConfig(), {})


def test_two_functions_with_the_same_name_stop_the_start() -> None:
    app = func.FunctionApp()
    for route in ("a", "b"):

        @app.function_name("same")
        @app.route(route=route)
        async def one(req: func.HttpRequest) -> None: ...

    with pytest.raises(StartError, match="same"):
        index_functions(app, {})
