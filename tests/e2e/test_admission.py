"""Only Teams can call `/api/messages`: forged activities are refused with their status, and nothing is stored."""

from __future__ import annotations

from typing import Any

from local.fake_teams.api import Growth, TeamsEvent
from local.fake_teams.forgeries import FORGERIES
from tests.e2e.conftest import Deployment

UNKNOWN_SERVICE_URL = "https://teams.example/"


async def test_forged_activity_is_refused_and_nothing_is_stored(deployment: Deployment) -> None:
    teams = deployment.teams
    for key in ("unendorsed", "otherChannel"):
        await teams.add_key(key)
    deployment.start_hosts()
    stranger = (await teams.grow(Growth(people=1))).people[0]  # in a new tenant that the app does not allow
    ada = (await teams.world()).people[0]

    async def install(person: str = ada.object_id, **other: Any) -> int | None:
        event = TeamsEvent(kind="install", person=person, endpoint=deployment.endpoint, **other)
        statuses = {response.status for response in await teams.send_event(event)}
        assert len(statuses) == 1
        return statuses.pop()

    refused = {name: await install(forgery=forgery) for name, forgery in FORGERIES.items()}
    assert refused == dict.fromkeys(FORGERIES, 401)
    assert await install(stranger.object_id) == 403
    forgery = {"claims": {"serviceurl": UNKNOWN_SERVICE_URL}}
    assert await install(changes={"serviceUrl": UNKNOWN_SERVICE_URL}, forgery=forgery) == 403
    assert await install(changes={"channelId": "emulator"}) == 403
    assert await install(changes={"serviceUrl": None}) == 401
    for body in ("", "[]", "{}", "no json", '{"type": 5}', '{"a":' * 3000):
        assert await install(forgery={"body": body}) == 400
    assert await install(forgery={"body": " " * (256 * 1024 + 1)}) == 413
    assert await deployment.read_rows("Conversations") == []
    assert "500" not in {line.split()[-1] for line in deployment.hosts[-1].output().splitlines() if line.strip()}

    assert await install() == 200
    assert len(await deployment.read_rows("Conversations")) == 3  # the person, the alias of the chat, and the tenant


async def test_new_signing_keys_of_teams_are_fetched_without_restart(deployment: Deployment) -> None:
    deployment.start_hosts()
    ada = (await deployment.teams.world()).people[0]
    await deployment.install(ada)
    await deployment.teams.rotate_keys(keep_old=False)
    await deployment.install(ada)
    assert (await deployment.teams.stats()).count("keys") == 2
