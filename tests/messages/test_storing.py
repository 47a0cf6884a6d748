"""From activities to rows, on a real Azurite."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, call

import orjson
import pytest

from messages.activity.references import event_time
from messages.activity.schema import Incoming
from messages.activity.verified import Event
from messages.bot import EVENT, MAX_REMEMBERED, RECHECK_DELAY_SECONDS, HeraldBot
from messages.turn_adapter import TurnAdapter, read_activity
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
    CountedTable,
    activity,
    in_chat,
    in_team,
    message,
    services,
)

pytestmark = pytest.mark.usefixtures("silent")

Tell = Callable[[dict[str, Any]], Awaitable[None]]
START = datetime(2026, 11, 20, 9, tzinfo=UTC)


@pytest.fixture
def conversations(table: CountedTable) -> Conversations:
    return Conversations(table)


@pytest.fixture
def queues() -> AsyncMock:
    return AsyncMock()


@pytest.fixture
def bot(conversations: Conversations, queues: AsyncMock) -> HeraldBot:
    settings = SimpleNamespace(default_time_zone="UTC")
    return HeraldBot(services(conversations=conversations, queues=queues, settings=settings))


@pytest.fixture
def tell(bot: HeraldBot) -> Tell:
    adapter = TurnAdapter()

    async def tell(body: dict[str, Any]) -> None:
        body = orjson.loads(orjson.dumps(body))
        incoming = Incoming.model_validate(body)
        event = Event(incoming, TENANT, event_time(incoming, datetime(2026, 12, 1, tzinfo=UTC)))
        await adapter.process(read_activity(body), bot, {EVENT: event})

    return tell


def at(minutes: float, body: dict[str, Any]) -> dict[str, Any]:
    """The activity as one that happened so many minutes after the start."""
    return body | {"timestamp": (START + timedelta(minutes=minutes)).isoformat()}


INSTALL = activity("installationUpdate", action="add")
UNINSTALL = activity("installationUpdate", action="remove")


async def person(conversations: Conversations, user: str = ADA) -> ConversationReference:
    found = await conversations.get(TENANT, ReferenceKind.USER, user)
    assert found
    return found


async def status_of(conversations: Conversations, kind: ReferenceKind, identifier: str) -> ReferenceStatus | None:
    found = await conversations.get(TENANT, kind, identifier)
    return found.status if found else None


async def test_an_install_makes_person_alias_and_tenant(tell: Tell, conversations: Conversations) -> None:
    await tell(INSTALL)
    assert await person(conversations) == ConversationReference(
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


async def test_an_unchanged_reference_costs_one_read_a_row_and_no_write(tell: Tell, table: CountedTable) -> None:
    for body in (message(), message(**in_team(CHANNEL)), message(**in_chat())):
        await tell(body)
        for minutes in (1, 2):
            table.calls.clear()
            await tell(at(minutes, body))
            assert table.calls["write"] == 0
    assert table.calls["read"] == 2


async def test_a_repeated_install_costs_no_write(tell: Tell, table: CountedTable) -> None:
    await tell(INSTALL)
    table.calls.clear()
    await tell(INSTALL)
    assert table.calls == {"read": 2}


async def test_a_tenant_is_stored_once_a_service_url(
    tell: Tell, conversations: Conversations, table: CountedTable
) -> None:
    await tell(message())
    moved = "https://smba.trafficmanager.net/amer/"
    await tell(message(serviceUrl=moved))
    tenant = await conversations.get(TENANT, ReferenceKind.TENANT, TENANT)
    assert tenant
    assert tenant.service_url == moved
    table.calls.clear()
    await tell(message(serviceUrl=moved))
    assert table.calls["read"] == 2


async def test_what_is_remembered_of_tenants_is_bounded(bot: HeraldBot, tell: Tell) -> None:
    bot._stored = {("tenant", str(number)) for number in range(MAX_REMEMBERED)}
    await tell(message())
    assert bot._stored == {(TENANT, SERVICE_URL)}


async def test_who_is_in_another_zone_has_what_waits_decided_anew(tell: Tell, queues: AsyncMock) -> None:
    await tell(INSTALL)
    for zone in ("Europe/Berlin", "Europe/Berlin", "Asia/Tokyo"):
        await tell(message(localTimezone=zone))
    assert (
        queues.enqueue_recipient.await_args_list
        == [call(RecipientTask(TENANT, f"u:{ADA}", Task.RECONSIDER), RECHECK_DELAY_SECONDS)] * 2
    )


async def test_what_waits_for_who_was_not_known_goes_by_the_zone_that_is_seen_first(
    tell: Tell, queues: AsyncMock
) -> None:
    await tell(message(**in_team(), localTimezone="Asia/Tokyo"))
    assert queues.enqueue_recipient.await_args_list == [
        call(RecipientTask(TENANT, f"u:{ADA}", Task.RECONSIDER), RECHECK_DELAY_SECONDS)
    ]


async def test_a_new_zone_is_not_stored_before_what_waits_is_to_be_decided_anew(
    tell: Tell, queues: AsyncMock, conversations: Conversations
) -> None:
    await tell(INSTALL)
    queues.enqueue_recipient.side_effect = [RuntimeError, None]
    with pytest.raises(RuntimeError):
        await tell(message(localTimezone="Asia/Tokyo"))
    await tell(message(localTimezone="Asia/Tokyo"))
    assert queues.enqueue_recipient.await_count == 2
    assert (await person(conversations)).time_zone == "Asia/Tokyo"


async def test_a_message_refreshes_what_it_shows_and_keeps_the_rest(tell: Tell, conversations: Conversations) -> None:
    await tell(message())
    await tell(at(1, INSTALL))
    known = await person(conversations)
    assert (known.name, known.locale, known.time_zone) == ("Ada", "de-DE", "Europe/Berlin")
    moved = {"localTimezone": "Asia/Tokyo", "serviceUrl": "https://smba.trafficmanager.net/apac/"}
    await tell(at(2, message(**moved)))
    known = await person(conversations)
    assert (known.time_zone, known.service_url) == (moved["localTimezone"], moved["serviceUrl"])
    assert known.conversation_id == PERSONAL


@pytest.mark.parametrize("place", [in_chat(), in_team(CHANNEL)])
async def test_a_message_elsewhere_never_touches_the_personal_chat(
    tell: Tell, conversations: Conversations, place: dict[str, Any]
) -> None:
    await tell(INSTALL)
    await tell(at(1, UNINSTALL))
    await tell(at(2, message(**place)))
    known = await person(conversations)
    assert (known.conversation_id, known.conversation_type) == (PERSONAL, "personal")
    assert (known.status, known.name) == (ReferenceStatus.UNINSTALLED, "Ada")


async def test_a_person_seen_elsewhere_is_known_without_a_chat(tell: Tell, conversations: Conversations) -> None:
    await tell(message(**in_chat()))
    known = await person(conversations)
    assert (known.user_id, known.service_url, known.conversation_id) == ("29:ada", SERVICE_URL, "")
    assert (await conversations.list_people(TENANT, "", 10))[0] == []


async def test_an_uninstall_is_marked_and_a_reinstall_or_message_revives(
    tell: Tell, conversations: Conversations
) -> None:
    await tell(INSTALL)
    for minutes, revival in ((1, INSTALL), (3, message())):
        await tell(at(minutes, UNINSTALL))
        assert (await person(conversations)).status is ReferenceStatus.UNINSTALLED
        await tell(at(minutes + 1, revival))
        assert (await person(conversations)).status is ReferenceStatus.ACTIVE


async def test_an_uninstall_of_someone_unknown_leaves_no_row(tell: Tell, conversations: Conversations) -> None:
    await tell(UNINSTALL)
    await tell(activity("conversationUpdate", membersRemoved=[{"id": BOT}], **in_team()))
    await tell(activity("installationUpdate", action="remove", **in_chat()))
    await tell(activity("conversationUpdate", **in_team(eventType="teamDeleted")))
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
        [(0, INSTALL), (6, UNINSTALL), (5, message())],
        ReferenceStatus.UNINSTALLED,
    ),
    "everything repeated backwards": (
        [(0, INSTALL), (1, UNINSTALL), (2, INSTALL), (2, INSTALL), (1, UNINSTALL), (0, INSTALL), (1, UNINSTALL)],
        ReferenceStatus.ACTIVE,
    ),
}


@pytest.mark.parametrize("name", OUT_OF_ORDER)
async def test_the_newest_event_decides_in_whatever_order(tell: Tell, conversations: Conversations, name: str) -> None:
    events, expected = OUT_OF_ORDER[name]
    for minutes, body in events:
        await tell(at(minutes, body))
    assert (await person(conversations)).status is expected


async def test_fifty_installs_at_once_make_one_consistent_row(tell: Tell, conversations: Conversations) -> None:
    await asyncio.gather(*(tell(INSTALL) for _ in range(50)))
    known = await person(conversations)
    assert (known.conversation_id, known.status) == (PERSONAL, ReferenceStatus.ACTIVE)


async def test_different_news_at_once_are_all_kept(tell: Tell, conversations: Conversations) -> None:
    await asyncio.gather(tell(INSTALL), tell(message()), tell(message(**in_chat())), tell(message(**in_team(CHANNEL))))
    known = await person(conversations)
    assert (known.conversation_id, known.name, known.time_zone) == (PERSONAL, "Ada", "Europe/Berlin")


async def test_the_team_row_counts_for_its_channels(tell: Tell, conversations: Conversations) -> None:
    added = activity("conversationUpdate", membersAdded=[{"id": BOT}], **in_team(eventType="teamMemberAdded"))
    await tell(added)
    await tell(at(1, message(**in_team(f"{CHANNEL};messageid=1", channel={"id": CHANNEL, "name": "Deployments"}))))
    channel = await conversations.get(TENANT, ReferenceKind.CONVERSATION, CHANNEL)
    assert channel
    assert (channel.team, channel.name, channel.conversation_id) == (TEAM, "Deployments", CHANNEL)
    alias = await conversations.get(TENANT, ReferenceKind.TEAM, GROUP)
    assert alias
    assert alias.team == TEAM

    removed = activity("conversationUpdate", membersRemoved=[{"id": BOT}], **in_team(eventType="teamMemberRemoved"))
    for minutes, body, expected in (
        (2, removed, ReferenceStatus.UNINSTALLED),
        (3, added, ReferenceStatus.ACTIVE),
        (4, activity("conversationUpdate", **in_team(eventType="teamDeleted")), ReferenceStatus.DELETED),
        (5, activity("conversationUpdate", **in_team(eventType="teamRestored")), ReferenceStatus.ACTIVE),
    ):
        await tell(at(minutes, body))
        assert await status_of(conversations, ReferenceKind.TEAM, TEAM) is expected
        assert await status_of(conversations, ReferenceKind.CONVERSATION, CHANNEL) is ReferenceStatus.ACTIVE


async def test_a_channel_ends_and_comes_back_alone(tell: Tell, conversations: Conversations) -> None:
    for minutes, event, expected in (
        (0, "channelCreated", ReferenceStatus.ACTIVE),
        (1, "channelDeleted", ReferenceStatus.DELETED),
        (2, "channelRestored", ReferenceStatus.ACTIVE),
    ):
        place = in_team(eventType=event, channel={"id": CHANNEL, "name": "Deployments"})
        await tell(at(minutes, activity("conversationUpdate", **place)))
        assert await status_of(conversations, ReferenceKind.CONVERSATION, CHANNEL) is expected
        assert await status_of(conversations, ReferenceKind.TEAM, TEAM) is ReferenceStatus.ACTIVE


async def test_members_of_a_whole_team_become_known(tell: Tell, conversations: Conversations) -> None:
    members = [{"id": f"29:{number}", "aadObjectId": f"{BEN[:-3]}{number:03d}"} for number in range(60)]
    await tell(activity("conversationUpdate", membersAdded=members, **in_team(eventType="teamMemberAdded")))
    known = await asyncio.gather(*(person(conversations, member["aadObjectId"]) for member in members))
    assert {reference.user_id for reference in known} == {member["id"] for member in members}


async def test_ids_that_no_key_may_hold_are_stored_all_the_same(tell: Tell, conversations: Conversations) -> None:
    strange = "19:a/b\\c#d?e%f é😀'" + "x" * 600
    await tell(activity("installationUpdate", action="add", **in_chat() | {
        "conversation": {"conversationType": "groupChat", "tenantId": TENANT, "id": strange},
    }))  # fmt: skip
    found = await conversations.get(TENANT, ReferenceKind.CONVERSATION, strange)
    assert found
    assert found.conversation_id == strange
