"""Scenarios for the crash tests: a message on the queue, and the result that it must have although workers die."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from local.fake_teams.api import PersonView, TeamsFault
from notify.ingest import ingest
from shared.queue_messages import DELIVERIES, NOTIFICATIONS
from shared.records import notification_key
from tests.support.crashes import Host
from tests.support.herald import notification, user

OLD_CONTENT, NEW_CONTENT = {"title": "Build 42 failed"}, {"title": "Build 42 succeeded"}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A message on the queue, and what must become of the notification with this key.

    Each recipient gets a row that ends in one of `end_states`, and sent messages show `title`. `may_be_partial` means
    that the expansion may end before all recipients have a row, `may_be_twice` that a message may arrive twice although
    no worker dies.
    """

    key: str
    recipients: Sequence[PersonView]
    body: bytes
    end_states: Sequence[str] = ("sent",)
    title: str = OLD_CONTENT["title"]
    may_be_twice: bool = False
    may_be_partial: bool = False


ScenarioFactory = Callable[[Host], Awaitable[Scenario]]


async def add_people(host: Host, count: int) -> list[PersonView]:
    """Add people to the fake Teams, and store their conversation references."""
    people = (await host.grow(people=count)).people
    await asyncio.gather(*map(host.store_reference, people))
    return people


async def add_topic(host: Host, subscribers: Sequence[PersonView]) -> dict[str, str]:
    name = uuid.uuid4().hex
    for person in subscribers:
        await host.services.topics.subscribe(host.tenant, name, f"u:{person.object_id}")
    return {"topic": name}


def notification_body(*recipients: dict[str, Any], **data: Any) -> bytes:
    return notification(*recipients, **({"content": OLD_CONTENT, "source": "/ci"} | data))


def command_body(command: str, body: bytes, **more: Any) -> bytes:
    """Return a command about the notification in `body`."""
    target = {"source": "/ci", "id": json.loads(body)["id"]}
    return json.dumps({"command": command, "target": target, **more}).encode()


def key_of(host: Host, body: bytes) -> str:
    return notification_key(host.tenant, "/ci", json.loads(body)["id"])


async def single_recipient(host: Host) -> Scenario:
    [ada] = await add_people(host, 1)
    body = notification_body(user(ada))
    return Scenario(key=key_of(host, body), recipients=[ada], body=body)


async def send_postponed_by_teams(host: Host) -> Scenario:
    scenario = await single_recipient(host)
    person = scenario.recipients[0].object_id
    await host.teams.inject(TeamsFault(operation="send", person=person, status=412, code="PreconditionFailed", count=1))
    return scenario


async def lost_response(host: Host) -> Scenario:
    scenario = await single_recipient(host)
    person = scenario.recipients[0].object_id
    await host.teams.inject(TeamsFault(operation="send", person=person, drop=True, accept=True, count=1))
    return replace(scenario, may_be_twice=True)


async def stop_on_unknown(host: Host) -> Scenario:
    [ada] = await add_people(host, 1)
    body = notification_body(user(ada), onUnknown="stop")
    return Scenario(key=key_of(host, body), recipients=[ada], body=body, end_states=("sent", "unknown"))


async def recipient_blocked_bot(host: Host) -> Scenario:
    scenario = await single_recipient(host)
    person = scenario.recipients[0].object_id
    await host.teams.inject(TeamsFault(operation="send", person=person, status=403, code="ConversationBlockedByUser"))
    return replace(scenario, end_states=("suppressed",))


async def recipient_without_chat(host: Host) -> Scenario:
    await host.store_tenant()
    [ada] = (await host.grow(people=1)).people
    body = notification_body(user(ada))
    return Scenario(key=key_of(host, body), recipients=[ada], body=body)


async def two_pages(host: Host) -> Scenario:
    people = await add_people(host, 3)
    body = notification_body(*map(user, people))
    return Scenario(key=key_of(host, body), recipients=people, body=body)


