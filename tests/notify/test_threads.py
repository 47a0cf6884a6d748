"""Notifications that share a thread key update one card or reply to it; an older one never replaces a newer one."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest
from azure.core.exceptions import HttpResponseError

from local.fake_teams.api import Behaviour, ChannelView, PersonView, Received, TeamsFault
from notify import threads
from notify.delivery.deliver import deliver
from notify.ingest import ingest
from shared.queue_messages import DELIVERIES
from shared.rate_windows import SECOND, SEND_WINDOWS
from shared.records import StoredNotification
from shared.states import ReferenceKind, ReferenceStatus
from shared.storage import rate_lanes
from shared.storage.rate_lanes import LaneKind
from tests.support.herald import Herald, user


async def add_person(herald: Herald) -> PersonView:
    await herald.grow(people=1)
    await herald.teams.set_behaviour(Behaviour(enforce_limits=False))
    [ada] = await herald.store_people(1)
    return ada


async def add_channel(herald: Herald) -> ChannelView:
    """Add a team in which the bot is installed, and return one of its channels."""
    world = await herald.grow(people=3, teams=1, channels=1)
    await herald.teams.set_behaviour(Behaviour(enforce_limits=False))
    team = world.teams[0]
    observed = {"service_url": herald.teams.service_url}
    save = herald.services.conversations.save
    await save(herald.tenant, ReferenceKind.TEAM, team.id, observed, at=herald.clock(), status=ReferenceStatus.ACTIVE)
    for each in team.channels:
        known = observed | {"conversation_type": "channel", "team": team.id}
        await save(
            herald.tenant, ReferenceKind.CONVERSATION, each.id, known, at=herald.clock(), status=ReferenceStatus.ACTIVE
        )
    return team.channels[-1]


async def submit(
    herald: Herald, recipient: dict[str, Any], title: str, on_repeat: str = "update", ago: float = 0, **data: Any
) -> StoredNotification:
    """Ingest a notification of the thread about an event `ago` seconds before the real time."""
    data_with_thread = {
        "recipients": [recipient],
        "category": "builds",
        "content": {"title": title},
        "thread": {"key": "build/42", "onRepeat": on_repeat},
        **data,
    }
    time = (datetime.now(UTC) - timedelta(seconds=ago)).isoformat()
    event = {"specversion": "1.0", "type": "com.example.build", "source": "/ci", "id": uuid.uuid4().hex, "time": time}
    body = json.dumps(event | {"data": data_with_thread}).encode()
    await ingest(herald.services, body, "m")
    return await herald.stored(body)


def shown_titles(received: list[Received]) -> list[str]:
    return [message.activity["summary"] for message in received if not message.deleted_at]


async def test_later_notification_of_a_thread_updates_its_card(timed: Herald) -> None:
    ada = await add_person(timed)
    for title in ("Started", "Running", "Done"):
        submitted = await submit(timed, user(ada), title)
        await timed.run_until_idle()
        assert await timed.counts(submitted) == {"sent": 1}
    [message] = await timed.received()
    assert message.activity["summary"] == "Done"
    assert len(message.updates) == 2
    assert (await timed.row(submitted, f"u:{ada.object_id}"))["activity_id"] == message.id


async def test_each_thread_and_recipient_has_its_own_card(timed: Herald) -> None:
    await timed.grow(people=2)
    ada, bob = await timed.store_people(2)
    await submit(timed, user(ada), "Ada's")
    await submit(timed, user(bob), "Bob's")
    await submit(timed, user(ada), "Another", thread={"key": "build/43", "onRepeat": "update"})
    await timed.run_until_idle()
    assert sorted(shown_titles(await timed.received())) == ["Ada's", "Another", "Bob's"]


async def test_on_repeat_new_sends_a_new_card_that_the_next_update_changes(timed: Herald) -> None:
    ada = await add_person(timed)
    for title, on_repeat in (("One", "new"), ("Two", "new"), ("Three", "update")):
        await submit(timed, user(ada), title, on_repeat)
        await timed.run_until_idle()
    assert shown_titles(await timed.received()) == ["One", "Three"]


async def test_older_notification_than_the_shown_one_is_superseded(timed: Herald) -> None:
    ada = await add_person(timed)
    await submit(timed, user(ada), "Done")
    await timed.run_until_idle()
    late = await submit(timed, user(ada), "Started", ago=60)
    await timed.run_until_idle()
    assert await timed.counts(late) == {"superseded": 1}
    assert shown_titles(await timed.received()) == ["Done"]


async def test_updates_at_once_and_out_of_order_end_with_the_newest(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rate_lanes._WINDOWS, LaneKind.CONVERSATION, ((1000, SECOND), SEND_WINDOWS[-1]))
    monkeypatch.setattr(timed.services.rate_limiter, "reserve_turn", AsyncMock(return_value=0.0))
    ada = await add_person(timed)
    await submit(timed, user(ada), "First", ago=100)
    await timed.run_until_idle()
    for round_, order in enumerate(((5, 0, 3, 1, 4, 2), (2, 5, 1, 4, 0, 3), (0, 1, 2, 3, 4, 5))):
        await asyncio.gather(*(submit(timed, user(ada), f"{round_}.{n}", ago=50 - 10 * round_ - n) for n in order))
        await timed.run_until_idle()
        assert shown_titles(await timed.received()) == [f"{round_}.5"]


async def deliver_older_after_newer(
    herald: Herald, monkeypatch: pytest.MonkeyPatch, ada: PersonView
) -> StoredNotification:
    """Deliver an older update whose request reaches Teams after that of a newer one; return the older one."""
    older = await submit(herald, user(ada), "Older", ago=50)
    message = await herald.message(older, f"u:{ada.object_id}")
    await herald.clear_queue(DELIVERIES)
    save = herald.services.threads.save

    async def late(*args: Any) -> Any:
        monkeypatch.setattr(herald.services.threads, "save", save)
        written = await save(*args)
        await submit(herald, user(ada), "NewerVersion", ago=10)
        await herald.handle_messages()
        return written

    monkeypatch.setattr(herald.services.threads, "save", late)
    await deliver(herald.services, message)
    return older


@pytest.mark.usefixtures("queued")
async def test_older_update_that_replaced_a_newer_one_shows_the_newer_one_again(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await add_person(timed)
    await submit(timed, user(ada), "First", ago=100)
    await timed.run_until_idle()
    older = await deliver_older_after_newer(timed, monkeypatch, ada)
    assert shown_titles(await timed.received()) == ["NewerVersion"]
    assert await timed.counts(older) == {"superseded": 1}


@pytest.mark.parametrize(
    "fault",
    [
        TeamsFault(operation="update", status=412, code="PreconditionFailed", count=2, after=0),
        TeamsFault(operation="update", drop=True, count=2),
        TeamsFault(operation="update", status=429, retry_after=2, count=1),
    ],
)
@pytest.mark.usefixtures("queued")
async def test_newer_notification_is_shown_again_after_retries(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, fault: TeamsFault
) -> None:
    ada = await add_person(timed)
    await submit(timed, user(ada), "First", ago=100)
    await timed.run_until_idle()
    find_newer = threads.find_newer

    async def find_newer_and_fail(*args: Any) -> Any:
        if args[1].content.content.title == "Older":
            await timed.teams.inject(fault)
        return await find_newer(*args)

    monkeypatch.setattr(threads, "find_newer", find_newer_and_fail)
    older = await deliver_older_after_newer(timed, monkeypatch, ada)
    assert shown_titles(await timed.received()) == ["Older"]
    monkeypatch.setattr(threads, "find_newer", find_newer)
    await timed.run_until_idle()
    assert shown_titles(await timed.received()) == ["NewerVersion"]
    assert await timed.counts(older) == {"superseded": 1}


@pytest.mark.usefixtures("queued")
async def test_newer_notification_is_shown_again_if_the_storage_fails_after_an_older_update(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The platform: the tables or the storage are away."""
    ada = await add_person(timed)
    await submit(timed, user(ada), "First", ago=100)
    await timed.run_until_idle()
    find_newer, failures = threads.find_newer, [HttpResponseError("the storage is busy")]

    async def fail_once(*args: Any) -> Any:
        if failures and args[1].content.content.title == "Older":
            raise failures.pop()
        return await find_newer(*args)

    monkeypatch.setattr(threads, "find_newer", fail_once)
    older = await deliver_older_after_newer(timed, monkeypatch, ada)
    assert (failures, shown_titles(await timed.received())) == ([], ["NewerVersion"])
    assert await timed.counts(older) == {"superseded": 1}


