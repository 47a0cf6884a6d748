"""Requests of our own are equal to those of the SDK: signatures, rows, errors, retries, tokens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from azure.core.credentials import AccessToken
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.transport import HttpRequest
from azure.data.tables import EdmType, EntityProperty
from azure.data.tables import generate_account_sas as generate_table_sas
from azure.data.tables.aio import TableServiceClient
from azure.storage.queue import generate_account_sas as generate_queue_sas

from local.processes import ACCOUNT_KEY, Azurite
from shared.queues import Queues
from shared.storage import requests
from shared.storage.clients import QueueService, open_storage
from shared.storage.outages import is_outage
from shared.storage.requests import Answer, Sender, StorageRefusal
from shared.storage.table import Conflict, Table
from tests.shared.test_storage import KEYS, TEXTS, TYPES, row

#: A storage account that nobody reaches.
CONNECTION = "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=a2V5a2V5;EndpointSuffix=core.test"
PATH_STYLE = (
    "DefaultEndpointsProtocol=http;AccountName=acc;AccountKey=a2V5a2V5;"
    "TableEndpoint=http://127.0.0.1:1/acc;QueueEndpoint=http://127.0.0.1:1/acc"
)
SECRET = "c2VjcmV0"


@dataclass
class Recorder:
    """Records the requests that would be sent, and answers them with the given statuses, then with 200."""

    statuses: list[int] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)
    sent: list[SimpleNamespace] = field(default_factory=list)

    async def send_once(
        self, _: Sender, method: str, url: str, headers: Mapping[str, str], body: bytes, _seconds: float
    ) -> Answer:
        self.sent.append(SimpleNamespace(method=method, url=url, headers=headers, body=body))
        status = self.statuses.pop(0) if self.statuses else {"PATCH": 204, "POST": 201}.get(method, 200)
        return Answer(status, b"{}", {"ETag": "1", **self.headers})


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()

    async def send_once(self: Sender, *arguments: Any) -> Answer:
        return await recorder.send_once(self, *arguments)

    monkeypatch.setattr(Sender, "send_once", send_once)
    return recorder


def signature_of_sdk(policy: Any, request: SimpleNamespace) -> str:
    """Return the Authorization header that the SDK gives to a request, if it does not rewrite the URL."""
    headers = {name: value for name, value in request.headers.items() if name != "Authorization"}
    known = HttpRequest(request.method, request.url, headers, data=request.body)
    policy.on_request(PipelineRequest(known, PipelineContext(None)))
    return str(known.headers["Authorization"])


@pytest.mark.parametrize("connection", [CONNECTION, PATH_STYLE], ids=["host", "path"])
async def test_signatures_equal_those_of_the_sdk(recorder: Recorder, connection: str) -> None:
    queues, tables = open_storage({"AzureWebJobsStorage": connection})
    async with queues, tables:
        client: Any = tables.get_table_client("Rows")
        table = Table(client)
        for key in KEYS:
            await table.get(key, key)
            await table.get(key, key, select=["a", "Timestamp"])
            await table.merge(row(key, key, text="ü"), "*")
            await table.delete(key, key)
        recorder.statuses[:] = [400]
        with pytest.raises(StorageRefusal):
            await table.batch([("create", row("p", "k")), ("create", row("p", "l"))])
        policy = next(each for each in client._policies if type(each).__name__ == "SharedKeyCredentialPolicy")
        assert len(recorder.sent) == 4 * len(KEYS) + 1
        for sent in recorder.sent:
            assert sent.headers["Authorization"] == signature_of_sdk(policy, sent)
        recorder.sent.clear()
        await Queues(queues).put("work", "é <&>", 7)
        [sent] = recorder.sent
        assert sent.headers["Authorization"] == signature_of_sdk(queues.credential, sent)


async def test_each_request_has_its_own_id(recorder: Recorder) -> None:
    recorder.statuses[:] = [503]
    queues, tables = open_storage({"AzureWebJobsStorage": CONNECTION})
    async with queues, tables:
        await Table(tables.get_table_client("Rows")).get("p", "k")
    assert len({sent.headers["x-ms-client-request-id"] for sent in recorder.sent}) == 2


async def test_row_of_every_type_is_read_as_by_the_sdk(connection: str) -> None:
    queues, tables = open_storage({"AzureWebJobsStorage": connection})
    async with queues, tables:
        client = tables.get_table_client("Rows")
        table = Table(client)
        await table.create()
        columns = {
            **TEXTS,
            **TYPES,
            "far": EntityProperty(2**40, EdmType.INT64),
            "id": UUID(int=7),
            "whole": 3.0,
            "odd": 0.1,
            "infinite": float("inf"),
            "second": datetime(2027, 1, 1, tzinfo=UTC),
            "none": b"",
        }
        for key in KEYS:
            await client.create_entity(row("it's", key, **columns))
            by_sdk = await client.get_entity("it's", key)
            found, etag = await table.get("it's", key) or ({}, "")
            assert found == dict(by_sdk)
            assert {name: type(value) for name, value in found.items() if not isinstance(value, datetime)} == {
                name: type(value) for name, value in by_sdk.items() if not isinstance(value, datetime)
            }
            assert etag == by_sdk.metadata["etag"]


@pytest.mark.parametrize("kind", ["table", "queue"])
async def test_missing_table_or_queue_is_the_error_of_the_sdk(connection: str, kind: str) -> None:
    queues, tables = open_storage({"AzureWebJobsStorage": connection})
    async with queues, tables:
        nowhere = Table(tables.get_table_client("Nowhere"))
        ways: Sequence[Callable[[], Awaitable[Any]]] = (
            (
                lambda: tables.get_table_client("Nowhere").get_entity("p", "k"),
                lambda: nowhere.get("p", "k"),
                lambda: nowhere.put(row("p", "k")),
            )
            if kind == "table"
            else (
                lambda: queues.get_queue_client("nowhere").send_message("x"),
                lambda: Queues(queues).put("nowhere", "x"),
            )
        )
        for way in ways:
            with pytest.raises(ResourceNotFoundError) as refused:
                await way()
            assert refused.value.status_code == 404
            assert is_outage(refused.value)


async def test_wrong_key_is_refused_with_its_status(connection: str) -> None:
    queues, tables = open_storage({"AzureWebJobsStorage": connection.replace("AccountKey=", "AccountKey=AAAA")})
    async with queues, tables:
        for work in (Table(tables.get_table_client("Rows")).get("p", "k"), Queues(queues).put("work", "x")):
            with pytest.raises(HttpResponseError) as refused:
                await work
            assert refused.value.status_code == 403


async def test_signature_in_the_connection_string_is_accepted(azurite: Azurite, connection: str) -> None:
    """A shared access signature reads and writes rows and messages; an altered one is refused."""
    account = connection.split("AccountName=")[1].split(";")[0]
    expiry = datetime.now(UTC) + timedelta(hours=1)
    endpoints = ";".join(part for part in connection.split(";") if "Endpoint" in part)
    queues, tables = open_storage({"AzureWebJobsStorage": connection})
    async with queues, tables:
        await Table(tables.get_table_client("Rows")).create()
        await Queues(queues).create("work")
    credential = SimpleNamespace(named_key=SimpleNamespace(name=account, key=ACCOUNT_KEY))
    for_tables = generate_table_sas(credential, "sco", "rwdlacu", expiry)  # type: ignore[arg-type]
    for_queues = generate_queue_sas(account, ACCOUNT_KEY, "sco", "rwdlacup", expiry)
    _, tables = open_storage({"AzureWebJobsStorage": f"{endpoints};SharedAccessSignature={for_tables}"})
    queues, _unused = open_storage({"AzureWebJobsStorage": f"{endpoints};SharedAccessSignature={for_queues}"})
    async with tables, queues, _, _unused:
        table = Table(tables.get_table_client("Rows"))
        await table.batch([("create", row("it's", key)) for key in KEYS])
        for key in KEYS:
            found, etag = await table.get("it's", key, select=["RowKey", "Timestamp"]) or ({}, "")
            assert found["RowKey"] == key
            await table.merge(row("it's", key, a=1), etag)
        await Queues(queues).put("work", "x")
        assert [each.content for each in await queues.get_queue_client("work").peek_messages()] == ["x"]
    altered = for_tables.replace("sig=", "sig=A")
    queues, tables = open_storage({"AzureWebJobsStorage": f"{endpoints};SharedAccessSignature={altered}"})
    async with queues, tables:
        with pytest.raises(HttpResponseError) as refused:
            await Table(tables.get_table_client("Rows")).get("p", "k")
    assert refused.value.status_code == 403


@dataclass
class Identity:
    """A credential of azure-identity, whose tokens are valid for `seconds`."""

    seconds: float = 3600
    tenants: list[str | None] = field(default_factory=list)

    async def get_token(self, *scopes: str, tenant_id: str | None = None, **_: Any) -> AccessToken:
        assert scopes == ("https://storage.azure.com/.default",)
        self.tenants.append(tenant_id)
        await asyncio.sleep(0)
        now = int(datetime.now(UTC).timestamp())
        return AccessToken(f"token{len(self.tenants)}", now + int(self.seconds))

    async def close(self) -> None: ...


@asynccontextmanager
async def open_with(identity: Identity) -> AsyncIterator[tuple[Queues, Table]]:
    credential: Any = identity
    async with (
        QueueService("https://acc.queue.core.test", credential=credential) as queues,
        TableServiceClient("https://acc.table.core.test", credential=credential) as tables,
    ):
        yield Queues(queues), Table(tables.get_table_client("Rows"))


async def test_token_is_cached_until_shortly_before_its_end(recorder: Recorder) -> None:
    for seconds, count in ((3600, 1), (requests.TOKEN_RESERVE_SECONDS - 1, 4)):
        identity = Identity(seconds)
        async with open_with(identity) as (_, table):
            await asyncio.gather(*(table.get("p", "k") for _ in range(20)))
            assert len(identity.tenants) == 1
            for _ in range(3):
                await table.put(row("p", "k"))
        assert len(identity.tenants) == count
    assert recorder.sent[-1].headers["Authorization"] == "Bearer token4"


async def test_queues_have_a_token_too(recorder: Recorder) -> None:
    async with open_with(Identity()) as (queues, _):
        await queues.put("work", "x")
    assert recorder.sent[0].headers["Authorization"] == "Bearer token1"


async def test_token_is_renewed_once_for_the_tenant_that_storage_names(recorder: Recorder) -> None:
    challenge = "Bearer authorization_uri=https://login.test/other-tenant/oauth2/authorize resource_id=https://s"
    recorder.headers = {"WWW-Authenticate": challenge}
    recorder.statuses[:] = [401]
    identity = Identity()
    async with open_with(identity) as (_, table):
        await table.get("p", "k")
        assert identity.tenants == [None, "other-tenant"]
        recorder.statuses[:] = [401, 401]
        with pytest.raises(StorageRefusal, match="401"):
            await table.get("p", "k")
    assert [sent.headers["Authorization"][-1] for sent in recorder.sent] == ["1", "2", "2", "3"]


@dataclass
class Refusing:
    """A storage that refuses or drops requests, and counts them."""

    connection: str = ""
    status: int = 503
    drops: bool = False
    retry_after: str = ""
    requests: int = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.requests += 1
        if self.drops:
            assert request.transport
            request.transport.close()
        headers = {"Retry-After": self.retry_after} if self.retry_after else {}
        return web.Response(status=self.status, headers=headers)


@pytest.fixture
async def refusing(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Refusing]:
    """Return a storage to which requests are repeated without a delay."""
    monkeypatch.setattr(requests, "BACKOFF_SECONDS", 0)
    refusing, app = Refusing(), web.Application()
    app.router.add_route("*", "/{any:.*}", refusing.answer)
    async with TestServer(app) as server:
        url = str(server.make_url("/acc"))
        refusing.connection = (
            f"DefaultEndpointsProtocol=http;AccountName=acc;AccountKey={SECRET};TableEndpoint={url};QueueEndpoint={url}"
        )
        yield refusing


KINDS: Mapping[str, tuple[Callable[[Any], Awaitable[Any]], Callable[[Any], Awaitable[Any]]]] = {
    "get": (lambda sdk: sdk.get_entity("p", "k"), lambda ours: ours.get("p", "k")),
    "insert": (lambda sdk: sdk.create_entity(row("p", "k")), lambda ours: ours.insert(row("p", "k"))),
    "merge": (lambda sdk: sdk.update_entity(row("p", "k")), lambda ours: ours.merge(row("p", "k"), "*")),
    "put": (lambda sdk: sdk.upsert_entity(row("p", "k"), "replace"), lambda ours: ours.put(row("p", "k"))),
    "delete": (lambda sdk: sdk.delete_entity("p", "k"), lambda ours: ours.delete("p", "k")),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_requests_are_repeated_as_often_as_by_the_sdk(refusing: Refusing, kind: str) -> None:
    by_sdk, ours = KINDS[kind]
    queues, tables = open_storage({"AzureWebJobsStorage": refusing.connection})
    sdk = TableServiceClient.from_connection_string(refusing.connection, retry_backoff_factor=0)
    counts: dict[object, list[int]] = {}
    async with queues, tables, sdk:
        sdk_table, table = sdk.get_table_client("Rows"), Table(tables.get_table_client("Rows"))
        for status in (400, 403, 408, 409, 412, 413, 429, 500, 501, 502, 503, 504, 505, "drop"):
            refusing.status, refusing.drops = (status, False) if isinstance(status, int) else (503, True)
            for work, of in ((by_sdk, sdk_table), (ours, table)):
                refusing.requests = 0
                with pytest.raises((AzureError, Conflict)):
                    await work(of)
                counts.setdefault(status, []).append(refusing.requests)
    assert {status: count[1] for status, count in counts.items()} == {
        status: count[0] for status, count in counts.items()
    }
    assert counts[503] == [4, 4]


async def test_put_on_a_queue_is_repeated_after_each_fault(refusing: Refusing) -> None:
    queues, tables = open_storage({"AzureWebJobsStorage": refusing.connection})
    async with queues, tables:
        for refusing.status, refusing.drops, count in (
            (503, False, 4), (408, False, 4), (400, False, 1), (503, True, 4)
        ):  # fmt: skip
            refusing.requests = 0
            with pytest.raises(AzureError):
                await Queues(queues).put("work", "x")
            assert refusing.requests == count


async def test_retry_after_is_observed_up_to_the_total_time(
    refusing: Refusing, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []

    async def sleep(seconds: float) -> None:
        delays.append(seconds)

    monkeypatch.setattr(requests, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
    queues, tables = open_storage({"AzureWebJobsStorage": refusing.connection})
    async with queues, tables:
        table = Table(tables.get_table_client("Rows"))
        for refusing.retry_after, expected in (("2", [2.0] * 3), ("900", []), ("Mon, 30 Nov 2026", [0.0] * 3)):
            delays.clear()
            with pytest.raises(StorageRefusal, match="503"):
                await table.get("p", "k")
            assert delays == expected


async def test_error_and_log_name_no_secret(refusing: Refusing, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint = refusing.connection.split("TableEndpoint=")[1].split(";")[0]
    access = f"SharedAccessSignature=sv=2019-02-02&sig={SECRET}"
    for text in (
        f"TableEndpoint={endpoint};QueueEndpoint={endpoint};{access}",
        f"TableEndpoint=http://127.0.0.1:1/a;QueueEndpoint=http://127.0.0.1:1/a;{access}",
        refusing.connection,
    ):
        queues, tables = open_storage({"AzureWebJobsStorage": text})
        async with queues, tables:
            for refusing.drops in (True, False):
                for work in (Table(tables.get_table_client("Rows")).insert(row("p", "k")), Queues(queues).put("w", "")):
                    with pytest.raises(AzureError) as raised:
                        await work
                    assert SECRET not in f"{raised.value!r} {raised.value} {raised.value.__dict__}"
    # The test's own server logs its requests.
    assert SECRET not in "".join(each.getMessage() for each in caplog.records if each.name != "aiohttp.access")


async def test_answer_that_ends_early_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request may have had its effect, so a change is not repeated, and a read is."""
    monkeypatch.setattr(requests, "BACKOFF_SECONDS", 0)
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        queues, tables = open_storage({"AzureWebJobsStorage": PATH_STYLE.replace(":1/", f":{port}/")})
        async with queues, tables:
            table = Table(tables.get_table_client("Rows"))
            for work, count in ((table.insert(row("p", "k")), 1), (table.get("p", "k"), 4)):
                connections = 0
                with pytest.raises(ServiceResponseError):
                    await work
                assert connections == count


async def test_unreachable_storage_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BACKOFF_SECONDS", 0)
    queues, tables = open_storage({"AzureWebJobsStorage": PATH_STYLE})
    async with queues, tables:
        for work in (Table(tables.get_table_client("Rows")).get("p", "k"), Queues(queues).put("work", "x")):
            with pytest.raises(ServiceRequestError) as raised:
                await work
            assert is_outage(raised.value)
