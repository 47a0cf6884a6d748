"""Welcomes after installs through the real endpoint: who gets one, with which card, and only once."""

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
from tests.messages.users import CardUser, card_lines, card_text, has_button, reported_responses, serve_endpoint
from tests.support.herald import Herald

WITH_WELCOME = Categories([Category(name="welcome", title="Welcome")])
WITHOUT_WELCOME = Categories([Category(name="welcome", default=Mode.OFF)])


@dataclass
class App:
    """The app with its endpoint."""

    herald: Herald
    url: str

    async def receive(self, kind: Any, **event: Any) -> None:
        answers = await self.herald.teams.send_event(TeamsEvent(kind=kind, endpoint=self.url, **event))
        assert {answer.status for answer in answers} == {200}

    async def deliver_and_list_cards(self, person: PersonView) -> list[dict[str, Any]]:
        """Send everything; returns the cards in the person's chat."""
        await self.herald.handle_messages()
        received = await self.herald.teams.received(person=person.object_id)
        return [each.activity["attachments"][0]["content"] for each in received]

    def card_user(self, person: PersonView) -> CardUser:
        return CardUser(self.herald, self.url, person)


@asynccontextmanager
async def open_app(herald: Herald, categories: Categories) -> AsyncIterator[App]:
    herald.services = replace(herald.services, categories=categories)
    async with serve_endpoint(herald) as url:
        yield App(herald, url)


@pytest.fixture
async def people(herald: Herald) -> Sequence[PersonView]:
    return (await herald.grow(people=3, locale="en-GB", time_zone="Europe/Berlin")).people


@pytest.fixture
async def app(herald: Herald) -> AsyncIterator[App]:
    """The app without declared categories."""
    async with open_app(herald, Categories([])) as opened_app:
        yield opened_app


@pytest.fixture
async def welcoming_app(herald: Herald) -> AsyncIterator[App]:
    """The app with the declared category `welcome`."""
    async with open_app(herald, WITH_WELCOME) as opened_app:
        yield opened_app


async def test_install_in_a_personal_chat_is_welcomed(app: App, people: Sequence[PersonView]) -> None:
    ada = people[0]
    await app.receive("install", person=ada.object_id)
    [card] = await app.deliver_and_list_cards(ada)
    assert find_faults(card) == []
    assert card_lines(card)[:2] == [
        "Welcome to Herald",
        "I am here because you or your organisation installed me for you.",
    ]
    assert [each["verb"] for each in card["actions"]] == [
        action_verbs.PREFERENCES,
        action_verbs.SAMPLE,
        action_verbs.PAUSE,
    ]


async def test_person_is_welcomed_once(app: App, people: Sequence[PersonView]) -> None:
    ada = people[0]
    await asyncio.gather(*(app.receive("install", person=ada.object_id, repeat=3) for _ in range(2)))
    await app.deliver_and_list_cards(ada)
    await app.receive("uninstall", person=ada.object_id)
    await app.receive("install", person=ada.object_id)
    days_earlier = (app.herald.clock() + timedelta(days=-2)).isoformat()
    await app.receive("install", person=ada.object_id, changes={"timestamp": days_earlier})
    assert len(await app.deliver_and_list_cards(ada)) == 1


@pytest.mark.parametrize("ago", [{"days": 2}, {"minutes": 5}])
async def test_person_who_was_unreachable_is_welcomed_at_the_next_install(
    app: App, people: Sequence[PersonView], ago: dict[str, int]
) -> None:
    ada = people[0]
    earlier = (app.herald.clock() - timedelta(**ago)).isoformat()
    await app.receive("install", person=ada.object_id, changes={"timestamp": earlier})
    await app.receive("uninstall", person=ada.object_id)
    assert await app.deliver_and_list_cards(ada) == []
    await app.receive("install", person=ada.object_id)
    assert len(await app.deliver_and_list_cards(ada)) == 1


async def test_welcomed_person_who_uninstalled_is_not_welcomed_again(
    welcoming_app: App, people: Sequence[PersonView]
) -> None:
    ada = people[0]
    [team] = (await welcoming_app.herald.grow(teams=1, members=50)).teams
    earlier = (welcoming_app.herald.clock() - timedelta(days=1)).isoformat()
    await welcoming_app.receive("install", person=ada.object_id, changes={"timestamp": earlier})
    assert len(await welcoming_app.deliver_and_list_cards(ada)) == 1
    await welcoming_app.receive("uninstall", person=ada.object_id)
    await welcoming_app.receive("install", person=people[1].object_id, team=team.id)
    assert len(await welcoming_app.deliver_and_list_cards(ada)) == 1
    await welcoming_app.receive("install", person=ada.object_id)
    assert len(await welcoming_app.deliver_and_list_cards(ada)) == 1


@pytest.mark.parametrize("kind", ["message", "reaction"])
async def test_only_an_install_is_welcomed(app: App, people: Sequence[PersonView], kind: str) -> None:
    ada = people[0]
    more: dict[str, Any] = (
        {"text": " ", "value": {"x": 1}} if kind == "message" else {"reaction": "like", "reply_to": "1"}
    )
    await app.receive(kind, person=ada.object_id, **more)
    changes = {"action": "add-upgrade", "membersAdded": None}
    await app.receive("install", person=ada.object_id, changes=changes)
    assert await app.deliver_and_list_cards(ada) == []


async def test_nobody_is_welcomed_if_the_category_is_off(herald: Herald, people: Sequence[PersonView]) -> None:
    [team] = (await herald.grow(teams=1, members=2)).teams
    async with open_app(herald, WITHOUT_WELCOME) as off:
        await off.receive("install", person=people[0].object_id)
        await off.receive("install", person=people[0].object_id, team=team.id)
        assert await off.deliver_and_list_cards(people[0]) == []
        assert await off.deliver_and_list_cards(people[1]) == []


