from __future__ import annotations

import asyncio
import logging
import socket
import threading
from typing import Any

import aiohttp
import azure.functions as func
import pytest

from tests.host.conftest import RunHost, eventually


def echo_app(methods: list[str] | None = None, auth_level: str = "anonymous") -> tuple[func.FunctionApp, list[Any]]:
    """Return an app whose function returns the body of the request, and the list of its requests."""
    app = func.FunctionApp()
    received: list[Any] = []

    @app.route(route="items/{*id}", methods=methods, auth_level=auth_level)
    async def echo(req: func.HttpRequest) -> func.HttpResponse:
        received.append(req)
        return func.HttpResponse(req.get_body(), status_code=201, headers={"X-Out": "1"})

    return app, received


def app_returning(value: Any) -> func.FunctionApp:
    """Return an app whose function at `/api/answer` returns `value`."""
    app = func.FunctionApp()

    @app.route(route="answer")
    async def get_value(req: func.HttpRequest) -> Any:
        return value

    return app


async def status_of(url: str) -> int:
    async with aiohttp.request("GET", url) as response:
        return response.status


async def test_request_reaches_the_function_under_the_route_prefix(run_host: RunHost) -> None:
    app, received = echo_app()
    async with (
        run_host(app) as running,
        aiohttp.request(
            "POST", f"{running.url}/api/items/7?a=1&a=2&none=", data=b"body", headers={"X-In": "Y"}
        ) as response,
    ):
        assert (response.status, await response.read(), response.headers["X-Out"]) == (201, b"body", "1")
        assert await status_of(f"{running.url}/items/7") == 404
    request = received[0]
    assert request.method == "POST"
    assert request.url == f"{running.url}/api/items/7?a=1&a=2&none="
    assert dict(request.route_params) == {"id": "7"}
    assert dict(request.params) == {"a": "1,2"}
    assert request.headers["x-in"] == "Y"


async def test_route_prefix_can_be_empty(run_host: RunHost) -> None:
    app, _ = echo_app()
    app_config = {"extensions": {"http": {"routePrefix": ""}, "queues": {"messageEncoding": "none"}}}
    async with run_host(app, **app_config) as running, aiohttp.request("GET", f"{running.url}/items") as response:
        assert response.status == 201


async def test_header_names_are_lower_case(run_host: RunHost) -> None:
    app, received = echo_app()
    async with run_host(app) as running, aiohttp.ClientSession() as web:
        await web.get(f"{running.url}/api/items", headers={"X-MiXed": "1"})
    assert all(name == name.lower() for name in dict(received[0].headers))


async def test_method_without_a_function_is_404(run_host: RunHost) -> None:
    app, _ = echo_app(["POST"])
    async with run_host(app) as running, aiohttp.request("GET", f"{running.url}/api/items") as response:
        assert response.status == 404


async def test_two_functions_share_a_path_with_different_methods(run_host: RunHost) -> None:
    app = func.FunctionApp()
    for verb in ("GET", "PUT"):

        @app.function_name(verb.lower())
        @app.route(route="same", methods=[verb])
        async def same(req: func.HttpRequest, context: func.Context) -> str:
            return context.function_name

    async with run_host(app) as running, aiohttp.ClientSession() as web:
        for verb in ("get", "put"):
            async with web.request(verb, f"{running.url}/api/same") as response:
                assert await response.text() == verb


async def test_chunked_body_arrives_empty(run_host: RunHost) -> None:
    app, received = echo_app()

    async def chunks() -> Any:
        yield b"lost"

    async with run_host(app) as running, aiohttp.ClientSession() as web:
        await web.post(f"{running.url}/api/items", data=chunks())
    assert received[0].get_body() == b""


