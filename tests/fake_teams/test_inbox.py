from __future__ import annotations

import asyncio
import time

import pytest

from local.fake_teams.api import Behaviour, Growth
from local.fake_teams.client import FakeTeams
from local.fake_teams.inbox import Inbox
from tests.fake_teams.conftest import Bot, activities, message, open_session, own_teams


async def test_messages_are_stored_in_order_with_their_times(teams: FakeTeams, bot: Bot) -> None:
    person = (await teams.world()).people[0]
    before = time.monotonic()
    for text in ("one", "two", "three"):
        await bot.send(person.conversation, message(text))
    received = await teams.received(person=person.object_id)
    assert [each.activity["text"] for each in received] == ["one", "two", "three"]
    assert [each.number for each in received] == [1, 2, 3]
    assert before <= received[0].monotonic <= received[2].monotonic <= time.monotonic()
    assert len({each.id for each in received}) == 3


async def test_received_filters_by_person_conversation_and_tenant(teams: FakeTeams, bot: Bot) -> None:
    first, second = (await teams.world()).people[:2]
    stranger = (await teams.grow(Growth(people=1))).people[0]
    for person in (first, second, stranger):
        await bot.send(person.conversation, message(person.object_id))
    assert [each.person for each in await teams.received(person=second.object_id)] == [second.object_id]
    assert [each.person for each in await teams.received(conversation=first.conversation)] == [first.object_id]
    assert [each.person for each in await teams.received(tenant=stranger.tenant)] == [stranger.object_id]
    assert len(await teams.received()) == 3


async def test_since_returns_later_changes_including_updates(teams: FakeTeams, bot: Bot) -> None:
    conversation = (await teams.world()).people[0].conversation
    sent = await bot.send(conversation, message("one"))
    await bot.send(conversation, message("two"))
    cursor = (await teams.received())[-1].changed
    assert await teams.received(since=cursor) == []
    await bot.call("PUT", activities(conversation, sent.body["id"]), message("changed"))
    assert [each.activity["text"] for each in await teams.received(since=cursor)] == ["changed"]
    assert [each.activity["text"] for each in await teams.received()] == ["two", "changed"]


async def test_wait_ends_with_the_last_awaited_message(teams: FakeTeams, bot: Bot) -> None:
    first, second = (await teams.world()).people[:2]
    waiting = asyncio.create_task(teams.wait(2, person=first.object_id))
    await bot.send(first.conversation)
    await bot.send(second.conversation)
    assert not waiting.done()
    await bot.send(first.conversation)
    assert len(await waiting) == 2


async def test_wait_checks_its_condition_after_each_change(teams: FakeTeams, bot: Bot) -> None:
    conversation = (await teams.world()).people[0].conversation
    sent = await bot.send(conversation, message("one"))
    waiting = asyncio.create_task(teams.wait(until=lambda found: found[0].activity["text"] == "two"))
    await bot.call("PUT", activities(conversation, sent.body["id"]), message("two"))
    assert [each.activity["text"] for each in await waiting] == ["two"]


async def test_wait_raises_timeout_error_at_its_deadline(teams: FakeTeams, bot: Bot) -> None:
    await bot.send((await teams.world()).people[0].conversation)
    with pytest.raises(TimeoutError, match="1 of 2"):
        await teams.wait(2, timeout=0.2)
    with pytest.raises(TimeoutError):
        await teams.wait(1, until=lambda _: False, timeout=0.2)


async def test_duplicates_are_equal_bodies_in_one_conversation(teams: FakeTeams, bot: Bot) -> None:
    first, second = (await teams.world()).people[:2]
    for person, text in ((first, "a"), (first, "b"), (first, "a"), (second, "a")):
        await bot.send(person.conversation, message(text))
    stats = await teams.stats()
    assert (stats.messages, stats.conversations, stats.duplicates) == (4, 2, 1)
    assert stats.per_conversation == {1: 1, 3: 1}


async def test_each_connection_is_counted_once(teams: FakeTeams, bot: Bot) -> None:
    conversation = (await teams.world()).people[0].conversation
    for _ in range(3):
        await bot.send(conversation)
    assert (await teams.stats()).connections["connector"] == 1
    async with open_session(teams) as another:
        await Bot(teams, another, bot.token).send(conversation)
    assert (await teams.stats()).connections["connector"] == 2
    assert len({each.connection for each in await teams.received()}) == 2


async def test_latency_delays_each_response(teams: FakeTeams, bot: Bot) -> None:
    await teams.set_behaviour(Behaviour(latency=0.2))
    started = time.monotonic()
    await bot.send((await teams.world()).people[0].conversation)
    assert time.monotonic() - started >= 0.2


@own_teams
async def test_reset_restores_the_initial_state_but_tokens_stay_valid(teams: FakeTeams, bot: Bot) -> None:
    before = await teams.world()
    await teams.grow(Growth(people=5, teams=2))
    await teams.set_behaviour(Behaviour(tenant_rate=1))
    await bot.send(before.people[0].conversation)
    await teams.reset()
    assert await teams.world() == before
    assert await teams.received() == []
    assert (await teams.stats()).requests == {}
    replies = [await bot.send(person.conversation) for person in before.people]
    assert [reply.status for reply in replies] == [201, 201, 201]


def test_broadcast_stores_its_content_once() -> None:
    inbox = Inbox()
    added = [
        inbox.add(f"a:1{number}", str(number), bytes(b"{}" + b" " * 9), reply_to=None, connection=1, token=1)
        for number in range(2)
    ]
    assert added[0].body is added[1].body


async def test_ids_of_people_and_teams_are_stable(teams: FakeTeams) -> None:
    async with FakeTeams.serve() as other:
        growth = Growth(tenant="44444444-4444-4444-8444-444444444444", people=2000, teams=2, chats=2, members=5)
        grown, again = await teams.grow(growth), await other.grow(growth)
    assert grown.people == again.people
    assert [team.id for team in grown.teams] == [team.id for team in again.teams]
    assert len({person.object_id for person in grown.people}) == 2000
    assert [len(team.members) for team in grown.teams] == [5, 5]
    assert set(grown.teams[0].members).isdisjoint(grown.teams[1].members)
    assert growth.tenant in teams.settings["HERALD_ALLOWED_TENANTS"].split(",")
