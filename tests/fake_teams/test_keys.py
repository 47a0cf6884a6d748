from __future__ import annotations

from typing import Any

import aiohttp
import jwt
import pytest

from local.fake_teams.api import Forgery, TeamsEvent, TeamsFault
from local.fake_teams.client import ControlError, FakeTeams
from local.fake_teams.forgeries import FORGERIES
from tests.fake_teams.conftest import FakeApp, own_teams


async def _get(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        return await response.json()


async def _verify(
    teams: FakeTeams, session: aiohttp.ClientSession, header: str | None, service_url: str
) -> dict[str, Any]:
    """Verify a token by the rules of "Authentication with the Bot Connector API"; raises if it breaks one."""
    scheme, _, token = (header or "").partition(" ")
    if scheme != "Bearer":
        raise PermissionError("scheme")
    metadata = await _get(session, teams.settings["ToBotFromChannelOpenIdMetadataUrl"])
    keys = {key["kid"]: key for key in (await _get(session, metadata["jwks_uri"]))["keys"]}
    key = keys[jwt.get_unverified_header(token)["kid"]]
    if "msteams" not in key.get("endorsements", []):
        raise PermissionError("endorsements")
    claims: dict[str, Any] = jwt.decode(
        token,
        jwt.PyJWK(key).key,
        algorithms=metadata["id_token_signing_alg_values_supported"],
        audience=teams.app_id,
        issuer=metadata["issuer"],
        leeway=300,
        options={"require": ["exp", "aud", "iss", "nbf"]},
    )
    if claims.get("serviceurl") != service_url:
        raise PermissionError("serviceurl")
    return claims


async def test_genuine_activity_passes_the_verification(
    teams: FakeTeams, app: FakeApp, session: aiohttp.ClientSession
) -> None:
    person = (await teams.world()).people[0].object_id
    await teams.send_event(TeamsEvent(kind="message", person=person, text="hello", endpoint=app.url))
    claims = await _verify(teams, session, app.authorizations[0], app.activities[0]["serviceUrl"])
    assert (claims["iss"], claims["aud"]) == ("https://api.botframework.com", teams.app_id)
    assert claims["exp"] > claims["iat"] >= claims["nbf"]


@pytest.mark.parametrize("name", FORGERIES)
async def test_forged_activity_fails_the_verification(
    teams: FakeTeams, app: FakeApp, session: aiohttp.ClientSession, name: str
) -> None:
    person = (await teams.world()).people[0].object_id
    app.status = 401
    event = TeamsEvent(kind="message", person=person, text="hello", endpoint=app.url, forgery=FORGERIES[name])
    [response] = await teams.send_event(event)
    assert response.status == 401
    with pytest.raises((PermissionError, jwt.InvalidTokenError, KeyError)):
        await _verify(teams, session, app.authorizations[0], app.activities[0]["serviceUrl"])


async def test_forgery_without_changes_passes_the_verification(
    teams: FakeTeams, app: FakeApp, session: aiohttp.ClientSession
) -> None:
    await teams.post({"type": "message", "serviceUrl": "x"}, endpoint=app.url, forgery=Forgery())
    await _verify(teams, session, app.authorizations[0], "x")


async def test_body_of_a_forgery_replaces_the_activity(teams: FakeTeams, app: FakeApp) -> None:
    await teams.post({"type": "message"}, endpoint=app.url, forgery=Forgery(body="no JSON"))
    assert app.bodies == [b"no JSON"]


@own_teams
@pytest.mark.parametrize("keep_old", [True, False])
async def test_rotation_publishes_the_new_key_and_optionally_keeps_the_old_one(
    teams: FakeTeams, app: FakeApp, session: aiohttp.ClientSession, keep_old: bool
) -> None:
    url = f"{teams.url}/v1/.well-known/keys"
    [old] = (await _get(session, url))["keys"]
    kid = await teams.rotate_keys(keep_old=keep_old)
    published = [key["kid"] for key in (await _get(session, url))["keys"]]
    assert published == ([old["kid"], kid] if keep_old else [kid])
    await teams.post({"type": "message", "serviceUrl": "x"}, endpoint=app.url)
    assert jwt.get_unverified_header(str(app.authorizations[0]).split()[1])["kid"] == kid
    await teams.post({"type": "message", "serviceUrl": "x"}, endpoint=app.url, forgery=Forgery(key="retired"))
    assert jwt.get_unverified_header(str(app.authorizations[1]).split()[1])["kid"] == old["kid"]


@own_teams
async def test_retired_key_needs_a_rotation(teams: FakeTeams, app: FakeApp) -> None:
    with pytest.raises(ControlError, match="rotate the keys first"):
        await teams.post({"type": "message"}, endpoint=app.url, forgery=Forgery(key="retired"))


@own_teams
async def test_keys_with_other_endorsements_are_published_on_demand(
    teams: FakeTeams, session: aiohttp.ClientSession
) -> None:
    added = [await teams.add_key("unendorsed"), await teams.add_key("otherChannel")]
    keys = (await _get(session, f"{teams.url}/v1/.well-known/keys"))["keys"]
    assert [key["kid"] for key in keys[1:]] == added
    assert [key.get("endorsements") for key in keys] == [["msteams"], None, ["skype", "webchat"]]


async def test_key_requests_are_counted_and_can_fail(teams: FakeTeams, session: aiohttp.ClientSession) -> None:
    url = f"{teams.url}/v1/.well-known/keys"
    await _get(session, url)
    await teams.inject(TeamsFault(operation="keys", status=503, count=1), TeamsFault(operation="keys", drop=True))
    async with session.get(url) as response:
        assert response.status == 503
    with pytest.raises(aiohttp.ClientError):
        await _get(session, url)
    stats = await teams.stats()
    assert stats.requests["keys"]["200"] == 1
    assert stats.requests["keys"]["503"] == 1
    assert stats.count("keys") >= 3
    assert stats.count("metadata") == 0