@pytest.mark.parametrize(
    ("value", "status", "body"),
    [
        ("text", 200, "text"),
        (None, 500, ""),
        ({"no": "response"}, 500, ""),
        (func.HttpResponse(status_code=418), 418, ""),
    ],
)
async def test_return_value_becomes_the_response(run_host: RunHost, value: Any, status: int, body: str) -> None:
    app = app_returning(value)
    async with run_host(app) as running, aiohttp.request("GET", f"{running.url}/api/answer") as response:
        assert (response.status, await response.text()) == (status, body)


async def test_each_cookie_is_a_separate_header(run_host: RunHost) -> None:
    value = func.HttpResponse("x")
    value.headers.add("Set-Cookie", "a=1; Path=/")
    value.headers.add("Set-Cookie", "b=2; HttpOnly")
    app = app_returning(value)
    async with run_host(app) as running, aiohttp.request("GET", f"{running.url}/api/answer") as response:
        assert response.headers.getall("Set-Cookie") == ["a=1; Path=/", "b=2; HttpOnly"]


async def test_exception_is_500_with_an_empty_body_and_logged_once(
    run_host: RunHost, caplog: pytest.LogCaptureFixture
) -> None:
    app = func.FunctionApp()

    @app.route(route="fails")
    async def fails(req: func.HttpRequest) -> func.HttpResponse:
        raise RuntimeError("only for the log")

    async with run_host(app) as running, aiohttp.request("GET", f"{running.url}/api/fails") as response:
        assert (response.status, await response.read()) == (500, b"")
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(failures) == 1
    assert failures[0].getMessage().startswith("Executed 'Functions.fails' (Failed, Id=")
    assert failures[0].exc_info is not None


async def test_success_is_logged_with_id_and_duration(run_host: RunHost, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "Host")
    async with run_host(app_returning("x")) as running, aiohttp.ClientSession() as web:
        await web.get(f"{running.url}/api/answer")
    messages = [record.getMessage() for record in caplog.records if record.name == "Host"]
    assert len([text for text in messages if text.startswith("Executed 'Functions.get_value' (Succeeded, Id=")]) == 1


async def test_client_disconnect_does_not_cancel_the_function(run_host: RunHost) -> None:
    app = func.FunctionApp()
    ended: list[str] = []
    started, release = asyncio.Event(), asyncio.Event()

    @app.route(route="slow")
    async def slow(req: func.HttpRequest) -> func.HttpResponse:
        started.set()
        try:
            await release.wait()
            ended.append("finished")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return func.HttpResponse()

    async with run_host(app) as running:
        host, port = running.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /api/slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await started.wait()
        writer.transport.abort()
        async with aiohttp.ClientSession() as web:  # by then the server has noticed the closed connection
            await web.get(f"{running.url}/admin/host/status")
        release.set()
        await eventually(lambda: ended)
    assert ended == ["finished"]


async def test_no_key_is_required_by_default(run_host: RunHost) -> None:
    app, _ = echo_app(auth_level="function")
    async with run_host(app) as running, aiohttp.request("GET", f"{running.url}/api/items") as response:
        assert response.status == 201


@pytest.mark.parametrize(
    ("level", "headers", "query", "status"),
    [
        ("function", {}, "", 401),
        ("function", {"x-functions-key": "wrong"}, "", 401),
        ("function", {"x-functions-key": "right"}, "", 201),
        ("function", {}, "?code=right", 201),
        ("function", {}, "?code=wrong", 401),
        ("admin", {}, "", 401),
        ("admin", {"x-functions-key": "right"}, "", 201),
        ("anonymous", {}, "", 201),
    ],
)
async def test_wrong_key_is_401_if_keys_are_required(
    run_host: RunHost, level: str, headers: dict[str, str], query: str, status: int
) -> None:
    app, _ = echo_app(auth_level=level)
    async with (
        run_host(app, key="right") as running,
        aiohttp.request("GET", f"{running.url}/api/items{query}", headers=headers) as response,
    ):
        assert response.status == status


