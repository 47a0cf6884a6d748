from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import msal
import pytest

from local.fake_teams.api import Behaviour
from local.fake_teams.client import FakeTeams
from local.fake_teams.server import Options
from tests.fake_teams.conftest import SCOPE, Bot, fetch_token, open_session


@pytest.fixture(autouse=True)
def _remove_ca_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    # requests prefers these variables to the `verify` option of msal.
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)


async def _request_with_msal(teams: FakeTeams, secret: str) -> dict[str, Any]:
    def acquire() -> dict[str, Any]:
        application = msal.ConfidentialClientApplication(
            teams.app_id,
            client_credential=secret,
            authority=teams.settings["ToChannelFromBotLoginUrl"],
            instance_discovery=False,
            verify=str(teams.ca_file),
        )
        first: dict[str, Any] = application.acquire_token_for_client([SCOPE])
        return first if "error" in first else dict(application.acquire_token_for_client([SCOPE]))

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
