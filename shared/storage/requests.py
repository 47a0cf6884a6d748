"""Send requests to tables and queues on the SDK's session, without its pipeline, which takes half of their CPU time.

Endpoint, credential, proxy and TLS settings are those of the SDK's client. Requests are signed as in "Authorize with
Shared Key", and repeated by the rules of the SDK's retry policy for tables.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import re
import time
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlsplit
from uuid import uuid4
from wsgiref.handlers import format_date_time

import aiohttp
from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceRequestTimeoutError,
    ServiceResponseError,
    ServiceResponseTimeoutError,
)
from yarl import URL

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken
    from azure.core.credentials_async import AsyncTokenCredential
    from azure.data.tables.aio import TableClient
    from azure.storage.queue.aio import QueueServiceClient

#: Timeouts of a connection to the storage, of its answer, and of a request with its retries, after which none is begun:
#: at most 40 s in all. The SDK's own are 300 s, 300 s and a week: one request that gets no answer would outlast
#: `functionTimeout`, and with it `outages.outlast_faults`.
TIMEOUTS: Mapping[str, Any] = {"connection_timeout": 5, "read_timeout": 15, "timeout": 20}
#: Retries after each kind of failure: no connection, no answer, and a status.
MAX_RETRIES = 3
#: Delay before the second retry, doubled for each further one; the first comes at once.
BACKOFF_SECONDS = 1.6
#: Statuses after which a request is repeated, and those for a POST or PATCH, whose repetition may not be harmless.
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
RETRIED_CHANGE_STATUSES = frozenset({500, 503, 504})
#: A token is replaced this long before it expires.
TOKEN_RESERVE_SECONDS = 300

_SCOPE = "https://storage.azure.com/.default"
_CODE = re.compile(rb'"code": *"(\w+)"|<Code>(\w+)</Code>')
_TENANT = re.compile(r"authorization_uri=\"?https://[^/\s]+/([\w.-]+)")


class StorageRefusal(HttpResponseError):
    """Storage refused a request; see `status_code` and `code` ("Table service error codes", REST reference)."""

    def __init__(self, status: int, answer: bytes) -> None:
        found = _CODE.search(answer)
        self.code = (found[1] or found[2]).decode() if found else ""
        super().__init__(f"Storage refused a request: {status} {self.code}")
        self.status_code = status


class StorageMisses(StorageRefusal, ResourceNotFoundError):
    """A table, queue or row does not exist."""


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: Mapping[str, str]

    def refusal(self) -> StorageRefusal:
        return (StorageMisses if self.status == 404 else StorageRefusal)(self.status, self.body)


class Sender:
    """Sends the requests of one service, tables or queues, of one account."""

    def __init__(self, client: TableClient | QueueServiceClient, transport: Any) -> None:
        self._transport = transport
        credential: Any = client.credential
        endpoint, _, self._sas = client.url.partition("?")
        self._endpoint = endpoint.rstrip("/")
        self._path, self._version = urlsplit(self._endpoint).path, client.api_version
        self._credential: AsyncTokenCredential | None = None
        self._account, self._key = "", b""
        if isinstance(credential, AzureNamedKeyCredential):  # of a client for tables
            self._account, key = credential.named_key
            self._key = base64.b64decode(key)
        elif hasattr(credential, "account_key"):  # of a client for queues
            self._account, self._key = credential.account_name, base64.b64decode(credential.account_key)
        elif isinstance(credential, AzureSasCredential):
            self._sas = credential.signature.lstrip("?")
        else:
            self._credential = credential  # of an identity, or None if the URL has a shared access signature
        self._sign = sign_table_request if hasattr(client, "table_name") else sign_queue_request
        self._token: AccessToken | None = None
        self._token_lock = asyncio.Lock()

    async def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        query: Mapping[str, str] | None = None,
        repeatable: bool = False,
    ) -> Answer:
        """Send a request to `path`, which is percent-encoded, below the endpoint, and return the answer of any status.

        A connection fault raises `ServiceRequestError` or `ServiceResponseError`. A POST or PATCH is repeated after a
        connection fault only if it is `repeatable`; each other request may be repeated, and meet itself.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + TIMEOUTS["timeout"]
        repeatable = repeatable or method not in ("POST", "PATCH")
        statuses = RETRIED_STATUSES if repeatable else RETRIED_CHANGE_STATUSES
        failures: Counter[str] = Counter()
        while True:
            error: AzureError | None = None
            delay = 0.0
            signed = await self._authorize(method, path, headers, body, query or {})
            url = f"{self._endpoint}/{path}"
            if text := "&".join(filter(None, (_encode_query(query or {}), self._sas))):
                url += f"?{text}"
            try:
                answer = await self.send_once(method, url, signed, body, deadline - clock())
            except (ServiceRequestError, ServiceResponseError) as fault:
                if not repeatable:
                    raise
                error, kind = fault, "connection" if isinstance(fault, ServiceRequestError) else "answer"
            else:
                if answer.status == 401 and self._credential and not failures["token"]:
                    found = _TENANT.search(answer.headers.get("WWW-Authenticate", ""))
                    await self._renew_token(found[1] if found else None)
                    failures["token"] += 1
                    continue
                after = answer.headers.get("Retry-After", "") if answer.status >= 400 else ""
                if not after and answer.status not in statuses:
                    return answer
                kind, delay = "status", float(after) if after.isdecimal() else 0.0
            failures[kind] += 1
            count = failures.total() - failures["token"]
            delay = delay or (0 if count == 1 else BACKOFF_SECONDS * 2 ** (count - 2))
            if failures[kind] > MAX_RETRIES or clock() + delay >= deadline:
                if error:
                    raise error
                return answer
            await asyncio.sleep(delay)

    async def send_once(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, remaining_seconds: float
    ) -> Answer:
        """Send a signed request; raise the exceptions of the SDK, with texts that name no URL."""
        if self._transport.session is None:
            await self._transport.open()
        timeout = aiohttp.ClientTimeout(
            sock_connect=min(TIMEOUTS["connection_timeout"], max(remaining_seconds, 0.001)),
            sock_read=TIMEOUTS["read_timeout"],
        )
        try:
            async with self._transport.session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body or None,
                skip_auto_headers=() if body else ("Content-Type",),
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                return Answer(response.status, await response.read(), response.headers)
        except aiohttp.ConnectionTimeoutError:
            raise ServiceRequestTimeoutError("No connection to the storage in time") from None
        except TimeoutError:
            raise ServiceResponseTimeoutError("No answer of the storage in time") from None
        except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as error:
            raise ServiceResponseError(f"No answer of the storage: {type(error).__name__}") from None
        except aiohttp.ClientConnectionError as error:
            raise ServiceRequestError(f"No connection to the storage: {type(error).__name__}: {error}") from None
        except aiohttp.ClientError as error:
            raise ServiceRequestError(f"No connection to the storage: {type(error).__name__}") from None

    async def _authorize(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, query: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the headers with those that all requests have."""
        signed = {
            **headers,
            "Accept-Encoding": "identity",
            "x-ms-client-request-id": str(uuid4()),
            "x-ms-date": _format_date(int(time.time())),
            "x-ms-version": self._version,
        }
        if body or method == "POST":
            signed["Content-Length"] = str(len(body))
        if self._key:
            text = self._sign(method, f"/{self._account}{self._path}/{path}", signed, query)
            signature = base64.b64encode(hmac.digest(self._key, text.encode(), "sha256")).decode()
            signed["Authorization"] = f"SharedKey {self._account}:{signature}"
        elif self._credential:
            if self._token is None or self._token.expires_on - TOKEN_RESERVE_SECONDS < time.time():
                await self._renew_token()
            assert self._token
            signed["Authorization"] = f"Bearer {self._token.token}"
        return signed

    async def _renew_token(self, tenant: str | None = None) -> None:
        """Get a new token, of the tenant that the storage names if it is not the credential's own."""
        assert self._credential
        old = self._token
        async with self._token_lock:
            if self._token is old:  # no other request has renewed it meanwhile
                self._token = await self._credential.get_token(_SCOPE, tenant_id=tenant)


def sender_of(client: TableClient | QueueServiceClient) -> Sender:
    """Return the sender that all clients of one service share; it is kept by their transport, and ends with it."""
    # The public clients do not show their transport.
    inner: Any = client._client._client if hasattr(client, "table_name") else client
    transport = inner._pipeline._transport
    transport = getattr(transport, "_transport", transport)
    if not hasattr(transport, "herald_sender"):
        transport.herald_sender = Sender(client, transport)
    sender: Sender = transport.herald_sender
    return sender


def sign_table_request(method: str, resource: str, headers: Mapping[str, str], _query: Mapping[str, str]) -> str:
    """Return the text to be signed for a request to a table; `resource` begins with a slash and the account."""
    return f"{method}\n\n{headers.get('Content-Type', '')}\n{headers['x-ms-date']}\n{resource}"


def sign_queue_request(method: str, resource: str, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return the text to be signed for a request to a queue; `resource` begins with a slash and the account."""
    length = headers.get("Content-Length", "0")
    lines = [method, "", "", "" if length == "0" else length, "", headers.get("Content-Type", ""), *[""] * 6]
    lines += [f"{name}:{value}" for name, value in sorted(headers.items()) if name.startswith("x-ms-")]
    lines += [resource, *(f"{name}:{value}" for name, value in sorted(query.items()))]
    return "\n".join(lines)


def _encode_query(query: Mapping[str, str]) -> str:
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())


@lru_cache(maxsize=1)
def _format_date(second: int) -> str:
    return format_date_time(second)
