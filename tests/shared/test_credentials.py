"""The requests that msal makes for each credential, at a token service and an identity endpoint on loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from local.fake_teams.certificates import create_certificates
from shared.settings import Settings, load_settings
from shared.teams.credentials import exchange_resource, request_token
from shared.teams.tokens import NoToken, Tokens
from tests.support.certificates import create_certificate

APP = "22222222-2222-2222-2222-222222222222"
IDENTITY = "33333333-3333-3333-3333-333333333333"
SCOPE = "https://api.botframework.com/.default"
GRAPH_SCOPE = "https://graph.microsoft.com/.default"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass
class Entra:
    """A token service for any tenant, and the identity endpoint of App Service: their answers, and what they got."""

    url: str = ""
    #: Path and form of each token request, and query of each request to the identity endpoint.
    token_requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    identity_requests: list[dict[str, str]] = field(default_factory=list)
    token_status: int = 200
    token_answer: dict[str, Any] = field(default_factory=lambda: {"access_token": "granted", "expires_in": 3600})
    identity_status: int = 200
    identity_answer: str = ""

    def settings(self, **more: str) -> Settings:
        bot = {
            "MicrosoftAppType": "SingleTenant",
            "MicrosoftAppId": APP,
            "MicrosoftAppTenantId": "home",
            "ToChannelFromBotLoginUrl": f"{self.url}/home",
        }
        return load_settings(bot | more)

    async def handle_token(self, request: web.BaseRequest) -> web.Response:
        tenant = request.path.split("/")[1]
        if request.path.endswith("/openid-configuration"):
            root = f"{self.url}/{tenant}"
            endpoints = {name: f"{root}/oauth2/v2.0/{name}" for name in ("authorize", "token")}
            return web.json_response(
                {
                    "issuer": f"{root}/v2.0",
                    "authorization_endpoint": endpoints["authorize"],
                    "token_endpoint": endpoints["token"],
                }
            )
        self.token_requests.append((request.path, dict(await request.post())))
        return web.json_response(self.token_answer, status=self.token_status)

    async def handle_identity(self, request: web.BaseRequest) -> web.Response:
        assert request.headers["X-IDENTITY-HEADER"] == "header"
        self.identity_requests.append(dict(request.query))
        return web.Response(text=self.identity_answer, status=self.identity_status)


@pytest.fixture
async def entra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Entra]:
    running = Entra(identity_answer=json.dumps({"access_token": "assertion", "expires_on": str(int(time.time()) + 60)}))
    ca, context = create_certificates()
    ca_file = tmp_path / "ca.pem"
    await asyncio.to_thread(ca_file.write_bytes, ca)
    runners = [web.ServerRunner(web.Server(handler)) for handler in (running.handle_token, running.handle_identity)]
    ports = []
    for runner, tls in zip(runners, (context, None), strict=True):
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        ports.append(runner.addresses[0][1])
    running.url = f"https://127.0.0.1:{ports[0]}"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca_file))
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{ports[1]}/msi/token")
    monkeypatch.setenv("IDENTITY_HEADER", "header")
    for name in ("IMDS_ENDPOINT", "IDENTITY_SERVER_THUMBPRINT"):
        monkeypatch.delenv(name, raising=False)
    yield running
    for runner in runners:
        await runner.cleanup()


async def get_token(settings: Settings) -> str:
    return await Tokens(settings, time.monotonic).get()


async def test_secret_is_sent_as_it_is(entra: Entra) -> None:
    assert await get_token(entra.settings(MicrosoftAppPassword="a-secret")) == "granted"
    [(path, form)] = entra.token_requests
    assert path == "/home/oauth2/v2.0/token"
    assert (form["client_id"], form["client_secret"], form["scope"]) == (APP, "a-secret", SCOPE)
    assert form["grant_type"] == "client_credentials"
    assert entra.identity_requests == []


async def test_certificate_signs_an_assertion_that_names_it_by_sha256(entra: Entra) -> None:
    key, pem = create_certificate()
    settings = entra.settings(HERALD_APP_CERTIFICATE=(create_certificate(number=2)[1] + pem + key).replace("\n", "\\n"))
    assert await get_token(settings) == "granted"
    [(path, form)] = entra.token_requests
    assert (path, form["client_id"], form["scope"]) == ("/home/oauth2/v2.0/token", APP, SCOPE)
    assert form["client_assertion_type"] == ASSERTION_TYPE
    assert "client_secret" not in form
    certificate = x509.load_pem_x509_certificate(pem.encode())
    der = certificate.public_bytes(Encoding.DER)
    header = jwt.get_unverified_header(form["client_assertion"])
    assert header["alg"] == "PS256"
    assert "x5t" not in header
    assert base64.urlsafe_b64decode(header["x5t#S256"]) == hashlib.sha256(der).digest()
    assert [base64.b64decode(each) for each in header["x5c"]] == [der]
    public_key: Any = certificate.public_key()
    # The audience, the lifetime and the signature are verified here.
    token_endpoint = f"{entra.url}/home/oauth2/v2.0/token"
    claims = jwt.decode(form["client_assertion"], public_key, algorithms=["PS256"], audience=token_endpoint)
    assert claims["iss"] == claims["sub"] == APP
    assert claims["jti"]


async def test_another_scope_and_tenant_have_their_own_assertion(entra: Entra) -> None:
    key, pem = create_certificate()
    settings = entra.settings(HERALD_APP_CERTIFICATE=key + pem)
    answer = await asyncio.to_thread(request_token, settings, GRAPH_SCOPE, f"{entra.url}/other")
    assert answer["access_token"] == "granted"
    [(path, form)] = entra.token_requests
    assert (path, form["scope"]) == ("/other/oauth2/v2.0/token", GRAPH_SCOPE)
    claims = jwt.decode(form["client_assertion"], options={"verify_signature": False})
    assert claims["aud"] == f"{entra.url}/other/oauth2/v2.0/token"


async def test_token_of_the_trusted_identity_is_the_assertion(entra: Entra) -> None:
    settings = entra.settings(HERALD_FEDERATED_CLIENT_ID=IDENTITY)
    assert await get_token(settings) == "granted"
    [query] = entra.identity_requests
    assert (query["resource"], query["client_id"]) == ("api://AzureADTokenExchange", IDENTITY)
    [(path, form)] = entra.token_requests
    assert (path, form["client_id"], form["scope"]) == ("/home/oauth2/v2.0/token", APP, SCOPE)
    assert (form["client_assertion"], form["client_assertion_type"]) == ("assertion", ASSERTION_TYPE)
    assert "client_secret" not in form


async def test_token_of_the_bots_own_identity_needs_no_token_service(entra: Entra) -> None:
    settings = entra.settings(MicrosoftAppType="UserAssignedMSI")
    assert await get_token(settings) == "assertion"
    [query] = entra.identity_requests
    assert (query["resource"], query["client_id"]) == ("https://api.botframework.com", APP)
    assert entra.token_requests == []


@pytest.mark.parametrize(
    ("status", "answer", "code"),
    [
        (400, '{"statusCode": 400, "message": "No identity found, private"}', "invalid_scope"),
        (500, "private", "JSONDecodeError"),
    ],
)
@pytest.mark.parametrize(
    ("credential", "suffix"),
    [
        ({"HERALD_FEDERATED_CLIENT_ID": IDENTITY}, " of the managed identity"),
        ({"MicrosoftAppType": "UserAssignedMSI"}, ""),
    ],
    ids=["federated", "own identity"],
)
async def test_refusal_of_the_identity_endpoint_is_known_by_its_code(
    entra: Entra, credential: dict[str, str], suffix: str, status: int, answer: str, code: str
) -> None:
    entra.identity_status, entra.identity_answer = status, answer
    with pytest.raises(NoToken) as refused:
        await get_token(entra.settings(**credential))
    assert str(refused.value) == code + suffix
    assert entra.token_requests == []


async def test_identity_endpoint_that_does_not_answer_is_no_token(
    entra: Entra, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:1/msi/token")
    with pytest.raises(NoToken, match=r"^ConnectionError of the managed identity$"):
        await get_token(entra.settings(HERALD_FEDERATED_CLIENT_ID=IDENTITY))


@pytest.mark.parametrize("credential", ["certificate", "federated"])
async def test_refusal_of_the_assertion_is_known_by_its_code_and_not_logged(
    entra: Entra, credential: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    entra.token_status = 401
    entra.token_answer = {"error": "invalid_client", "error_description": "AADSTS700027: private"}
    pem = "".join(create_certificate())
    given = {"HERALD_APP_CERTIFICATE": pem} if credential == "certificate" else {"HERALD_FEDERATED_CLIENT_ID": IDENTITY}
    with pytest.raises(NoToken, match=r"^invalid_client$"):
        await get_token(entra.settings(**given))
    [(_, form)] = entra.token_requests
    assert form["client_assertion"] not in caplog.text
    assert "private" not in caplog.text


@pytest.mark.parametrize(
    ("authority", "resource"),
    [
        ("https://login.microsoftonline.com/tenant", "api://AzureADTokenExchange"),
        ("https://login.microsoftonline.us/tenant", "api://AzureADTokenExchangeUSGov"),
        ("https://LOGIN.microsoftonline.us/tenant", "api://AzureADTokenExchangeUSGov"),
        ("https://login.partner.microsoftonline.cn/tenant", "api://AzureADTokenExchangeChina"),
        ("https://login.example/login.microsoftonline.us", "api://AzureADTokenExchange"),
    ],
)
def test_resource_of_the_assertion_follows_the_cloud_of_the_authority(authority: str, resource: str) -> None:
    assert exchange_resource(authority) == resource
