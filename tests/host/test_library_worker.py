"""The local host and Microsoft's library worker: functions receive the same, and the same comes back."""

from __future__ import annotations

import base64
import importlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from azure.functions import meta

from local.host.functions import index_functions
from local.host.invoker import Invoker
from local.host.timer_store import NEVER, TimerRecord
from local.host.timer_trigger import build_timer_info
from shared.storage.clients import open_storage
from tests.host.conftest import RunHost, eventually
from tests.host.library_worker import LibraryWorker, Message, StatusResult, TypedData, start_worker

pytestmark = pytest.mark.skipif(sys.version_info < (3, 13), reason="the library worker needs Python 3.13 or later")

FOLDER = Path(__file__).parent
AT = datetime(2026, 11, 30, 5, tzinfo=UTC)


@dataclass
class App:
    """The app of `worker_app.py`, imported for the local host, and again for the library worker.

    An app can be indexed only once.
    """

    module: Any
    worker: LibraryWorker
    worker_module: Any

    def received(self) -> dict[str, Any]:
        """Return what the only invocation by the local host received."""
        [values] = self.module.received
        assert isinstance(values, dict)
        return values

    def received_by_worker(self) -> dict[str, Any]:
        """Return what the only invocation by the library worker received."""
        [values] = self.worker_module.received
        assert isinstance(values, dict)
        return values


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setenv("PYTHON_SCRIPT_FILE_NAME", "worker_app.py")
    monkeypatch.syspath_prepend(str(FOLDER))
    worker = await start_worker(FOLDER)
    worker_module = sys.modules.pop("worker_app")
    importlib.import_module("worker_app")
    return App(sys.modules.pop("worker_app"), worker, worker_module)


def http_data(
    method: str,
    url: str,
    headers: dict[str, str],
    query: dict[str, str] | None = None,
    params: dict[str, str] | None = None,
    body: bytes = b"",
) -> TypedData:
    """Return an HTTP request as the Functions host passes it on."""
    content = TypedData(bytes=body) if body else TypedData()
    request = {"method": method, "url": url, "headers": headers, "query": query or {}, "params": params or {}}
    return TypedData(http=Message(body=content, **request))


async def test_request_and_response_are_the_same(app: App, run_host: RunHost) -> None:
    sent = {"X-In": "Yes", "Content-Type": "text/plain; charset=utf-8"}
    async with (
        run_host(app.module.app) as running,
        aiohttp.request(
            "PUT", f"{running.url}/api/items/a%20b/c/d?q=1&q=2&w=%C3%A9", data="Grüße".encode(), headers=sent
        ) as response,
    ):
        body = await response.read()
    local = app.received()
    # The Functions host has lower-case names, and joins the values of a parameter with a comma.
    data = http_data(
        "PUT",
        local["url"],
        {name.lower(): value for name, value in response.request_info.headers.items()},
        query={"q": "1,2", "w": "é"},
        params={"id": "a b", "rest": "c/d"},
        body="Grüße".encode(),
    )
    answer = await app.worker.invoke("request", data)
    assert local == app.received_by_worker()
    assert answer.result.status == StatusResult.Success
    http = answer.return_value.http
    assert (response.status, body) == (int(http.status_code), http.body.bytes)
    assert {name: response.headers[name] for name in http.headers} == http.headers
    assert {"x-out", "location", "content-type"} == {name.lower() for name in http.headers}


async def test_request_without_a_body_is_the_same_in_a_function_on_a_thread(app: App, run_host: RunHost) -> None:
    async with (
        run_host(app.module.app) as running,
        aiohttp.request("GET", f"{running.url}/api/text?empty=") as response,
    ):
        text = await response.text()
    local = app.received()
    headers = {name.lower(): value for name, value in response.request_info.headers.items()}
    answer = await app.worker.invoke("text", http_data("GET", local["url"], headers))
    assert local == app.received_by_worker()
    assert not local["is_main_thread"]
    assert (response.status, text) == (200, answer.return_value.string)


@pytest.mark.parametrize("route", ["nothing", "number", "failing", "failing-thread"])
async def test_failure_of_an_http_function_is_500_without_a_body(app: App, run_host: RunHost, route: str) -> None:
    async with (
        run_host(app.module.app) as running,
        aiohttp.request("GET", f"{running.url}/api/{route}") as response,
    ):
        body = await response.read()
    local = app.received()
    headers = {name.lower(): value for name, value in response.request_info.headers.items()}
    answer = await app.worker.invoke(route.replace("-", "_"), http_data("GET", local["url"], headers))
    assert local == app.received_by_worker()
    assert answer.result.status == StatusResult.Failure  # the Functions host answers 500
    assert (response.status, body) == (500, b"")


