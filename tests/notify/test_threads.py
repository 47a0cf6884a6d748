"""Notifications that share a thread: one card that is brought up to date, or replies under it; never back in time."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.fake_teams.api import Behaviour, ChannelView, PersonView, Received, TeamsFault
from notify import threads
from notify.delivery.deliver import deliver
from notify.ingest import ingest
from shared.queue_messages import DELIVERIES
from shared.states import ReferenceKind, ReferenceStatus
from shared.storage.notifications import StoredNotification
from tests.support.herald import Herald, user


async def person(herald: Herald) -> PersonView:
    await herald.grow(people=1)
    await herald.teams.set_behaviour(Behaviour(enforce_limits=False))
    [ada] = await herald.people(1)
    return ada


async def channel(herald: Herald) -> ChannelView:
    """A channel of a team in which the bot is installed."""
    grown = await herald.grow(people=3, teams=1, channels=1)
    await herald.teams.set_behaviour(Behaviour(enforce_limits=False))
    team = grown.teams[0]
    seen = {"service_url": herald.teams.service_url}
    save = herald.services.conversations.save
    await save(herald.tenant, ReferenceKind.TEAM, team.id, seen, at=herald.clock(), status=ReferenceStatus.ACTIVE)
    for each in team.channels:
        known = seen | {"conversation_type": "channel", "team": team.id}
        await save(
            herald.tenant, ReferenceKind.CONVERSATION, each.id, known, at=herald.clock(), status=ReferenceStatus.ACTIVE
        )
    return team.channels[-1]


async def tell(
    herald: Herald, recipient: dict[str, Any], title: str, on_repeat: str = "update", ago: float = 0, **data: Any
) -> StoredNotification:
    """Take in a notification of the thread about something that happened `ago` seconds before the true time."""
    whole = {
        "recipients": [recipient],
        "category": "builds",
        "content": {"title": title},
        "thread": {"key": "build/42", "onRepeat": on_repeat},
        **data,
    }
    time = (datetime.now(UTC) - timedelta(seconds=ago)).isoformat()
    event = {"specversion": "1.0", "type": "com.example.build", "source": "/ci", "id": uuid.uuid4().hex, "time": time}
    body = json.dumps(event | {"data": whole}).encode()
    await ingest(herald.services, body, "m")
    return await herald.stored(body)


def shown(received: list[Received]) -> list[str]:
    return [message.activity["summary"] for message in received if not message.deleted_at]


async def test_a_later_one_of_the_thread_changes_the_same_card(timed: Herald) -> None:
    ada = await person(timed)
    for title in ("Started", "Running", "Done"):
        asked = await tell(timed, user(ada), title)
        await timed.run()
        assert await timed.counts(asked) == {"sent": 1}
    [message] = await timed.received()
    assert message.activity["summary"] == "Done"
    assert len(message.updates) == 2
    assert (await timed.row(asked, f"u:{ada.object_id}"))["activity_id"] == message.id


async def test_another_thread_and_another_recipient_have_cards_of_their_own(timed: Herald) -> None:
    await timed.grow(people=2)
    ada, bob = await timed.people(2)
    await tell(timed, user(ada), "Ada's")
    await tell(timed, user(bob), "Bob's")
    await tell(timed, user(ada), "Another", thread={"key": "build/43", "onRepeat": "update"})
    await timed.run()
    assert sorted(shown(await timed.received())) == ["Ada's", "Another", "Bob's"]


async def test_new_sends_a_message_of_its_own_which_the_next_update_changes(timed: Herald) -> None:
    ada = await person(timed)
    for title, how in (("One", "new"), ("Two", "new"), ("Three", "update")):
        await tell(timed, user(ada), title, how)
        await timed.run()
    assert shown(await timed.received()) == ["One", "Three"]


async def test_what_is_older_than_what_is_shown_is_superseded(timed: Herald) -> None:
    ada = await person(timed)
    await tell(timed, user(ada), "Done")
    await timed.run()
    late = await tell(timed, user(ada), "Started", ago=60)
    await timed.run()
    assert await timed.counts(late) == {"superseded": 1}
    assert shown(await timed.received()) == ["Done"]


async def test_updates_out_of_order_at_once_end_with_the_newest(timed: Herald) -> None:
    ada = await person(timed)
    await tell(timed, user(ada), "First", ago=100)
    await timed.run()
    for round_ in range(3):
        await asyncio.gather(*(tell(timed, user(ada), f"{round_}.{n}", ago=50 - 10 * round_ - n) for n in range(6)))
        await timed.run()
        assert shown(await timed.received()) == [f"{round_}.5"]


async def overtaken(herald: Herald, monkeypatch: pytest.MonkeyPatch, ada: PersonView) -> StoredNotification:
    """An older update whose request is under way while a newer one is shown; returns the older one, covering it."""
    older = await tell(herald, user(ada), "Older", ago=50)
    message = await herald.message(older, f"u:{ada.object_id}")
    await herald.lose(DELIVERIES)
    save = herald.services.threads.save

    async def late(*args: Any) -> Any:
        monkeypatch.setattr(herald.services.threads, "save", save)
        written = await save(*args)
        await tell(herald, user(ada), "Newer", ago=10)
        await herald.send()
        return written

    monkeypatch.setattr(herald.services.threads, "save", late)
    await deliver(herald.services, message)
    return older


async def test_an_older_one_that_covers_a_newer_one_makes_way_for_it_again(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await person(timed)
    await tell(timed, user(ada), "First", ago=100)
    await timed.run()
    older = await overtaken(timed, monkeypatch, ada)
    assert shown(await timed.received()) == ["Newer"]
    assert await timed.counts(older) == {"superseded": 1}


@pytest.mark.parametrize(
    "fault",
    [
        TeamsFault(operation="update", status=412, code="PreconditionFailed", count=2, after=0),
        TeamsFault(operation="update", drop=True, count=2),
    ],
)
async def test_it_makes_way_also_where_teams_is_not_ready_for_that_at_once(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, fault: TeamsFault
) -> None:
    ada = await person(timed)
    await tell(timed, user(ada), "First", ago=100)
    await timed.run()
    newer = threads.find_newer

    async def then(*args: Any) -> Any:
        if args[1].content.content.title == "Older":
            await timed.teams.inject(fault)
        return await newer(*args)

    monkeypatch.setattr(threads, "find_newer", then)
    older = await overtaken(timed, monkeypatch, ada)
    assert shown(await timed.received()) == ["Older"]
    monkeypatch.setattr(threads, "find_newer", newer)
    await timed.run()
    assert shown(await timed.received()) == ["Newer"]
    assert await timed.counts(older) == {"superseded": 1}


async def test_an_update_whose_answer_was_lost_is_made_again_and_nobody_sees_two(timed: Herald) -> None:
    ada = await person(timed)
    await tell(timed, user(ada), "First")
    await timed.run()
    await timed.teams.inject(TeamsFault(operation="update", drop=True, accept=True, count=1))
    second = await tell(timed, user(ada), "Second")
    await timed.run()
    row = await timed.row(second, f"u:{ada.object_id}")
    assert (row["state"], row.get("maybe_twice", False)) == ("sent", False)
    assert shown(await timed.received()) == ["Second"]


async def test_a_card_that_was_deleted_is_begun_anew(timed: Herald) -> None:
    ada = await person(timed)
    first = await tell(timed, user(ada), "First")
    await timed.run()
    await timed.command("recall", first)
    await timed.run()
    await tell(timed, user(ada), "Second")
    await timed.run()
    await tell(timed, user(ada), "Third")
    await timed.run()
    assert shown(await timed.received()) == ["Third"]


async def test_in_a_channel_an_update_changes_the_post(timed: Herald) -> None:
    place = await channel(timed)
    for title in ("Started", "Done"):
        await tell(timed, {"conversation": place.id}, title)
        await timed.run()
    assert shown(await timed.received()) == ["Done"]


async def test_replies_in_a_channel_stand_under_the_first_post(timed: Herald) -> None:
    place = await channel(timed)
    for title in ("Started", "Running", "Done"):
        await tell(timed, {"conversation": place.id}, title, "reply")
        await timed.run()
    root, *replies = await timed.received()
    assert [reply.conversation for reply in replies] == [f"{place.id};messageid={root.id}"] * 2


async def test_replies_in_a_thread_of_a_channel_stay_in_that_thread(timed: Herald) -> None:
    place = await channel(timed)
    await timed.ask({"conversation": place.id})
    await timed.run()
    [root] = await timed.received()
    thread = f"{place.id};messageid={root.id}"
    for title in ("Started", "Done"):
        await tell(timed, {"conversation": thread}, title, "reply")
        await timed.run()
    assert [message.conversation for message in await timed.received()] == [thread] * 3


async def test_where_there_are_no_threads_a_reply_is_a_message_of_its_own(timed: Herald) -> None:
    ada = await person(timed)
    for title in ("Started", "Done"):
        await tell(timed, user(ada), title, "reply")
        await timed.run()
    assert shown(await timed.received()) == ["Started", "Done"]


@pytest.mark.parametrize(("command", "state"), [("recall", "recalled"), ("edit", "sent")])
async def test_a_change_to_an_older_one_leaves_the_card_that_shows_a_newer_one(
    timed: Herald, command: str, state: str
) -> None:
    ada = await person(timed)
    older = await tell(timed, user(ada), "Older")
    await timed.run()
    await tell(timed, user(ada), "Newer")
    await timed.run()
    await timed.command(command, older, **({"content": {"title": "Edited"}} if command == "edit" else {}))
    await timed.run()
    assert await timed.counts(older) == {state: 1}
    assert shown(await timed.received()) == ["Newer"]
