from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import aiohttp
import jwt
import msal
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import RSAAlgorithm

from local.fake_teams.api import Behaviour, Credentials, FederatedCredential, Growth
from local.fake_teams.client import ControlError, FakeTeams
from local.fake_teams.server import Options
from tests.fake_teams.conftest import SCOPE, Bot, Reply, fetch_token, open_session
from tests.support.certificates import create_certificate

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ISSUER, SUBJECT, EXCHANGE = "https://identity.example/v2.0", "the-identity", "api://AzureADTokenExchange"


@pytest.fixture(autouse=True)
def _remove_ca_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    # requests prefers these variables to the `verify` option of msal.
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)


async def _request_with_msal(
    teams: FakeTeams, secret: str | dict[str, Any], scope: str = SCOPE, authority: str | None = None
) -> dict[str, Any]:
    def acquire() -> dict[str, Any]:
        application = msal.ConfidentialClientApplication(
            teams.app_id,
            client_credential=secret,
            authority=authority or teams.settings["ToChannelFromBotLoginUrl"],
            instance_discovery=False,
            verify=str(teams.ca_file),
        )
        first: dict[str, Any] = application.acquire_token_for_client([scope])
        return first if "error" in first else dict(application.acquire_token_for_client([scope]))

    return await asyncio.to_thread(acquire)


async def test_connector_accepts_a_token_that_msal_requested(teams: FakeTeams, session: aiohttp.ClientSession) -> None:
    granted = await _request_with_msal(teams, teams.settings["MicrosoftAppPassword"])
    assert (granted["token_type"], granted["token_source"]) == ("Bearer", "cache")
    bot = Bot(teams, session, granted["access_token"])
    assert (await bot.send((await teams.world()).people[0].conversation)).status == 201
    stats = await teams.stats()
    assert (stats.tokens_issued, stats.tokens_used, stats.count("token")) == (1, 1, 1)


async def test_msal_reports_a_wrong_secret(teams: FakeTeams) -> None:
    refused = await _request_with_msal(teams, "wrong")
    assert refused["error"] == "invalid_client"
    assert "AADSTS7000215" in refused["error_description"]
    assert (await teams.stats()).tokens_issued == 0


@pytest.mark.parametrize(
    ("changed", "status", "error"),
    [
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"client_id": "someone else"}, 400, "unauthorized_client"),
        ({"client_secret": ""}, 401, "invalid_client"),
        ({"scope": "https://graph.example/.default"}, 400, "invalid_scope"),
    ],
)
async def test_invalid_token_request_is_refused_as_by_entra(
    teams: FakeTeams, session: aiohttp.ClientSession, changed: dict[str, str], status: int, error: str
) -> None:
    refused = await fetch_token(teams, session, **changed)
    assert (refused.status, refused.body["error"]) == (status, error)


async def test_unknown_tenant_has_no_openid_configuration(teams: FakeTeams, session: aiohttp.ClientSession) -> None:
    async with session.get(f"{teams.url}/unknown/v2.0/.well-known/openid-configuration") as response:
        assert (response.status, (await response.json())["error_codes"]) == (400, [90002])


async def test_expired_token_is_401(teams: FakeTeams, session: aiohttp.ClientSession) -> None:
    await teams.set_behaviour(Behaviour(token_lifetime=1))
    bot = Bot(teams, session, (await fetch_token(teams, session)).body["access_token"])
    conversation = (await teams.world()).people[0].conversation
    async with asyncio.timeout(10):
        while (await bot.send(conversation)).status != 401:
            await asyncio.sleep(0.2)
    assert (await fetch_token(teams, session)).body["expires_in"] == 1


async def test_revoked_token_is_401_and_a_new_one_is_valid(
    teams: FakeTeams, session: aiohttp.ClientSession, bot: Bot
) -> None:
    conversation = (await teams.world()).people[0].conversation
    unused = (await fetch_token(teams, session)).body["access_token"]
    assert (await bot.send(conversation)).status == 201
    await teams.revoke_tokens()
    assert (await bot.send(conversation)).status == 401
    assert (await Bot(teams, session, unused).send(conversation)).status == 401
    fresh = (await fetch_token(teams, session)).body["access_token"]
    assert (await Bot(teams, session, fresh).send(conversation)).status == 201


