"""Installs through the real endpoint: who is welcomed, by which card, and never twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from local.fake_teams.api import PersonView, TeamsEvent
from shared.cards import action_verbs
from shared.cards.validation import find_faults
from shared.preferences.categories import Categories, Category
from shared.states import Mode, ReferenceKind
from shared.time.localtime import load_zone, to_wall_time
from tests.messages.people import Desk, endpoint, has, lines, responses, text
from tests.support.herald import Herald

DECLARED = Categories([Category(name="welcome", title="Welcome")])
OFF = Categories([Category(name="welcome", default=Mode.OFF)])


@dataclass
class Front:
    """The app and its endpoint, as Teams sees them."""

    herald: Herald
    url: str

    async def tell(self, kind: Any, **event: Any) -> None:
        answers = await self.herald.teams.send_event(TeamsEvent(kind=kind, endpoint=self.url, **event))
        assert {answer.status for answer in answers} == {200}

    async def welcomed(self, person: PersonView) -> list[dict[str, Any]]:
        """The cards that came to a person once all is sent."""
        await self.herald.send()
        received = await self.herald.teams.received(person=person.object_id)
        return [each.activity["attachments"][0]["content"] for each in received]

    def desk(self, person: PersonView) -> Desk:
        return Desk(self.herald, self.url, person)


@asynccontextmanager
async def front(herald: Herald, categories: Categories) -> AsyncIterator[Front]:
    herald.services = replace(herald.services, categories=categories)
    async with endpoint(herald) as url:
        yield Front(herald, url)


@pytest.fixture
async def people(herald: Herald) -> Sequence[PersonView]:
    return (await herald.grow(people=3, locale="en-GB", time_zone="Europe/Berlin")).people


@pytest.fixture
async def plain(herald: Herald) -> AsyncIterator[Front]:
    """The app of a tenant that declares no categories."""
    async with front(herald, Categories([])) as found:
        yield found


@pytest.fixture
async def declared(herald: Herald) -> AsyncIterator[Front]:
    """The app of a tenant that declares the category `welcome`."""
    async with front(herald, DECLARED) as found:
        yield found


async def test_an_install_in_a_personal_chat_is_welcomed(plain: Front, people: Sequence[PersonView]) -> None:
    ada = people[0]
    await plain.tell("install", person=ada.object_id)
    [card] = await plain.welcomed(ada)
    assert find_faults(card) == []
    assert lines(card)[:2] == [
        "Welcome to Herald",
        "I am here because you or your organisation installed me for you.",
    ]
    assert [each["verb"] for each in card["actions"]] == [
        action_verbs.PREFERENCES,
        action_verbs.SAMPLE,
        action_verbs.PAUSE,
    ]


async def test_nobody_is_welcomed_twice(plain: Front, people: Sequence[PersonView]) -> None:
    ada = people[0]
    await asyncio.gather(*(plain.tell("install", person=ada.object_id, repeat=3) for _ in range(2)))
    await plain.welcomed(ada)
    await plain.tell("uninstall", person=ada.object_id)
    await plain.tell("install", person=ada.object_id)
    days_later = (plain.herald.clock() + timedelta(days=-2)).isoformat()
    await plain.tell("install", person=ada.object_id, changes={"timestamp": days_later})
    assert len(await plain.welcomed(ada)) == 1


@pytest.mark.parametrize("ago", [{"days": 2}, {"minutes": 5}])
async def test_who_was_out_of_reach_is_welcomed_at_the_next_install(
    plain: Front, people: Sequence[PersonView], ago: dict[str, int]
) -> None:
    ada = people[0]
    earlier = (plain.herald.clock() - timedelta(**ago)).isoformat()
    await plain.tell("install", person=ada.object_id, changes={"timestamp": earlier})
    await plain.tell("uninstall", person=ada.object_id)
    assert await plain.welcomed(ada) == []
    await plain.tell("install", person=ada.object_id)
    assert len(await plain.welcomed(ada)) == 1


async def test_who_was_welcomed_and_left_is_not_welcomed_again_after_an_install_that_does_not_reach_them(
    declared: Front, people: Sequence[PersonView]
) -> None:
    ada = people[0]
    [team] = (await declared.herald.grow(teams=1, members=50)).teams
    earlier = (declared.herald.clock() - timedelta(days=1)).isoformat()
    await declared.tell("install", person=ada.object_id, changes={"timestamp": earlier})
    assert len(await declared.welcomed(ada)) == 1
    await declared.tell("uninstall", person=ada.object_id)
    await declared.tell("install", person=people[1].object_id, team=team.id)
    assert len(await declared.welcomed(ada)) == 1
    await declared.tell("install", person=ada.object_id)
    assert len(await declared.welcomed(ada)) == 1


@pytest.mark.parametrize("kind", ["message", "reaction"])
async def test_only_an_install_is_welcomed(plain: Front, people: Sequence[PersonView], kind: str) -> None:
    ada = people[0]
    more: dict[str, Any] = (
        {"text": " ", "value": {"x": 1}} if kind == "message" else {"reaction": "like", "reply_to": "1"}
    )
    await plain.tell(kind, person=ada.object_id, **more)
    changes = {"action": "add-upgrade", "membersAdded": None}
    await plain.tell("install", person=ada.object_id, changes=changes)
    assert await plain.welcomed(ada) == []


async def test_where_the_category_is_off_nobody_is_welcomed(herald: Herald, people: Sequence[PersonView]) -> None:
    [team] = (await herald.grow(teams=1, members=2)).teams
    async with front(herald, OFF) as off:
        await off.tell("install", person=people[0].object_id)
        await off.tell("install", person=people[0].object_id, team=team.id)
        assert await off.welcomed(people[0]) == []
        assert await off.welcomed(people[1]) == []


async def test_members_of_a_team_are_welcomed_only_where_the_category_is_declared(
    plain: Front, people: Sequence[PersonView]
) -> None:
    [team] = (await plain.herald.grow(teams=1, members=50)).teams
    await plain.tell("install", person=people[0].object_id, team=team.id)
    assert await plain.welcomed(people[1]) == []


async def test_each_member_of_a_team_is_welcomed_once_and_told_who_added_the_bot(
    declared: Front, people: Sequence[PersonView]
) -> None:
    herald, ada = declared.herald, people[0]
    await herald.know(ada, name="Ada")
    [team] = (await herald.grow(teams=1, members=50)).teams
    await declared.tell("install", person=ada.object_id, team=team.id, repeat=2)
    await declared.tell("install", person=people[1].object_id)
    for person in people:
        [card] = await declared.welcomed(person)
        assert find_faults(card) == []
        told = f"I am here because Ada added me to the team {team.name}, and you are a member."
        assert lines(card)[1] in (told, "I am here because you or your organisation installed me for you.")
    [card] = await declared.welcomed(people[2])
    assert lines(card)[1] == told
    assert has(await declared.desk(people[2]).click(card, action_verbs.PREFERENCES), action_verbs.SAVE)


async def test_the_channel_that_was_chosen_is_named(declared: Front, people: Sequence[PersonView]) -> None:
    [team] = (await declared.herald.grow(teams=1, members=50)).teams
    changes = {"channelData": {"settings": {"selectedChannel": {"id": team.id, "name": "Releases"}}}}
    await declared.tell("install", person=people[0].object_id, team=team.id, changes=changes)
    [card] = await declared.welcomed(people[2])
    line = f"I am here because I was added to the channel Releases of the team {team.name}, and you are a member."
    assert lines(card)[1] == line


async def test_each_member_of_a_group_chat_is_welcomed_once(declared: Front, people: Sequence[PersonView]) -> None:
    [chat] = (await declared.herald.grow(chats=1, members=50)).chats
    for _ in range(2):
        await declared.tell("install", person=people[0].object_id, chat=chat.id)
    for person in people:
        [card] = await declared.welcomed(person)
        assert lines(card)[1] == f"I am here because I was added to the chat {chat.name}, and you are a member."


async def test_members_who_come_later_are_not_welcomed_for_that(declared: Front, people: Sequence[PersonView]) -> None:
    [chat] = (await declared.herald.grow(chats=1, members=0)).chats
    ids = [people[1].object_id]
    await declared.tell("membersAdded", person=people[0].object_id, chat=chat.id, people=ids)
    assert await declared.welcomed(people[1]) == []


async def test_the_welcome_speaks_the_persons_language(plain: Front, people: Sequence[PersonView]) -> None:
    ada = people[0]
    await plain.herald.know(ada, locale="de-AT")
    await plain.tell("install", person=ada.object_id)
    [card] = await plain.welcomed(ada)
    assert lines(card)[0] == "Willkommen bei Herald"


async def test_the_sample_comes_once_and_troubles_nobody_upstream(plain: Front, people: Sequence[PersonView]) -> None:
    ada = people[0]
    desk = plain.desk(ada)
    await plain.tell("install", person=ada.object_id)
    [card] = await plain.welcomed(ada)
    answers = await asyncio.gather(*(desk.click(card, action_verbs.SAMPLE) for _ in range(3)))
    assert all("A sample notification is on its way." in text(answer) for answer in answers)
    _, sample = await plain.welcomed(ada)
    assert find_faults(sample) == []
    for verb in (action_verbs.MUTE, action_verbs.SNOOZE_HOUR, action_verbs.TO_DIGEST):
        await desk.click(sample, verb)
    assert "Acknowledged on " in text(await desk.click(sample, action_verbs.ACKNOWLEDGE))
    assert "You requested it." in lines(await desk.click(sample, action_verbs.WHY))
    assert await responses(plain.herald) == []


async def test_the_welcomes_pause_ends_tomorrow_and_shortens_no_longer_one(
    plain: Front, people: Sequence[PersonView]
) -> None:
    ada = people[0]
    await plain.herald.know(ada, time_zone="Europe/Berlin")
    await plain.tell("install", person=ada.object_id)
    [card] = await plain.welcomed(ada)
    desk, now = plain.desk(ada), plain.herald.clock()
    await desk.click(card, action_verbs.PAUSE)
    until = (await desk.preferences()).paused_until
    assert until
    wall = to_wall_time(until, load_zone("Europe/Berlin"))
    assert (wall.hour, wall.minute) == (9, 0)
    assert timedelta(0) < until - now <= timedelta(days=2)
    longer = until + timedelta(days=3)
    await plain.herald.services.conversations.change_preferences(
        plain.herald.tenant, ReferenceKind.USER, ada.object_id, lambda old: replace(old, paused_until=longer)
    )
    await desk.click(card, action_verbs.PAUSE)
    assert (await desk.preferences()).paused_until == longer