async def topic_and_subscriber(host: Host) -> Scenario:
    """Two pages in several shards; one subscriber of the topic is also a recipient on their own."""
    people = await add_people(host, 3)
    body = notification_body(user(people[-1]), await add_topic(host, people))
    return Scenario(key=key_of(host, body), recipients=people, body=body)


async def card_update(host: Host) -> Scenario:
    scenario = await single_recipient(host)
    recipient, thread = user(scenario.recipients[0]), {"key": scenario.key, "onRepeat": "update"}
    await host.put(notification_body(recipient, content={"title": "Before"}, thread=thread))
    await host.handle_messages()
    body = notification_body(recipient, thread=thread)
    return replace(scenario, key=key_of(host, body), body=body)


async def scheduled(host: Host) -> Scenario:
    [ada] = await add_people(host, 1)
    at = (host.clock() + timedelta(hours=1)).replace(tzinfo=None).isoformat(timespec="minutes")
    body = notification_body(user(ada), schedule={"at": at, "timeZone": "UTC"})
    return Scenario(key=key_of(host, body), recipients=[ada], body=body)


async def cancelled_before_retry(host: Host) -> Scenario:
    """One delivery is sent, the other is queued for its next try."""
    ada, bob = await add_people(host, 2)
    await host.teams.inject(
        TeamsFault(
            operation="send", person=bob.object_id, status=412, code="PreconditionFailed", retry_after=60, count=1
        )
    )
    body = notification_body(user(ada), user(bob))
    await host.put(body)
    await host.handle_messages()
    return Scenario(
        key=key_of(host, body),
        recipients=[ada, bob],
        body=command_body("cancel", body),
        end_states=("sent", "cancelled"),
    )


async def cancelled_after_first_page(host: Host) -> Scenario:
    scenario = await _first_page_sent(host)
    body = command_body("cancel", scenario.body)
    return replace(scenario, body=body, end_states=("sent", "cancelled"), may_be_partial=True)


async def recalled_after_first_page(host: Host) -> Scenario:
    scenario = await _first_page_sent(host)
    body = command_body("recall", scenario.body)
    return replace(scenario, body=body, end_states=("recalled", "cancelled"), may_be_partial=True)


async def edited_after_first_page(host: Host) -> Scenario:
    scenario = await _first_page_sent(host)
    body = command_body("edit", scenario.body, content=NEW_CONTENT)
    return replace(scenario, body=body, title=NEW_CONTENT["title"])


async def _first_page_sent(host: Host) -> Scenario:
    scenario = await two_pages(host)
    await host.put(scenario.body)
    await host.handle_messages(NOTIFICATIONS)
    await host.handle_messages(DELIVERIES)
    return scenario


async def redriven(host: Host) -> Scenario:
    ada, bob = await add_people(host, 2)
    await host.teams.inject(
        TeamsFault(operation="send", person=bob.object_id, status=400, code="Bad Argument", count=1)
    )
    body = notification_body(user(ada), user(bob))
    await host.put(body)
    await host.handle_messages()
    return Scenario(key=key_of(host, body), recipients=[ada, bob], body=command_body("redrive", body))


async def lost_delivery_message(host: Host) -> Scenario:
    """Only the watchdog finds the delivery."""
    scenario = await single_recipient(host)
    await ingest(host.services, scenario.body, "m1")
    await host.clear_queue(DELIVERIES)
    host.watchdog_enabled = True
    return replace(scenario, body=b"")


SCENARIOS: Sequence[ScenarioFactory] = (
    single_recipient,
    send_postponed_by_teams,
    lost_response,
    stop_on_unknown,
    recipient_blocked_bot,
    recipient_without_chat,
    two_pages,
    topic_and_subscriber,
    card_update,
    scheduled,
    cancelled_before_retry,
    cancelled_after_first_page,
    recalled_after_first_page,
    edited_after_first_page,
    redriven,
    lost_delivery_message,
)
#: Those whose notification does not take the direct path.
COUNTED = (
    two_pages,
    cancelled_after_first_page,
    recalled_after_first_page,
    edited_after_first_page,
    lost_delivery_message,
)