async def test_token_of_another_fake_is_401(teams: FakeTeams, session: aiohttp.ClientSession) -> None:
    async with FakeTeams.serve(Options()) as other, open_session(other) as elsewhere:
        foreign = (await fetch_token(other, elsewhere)).body["access_token"]
    reply = await Bot(teams, session, foreign).send((await teams.world()).people[0].conversation)
    assert reply.status == 401


async def test_connector_token_is_of_the_tenant_of_the_app_only(
    teams: FakeTeams, session: aiohttp.ClientSession
) -> None:
    other = (await teams.grow(Growth(people=1))).tenants[-1]
    assert (await _request(teams, session, f"{teams.url}/{other}")).body["error"] == "unauthorized_client"
    assert (await _request(teams, session, f"{teams.url}/{other}", scope=f"{teams.graph_url}/.default")).status == 200


async def _request(teams: FakeTeams, session: aiohttp.ClientSession, authority: str, **changed: str) -> Reply:
    form = {
        "grant_type": "client_credentials",
        "client_id": teams.app_id,
        "client_secret": teams.settings["MicrosoftAppPassword"],
        "scope": SCOPE,
        **changed,
    }
    async with session.post(f"{authority}/oauth2/v2.0/token", data=form) as response:
        return Reply(response.status, await response.json(), dict(response.headers))


@pytest.mark.parametrize("credential", ["certificate", "federated"])
async def test_msal_gets_a_token_by_an_assertion(teams: FakeTeams, credential: str) -> None:
    private, certificate = create_certificate(number=1)
    await teams.set_credentials(_credentials(secret=False))
    given: dict[str, Any] = {"client_assertion": lambda: _sign(_federated_claims(), kid="1")}
    if credential == "certificate":
        given = {"private_key": private, "public_certificate": certificate}
    tenant = (await teams.grow(Growth(people=1))).tenants[-1]
    granted = await _request_with_msal(teams, given, f"{teams.graph_url}/.default", f"{teams.url}/{tenant}")
    assert granted.get("token_source") == "cache", granted
    claims = jwt.decode(granted["access_token"], options={"verify_signature": False})
    assert (claims["aud"], claims["tid"]) == (teams.graph_url, tenant)
    assert (await teams.stats()).tokens_by_credential == {credential: 1}
    refused = await _request_with_msal(teams, teams.settings["MicrosoftAppPassword"])
    assert "AADSTS7000215" in refused["error_description"]


def _credentials(*, secret: bool = True) -> Credentials:
    """Return the first certificate, and a federated credential with its key under the id 1."""
    certificate = create_certificate(number=1)[1]
    public: Any = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    key = {**RSAAlgorithm.to_jwk(public, as_dict=True), "kid": "1", "alg": "RS256"}
    federated = FederatedCredential(issuer=ISSUER, subject=SUBJECT, audience=EXCHANGE, keys={"keys": [key]})
    return Credentials(certificates=[certificate], federated=[federated], secret=secret)


def _sign(claims: dict[str, Any], number: int = 1, algorithm: str = "RS256", **header: str) -> str:
    key: Any = load_pem_private_key(create_certificate(number=number)[0].encode(), None)
    return jwt.encode(claims, key, algorithm=algorithm, headers=header)


def _federated_claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {"iss": ISSUER, "sub": SUBJECT, "aud": EXCHANGE, "nbf": now - 60, "exp": now + 60, **changed}
    return {name: value for name, value in claims.items() if value is not None}


def _thumbprint(number: int = 1, algorithm: SHA1 | SHA256 | None = None) -> str:
    certificate = x509.load_pem_x509_certificate(create_certificate(number=number)[1].encode())
    digest = certificate.fingerprint(algorithm or SHA256())
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


