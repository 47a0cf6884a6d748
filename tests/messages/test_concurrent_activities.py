"""Many concurrent activities, through the endpoints of two processes on one storage: each takes effect once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import chain, cycle
from typing import Any

import orjson
import pytest

from messages.commands.dispatch import ANSWER_SOURCE
from messages.endpoint import Endpoint, open_endpoint
from shared.cards import action_verbs
from shared.cards.preferences import field_values
from shared.preferences.categories import Categories, Category
from shared.preferences.preferences import MAX_ENTRIES, Preferences
from shared.records import ConversationReference, notification_key
from shared.services import Services, open_services
from shared.states import Mode, ReferenceKind
from tests.messages.conftest import (
    ADA,
    PERSONAL,
    TENANT,
    OpenIdServer,
    activity_json,
    bearer,
    make_settings,
    message_json,
)
from tests.support.storage import Storage

PROCESSES = 2
TOPICS = [f"topic {number}" for number in range(MAX_ENTRIES)]
#: As many as it takes, with the other activities, to have 200.
CATEGORIES = Categories([Category(name=f"category {number}") for number in range(MAX_ENTRIES - 4)])
MODES = {each.name: mode for each, mode in zip(CATEGORIES.declared, cycle(Mode), strict=False)}
SETTING_COMMANDS: Mapping[str, Mapping[str, object]] = {
    "timezone Asia/Tokyo": {"time_zone": "Asia/Tokyo"},
    "quiet sat,sun": {"quiet": "sat,sun"},
    "digest weekly mon 09:00": {"digest": "weekly mon 09:00"},
    "stop": {"stopped": True},
}


@pytest.fixture(params=["memory", pytest.param("azurite", marks=pytest.mark.full)])
async def processes(
    openid_server: OpenIdServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sequence[Services]]:
    """The services of two processes, each with its own clients, locks and caches."""
    storage = Storage(request.getfixturevalue("connection") if request.param == "azurite" else "")
    monkeypatch.setattr("shared.services.Table", storage.table)
    # Both share the event loop and the processor of the test, and a storage that is slower than Azure's.
    monkeypatch.setattr("messages.endpoint.ACTIVITY_TIMEOUT_SECONDS", 60)
    configured = make_settings(ToBotFromChannelOpenIdMetadataUrl=f"{openid_server.url}/openid")
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(PROCESSES):
            services = await open_services(configured, storage.open())
            stack.push_async_callback(services.close)
            opened.append(replace(services, categories=CATEGORIES))
        yield opened


async def post_all(processes: Sequence[Services], activities: Sequence[dict[str, Any]]) -> Sequence[bytes]:
    """Post all activities concurrently, to the processes in turn, each with its own token; returns the bodies."""

    async def post(endpoint: Endpoint, body: dict[str, Any]) -> bytes:
        answer = await endpoint.receive({"authorization": bearer()}, orjson.dumps(body))
        assert answer.status == 200
        return answer.body

    endpoints = cycle([open_endpoint(services) for services in processes])
    return await asyncio.gather(*map(post, endpoints, activities))


def save_category(number: int, category: str, mode: Mode) -> dict[str, Any]:
    """Return a click on Save of a preferences card on which one category was changed."""
    was = field_values(Preferences(), CATEGORIES)
    data = was | {f"category.{category}": str(mode), "herald": {"was": was}}
    action = {"type": "Action.Execute", "verb": action_verbs.SAVE, "data": data}
    value = {"action": action, "trigger": "manual"}
    return activity_json("invoke", id=f"f:{number}", name="adaptiveCard/action", value=value)


def install_and_subscribe(person_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an install and a message of a new person."""
    account = {"id": f"29:{person_id}", "aadObjectId": person_id}
    chat = {"conversation": {"conversationType": "personal", "tenantId": TENANT, "id": f"a:{person_id}"}}
    install = activity_json("installationUpdate", action="add", **{"from": account}, **chat)
    named = account | {"name": f"P {person_id}"}
    return install, message_json(id=f"f:{person_id}", text="subscribe releases", **{"from": named}, **chat)


async def load_person(processes: Sequence[Services], person_id: str) -> ConversationReference:
    reference = await processes[0].conversations.get(TENANT, ReferenceKind.USER, person_id)
    assert reference
    return reference


async def test_200_concurrent_changes_of_one_persons_preferences_are_all_stored(processes: Sequence[Services]) -> None:
    commands = [f"subscribe {topic}" for topic in TOPICS] + list(SETTING_COMMANDS)
    activities = [message_json(id=f"f:{number}", text=text) for number, text in enumerate(commands)]
    activities += [save_category(number, *choice) for number, choice in enumerate(MODES.items(), len(activities))]
    assert len(activities) == 200
    mixed = [activities[number * 77 % 200] for number in range(200)]  # mixed, so that both processes get every kind
    for body in await post_all(processes, mixed):
        assert not body or orjson.loads(body)["type"] == "application/vnd.microsoft.card.adaptive"
    stored = await load_person(processes, ADA)
    preferences = stored.preferences
    assert sorted(preferences.topics) == sorted(TOPICS)
    assert preferences.categories == MODES
    settings = {name: value for each in SETTING_COMMANDS.values() for name, value in each.items()}
    assert {name: getattr(preferences, name) for name in settings} == settings
    assert preferences.version == 200
    assert (stored.name, stored.conversation_id) == ("Ada", PERSONAL)
    subscribed = [processes[0].topics.subscribers(TENANT, topic, "", 2) for topic in TOPICS]
    assert await asyncio.gather(*subscribed) == [([f"u:{ADA}"], "")] * len(TOPICS)


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.full)])
async def test_people_who_install_and_write_concurrently_are_stored_and_answered(
    processes: Sequence[Services], count: int
) -> None:
    """Two processes that store the same new person concurrently keep the values of both."""
    people = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(count)]
    await post_all(processes, list(chain.from_iterable(map(install_and_subscribe, people))))
    for each in await asyncio.gather(*(load_person(processes, each) for each in people)):
        assert each.conversation_id == f"a:{each.id}"
        assert each.name == f"P {each.id}"  # only in the message
        assert each.status_at  # only in the install
        assert each.preferences.topics == ("releases",)
    subscribers, _ = await processes[0].topics.subscribers(TENANT, "releases", "", MAX_ENTRIES * 2)
    assert sorted(subscribers) == [f"u:{each}" for each in people]
    keys = [notification_key(TENANT, ANSWER_SOURCE, f"a:{each};f:{each}") for each in people]
    answers = await asyncio.gather(*(processes[0].notifications.get(key) for key in keys))
    assert {answer.total for answer in answers if answer} == {1}
    assert None not in answers
