"""Rows of table Conversations after one or more activities."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, call

import orjson
import pytest

from messages.activity.references import get_occurrence_time
from messages.activity.schema import Activity
from messages.activity.verified import VerifiedActivity
from messages.bot import MAX_REMEMBERED_SERVICE_URLS, RECHECK_DELAY_SECONDS, HeraldBot
from messages.turn_adapter import TurnAdapter
from shared.queue_messages import RecipientTask, Task
from shared.records import ConversationReference
from shared.states import ReferenceKind, ReferenceStatus
from shared.storage.conversations import Conversations
from tests.messages.conftest import (
    ADA,
    BEN,
    BOT,
    CHANNEL,
    CHAT,
    GROUP,
    PERSONAL,
    SERVICE_URL,
    TEAM,
    TENANT,
    CountingTable,
    activity_json,
    channel_fields,
    group_chat_fields,
    make_services,
    message_json,
)

pytestmark = pytest.mark.usefixtures("without_answers")

Receive = Callable[[dict[str, Any]], Awaitable[None]]
START = datetime(2026, 11, 20, 9, tzinfo=UTC)


@pytest.fixture
def conversations(table: CountingTable) -> Conversations:
    return Conversations(table)


@pytest.fixture
def queues() -> AsyncMock:
    return AsyncMock()


@pytest.fixture
def bot(conversations: Conversations, queues: AsyncMock) -> HeraldBot:
    settings = SimpleNamespace(default_time_zone="UTC")
    held = SimpleNamespace(list=AsyncMock(return_value=[]))
    return HeraldBot(make_services(conversations=conversations, queues=queues, settings=settings, held_deliveries=held))


@pytest.fixture
def receive(bot: HeraldBot) -> Receive:
    adapter = TurnAdapter()

    async def receive(body: dict[str, Any]) -> None:
        body = orjson.loads(orjson.dumps(body))
        activity = Activity.model_validate(body)
        verified = VerifiedActivity(activity, TENANT, get_occurrence_time(activity, datetime(2026, 12, 1, tzinfo=UTC)))
        await adapter.process(verified, bot)

    return receive


def at_minute(minutes: float, body: dict[str, Any]) -> dict[str, Any]:
    """Return the activity as one that happened so many minutes after START."""
    return body | {"timestamp": (START + timedelta(minutes=minutes)).isoformat()}


INSTALL = activity_json("installationUpdate", action="add")
UNINSTALL = activity_json("installationUpdate", action="remove")


async def load_person(conversations: Conversations, user: str = ADA) -> ConversationReference:
    reference = await conversations.get(TENANT, ReferenceKind.USER, user)
    assert reference
    return reference


async def load_status(conversations: Conversations, kind: ReferenceKind, identifier: str) -> ReferenceStatus | None:
    reference = await conversations.get(TENANT, kind, identifier)
    return reference.status if reference else None


async def test_install_creates_person_alias_and_tenant(receive: Receive, conversations: Conversations) -> None:
    await receive(INSTALL)
    assert await load_person(conversations) == ConversationReference(
        tenant=TENANT,
        kind=ReferenceKind.USER,
        id=ADA,
        service_url=SERVICE_URL,
        conversation_id=PERSONAL,
        conversation_type="personal",
        user_id="29:ada",
        bot_id=BOT,
        status=ReferenceStatus.ACTIVE,
        status_at=START.isoformat(),
    )
    alias = await conversations.get(TENANT, ReferenceKind.CONVERSATION, PERSONAL)
    assert alias
    assert alias.user == ADA
    tenant = await conversations.get(TENANT, ReferenceKind.TENANT, TENANT)
    assert tenant
    assert tenant.service_url == SERVICE_URL


async def test_unchanged_reference_costs_one_read_for_each_row_and_no_write(
    receive: Receive, table: CountingTable
) -> None:
    for body in (message_json(), message_json(**channel_fields(CHANNEL)), message_json(**group_chat_fields())):
        await receive(body)
        for minutes in (1, 2):
            table.calls.clear()
            await receive(at_minute(minutes, body))
            assert table.calls["write"] == 0
    assert table.calls["read"] == 2


async def test_repeated_install_costs_no_write(receive: Receive, table: CountingTable) -> None:
    await receive(INSTALL)
    table.calls.clear()
    await receive(INSTALL)
    assert table.calls == {"read": 1}


async def test_tenant_is_stored_once_for_each_service_url(
    receive: Receive, conversations: Conversations, table: CountingTable
) -> None:
    await receive(message_json())
    moved = "https://smba.trafficmanager.net/amer/"
    await receive(message_json(serviceUrl=moved))
    tenant = await conversations.get(TENANT, ReferenceKind.TENANT, TENANT)
    assert tenant
    assert tenant.service_url == moved
    table.calls.clear()
    await receive(message_json(serviceUrl=moved))
    assert table.calls["read"] == 1


async def test_number_of_remembered_service_urls_is_limited(bot: HeraldBot, receive: Receive) -> None:
    for number in range(MAX_REMEMBERED_SERVICE_URLS):
        bot._stored_service_urls.add(("tenant", str(number)))
    assert ("tenant", "0") in bot._stored_service_urls
    await receive(message_json())
    assert ("tenant", "0") not in bot._stored_service_urls
    assert (TENANT, SERVICE_URL) in bot._stored_service_urls


async def test_new_time_zone_reevaluates_held_deliveries(receive: Receive, queues: AsyncMock) -> None:
    await receive(INSTALL)
    for zone in ("Europe/Berlin", "Europe/Berlin", "Asia/Tokyo"):
        await receive(message_json(localTimezone=zone))
    assert (
        queues.enqueue_recipient.await_args_list
        == [call(RecipientTask(TENANT, f"u:{ADA}", Task.RECONSIDER), RECHECK_DELAY_SECONDS)] * 2
    )


async def test_first_time_zone_of_a_person_reevaluates_held_deliveries(receive: Receive, queues: AsyncMock) -> None:
    await receive(message_json(**channel_fields(), localTimezone="Asia/Tokyo"))
    assert queues.enqueue_recipient.await_args_list == [
        call(RecipientTask(TENANT, f"u:{ADA}", Task.RECONSIDER), RECHECK_DELAY_SECONDS)
    ]


async def test_new_time_zone_is_stored_only_after_the_reevaluation_is_enqueued(
    receive: Receive, queues: AsyncMock, conversations: Conversations
) -> None:
    await receive(INSTALL)
    queues.enqueue_recipient.side_effect = [RuntimeError, None]
    with pytest.raises(RuntimeError):
        await receive(message_json(localTimezone="Asia/Tokyo"))
    await receive(message_json(localTimezone="Asia/Tokyo"))
    assert queues.enqueue_recipient.await_count == 2
    assert (await load_person(conversations)).time_zone == "Asia/Tokyo"


async def test_message_refreshes_its_own_values_and_keeps_the_others(
    receive: Receive, conversations: Conversations
) -> None:
    await receive(message_json())
    await receive(at_minute(1, INSTALL))
    stored = await load_person(conversations)
    assert (stored.name, stored.locale, stored.time_zone) == ("Ada", "de-DE", "Europe/Berlin")
    moved = {"localTimezone": "Asia/Tokyo", "serviceUrl": "https://smba.trafficmanager.net/apac/"}
    await receive(at_minute(2, message_json(**moved)))
    stored = await load_person(conversations)
    assert (stored.time_zone, stored.service_url) == (moved["localTimezone"], moved["serviceUrl"])
    assert stored.conversation_id == PERSONAL


@pytest.mark.parametrize("location", [group_chat_fields(), channel_fields(CHANNEL)])
async def test_message_outside_the_personal_chat_does_not_change_that_chat(
    receive: Receive, conversations: Conversations, location: dict[str, Any]
) -> None:
    await receive(INSTALL)
    await receive(at_minute(1, UNINSTALL))
    await receive(at_minute(2, message_json(**location)))
    stored = await load_person(conversations)
    assert (stored.conversation_id, stored.conversation_type) == (PERSONAL, "personal")
    assert (stored.status, stored.name) == (ReferenceStatus.UNINSTALLED, "Ada")


async def test_person_observed_outside_a_personal_chat_is_stored_without_a_chat(
    receive: Receive, conversations: Conversations
) -> None:
    await receive(message_json(**group_chat_fields()))
    stored = await load_person(conversations)
    assert (stored.user_id, stored.service_url, stored.conversation_id) == ("29:ada", SERVICE_URL, "")
    assert (await conversations.list_people(TENANT, "", 10, datetime.min.replace(tzinfo=UTC)))[0] == []


async def test_uninstall_deactivates_and_install_or_message_reactivates(
    receive: Receive, conversations: Conversations
) -> None:
    await receive(INSTALL)
    for minutes, reactivation in ((1, INSTALL), (3, message_json())):
        await receive(at_minute(minutes, UNINSTALL))
        assert (await load_person(conversations)).status is ReferenceStatus.UNINSTALLED
        await receive(at_minute(minutes + 1, reactivation))
        assert (await load_person(conversations)).status is ReferenceStatus.ACTIVE


async def test_uninstall_of_an_unknown_person_creates_no_row(receive: Receive, conversations: Conversations) -> None:
    await receive(UNINSTALL)
    await receive(activity_json("conversationUpdate", membersRemoved=[{"id": BOT}], **channel_fields()))
    await receive(activity_json("installationUpdate", action="remove", **group_chat_fields()))
    await receive(activity_json("conversationUpdate", **channel_fields(eventType="teamDeleted")))
    assert await conversations.get(TENANT, ReferenceKind.USER, ADA) is None
    for identifier in (PERSONAL, CHAT, TEAM):
        assert await conversations.get(TENANT, ReferenceKind.CONVERSATION, identifier) is None
    assert await conversations.get(TENANT, ReferenceKind.TEAM, TEAM) is None


OUT_OF_ORDER: dict[str, tuple[list[tuple[int, dict[str, Any]]], ReferenceStatus]] = {
    "an older uninstall after a newer install": ([(0, INSTALL), (6, INSTALL), (5, UNINSTALL)], ReferenceStatus.ACTIVE),
    "the same, repeated": ([(0, INSTALL), (6, INSTALL), (5, UNINSTALL), (5, UNINSTALL)], ReferenceStatus.ACTIVE),
    "an older uninstall after the first install": ([(6, INSTALL), (5, UNINSTALL)], ReferenceStatus.ACTIVE),
    "an older install after a newer uninstall": (
        [(0, INSTALL), (6, UNINSTALL), (5, INSTALL)],
        ReferenceStatus.UNINSTALLED,
    ),
    "an older install after a repeated uninstall": (
        [(0, INSTALL), (1, UNINSTALL), (6, UNINSTALL), (5, INSTALL)],
        ReferenceStatus.UNINSTALLED,
    ),
    "an older message after a newer uninstall": (
        [(0, INSTALL), (6, UNINSTALL), (5, message_json())],
        ReferenceStatus.UNINSTALLED,
    ),
    "everything repeated backwards": (
        [(0, INSTALL), (1, UNINSTALL), (2, INSTALL), (2, INSTALL), (1, UNINSTALL), (0, INSTALL), (1, UNINSTALL)],
        ReferenceStatus.ACTIVE,
    ),
}


@pytest.mark.parametrize("name", OUT_OF_ORDER)
async def test_latest_event_sets_the_status_in_any_order_of_arrival(
    receive: Receive, conversations: Conversations, name: str
) -> None:
    events, expected = OUT_OF_ORDER[name]
    for minutes, body in events:
        await receive(at_minute(minutes, body))
    assert (await load_person(conversations)).status is expected


async def test_50_concurrent_installs_create_one_consistent_row(receive: Receive, conversations: Conversations) -> None:
    await asyncio.gather(*(receive(INSTALL) for _ in range(50)))
    stored = await load_person(conversations)
    assert (stored.conversation_id, stored.status) == (PERSONAL, ReferenceStatus.ACTIVE)


async def test_concurrent_activities_keep_all_values(receive: Receive, conversations: Conversations) -> None:
    messages = [message_json(), message_json(**group_chat_fields()), message_json(**channel_fields(CHANNEL))]
    await asyncio.gather(*map(receive, [INSTALL, *messages]))
    stored = await load_person(conversations)
    assert (stored.conversation_id, stored.name, stored.time_zone) == (PERSONAL, "Ada", "Europe/Berlin")


async def test_status_of_a_team_is_stored_in_the_team_row_only(receive: Receive, conversations: Conversations) -> None:
    added = activity_json(
        "conversationUpdate", membersAdded=[{"id": BOT}], **channel_fields(eventType="teamMemberAdded")
    )
    await receive(added)
    await receive(
        at_minute(
            1, message_json(**channel_fields(f"{CHANNEL};messageid=1", channel={"id": CHANNEL, "name": "Deployments"}))
        )
    )
    channel = await conversations.get(TENANT, ReferenceKind.CONVERSATION, CHANNEL)
    assert channel
    assert (channel.team, channel.name, channel.conversation_id) == (TEAM, "Deployments", CHANNEL)
    alias = await conversations.get(TENANT, ReferenceKind.TEAM, GROUP)
    assert alias
    assert alias.team == TEAM

    removed = activity_json(
        "conversationUpdate", membersRemoved=[{"id": BOT}], **channel_fields(eventType="teamMemberRemoved")
    )
    for minutes, body, expected in (
        (2, removed, ReferenceStatus.UNINSTALLED),
        (3, added, ReferenceStatus.ACTIVE),
        (4, activity_json("conversationUpdate", **channel_fields(eventType="teamDeleted")), ReferenceStatus.DELETED),
        (5, activity_json("conversationUpdate", **channel_fields(eventType="teamRestored")), ReferenceStatus.ACTIVE),
    ):
        await receive(at_minute(minutes, body))
        assert await load_status(conversations, ReferenceKind.TEAM, TEAM) is expected
        assert await load_status(conversations, ReferenceKind.CONVERSATION, CHANNEL) is ReferenceStatus.ACTIVE


async def test_channel_is_deleted_and_restored_without_its_team(receive: Receive, conversations: Conversations) -> None:
    for minutes, event, expected in (
        (0, "channelCreated", ReferenceStatus.ACTIVE),
        (1, "channelDeleted", ReferenceStatus.DELETED),
        (2, "channelRestored", ReferenceStatus.ACTIVE),
    ):
        location = channel_fields(eventType=event, channel={"id": CHANNEL, "name": "Deployments"})
        await receive(at_minute(minutes, activity_json("conversationUpdate", **location)))
        assert await load_status(conversations, ReferenceKind.CONVERSATION, CHANNEL) is expected
        assert await load_status(conversations, ReferenceKind.TEAM, TEAM) is ReferenceStatus.ACTIVE


async def test_all_members_of_a_team_are_stored(receive: Receive, conversations: Conversations) -> None:
    members = [{"id": f"29:{number}", "aadObjectId": f"{BEN[:-3]}{number:03d}"} for number in range(60)]
    await receive(
        activity_json("conversationUpdate", membersAdded=members, **channel_fields(eventType="teamMemberAdded"))
    )
    stored = await asyncio.gather(*(load_person(conversations, member["aadObjectId"]) for member in members))
    assert {reference.user_id for reference in stored} == {member["id"] for member in members}


async def test_ids_with_characters_not_allowed_in_keys_are_stored(
    receive: Receive, conversations: Conversations
) -> None:
    strange = "19:a/b\\c#d?e%f é😀'" + "x" * 600
    await receive(activity_json("installationUpdate", action="add", **group_chat_fields() | {
        "conversation": {"conversationType": "groupChat", "tenantId": TENANT, "id": strange},
    }))  # fmt: skip
    reference = await conversations.get(TENANT, ReferenceKind.CONVERSATION, strange)
    assert reference
    assert reference.conversation_id == strange