@pytest.mark.parametrize(
    ("changed", "number", "header", "code"),
    [
        ({}, 1, {"kid": "1"}, None),
        ({}, 2, {"kid": "1"}, 700027),
        ({}, 1, {"kid": "2"}, 50013),
        ({}, 1, {}, 50013),
        ({"iss": "https://elsewhere.example"}, 1, {"kid": "1"}, 700211),
        ({"sub": "The-Identity"}, 1, {"kid": "1"}, 700213),
        ({"aud": "api://another"}, 1, {"kid": "1"}, 700212),
        ({"exp": 1}, 1, {"kid": "1"}, 700024),
        ({"exp": None}, 1, {"kid": "1"}, 50027),
        ({"nbf": 4_000_000_000}, 1, {"kid": "1"}, 700024),
    ],
)
async def test_federated_assertion_is_verified(
    teams: FakeTeams,
    session: aiohttp.ClientSession,
    changed: dict[str, Any],
    number: int,
    header: dict[str, str],
    code: int | None,
) -> None:
    await teams.set_credentials(_credentials())
    await _check(teams, session, _sign(_federated_claims(**changed), number, **header), code)


@pytest.mark.parametrize(
    ("changed", "number", "header", "code"),
    [
        ({}, 1, {"x5t#S256": _thumbprint()}, None),
        ({}, 1, {"x5t": _thumbprint(algorithm=SHA1())}, None),
        ({"aud": "{authority}/v2.0"}, 1, {"x5t#S256": _thumbprint()}, None),
        ({}, 2, {"x5t#S256": _thumbprint()}, 700027),
        ({}, 2, {"x5t#S256": _thumbprint(2)}, 700027),
        ({}, 1, {}, 700027),
        ({"sub": "another"}, 1, {"x5t#S256": _thumbprint()}, 700021),
        ({"iss": "another"}, 1, {"x5t#S256": _thumbprint()}, 700211),
        ({"aud": "{url}/another/oauth2/v2.0/token"}, 1, {"x5t#S256": _thumbprint()}, 700023),
        ({"exp": 1}, 1, {"x5t#S256": _thumbprint()}, 700024),
    ],
)
async def test_assertion_by_a_certificate_is_verified(
    teams: FakeTeams,
    session: aiohttp.ClientSession,
    changed: dict[str, Any],
    number: int,
    header: dict[str, str],
    code: int | None,
) -> None:
    await teams.set_credentials(_credentials())
    authority = f"{teams.url}/{teams.tenant}"
    claims = {"iss": teams.app_id, "sub": teams.app_id, "aud": f"{authority}/oauth2/v2.0/token", **changed}
    claims["aud"] = claims["aud"].format(authority=authority, url=teams.url)
    claims.setdefault("exp", int(time.time()) + 60)
    await _check(teams, session, _sign(claims, number, "PS256", **header), code)


async def _check(teams: FakeTeams, session: aiohttp.ClientSession, assertion: str, code: int | None) -> None:
    """Request a token by this assertion; `code` is that of the refusal, None if there is a token."""
    form = {"client_assertion": assertion, "client_assertion_type": ASSERTION_TYPE, "client_secret": ""}
    reply = await _request(teams, session, f"{teams.url}/{teams.tenant}", **form)
    if code is None:
        assert reply.status == 200, reply.body
    else:
        assert (reply.status, reply.body["error"], reply.body["error_codes"]) == (401, "invalid_client", [code])


async def test_other_assertions_are_refused(teams: FakeTeams, session: aiohttp.ClientSession) -> None:
    await _check(teams, session, _sign(_federated_claims(), kid="1"), 700211)  # nothing is registered
    await _check(teams, session, "garbage", 50027)
    form = {"client_assertion": "x", "client_assertion_type": "saml"}
    assert (await _request(teams, session, f"{teams.url}/{teams.tenant}", **form)).body["error"] == "invalid_request"
    with pytest.raises(ControlError):
        await teams.set_credentials(Credentials(certificates=["no PEM"]))
