"""Many activities at once, through two processes' endpoints on one storage: each does what it asks for, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import chain, cycle
from typing import Any

import orjson
import pytest

from messages.commands.dispatch import SOURCE
from messages.endpoint import Endpoint, open_endpoint
from shared.cards import action_verbs
from shared.cards.preferences import field_values
from shared.preferences.categories import Categories, Category
from shared.preferences.preferences import MAX_ENTRIES, Preferences
from shared.records import ConversationReference
from shared.services import Services, open_services
from shared.states import Mode, ReferenceKind
from shared.storage.clients import open_storage
from shared.storage.notifications import notification_key
from tests.messages.conftest import ADA, PERSONAL, TENANT, Publisher, activity, bearer, message, settings

PROCESSES = 2
TOPICS = [f"topic {number}" for number in range(MAX_ENTRIES)]
#: With the settings that are there once, so many that there are 200 activities.
CATEGORIES = Categories([Category(name=f"category {number}") for number in range(MAX_ENTRIES - 4)])
MODES = {each.name: mode for each, mode in zip(CATEGORIES.declared, cycle(Mode), strict=False)}
ONCE: Mapping[str, Mapping[str, object]] = {
    "timezone Asia/Tokyo": {"time_zone": "Asia/Tokyo"},
    "quiet sat,sun": {"quiet": "sat,sun"},
    "digest weekly mon 09:00": {"digest": "weekly mon 09:00"},
    "stop": {"stopped": True},
}


@pytest.fixture
async def processes(
    publisher: Publisher, connection: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sequence[Services]]:
    """What two processes stand on, each with its own clients, locks and caches."""
    # They share the loop and the core of the test, and a storage that is slower than the one of Azure.
    monkeypatch.setattr("messages.endpoint.DEADLINE_SECONDS", 60)
    configured = settings(ToBotFromChannelOpenIdMetadataUrl=f"{publisher.url}/openid")
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(PROCESSES):
            services = await open_services(configured, open_storage({"AzureWebJobsStorage": connection}))
            stack.push_async_callback(services.close)
            opened.append(replace(services, categories=CATEGORIES))
        yield opened


async def tell(processes: Sequence[Services], activities: Sequence[dict[str, Any]]) -> Sequence[bytes]:
    """All activities at the same time, each to the next process with a token of its own; the bodies of the answers."""

    async def post(to: Endpoint, body: dict[str, Any]) -> bytes:
        answer = await to.receive({"authorization": bearer()}, orjson.dumps(body))
        assert answer.status == 200
        return answer.body

    endpoints = cycle([open_endpoint(services) for services in processes])
    return await asyncio.gather(*map(post, endpoints, activities))


def saved(number: int, category: str, mode: Mode) -> dict[str, Any]:
    """A click on Save of a preferences card on which one category was changed."""
    was = field_values(Preferences(), CATEGORIES)
    data = was | {f"category.{category}": str(mode), "herald": {"was": was}}
    action = {"type": "Action.Execute", "verb": action_verbs.SAVE, "data": data}
    value = {"action": action, "trigger": "manual"}
    return activity("invoke", id=f"f:{number}", name="adaptiveCard/action", value=value)


def begun(who: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a new person does at the same moment: they install, and write."""
    account = {"id": f"29:{who}", "aadObjectId": who}
    place = {"conversation": {"conversationType": "personal", "tenantId": TENANT, "id": f"a:{who}"}}
    install = activity("installationUpdate", action="add", **{"from": account}, **place)
    named = account | {"name": f"P {who}"}
    return install, message(id=f"f:{who}", text="subscribe releases", **{"from": named}, **place)


async def person(processes: Sequence[Services], who: str) -> ConversationReference:
    found = await processes[0].conversations.get(TENANT, ReferenceKind.USER, who)
    assert found
    return found


async def test_200_changes_of_one_persons_preferences_at_once_are_all_kept(processes: Sequence[Services]) -> None:
    commands = [f"subscribe {topic}" for topic in TOPICS] + list(ONCE)
    activities = [message(id=f"f:{number}", text=text) for number, text in enumerate(commands)]
    activities += [saved(number, *choice) for number, choice in enumerate(MODES.items(), len(activities))]
    assert len(activities) == 200
    mixed = [activities[number * 77 % 200] for number in range(200)]  # each kind at any time, and to both processes
    for body in await tell(processes, mixed):
        assert not body or orjson.loads(body)["type"] == "application/vnd.microsoft.card.adaptive"
    known = await person(processes, ADA)
    preferences = known.preferences
    assert sorted(preferences.topics) == sorted(TOPICS)
    assert preferences.categories == MODES
    once = {name: value for each in ONCE.values() for name, value in each.items()}
    assert {name: getattr(preferences, name) for name in once} == once
    assert preferences.version == 200
    assert (known.name, known.conversation_id) == ("Ada", PERSONAL)
    subscribed = [processes[0].topics.subscribers(TENANT, topic, "", 2) for topic in TOPICS]
    assert await asyncio.gather(*subscribed) == [([f"u:{ADA}"], "")] * len(TOPICS)


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.full)])
async def test_people_who_install_and_write_at_once_are_all_known_and_answered(
    processes: Sequence[Services], count: int
) -> None:
    """What two processes learn of a new person at the same moment is put together."""
    people = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(count)]
    await tell(processes, list(chain.from_iterable(map(begun, people))))
    for each in await asyncio.gather(*(person(processes, each) for each in people)):
        assert each.conversation_id == f"a:{each.id}"
        assert each.name == f"P {each.id}"  # as only the message says
        assert each.status_at  # as only the install says
        assert each.preferences.topics == ("releases",)
    subscribers, _ = await processes[0].topics.subscribers(TENANT, "releases", "", MAX_ENTRIES * 2)
    assert sorted(subscribers) == [f"u:{each}" for each in people]
    keys = [notification_key(TENANT, SOURCE, f"a:{each};f:{each}") for each in people]
    answers = await asyncio.gather(*(processes[0].notifications.get(key) for key in keys))
    assert {answer.total for answer in answers if answer} == {1}
    assert None not in answers
