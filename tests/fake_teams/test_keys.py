from __future__ import annotations

from typing import Any

import aiohttp
import jwt
import pytest

from local.fake_teams.api import Event, Fault, Forgery
from local.fake_teams.client import ControlError, FakeTeams
from local.fake_teams.forgeries import FORGERIES
from tests.fake_teams.conftest import App, own_teams


async def _get(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        return await response.json()


async def _verify(
    teams: FakeTeams, session: aiohttp.ClientSession, header: str | None, service_url: str
) -> dict[str, Any]:
    """The rules of "Authentication with the Bot Connector API", step by step; raises for a token that breaks one."""
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


async def test_a_genuine_activity_passes_all_rules(teams: FakeTeams, app: App, session: aiohttp.ClientSession) -> None:
    person = (await teams.world()).people[0].object_id
    await teams.event(Event(kind="message", person=person, text="hello", endpoint=app.url))
    claims = await _verify(teams, session, app.authorizations[0], app.activities[0]["serviceUrl"])
    assert (claims["iss"], claims["aud"]) == ("https://api.botframework.com", teams.app_id)
    assert claims["exp"] > claims["iat"] >= claims["nbf"]


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forged_activity_breaks_a_rule(
    teams: FakeTeams, app: App, session: aiohttp.ClientSession, name: str
) -> None:
    person = (await teams.world()).people[0].object_id
    app.status = 401
    event = Event(kind="message", person=person, text="hello", endpoint=app.url, forgery=FORGERIES[name])
    [answer] = await teams.event(event)
    assert answer.status == 401
    with pytest.raises((PermissionError, jwt.InvalidTokenError, KeyError)):
        await _verify(teams, session, app.authorizations[0], app.activities[0]["serviceUrl"])


async def test_a_forgery_that_changes_nothing_is_genuine(
    teams: FakeTeams, app: App, session: aiohttp.ClientSession
) -> None:
    await teams.post({"type": "message", "serviceUrl": "x"}, endpoint=app.url, forgery=Forgery())
    await _verify(teams, session, app.authorizations[0], "x")


async def test_a_body_can_be_replaced(teams: FakeTeams, app: App) -> None:
    await teams.post({"type": "message"}, endpoint=app.url, forgery=Forgery(body="no JSON"))
    assert app.bodies == [b"no JSON"]


@own_teams
@pytest.mark.parametrize("keep_old", [True, False])
async def test_a_rotation_publishes_the_new_key_and_keeps_the_old_one_if_told(
    teams: FakeTeams, app: App, session: aiohttp.ClientSession, keep_old: bool
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
async def test_there_is_no_retired_key_before_a_rotation(teams: FakeTeams, app: App) -> None:
    with pytest.raises(ControlError, match="rotate first"):
        await teams.post({"type": "message"}, endpoint=app.url, forgery=Forgery(key="retired"))


@own_teams
async def test_keys_without_the_right_endorsement_are_published_on_demand(
    teams: FakeTeams, session: aiohttp.ClientSession
) -> None:
    added = [await teams.add_key("unendorsed"), await teams.add_key("otherChannel")]
    keys = (await _get(session, f"{teams.url}/v1/.well-known/keys"))["keys"]
    assert [key["kid"] for key in keys[1:]] == added
    assert [key.get("endorsements") for key in keys] == [["msteams"], None, ["skype", "webchat"]]


async def test_fetches_are_counted_and_can_fail(teams: FakeTeams, session: aiohttp.ClientSession) -> None:
    url = f"{teams.url}/v1/.well-known/keys"
    await _get(session, url)
    await teams.fault(Fault(operation="keys", status=503, count=1), Fault(operation="keys", drop=True))
    async with session.get(url) as response:
        assert response.status == 503
    with pytest.raises(aiohttp.ClientError):
        await _get(session, url)
    stats = await teams.stats()
    assert stats.requests["keys"]["200"] == 1
    assert stats.requests["keys"]["503"] == 1
    assert stats.count("keys") >= 3
    assert stats.count("metadata") == 0