ENCODED = base64.b64encode("Grüße".encode()).decode()


@pytest.mark.parametrize(
    ("queue", "sent", "encoding", "data"),
    [
        ("work", '{"n": 1}', "none", TypedData(string='{"n": 1}')),
        ("work", ENCODED, "none", TypedData(string=ENCODED)),
        ("work", ENCODED, "base64", TypedData(string="Grüße")),
        ("binary", "Grüße", "none", TypedData(bytes="Grüße".encode())),
        ("binary", "/wD+", "base64", TypedData(bytes=b"\xff\x00\xfe")),
    ],
)
async def test_queue_message_is_the_same(
    app: App, run_host: RunHost, environ: dict[str, str], queue: str, sent: str, encoding: str, data: TypedData
) -> None:
    service, tables = open_storage(environ)
    async with service, tables:
        client = await service.create_queue(queue)
        message = await client.send_message(sent)
        async with run_host(app.module.app, queues={"messageEncoding": encoding}):
            await eventually(lambda: app.module.received)
    local = app.received()
    answer = await app.worker.invoke(
        "binary_message" if queue == "binary" else "text_message", data, metadata_of(message, local["pop_receipt"])
    )
    assert local == app.received_by_worker()
    assert local["insertion_time"] == message.inserted_on
    assert answer.result.status == StatusResult.Success


def metadata_of(message: Any, receipt: str) -> dict[str, TypedData]:
    """Return the metadata of a new message as the Functions host passes them on: all but texts are JSON."""
    return {
        "Id": TypedData(string=message.id),
        "DequeueCount": TypedData(json="1"),
        "InsertionTime": TypedData(json=json.dumps(message.inserted_on.isoformat())),
        "ExpirationTime": TypedData(json=json.dumps(message.expires_on.isoformat())),
        "PopReceipt": TypedData(string=receipt),
    }


@pytest.mark.parametrize("name", ["failing", "returning"])
async def test_failure_of_a_queue_function_returns_the_message(
    app: App, run_host: RunHost, environ: dict[str, str], name: str
) -> None:
    service, tables = open_storage(environ)
    async with service, tables:
        client = await service.create_queue(name)
        message = await client.send_message("text")
        async with run_host(app.module.app, queues={"maxDequeueCount": 1}):
            await eventually(lambda: app.module.received)
        poison = await service.get_queue_client(f"{name}-poison").peek_messages()
    local = app.received()
    metadata = metadata_of(message, local["pop_receipt"])
    answer = await app.worker.invoke(f"{name}_message", TypedData(string="text"), metadata)
    assert local == app.received_by_worker()
    assert answer.result.status == StatusResult.Failure
    assert [each.content for each in poison] == ["text"]


@pytest.mark.parametrize(
    ("record", "past_due", "sent"),
    [
        (
            TimerRecord(AT.replace(hour=4), AT, AT.replace(hour=4)),
            True,
            '{"Schedule":{"AdjustForDST":true},"ScheduleStatus":{"Last":"2026-11-30T04:00:00+00:00",'
            '"LastUpdated":"2026-11-30T04:00:00+00:00","Next":"2026-11-30T05:00:00+00:00"},"IsPastDue":true}',
        ),
        (
            TimerRecord(NEVER, AT, AT),
            False,
            '{"Schedule":{"AdjustForDST":true},"ScheduleStatus":{"Last":"0001-01-01T00:00:00+00:00",'
            '"LastUpdated":"2026-11-30T05:00:00+00:00","Next":"2026-11-30T05:00:00+00:00"},"IsPastDue":false}',
        ),
        (None, False, '{"Schedule":{"AdjustForDST":true},"ScheduleStatus":null,"IsPastDue":false}'),
    ],
    ids=["past due", "first", "without a status"],
)
async def test_timer_is_the_same(app: App, record: TimerRecord | None, past_due: bool, sent: str) -> None:
    [function] = [each for each in index_functions(app.module.app, {}) if each.name == "timer"]
    datum = meta.Datum(json.dumps(build_timer_info(record, past_due)), "json")
    with ThreadPoolExecutor() as threads:
        result = await Invoker(None, threads).invoke(function, datum)
    local = app.received()
    answer = await app.worker.invoke("timer", TypedData(json=sent))
    assert local == app.received_by_worker()
    assert local["past_due"] is past_due
    assert (result.succeeded, answer.result.status) == (True, StatusResult.Success)