async def test_team_members_are_not_welcomed_if_the_category_is_not_declared(
    app: App, people: Sequence[PersonView]
) -> None:
    [team] = (await app.herald.grow(teams=1, members=50)).teams
    await app.receive("install", person=people[0].object_id, team=team.id)
    assert await app.deliver_and_list_cards(people[1]) == []


async def test_each_team_member_is_welcomed_once_with_the_name_of_the_adder(
    welcoming_app: App, people: Sequence[PersonView]
) -> None:
    herald, ada = welcoming_app.herald, people[0]
    await herald.store_reference(ada, name="Ada")
    [team] = (await herald.grow(teams=1, members=50)).teams
    await welcoming_app.receive("install", person=ada.object_id, team=team.id, repeat=2)
    await welcoming_app.receive("install", person=people[1].object_id)
    for person in people:
        [card] = await welcoming_app.deliver_and_list_cards(person)
        assert find_faults(card) == []
        line = f"I am here because Ada added me to the team {team.name}, and you are a member."
        assert card_lines(card)[1] in (line, "I am here because you or your organisation installed me for you.")
    [card] = await welcoming_app.deliver_and_list_cards(people[2])
    assert card_lines(card)[1] == line
    assert has_button(await welcoming_app.card_user(people[2]).click(card, action_verbs.PREFERENCES), action_verbs.SAVE)


async def test_welcome_names_the_selected_channel(welcoming_app: App, people: Sequence[PersonView]) -> None:
    [team] = (await welcoming_app.herald.grow(teams=1, members=50)).teams
    changes = {"channelData": {"settings": {"selectedChannel": {"id": team.id, "name": "Releases"}}}}
    await welcoming_app.receive("install", person=people[0].object_id, team=team.id, changes=changes)
    [card] = await welcoming_app.deliver_and_list_cards(people[2])
    line = f"I am here because I was added to the channel Releases of the team {team.name}, and you are a member."
    assert card_lines(card)[1] == line


async def test_each_group_chat_member_is_welcomed_once(welcoming_app: App, people: Sequence[PersonView]) -> None:
    [chat] = (await welcoming_app.herald.grow(chats=1, members=50)).chats
    for _ in range(2):
        await welcoming_app.receive("install", person=people[0].object_id, chat=chat.id)
    for person in people:
        [card] = await welcoming_app.deliver_and_list_cards(person)
        assert card_lines(card)[1] == f"I am here because I was added to the chat {chat.name}, and you are a member."


async def test_member_who_joins_later_is_not_welcomed(welcoming_app: App, people: Sequence[PersonView]) -> None:
    [chat] = (await welcoming_app.herald.grow(chats=1, members=0)).chats
    ids = [people[1].object_id]
    await welcoming_app.receive("membersAdded", person=people[0].object_id, chat=chat.id, people=ids)
    assert await welcoming_app.deliver_and_list_cards(people[1]) == []


async def test_welcome_is_in_the_language_of_the_person(app: App, people: Sequence[PersonView]) -> None:
    ada = people[0]
    await app.herald.store_reference(ada, locale="de-AT")
    await app.receive("install", person=ada.object_id)
    [card] = await app.deliver_and_list_cards(ada)
    assert card_lines(card)[0] == "Willkommen bei Herald"


async def test_sample_is_sent_once_and_reports_no_responses(app: App, people: Sequence[PersonView]) -> None:
    ada = people[0]
    card_user = app.card_user(ada)
    await app.receive("install", person=ada.object_id)
    [card] = await app.deliver_and_list_cards(ada)
    answers = await asyncio.gather(*(card_user.click(card, action_verbs.SAMPLE) for _ in range(3)))
    assert all("A sample notification is on its way." in card_text(answer) for answer in answers)
    _, sample = await app.deliver_and_list_cards(ada)
    assert find_faults(sample) == []
    for verb in (action_verbs.MUTE, action_verbs.SNOOZE_HOUR, action_verbs.TO_DIGEST):
        await card_user.click(sample, verb)
    assert "Acknowledged on " in card_text(await card_user.click(sample, action_verbs.ACKNOWLEDGE))
    assert "You requested it." in card_lines(await card_user.click(sample, action_verbs.WHY))
    assert await reported_responses(app.herald) == []


async def test_pause_of_the_welcome_ends_tomorrow_and_does_not_shorten_a_longer_one(
    app: App, people: Sequence[PersonView]
) -> None:
    ada = people[0]
    await app.herald.store_reference(ada, time_zone="Europe/Berlin")
    await app.receive("install", person=ada.object_id)
    [card] = await app.deliver_and_list_cards(ada)
    card_user, now = app.card_user(ada), app.herald.clock()
    await card_user.click(card, action_verbs.PAUSE)
    until = (await card_user.load_preferences()).paused_until
    assert until
    wall = to_wall_time(until, load_zone("Europe/Berlin"))
    assert (wall.hour, wall.minute) == (9, 0)
    assert timedelta(0) < until - now <= timedelta(days=2)
    longer = until + timedelta(days=3)
    await app.herald.services.conversations.change_preferences(
        app.herald.tenant, ReferenceKind.USER, ada.object_id, lambda old: replace(old, paused_until=longer)
    )
    await card_user.click(card, action_verbs.PAUSE)
    assert (await card_user.load_preferences()).paused_until == longer


async def test_person_whose_app_gets_the_bot_by_an_update_is_welcomed(app: App, people: Sequence[PersonView]) -> None:
    """Teams reports the update of the app, which is no install, and then that the bot was added."""
    ada = people[0]
    await app.receive("install", person=ada.object_id, changes={"action": "add-upgrade"})
    assert len(await app.deliver_and_list_cards(ada)) == 1