async def test_newer_notification_is_shown_again_if_the_storage_fails_after_an_edit(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The platform: the tables or the storage are away."""
    ada = await add_person(timed)
    older = await submit(timed, user(ada), "Older", ago=100)
    await timed.run_until_idle()
    find_newer, calls = threads.find_newer, 0

    async def find_too_early_and_fail(*args: Any) -> Any:
        nonlocal calls
        if args[1].content.content.title != "Edited":
            return await find_newer(*args)
        calls += 1
        if calls == 2:
            raise HttpResponseError("the storage is busy")
        found = await find_newer(*args)
        if calls == 1:
            await submit(timed, user(ada), "NewerVersion", ago=10)
            await timed.handle_messages()
        return found

    monkeypatch.setattr(threads, "find_newer", find_too_early_and_fail)
    await timed.command("edit", older, content={"title": "Edited"})
    await timed.run_until_idle()
    assert (calls, shown_titles(await timed.received())) == (3, ["NewerVersion"])


async def test_update_with_a_lost_response_is_repeated_on_the_same_card(timed: Herald) -> None:
    ada = await add_person(timed)
    await submit(timed, user(ada), "First")
    await timed.run_until_idle()
    await timed.teams.inject(TeamsFault(operation="update", drop=True, accept=True, count=1))
    second = await submit(timed, user(ada), "Second")
    await timed.run_until_idle()
    row = await timed.row(second, f"u:{ada.object_id}")
    assert (row["state"], row.get("maybe_twice", False)) == ("sent", False)
    assert shown_titles(await timed.received()) == ["Second"]


async def test_deleted_card_is_replaced_by_a_new_one(timed: Herald) -> None:
    ada = await add_person(timed)
    first = await submit(timed, user(ada), "First")
    await timed.run_until_idle()
    await timed.command("recall", first)
    await timed.run_until_idle()
    await submit(timed, user(ada), "Second")
    await timed.run_until_idle()
    await submit(timed, user(ada), "Third")
    await timed.run_until_idle()
    assert shown_titles(await timed.received()) == ["Third"]


async def test_update_in_a_channel_changes_the_post(timed: Herald) -> None:
    channel = await add_channel(timed)
    for title in ("Started", "Done"):
        await submit(timed, {"conversation": channel.id}, title)
        await timed.run_until_idle()
    assert shown_titles(await timed.received()) == ["Done"]


async def test_replies_in_a_channel_go_below_the_first_post(timed: Herald) -> None:
    channel = await add_channel(timed)
    for title in ("Started", "Running", "Done"):
        await submit(timed, {"conversation": channel.id}, title, "reply")
        await timed.run_until_idle()
    root, *replies = await timed.received()
    assert [reply.conversation for reply in replies] == [f"{channel.id};messageid={root.id}"] * 2


async def test_replies_to_a_channel_thread_stay_in_that_thread(timed: Herald) -> None:
    channel = await add_channel(timed)
    await timed.submit({"conversation": channel.id})
    await timed.run_until_idle()
    [root] = await timed.received()
    thread = f"{channel.id};messageid={root.id}"
    for title in ("Started", "Done"):
        await submit(timed, {"conversation": thread}, title, "reply")
        await timed.run_until_idle()
    assert [message.conversation for message in await timed.received()] == [thread] * 3


async def test_reply_in_a_chat_is_a_new_message(timed: Herald) -> None:
    ada = await add_person(timed)
    for title in ("Started", "Done"):
        await submit(timed, user(ada), title, "reply")
        await timed.run_until_idle()
    assert shown_titles(await timed.received()) == ["Started", "Done"]


@pytest.mark.parametrize(("command", "state"), [("recall", "recalled"), ("edit", "sent")])
async def test_edit_or_recall_of_an_older_notification_keeps_the_card_of_a_newer_one(
    timed: Herald, command: str, state: str
) -> None:
    ada = await add_person(timed)
    older = await submit(timed, user(ada), "Older")
    await timed.run_until_idle()
    await submit(timed, user(ada), "NewerVersion")
    await timed.run_until_idle()
    await timed.command(command, older, **({"content": {"title": "Edited"}} if command == "edit" else {}))
    await timed.run_until_idle()
    assert await timed.counts(older) == {state: 1}
    assert shown_titles(await timed.received()) == ["NewerVersion"]
