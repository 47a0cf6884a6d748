"""Only Teams can talk to `/api/messages`: whatever is forged is refused with its status, and nothing is stored."""

from __future__ import annotations

from typing import Any

from local.fake_teams.api import Growth, TeamsEvent
from local.fake_teams.forgeries import FORGERIES
from tests.e2e.conftest import Deployment

TEAMS_ELSEWHERE = "https://teams.example/"


async def test_every_forgery_is_refused_and_nothing_is_stored(deployment: Deployment) -> None:
    teams = deployment.teams
    for key in ("unendorsed", "otherChannel"):
        await teams.add_key(key)
    deployment.start()
    stranger = (await teams.grow(Growth(people=1))).people[0]  # of a tenant that came after the app's settings
    ada = (await teams.world()).people[0]

    async def install(person: str = ada.object_id, **other: Any) -> int | None:
        events = await teams.send_event(
            TeamsEvent(kind="install", person=person, endpoint=deployment.endpoint, **other)
        )
        statuses = {answer.status for answer in events}
        assert len(statuses) == 1
        return statuses.pop()

    refused = {name: await install(forgery=forgery) for name, forgery in FORGERIES.items()}
    assert refused == dict.fromkeys(FORGERIES, 401)
    assert await install(stranger.object_id) == 403
    claims = {"claims": {"serviceurl": TEAMS_ELSEWHERE}}
    assert await install(changes={"serviceUrl": TEAMS_ELSEWHERE}, forgery=claims) == 403
    assert await install(changes={"channelId": "emulator"}) == 403
    assert await install(changes={"serviceUrl": None}) == 401
    for body in ("", "[]", "{}", "no json", '{"type": 5}', '{"a":' * 3000):
        assert await install(forgery={"body": body}) == 400
    assert await install(forgery={"body": " " * (256 * 1024 + 1)}) == 413
    assert await deployment.rows("Conversations") == []
    assert "500" not in {line.split()[-1] for line in deployment.hosts[-1].output().splitlines() if line.strip()}

    assert await install() == 200
    assert len(await deployment.rows("Conversations")) == 3  # the person, the alias of the chat, the tenant


async def test_keys_that_teams_changes_are_learnt_without_a_restart(deployment: Deployment) -> None:
    deployment.start()
    ada = (await deployment.teams.world()).people[0]
    await deployment.install(ada)
    await deployment.teams.rotate_keys(keep_old=False)
    await deployment.install(ada)
    assert (await deployment.teams.stats()).count("keys") == 2
