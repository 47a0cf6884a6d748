"""A group of people of whom many never had the app: it is installed for them, and each gets the message once."""

from __future__ import annotations

import asyncio
import json
import resource
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from azure.core.exceptions import ResourceNotFoundError

from local.fake_teams.api import Behaviour, Growth, Received, TeamsFault
from local.processes import FunctionHost
from shared.contract.parsing import DEFAULT_SOURCE
from shared.records import notification_key
from tests.e2e.conftest import Deployment
from tests.support.herald import notification, user

#: One of so many people does not have the app, one has a disabled account, and one is also in the second group.
MISSING, DISABLED, NESTED = 5, 50, 4
#: The share of requests with each fault; it is larger if it would be less than so many of the people.
FAULT_SHARE, MIN_FAULTS = 0.05, 3


def _faults(count: int) -> Sequence[TeamsFault]:
    """Return the faults while this number of people is reached."""
    share = max(FAULT_SHARE, MIN_FAULTS / count)
    return (
        TeamsFault(operation="installApp", status=429, retry_after=1.5, share=share, seed=1, count=400),
        TeamsFault(operation="installApp", status=503, share=share, seed=2, count=400),
        TeamsFault(operation="installApp", drop=True, accept=True, share=share, seed=3, count=400),
        TeamsFault(operation="groupMembers", status=503, retry_after=1, count=1),
    )


@pytest.mark.parametrize(
    ("count", "kills"),
    [
        (30, 0),
        pytest.param(10_000, 0, marks=[pytest.mark.full, pytest.mark.timeout(1800)]),
        pytest.param(10_000, 4, marks=[pytest.mark.full, pytest.mark.timeout(1800)]),
    ],
)
async def test_everybody_enabled_in_a_group_is_reached_once_and_first_messages_do_not_wait_for_the_last_install(
    deployment: Deployment, count: int, kills: int
) -> None:
    """The welcome of a person comes before the message. A host that is killed loses nobody."""
    teams, tenant = deployment.teams, deployment.teams.tenant
    missing, disabled = count * 2 // MISSING, max(1, count // DISABLED)
    settings = _settings(deployment) | ({"HERALD_LOCAL_VISIBILITY_SECONDS": "30"} if kills else {})
    deployment.start_hosts(**settings)
    known = [*await deployment.add_people(count - missing - disabled)]
    new = (await teams.grow(Growth(tenant=tenant, people=missing, installed=False))).people
    gone = (await teams.grow(Growth(tenant=tenant, people=disabled, installed=False, enabled=False))).people
    ids = [person.object_id for person in (*known, *new, *gone)]
    inner_ids = ids[::NESTED]
    [inner] = (await teams.grow(Growth(tenant=tenant, groups=1, member_ids=inner_ids))).groups
    [group] = (await teams.grow(Growth(tenant=tenant, groups=1, member_ids=[*ids, inner.id]))).groups
    await deployment.install(known[0])  # which shows the tenant's serviceUrl
    await teams.set_behaviour(Behaviour(endpoint=deployment.endpoint, install_events="twice"))
    await teams.inject(*_faults(count))
    body = notification({"group": group.id}, user(known[0]), id="all", onMissing="install", content={"title": "All"})
    await deployment.put(body)
    for kill in range(kills):
        await teams.wait((kill + 1) * count // (kills + 2), timeout=600)
        deployment.hosts[-1].kill()
        deployment.start_hosts(**settings)
        await teams.set_behaviour(Behaviour(endpoint=deployment.endpoint))
    memory = []
    async with asyncio.timeout(count / 5 + 120):
        while not (await _notification(deployment)).get("counts"):
            await asyncio.sleep(1)
            memory.append(_resident_mb(deployment.hosts[-1]))
    if count >= 1000:
        # The host's caches are full by then, and all of its modules are loaded.
        assert max(memory) < 1.2 * memory[len(memory) // 2], "memory grows with the audience"

    row = await _notification(deployment)
    assert Counter(orjson.loads(row["counts"])) == Counter(sent=count - disabled)
    assert json.loads(row["left_out"]) == {"accountDisabled": disabled}
    received = await teams.received()
    messages = [message for message in received if message.activity.get("summary") == "All"]
    if not kills:
        assert Counter(message.person for message in messages) == Counter(person.object_id for person in (*known, *new))
    assert {message.person for message in messages} == {person.object_id for person in (*known, *new)}
    by_person: dict[str, list[Received]] = defaultdict(list)
    for message in received:
        by_person[str(message.person)].append(message)
    welcomes = [message for message in received if message.activity.get("summary") != "All"]
    first, last = min(each.received_at for each in messages), max(each.received_at for each in welcomes)
    assert first < last, "the first message waited for the last install"
    for person in new:
        titles = [message.activity.get("summary") == "All" for message in by_person[person.object_id]]
        assert titles[0] is False, "the message came before the welcome"
        assert titles.count(False) == 1 or kills
    stats = await teams.stats()
    assert (stats.violations, stats.graph_violations) == ([], [])


@pytest.mark.full
@pytest.mark.timeout(900)
async def test_everybody_in_the_organisation_is_reached_once_but_no_guest(deployment: Deployment) -> None:
    """The audience overlaps a team and a named person, and the events of installs come late or never."""
    teams, tenant = deployment.teams, deployment.teams.tenant
    deployment.start_hosts(**_settings(deployment))
    known = await deployment.add_people(300)
    await teams.grow(Growth(tenant=tenant, people=200, installed=False))
    await teams.grow(Growth(tenant=tenant, people=20, installed=False, guests=True))
    await teams.grow(Growth(tenant=tenant, people=10, installed=False, enabled=False))
    world = await teams.world(tenant)
    async with asyncio.timeout(60):
        await deployment.send_event(kind="install", team=world.teams[0].id)
    await teams.set_behaviour(Behaviour(endpoint=deployment.endpoint, install_events="late", install_event_delay=20))
    audience = ({"all": True, "of": "tenant"}, {"team": world.teams[0].id}, {"user": known[0].user_principal_name})
    await deployment.put(notification(*audience, id="all", onMissing="install", content={"title": "All"}))
    async with asyncio.timeout(300):
        while not (await _notification(deployment)).get("counts"):
            await asyncio.sleep(1)

    members = [person for person in world.people if person.enabled and not person.guest]
    row = await _notification(deployment)
    assert Counter(orjson.loads(row["counts"])) == Counter(sent=len(members))
    assert json.loads(row["left_out"]) == {"accountDisabled": 10, "guest": 20}
    messages = [message for message in await teams.received() if message.activity.get("summary") == "All"]
    assert Counter(message.person for message in messages) == Counter(person.object_id for person in members)


def _settings(deployment: Deployment) -> dict[str, str]:
    """Return settings of hosts that know Graph, and welcome people."""
    categories = deployment.folder / "all.json"
    categories.write_text("[]")
    return {
        "HERALD_GRAPH_URL": deployment.teams.graph_url,
        "HERALD_TEAMS_APP_ID": deployment.teams.app_id,
        "HERALD_CATEGORIES_FILE": str(categories),
    }


def _resident_mb(host: FunctionHost) -> float:
    """Return the memory of a host's process."""
    pages = int(Path(f"/proc/{host.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def _notification(deployment: Deployment) -> dict[str, Any]:
    key = notification_key(deployment.teams.tenant, DEFAULT_SOURCE, "all")
    try:  # the table has thousands of welcomes
        return dict(await deployment.tables.get_table_client("HeraldNotifications").get_entity(key[:2], key))
    except ResourceNotFoundError:
        return {}
