"""HTTP triggers: routes, methods and function keys on one listener; requests as the Functions host passes them on."""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
from collections.abc import Sequence

from aiohttp import web
from azure.functions import meta

from local.host.config import StartError
from local.host.functions import Function
from local.host.invoker import Invoker
from local.host.routes import RouteTemplate, compile_route

log = logging.getLogger("Host")

#: The largest request body (FUNCTIONS_REQUEST_BODY_SIZE_LIMIT of the Functions host).
MAX_BODY_BYTES = 104_857_600
#: The longest header; aiohttp refuses a longer one, and logs its content.
MAX_HEADER_BYTES = 256 * 1024
#: How long connections may take to close when the host stops.
CLOSE_SECONDS = 0.5
#: Response headers that the server sets itself.
_SERVER_HEADERS = frozenset({"content-length", "transfer-encoding", "connection", "date", "server"})


class HttpListener:
    """Serves `functions` under `prefix`; with a `key`, functions that are not anonymous require it."""

    def __init__(self, functions: Sequence[Function], prefix: str, invoker: Invoker, key: str | None) -> None:
        """Compile the routes; raises `StartError` for an unsupported one."""
        self._invoker = invoker
        self._key = key
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._open_requests = 0
        self._request_ended = asyncio.Event()
        self._stopping = False
        routes = [(compile_function_route(function, prefix), function) for function in functions]
        self._routes = sorted(routes, key=lambda pair: pair[0].rank)

    async def start(self, listener: socket.socket) -> None:
        """Serve on `listener`, a bound socket; raises `OSError`."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=CLOSE_SECONDS, max_field_size=MAX_HEADER_BYTES
        )
        await self._runner.setup()
        self._site = web.SockSite(self._runner, listener)
        await self._site.start()

    async def stop(self) -> None:
        """Stop listening and wait for the requests in progress; cancellation closes their connections."""
        self._stopping = True
        if self._site is None or self._runner is None:
            return
        await self._site.stop()
        try:
            while self._open_requests:
                self._request_ended.clear()
                await self._request_ended.wait()
        finally:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._open_requests += 1
        try:
            return await self._respond(request)
        finally:
            self._open_requests -= 1
            self._request_ended.set()

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        if self._stopping:  # a request on a kept-alive connection
            return web.Response(status=503, headers={"Connection": "close"})
        if request.path == "/admin/host/status":
            return web.json_response({"state": "Running"})
        found = self._match_route(request.method, request.path)
        if found is None:
            return web.Response(status=404)
        function, parameters = found
        if not self._has_valid_key(function, request):
            return web.Response(status=401)
        # The Functions host relies on Content-Length: a chunked body arrives empty.
        body = await request.read() if request.content_length else b""
        result = await self._invoker.invoke(function, _request_datum(request, parameters, body))
        if not result.succeeded:
            return web.Response(status=500)
        if result.response is None:  # as the Functions host answers
            log.error("Function %s returned nothing: an HTTP function must return an HttpResponse", function.name)
            return web.Response(status=500)
        return _to_response(result.response)

    def _match_route(self, method: str, path: str) -> tuple[Function, dict[str, str]] | None:
        for route, function in self._routes:
            parameters = route.match(method, path)
            if parameters is not None:
                return function, parameters
        return None

    def _has_valid_key(self, function: Function, request: web.Request) -> bool:
        if self._key is None or function.binding.get("authLevel") == "ANONYMOUS":
            return True
        presented = request.headers.get("x-functions-key") or request.query.get("code", "")
        return hmac.compare_digest(presented.encode(), self._key.encode())


def compile_function_route(function: Function, prefix: str) -> RouteTemplate:
    """Return the route of an HTTP function under `prefix`; raises `StartError` for an unsupported one."""
    template = f"{prefix.strip('/')}/{function.binding['route'].strip('/')}".strip("/")
    try:
        return compile_route(template, function.binding.get("methods", ()))
    except ValueError as error:
        raise StartError(f"function {function.name}: {error}") from None


def _request_datum(request: web.Request, parameters: dict[str, str], body: bytes) -> meta.Datum:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        _append(headers, name.lower(), value)
    query: dict[str, str] = {}
    for name, value in request.query.items():
        if value:  # the Functions host omits empty parameters
            _append(query, name, value)
    return meta.Datum(
        {
            "method": meta.Datum(request.method, "string"),
            "url": meta.Datum(str(request.url), "string"),
            "headers": _string_data(headers),
            "query": _string_data(query),
            "params": _string_data(parameters),
            "body": meta.Datum(body, "bytes"),
        },
        "http",
    )


def _append(values: dict[str, str], name: str, value: str) -> None:
    values[name] = f"{values[name]},{value}" if name in values else value


def _string_data(values: dict[str, str]) -> dict[str, meta.Datum]:
    return {name: meta.Datum(value, "string") for name, value in values.items()}


def _to_response(datum: meta.Datum) -> web.Response:
    if datum.type == "string":
        return web.Response(text=datum.value)
    encoded = datum.value
    response = web.Response(status=int(encoded["status_code"].value), body=encoded["body"].value)
    for name, value in encoded["headers"].items():
        if name.lower() not in _SERVER_HEADERS:
            response.headers[name] = value.value
    for cookie in encoded["cookies"] or ():
        for morsel in cookie.values():
            response.headers.add("Set-Cookie", morsel.OutputString())
    return response
