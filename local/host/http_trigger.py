"""HTTP triggers: routes, methods and keys on one listener, with the request as the Functions host hands it on."""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import Sequence

from aiohttp import web
from azure.functions import meta

from local.host.config import StartError
from local.host.functions import Function
from local.host.invoke import Invoker
from local.host.routes import Route, compile_route

#: The largest request body, in bytes (FUNCTIONS_REQUEST_BODY_SIZE_LIMIT of the Functions host).
MAX_BODY = 104_857_600
#: Longest header, in bytes: a longer one is answered, and logged, by aiohttp, which tells what is in it.
LONGEST_HEADER = 256 * 1024
#: How long an answer may take to leave while the host stops, in seconds.
CLOSING = 0.5
#: Headers that the server writes itself.
_OWN_HEADERS = frozenset({"content-length", "transfer-encoding", "connection", "date", "server"})


class HttpListener:
    """Serves `functions` under `prefix`; a `key` makes functions that are not anonymous ask for it."""

    def __init__(self, functions: Sequence[Function], prefix: str, invoker: Invoker, key: str | None) -> None:
        """Raises `StartError` where a route is unreadable."""
        self._invoker = invoker
        self._key = key
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._calls = 0
        self._ended = asyncio.Event()
        self._stopping = False
        try:
            routes = [(http_route(function, prefix), function) for function in functions]
        except ValueError as error:
            raise StartError(str(error)) from None
        self._routes = sorted(routes, key=lambda pair: pair[0].rank)

    async def start(self, listener: socket.socket) -> None:
        """Serves on `listener`, bound before; raises `OSError`."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSING, max_field_size=LONGEST_HEADER)
        await self._runner.setup()
        self._site = web.SockSite(self._runner, listener)
        await self._site.start()

    async def stop(self) -> None:
        """Stops listening, and waits for the requests under way; where it is cancelled they are cut off."""
        self._stopping = True
        if self._site is None or self._runner is None:
            return
        await self._site.stop()
        try:
            while self._calls:
                self._ended.clear()
                await self._ended.wait()
        finally:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._calls += 1
        try:
            return await self._answer(request)
        finally:
            self._calls -= 1
            self._ended.set()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self._stopping:  # on a connection that was kept alive
            return web.Response(status=503, headers={"Connection": "close"})
        if request.path == "/admin/host/status":
            return web.json_response({"state": "Running"})
        found = self._find(request.method, request.path)
        if found is None:
            return web.Response(status=404)
        function, parameters = found
        if not self._admits(function, request):
            return web.Response(status=401)
        # the Functions host goes by Content-Length: a chunked body arrives empty
        body = await request.read() if request.content_length else b""
        result = await self._invoker.call(function, _datum(request, parameters, body))
        if not result.succeeded:
            return web.Response(status=500)
        return web.Response(status=204) if result.response is None else _response(result.response)

    def _find(self, method: str, path: str) -> tuple[Function, dict[str, str]] | None:
        for route, function in self._routes:
            parameters = route.match(method, path)
            if parameters is not None:
                return function, parameters
        return None

    def _admits(self, function: Function, request: web.Request) -> bool:
        if self._key is None or function.binding.get("authLevel") == "ANONYMOUS":
            return True
        shown = request.headers.get("x-functions-key") or request.query.get("code", "")
        return hmac.compare_digest(shown.encode(), self._key.encode())


def http_route(function: Function, prefix: str) -> Route:
    """The route of an HTTP function under `prefix`; raises `ValueError` where it is unreadable."""
    template = f"{prefix.strip('/')}/{function.binding['route'].strip('/')}".strip("/")
    return compile_route(template, function.binding.get("methods", ()))


def _datum(request: web.Request, parameters: dict[str, str], body: bytes) -> meta.Datum:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        _join(headers, name.lower(), value)
    query: dict[str, str] = {}
    for name, value in request.query.items():
        if value:  # the Functions host leaves out what has no value
            _join(query, name, value)
    return meta.Datum(
        {
            "method": meta.Datum(request.method, "string"),
            "url": meta.Datum(str(request.url), "string"),
            "headers": _texts(headers),
            "query": _texts(query),
            "params": _texts(parameters),
            "body": meta.Datum(body, "bytes"),
        },
        "http",
    )


def _join(values: dict[str, str], name: str, value: str) -> None:
    values[name] = f"{values[name]},{value}" if name in values else value


def _texts(values: dict[str, str]) -> dict[str, meta.Datum]:
    return {name: meta.Datum(value, "string") for name, value in values.items()}


def _response(datum: meta.Datum) -> web.Response:
    if datum.type == "string":
        return web.Response(text=datum.value)
    answer = datum.value
    response = web.Response(status=int(answer["status_code"].value), body=answer["body"].value)
    for name, value in answer["headers"].items():
        if name.lower() not in _OWN_HEADERS:
            response.headers[name] = value.value
    for cookie in answer["cookies"] or ():
        for morsel in cookie.values():
            response.headers.add("Set-Cookie", morsel.OutputString())
    return response