async def test_admin_status_is_running(run_host: RunHost) -> None:
    app = func.FunctionApp()
    async with run_host(app) as running, aiohttp.request("GET", f"{running.url}/admin/host/status") as response:
        assert (response.status, await response.json()) == (200, {"state": "Running"})


async def test_app_with_only_http_functions_needs_no_storage(run_host: RunHost) -> None:
    app = app_returning("x")
    async with run_host(app, settings={"AzureWebJobsStorage": ""}) as running:
        assert await status_of(f"{running.url}/api/answer") == 200


async def test_port_opens_only_on_loopback(run_host: RunHost) -> None:
    async with run_host(func.FunctionApp()) as running:
        port = int(running.url.rsplit(":", 1)[1])
        with socket.socket() as other:
            other.settimeout(2)
            assert other.connect_ex(("127.0.0.2", port)) != 0


async def test_synchronous_function_runs_on_a_thread_with_its_context(run_host: RunHost) -> None:
    app = func.FunctionApp()
    barrier = threading.Barrier(2, timeout=10)

    @app.route(route="blocks")
    def blocks(req: func.HttpRequest, context: func.Context) -> str:
        barrier.wait()  # both calls run at the same time, and the loop continues
        assert vars(context.thread_local_storage)["invocation_id"] == context.invocation_id
        return threading.current_thread().name

    threads = {"PYTHON_THREADPOOL_THREAD_COUNT": "2"}
    async with run_host(app, settings=threads) as running, aiohttp.ClientSession() as web:
        responses = await asyncio.gather(*(web.get(f"{running.url}/api/blocks") for _ in range(2)))
        names = {await response.text() for response in responses}
    assert len(names) == 2
    assert all(name.startswith("function") for name in names)


async def test_request_over_the_function_timeout_fails(run_host: RunHost, caplog: pytest.LogCaptureFixture) -> None:
    app = func.FunctionApp()

    @app.route(route="hangs")
    async def hangs(req: func.HttpRequest) -> func.HttpResponse:
        await asyncio.Event().wait()
        return func.HttpResponse()

    async with (
        run_host(app, functionTimeout="00:00:00.2") as running,
        aiohttp.request("GET", f"{running.url}/api/hangs") as response,
    ):
        assert response.status == 500
    assert "exceeded the functionTimeout of 0.2 s" in caplog.text


async def test_stop_waits_for_requests_in_progress_and_refuses_new_ones(run_host: RunHost) -> None:
    app = func.FunctionApp()
    started, release = asyncio.Event(), asyncio.Event()

    @app.route(route="slow")
    async def slow(req: func.HttpRequest) -> str:
        started.set()
        await release.wait()
        return "finished"

    async with run_host(app) as running, aiohttp.ClientSession() as web:
        pending = asyncio.create_task(web.get(f"{running.url}/api/slow"))
        await started.wait()
        stopping = asyncio.create_task(running.host.stop())

        async def refused() -> bool:
            limit = aiohttp.ClientTimeout(total=1)
            try:
                async with aiohttp.ClientSession(timeout=limit) as other:
                    await other.get(f"{running.url}/admin/host/status")
            except aiohttp.ClientConnectionError:
                return True
            except TimeoutError:  # it connected just as the port closed
                return False
            return False

        await eventually(refused)
        release.set()
        response = await pending
        assert await response.text() == "finished"
        assert await stopping


async def test_stop_gives_up_on_a_function_that_does_not_end(run_host: RunHost) -> None:
    app = func.FunctionApp()
    started = asyncio.Event()

    @app.route(route="hangs")
    async def hangs(req: func.HttpRequest) -> str:
        started.set()
        await asyncio.Event().wait()
        return ""

    async with run_host(app) as running, aiohttp.ClientSession() as web:
        pending = asyncio.create_task(web.get(f"{running.url}/api/hangs"))
        await started.wait()
        async with asyncio.timeout(30):  # the function would never end
            assert not await running.host.stop(grace=0.1)
        await asyncio.gather(pending, return_exceptions=True)
