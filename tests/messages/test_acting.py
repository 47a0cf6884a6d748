"""Clicks on cards through the real endpoint: signed activities in, rows, queue and cards out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from local.fake_teams.api import TeamsEvent
from messages.card_actions.snooze import SNOOZES
from shared.cards import action_verbs
from shared.cards.validation import find_faults
from shared.preferences.categories import Categories, Category
from shared.preferences.preferences import Preferences, mute_key
from shared.queue_messages import RECIPIENTS, RESPONSES, RecipientTask, Task
from shared.settings import load_settings
from shared.states import Mode, ReferenceKind
from shared.time.localtime import load_zone, to_wall_time
from tests.messages.people import (
    CARD,
    CONTENT,
    MESSAGE,
    Desk,
    button,
    buttons,
    endpoint,
    has,
    lines,
    preferences,
    responses,
    text,
)
from tests.support.herald import Herald, user

CATEGORIES = Categories(
    [
        Category(name="security", title="Security", mandatory=True),
        Category(name="builds", title="Builds", description="What CI does"),
        Category(name="news", title="News", default=Mode.DIGEST),
    ]
)
OWN = {
    "type": "AdaptiveCard",
    "version": "1.4",
    "body": [{"type": "TextBlock", "text": "Approve?"}, {"type": "Input.Text", "id": "comment"}],
    "actions": [
        {"type": "Action.Execute", "title": "Yes", "verb": "approve", "data": {"request": 7}},
        {"type": "Action.Execute", "title": "No", "verb": "reject", "data": {"request": 7}},
    ],
}
ZONE, WEEK = load_zone("Europe/Berlin"), timedelta(days=7)


async def rows(herald: Herald, table: str) -> list[dict[str, Any]]:
    return [dict(row) async for row in herald.outside_tables.get_table_client(f"Herald{table}").list_entities()]


async def tasks(herald: Herald) -> list[RecipientTask]:
    queue = herald.outside_queues.get_queue_client(RECIPIENTS)
    return [RecipientTask.decode(each.content.encode()) for each in await queue.peek_messages(32)]


@pytest.fixture
async def herald(herald: Herald) -> Herald:
    herald.services = replace(herald.services, categories=CATEGORIES)
    return herald


@pytest.fixture
async def ada(herald: Herald) -> AsyncIterator[Desk]:
    [person] = (await herald.grow(people=1, locale="en-GB", time_zone="Europe/Berlin")).people
    await herald.know(person, time_zone="Europe/Berlin", locale="en-GB")
    async with endpoint(herald) as url:
        yield Desk(herald, url, person)


@pytest.fixture
async def ben(herald: Herald, ada: Desk) -> Desk:
    [person] = (await herald.grow(people=1)).people
    await herald.know(person)
    return replace(ada, person=person)


async def test_the_card_has_all_that_people_act_by(ada: Desk) -> None:
    _, card = await ada.get(thread={"key": "build/42"})
    assert find_faults(card) == []
    assert [each["title"] for each in buttons(card)][:2] == ["Retry", "Acknowledge"]
    for verb in (
        action_verbs.WHY,
        action_verbs.MUTE,
        action_verbs.TO_DIGEST,
        action_verbs.STOP,
        action_verbs.SNOOZE_HOUR,
        action_verbs.SNOOZE_TOMORROW,
        action_verbs.PREFERENCES,
    ):
        assert has(card, verb)


async def test_what_is_mandatory_or_has_no_thread_has_no_button_for_it(ada: Desk) -> None:
    _, card = await ada.get(category="builds")
    assert not has(card, action_verbs.MUTE)
    _, card = await ada.get(category="security", thread={"key": "x"})
    assert not has(card, action_verbs.STOP)
    assert not has(card, action_verbs.MUTE)
    assert "Security · mandatory" in text(card)


async def test_an_acknowledgement_is_recorded_and_put_on_the_queue_once(ada: Desk) -> None:
    asked, card = await ada.get()
    after = await ada.click(card, action_verbs.ACKNOWLEDGE)
    assert "Acknowledged on " in text(after)
    assert not has(after, action_verbs.ACKNOWLEDGE)
    assert has(after, "retry")
    again = await ada.click(card, action_verbs.ACKNOWLEDGE)
    assert "Already recorded on " in text(again)
    [event] = await responses(ada.herald)
    assert event["specversion"] == "1.0"
    assert (event["type"], event["source"]) == ("herald.response.v1", "/herald")
    assert event["data"] == {
        "tenant": ada.herald.tenant,
        "notification": {"source": asked.source, "id": asked.id},
        "action": action_verbs.ACKNOWLEDGE,
        "user": {"id": ada.person.object_id},
        "conversation": {"id": ada.person.conversation},
        "inputs": {},
    }
    [row] = await rows(ada.herald, "Responses")
    assert (row["person"], row["action"], row["reported"]) == (ada.person.object_id, action_verbs.ACKNOWLEDGE, True)
    assert event["time"] == row["at"].isoformat()


async def test_clicks_and_repeated_invokes_at_once_record_one_response(ada: Desk) -> None:
    _, card = await ada.get()
    await asyncio.gather(*(ada.click(card, "retry", repeat=3) for _ in range(4)))
    assert len(await responses(ada.herald)) == 1
    assert len(await rows(ada.herald, "Responses")) == 1


async def test_who_died_before_upstream_was_told_has_it_told_at_the_next_click(
    ada: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, card = await ada.get()
    put = ada.herald.services.queues.put

    async def dies(name: str, text: str, delay: float = 0) -> None:
        if name == RESPONSES:
            raise TimeoutError
        await put(name, text, delay)

    with monkeypatch.context() as patched:
        patched.setattr(ada.herald.services.queues, "put", dies)
        event = TeamsEvent(
            kind="cardAction",
            person=ada.person.object_id,
            verb="retry",
            data=button(card, "retry")["data"],
            endpoint=ada.endpoint,
        )
        [answer] = await ada.herald.teams.send_event(event)
        assert answer.status == 503
    [row] = await rows(ada.herald, "Responses")
    await ada.click(card, "retry")
    [told] = await responses(ada.herald)
    assert told["time"] == row["at"].isoformat()


async def test_the_actions_of_a_callers_own_card_bring_their_data_and_inputs(ada: Desk) -> None:
    _, card = await ada.get(content=None, card=OWN)
    assert find_faults(card) == []
    assert card["version"] == "1.5"
    after = await ada.click(card, "approve", typed={"comment": "Fine", "stray": 1})
    assert "Yes: recorded on " in text(after)
    assert not has(after, "approve")
    assert has(after, "reject")
    [event] = await responses(ada.herald)
    assert event["data"]["inputs"] == {"request": 7, "comment": "Fine"}


async def test_what_is_too_long_for_the_queue_is_refused(ada: Desk) -> None:
    _, card = await ada.get(content=None, card=OWN)
    after = await ada.click(card, "approve", typed={"comment": "é" * 11_000})
    assert lines(after) == ["Your text is too long. Nothing was recorded."]
    assert await rows(ada.herald, "Responses") == []


async def test_a_thread_is_muted_for_a_week_and_a_second_click_does_not_move_that(ada: Desk) -> None:
    _, card = await ada.get(thread={"key": "build/42"})
    before = ada.herald.clock()
    after = await ada.click(card, action_verbs.MUTE)
    assert "This thread is muted until" in text(after)
    until = (await ada.preferences()).mutes[mute_key("build/42")]
    assert timedelta(days=7) <= until - before <= timedelta(days=7, minutes=1)
    await asyncio.gather(*(ada.click(card, action_verbs.MUTE) for _ in range(3)))
    assert (await ada.preferences()).mutes == {mute_key("build/42"): until}
    assert {each.task for each in await tasks(ada.herald)} == {Task.RECONSIDER}


@pytest.mark.parametrize(("verb", "mode"), [(action_verbs.TO_DIGEST, Mode.DIGEST), (action_verbs.STOP, Mode.OFF)])
async def test_a_button_stops_the_category_and_no_other(ada: Desk, verb: str, mode: Mode) -> None:
    _, card = await ada.get(category="builds")
    await ada.click(card, verb)
    known = await ada.preferences()
    assert (known.categories, known.version) == ({"builds": mode}, 1)
    await ada.click(card, verb)
    assert (await ada.preferences()).version == 1
    stopped, _ = await ada.get(category="builds")
    assert (await ada.herald.row(stopped, f"u:{ada.person.object_id}"))["state"] != "sent"
    other, _ = await ada.get(category="other")
    assert (await ada.herald.row(other, f"u:{ada.person.object_id}"))["state"] == "sent"


@pytest.mark.parametrize(
    ("verb", "after"), [(action_verbs.SNOOZE_HOUR, timedelta(hours=1)), (action_verbs.SNOOZE_TOMORROW, None)]
)
async def test_a_snoozed_message_comes_again_once_with_all_its_controls(
    ada: Desk, verb: str, after: timedelta | None
) -> None:
    asked, card = await ada.get(thread={"key": "build/42", "onRepeat": "update"}, schedule=None)
    answer = await ada.click(card, verb)
    assert "Reminder set for " in text(answer)
    await asyncio.gather(*(ada.click(card, verb) for _ in range(3)))
    await ada.herald.send()
    assert len(await ada.cards()) == 1
    [posted] = [each for each in await rows(ada.herald, "Notifications") if each["source"] == SNOOZES]
    if after is None:
        wall = to_wall_time(posted["due"], ZONE)
        assert (wall.hour, wall.minute) == (9, 0)
        assert wall.date() == to_wall_time(ada.herald.clock(), ZONE).date() + timedelta(days=1)
    else:
        assert abs(posted["due"] - ada.herald.clock() - after) < timedelta(minutes=1)
    ada.herald.clock.moved += posted["due"] - ada.herald.clock() + timedelta(minutes=1)
    await ada.herald.tick()
    await ada.herald.send()
    first, second = await ada.cards()
    assert lines({"body": second["body"][:1]}) == ["Build 42 failed"]
    await ada.click(second, action_verbs.ACKNOWLEDGE)
    [event] = await responses(ada.herald)
    assert event["data"]["notification"] == {"source": asked.source, "id": asked.id}
    assert "Acknowledged on " in text(await ada.click(first, action_verbs.ACKNOWLEDGE))
    assert len(await responses(ada.herald)) == 1


async def test_what_expires_before_it_would_come_again_is_not_snoozed(ada: Desk) -> None:
    soon = (ada.herald.clock() + timedelta(minutes=30)).isoformat()
    _, card = await ada.get(expiresAt=soon)
    answer = await ada.click(card, action_verbs.SNOOZE_HOUR)
    assert lines(answer) == ["This notification expires before then, so I cannot remind you."]


@pytest.mark.parametrize("command", ["cancel", "recall"])
async def test_what_was_snoozed_is_called_off_with_what_upstream_sent(ada: Desk, command: str) -> None:
    asked, card = await ada.get()
    await ada.click(card, action_verbs.SNOOZE_HOUR)
    await ada.herald.command(command, asked)
    [posted] = [each for each in await rows(ada.herald, "Notifications") if each["source"] == SNOOZES]
    assert posted["state"] == "cancelled"


async def test_what_was_snoozed_comes_as_upstream_has_edited_it(ada: Desk) -> None:
    asked, card = await ada.get()
    await ada.click(card, action_verbs.SNOOZE_HOUR)
    await ada.herald.command("edit", asked, content={"title": "Build 42 is green"})
    ada.herald.clock.moved += timedelta(hours=1, minutes=1)
    await ada.herald.tick()
    await ada.herald.send()
    assert lines({"body": (await ada.cards())[-1]["body"][:1]}) == ["Build 42 is green"]


async def test_why_names_the_rule_and_leads_back(ada: Desk) -> None:
    _, card = await ada.get(category="builds")
    await ada.herald.services.conversations.change_preferences(
        ada.herald.tenant, ReferenceKind.USER, ada.person.object_id, lambda old: replace(old, default=Mode.DIGEST)
    )
    answer = await ada.click(card, action_verbs.WHY)
    assert lines(answer) == [
        "Why did I get this?",
        "It was sent directly to you.",
        "Category Builds: In the digest (your choice for all categories).",
        "Builds: What CI does",
        "To change this, select “Manage” below the notification or write “preferences” to me.",
    ]
    back = await ada.click(answer, action_verbs.SHOW)
    assert back == card


SETTINGS: Sequence[tuple[Callable[[Preferences], Preferences], str, str]] = (
    (lambda old: old, "builds", "Category Builds: Delivered immediately (the default of this category)."),
    (lambda old: old.with_mode("builds", Mode.OFF), "builds", "Category Builds: Off (your choice for this category)."),
    (
        lambda old: replace(old, stopped=True),
        "x",
        "Category x: Off (you turned off all notifications except mandatory ones).",
    ),
    (
        lambda old: replace(old, stopped=True),
        "security",
        "Category Security: Delivered immediately. It is mandatory and cannot be turned off.",
    ),
)


async def test_why_says_where_the_setting_comes_from(ada: Desk) -> None:
    tenant, person = ada.herald.tenant, ada.person.object_id
    for prefer, category, setting in SETTINGS:
        _, card = await ada.get(category=category)
        await ada.herald.services.conversations.change_preferences(tenant, ReferenceKind.USER, person, prefer)
        assert setting in lines(await ada.click(card, action_verbs.WHY))
        await ada.herald.services.conversations.change_preferences(
            tenant, ReferenceKind.USER, person, lambda old: Preferences()
        )


async def test_why_names_the_topic_and_the_team(ada: Desk) -> None:
    services, tenant = ada.herald.services, ada.herald.tenant
    [team] = (await ada.herald.grow(teams=1, members=50)).teams
    seen = {"service_url": ada.herald.teams.service_url, "name": "Platform"}
    await services.conversations.save(tenant, ReferenceKind.TEAM, team.id, seen, at=ada.herald.clock())
    await services.topics.subscribe(tenant, "releases", f"u:{ada.person.object_id}")
    for recipient, line in (
        ({"topic": "releases"}, "You subscribed to the topic releases."),
        ({"team": team.id}, "It was sent to all members of Platform, and you are a member."),
        ({"all": True}, "It was sent to everyone in your organisation who has Herald."),
    ):
        await ada.herald.expand(await ada.herald.ask(recipient, content=CONTENT))
        await ada.herald.send()
        assert line in lines(await ada.click((await ada.cards())[-1], action_verbs.WHY))


async def test_a_refresh_by_teams_answers_the_card_and_records_nothing(ada: Desk) -> None:
    _, card = await ada.get()
    await ada.click(card, action_verbs.ACKNOWLEDGE)
    changes = {"value": {"trigger": "automatic"}}
    body = await ada.invoke("retry", button(card, "retry")["data"], changes=changes)
    assert "Acknowledged on " in text(body["value"])
    assert len(await responses(ada.herald)) == 1


async def test_an_updated_thread_is_answered_with_what_is_newest(ada: Desk) -> None:
    thread = {"key": "build/42", "onRepeat": "update"}
    _, card = await ada.get(thread=thread)
    await ada.herald.ask(user(ada.person), content={"title": "Build 42 is green"}, thread=thread)
    await ada.herald.send()
    answer = await ada.click(card, action_verbs.MUTE)
    assert lines({"body": answer["body"][:1]}) == ["Build 42 is green"]


# What is forged


@dataclass
class World:
    """A delivered card, and all that a click could change."""

    desk: Desk
    card: dict[str, Any]

    async def state(self) -> list[Any]:
        tables = ("Responses", "Notifications", "Deliveries", "Markers", "Timers", "Topics")
        found = [await rows(self.desk.herald, table) for table in tables]
        people = [row["preferences"] for row in await rows(self.desk.herald, "Conversations") if "preferences" in row]
        return [found, people, await responses(self.desk.herald), await tasks(self.desk.herald)]


FORGED = [
    action_verbs.ACKNOWLEDGE,
    "approve",
    action_verbs.STOP,
    action_verbs.SNOOZE_HOUR,
    action_verbs.WHY,
    action_verbs.SHOW,
    action_verbs.PREFERENCES,
]


async def refused(world: World, by: Desk, verb: str, data: dict[str, Any], **more: Any) -> None:
    """The click changes nothing, and is answered by a line that says so."""
    before = await world.state()
    body = await by.invoke(verb, data, **more)
    line = "This action is not available on this card, or no longer available. Nothing was changed."
    if body["type"] == CARD:
        assert lines(body["value"]) == [line]
    else:
        assert body["value"] == line
    assert await world.state() == before


async def world(desk: Desk) -> World:
    _, card = await desk.get(content=None, card=OWN)
    return World(desk, card)


async def test_another_persons_delivery_changes_nothing(ada: Desk, ben: Desk) -> None:
    await ben.herald.know(ben.person, time_zone=ben.person.time_zone)
    of = await world(ada)
    data = button(of.card, action_verbs.WHY)["data"] | {"request": 7}
    for verb in FORGED:
        await refused(of, ben, verb, data)


#: An activity that tells no time zone: else what waits for somebody who was not known is decided anew.
NOWHERE: dict[str, Any] = {"localTimezone": None, "entities": []}


async def test_a_delivery_in_another_tenant_changes_nothing(ada: Desk) -> None:
    of = await world(ada)
    elsewhere = "9c1f6a52-3b7d-4e80-a5c4-2d8e7f0b6a13"
    settings = load_settings(ada.herald.environ | {"HERALD_ALLOWED_TENANTS": f"{ada.herald.tenant},{elsewhere}"})
    herald = replace(ada.herald, services=replace(ada.herald.services, settings=settings))
    async with endpoint(herald) as url:
        changes = {"conversation": {"tenantId": elsewhere}, "channelData": {"tenant": {"id": elsewhere}}, **NOWHERE}
        data = button(of.card, action_verbs.WHY)["data"] | {"request": 7}
        for verb in FORGED:
            await refused(of, replace(ada, endpoint=url), verb, data, changes=changes)


async def test_changed_data_and_actions_that_the_card_has_not_change_nothing(ada: Desk) -> None:
    of = await world(ada)
    forged: Sequence[tuple[str, dict[str, Any]]] = (
        ("approve", {"request": 8}),
        ("approve", {"request": "7"}),
        ("approve", {}),
        ("approveAll", {"request": 7}),
        ("", {"request": 7}),
        ("herald.unheardOf", {}),
        (action_verbs.MUTE, {}),
        (action_verbs.PAUSE, {}),
        (action_verbs.SAMPLE, {}),
    )
    for verb, data in forged:
        await refused(of, ada, verb, data | {"herald": button(of.card, action_verbs.WHY)["data"]["herald"]})


async def test_a_click_on_no_notification_changes_nothing(ada: Desk) -> None:
    of = await world(ada)
    for herald in (None, "x", {}, {"n": 7}, {"n": ""}, {"n": "0" * 64}, {"n": "../x"}, {"n": None}, {"n": ["x"]}):
        await refused(of, ada, "approve", {"request": 7, "herald": herald})


async def test_a_click_that_names_another_activity_changes_nothing(ada: Desk) -> None:
    of = await world(ada)
    await refused(of, ada, "approve", button(of.card, "approve")["data"], reply_to="1700000000000")
    [received] = await ada.herald.teams.received(person=ada.person.object_id)
    await ada.click(of.card, "approve", reply_to=received.id)


async def test_a_recalled_card_changes_nothing(ada: Desk) -> None:
    asked, card = await ada.get(content=None, card=OWN)
    await ada.herald.command("recall", asked)
    await refused(World(ada, card), ada, "approve", button(card, "approve")["data"])


async def test_what_was_not_sent_cannot_be_clicked(ada: Desk) -> None:
    _, card = await ada.get(content=None, card=OWN)
    simulated = await ada.herald.ask(user(ada.person), content=None, card=OWN, simulate=True)
    await ada.herald.send()
    data = button(card, "approve")["data"] | {"herald": {"n": simulated.key}}
    await refused(World(ada, card), ada, "approve", data)


async def test_somebody_without_an_object_id_changes_nothing(ada: Desk) -> None:
    of = await world(ada)
    data = button(of.card, "approve")["data"]
    for changes in ({"from": {"aadObjectId": None}}, {"from": {"aadObjectId": "x"}, **NOWHERE}):
        await refused(of, ada, "approve", data, changes=changes)
        await refused(of, ada, action_verbs.SAVE, {"stopped": "true", "herald": {"was": {}}}, changes=changes)


MALFORMED: Sequence[Any] = (
    None,
    "x",
    [],
    {},
    {"action": None},
    {"action": "x"},
    {"action": {}},
    {"action": {"type": "Action.Submit", "data": {}}},
    {"action": {"type": "Action.Execute", "verb": 7}},
    {"action": {"type": "Action.Execute", "verb": ["x"], "data": {}}},
    {"action": {"type": "Action.Execute", "verb": "approve", "data": "x"}},
    {"action": {"type": "Action.Execute", "verb": "approve", "data": [1]}},
)


async def test_a_malformed_invoke_is_answered_with_an_error_of_the_card(ada: Desk) -> None:
    event = TeamsEvent(kind="cardAction", person=ada.person.object_id, verb="x", endpoint=ada.endpoint)
    [answer] = await ada.herald.teams.send_event(event)
    for value in MALFORMED:
        told = await ada.herald.teams.post(answer.activity | {"value": value}, endpoint=ada.endpoint)
        assert told.status == 200
        body = json.loads(told.body)
        assert (body["statusCode"], body["type"]) == (400, "application/vnd.microsoft.error")
        assert set(body["value"]) == {"code", "message"}


# In a channel or group chat


@pytest.fixture
async def channel(ada: Desk) -> Desk:
    """The desk of Ada in a channel of a team that the app knows."""
    [team] = (await ada.herald.grow(teams=1, members=50)).teams
    place = team.channels[0].id
    services, now = ada.herald.services, ada.herald.clock()
    seen = {"service_url": ada.herald.teams.service_url, "name": team.name}
    await services.conversations.save(ada.herald.tenant, ReferenceKind.TEAM, team.id, seen, at=now)
    await services.conversations.save(
        ada.herald.tenant,
        ReferenceKind.CONVERSATION,
        place,
        seen | {"conversation_type": "channel", "team": team.id},
        at=now,
    )
    return replace(ada, place={"team": team.id, "channel": place})


async def in_channel(desk: Desk, **data: Any) -> tuple[dict[str, Any], Desk]:
    """A card that was sent to the channel, and who stands before it there."""
    conversation = desk.place["channel"]
    await desk.herald.ask({"conversation": conversation}, **({"content": CONTENT} | data))
    await desk.herald.send()
    [received] = await desk.herald.teams.received(conversation=conversation)
    return received.activity["attachments"][0]["content"], replace(desk, place=desk.place | {"thread": received.id})


async def test_in_a_channel_wishes_are_those_of_who_clicked_and_the_card_stays(channel: Desk, ben: Desk) -> None:
    card, ada = await in_channel(channel, category="builds", thread={"key": "x"})
    for verb in (action_verbs.STOP, action_verbs.MUTE, action_verbs.SNOOZE_HOUR):
        body = await ada.invoke(verb, button(card, verb)["data"])
        assert body["type"] == MESSAGE
        assert "personally" in body["value"]
    known = await ada.preferences()
    assert known.categories == {"builds": Mode.OFF}
    assert set(known.mutes) == {mute_key("x")}
    assert await preferences(ada.herald, ben.person) == Preferences()
    there = await ada.herald.services.conversations.get(
        ada.herald.tenant, ReferenceKind.CONVERSATION, ada.place["channel"]
    )
    assert there
    assert there.preferences == Preferences()


async def test_in_a_channel_each_person_answers_for_themselves(channel: Desk, ben: Desk) -> None:
    card, ada = await in_channel(channel)
    data = button(card, "retry")["data"]
    for desk in (ada, replace(ben, place=ada.place)):
        body = await desk.invoke("retry", data)
        assert body["type"] == MESSAGE
        assert body["value"].startswith("Retry: recorded on ")
        assert (await desk.invoke("retry", data))["value"].startswith("Already recorded on ")
    assert {each["data"]["user"]["id"] for each in await responses(ada.herald)} == {
        ada.person.object_id,
        ben.person.object_id,
    }


async def test_in_a_channel_why_tells_the_channels_setting(channel: Desk) -> None:
    card, ada = await in_channel(channel, category="builds")
    body = await ada.invoke(action_verbs.WHY, button(card, action_verbs.WHY)["data"])
    assert body["type"] == MESSAGE
    assert body["value"].startswith("It was sent directly to this conversation. Category Builds: Delivered immediately")


async def test_in_a_channel_preferences_come_to_the_persons_own_chat(channel: Desk) -> None:
    card, ada = await in_channel(channel)
    body = await ada.invoke(action_verbs.PREFERENCES, button(card, action_verbs.PREFERENCES)["data"], repeat=3)
    assert body == {"statusCode": 200, "type": MESSAGE, "value": "I sent your preferences to our personal chat."}
    await ada.herald.send()
    [sent] = await ada.cards()
    assert has(sent, action_verbs.SAVE)


async def test_a_card_of_a_channel_cannot_be_clicked_elsewhere(channel: Desk) -> None:
    card, _ = await in_channel(channel)
    await refused(World(channel, card), replace(channel, place={}), "retry", button(card, "retry")["data"])


# The preferences card


async def form(desk: Desk) -> dict[str, Any]:
    """The preferences card, opened from a notification."""
    _, card = await desk.get()
    return await desk.click(card, action_verbs.PREFERENCES)


async def save(desk: Desk, card: dict[str, Any], **typed: str) -> dict[str, Any]:
    """Save the card with these fields typed, and the others as they are."""
    shown = {each["id"]: each["value"] for each in card["body"] if str(each["type"]).startswith("Input.")}
    return await desk.click(
        card, action_verbs.SAVE, typed=shown | {name.replace("__", "."): each for name, each in typed.items()}
    )


async def test_everything_on_the_preferences_card_is_saved_in_place(ada: Desk) -> None:
    herald = ada.herald
    await herald.services.topics.subscribe(herald.tenant, "releases", f"u:{ada.person.object_id}")
    await herald.services.conversations.change_preferences(
        herald.tenant,
        ReferenceKind.USER,
        ada.person.object_id,
        lambda old: (
            old.with_topic("releases").with_topic("news").mute("x", herald.clock() + timedelta(days=1), herald.clock())
        ),
    )
    card = await form(ada)
    after = await save(
        ada,
        card,
        default="digest",
        category__builds="off",
        time_zone="W. Europe Standard Time",
        quiet="Mon-Fri 18:00-8:00",
        digest="weekly Monday 9:00",
        locale="de",
        own_actions="true",
        unmute="true",
        topic__releases="false",
        pause="tomorrow",
    )
    known = await ada.preferences()
    assert to_wall_time(known.paused_until, ZONE).hour == 9 if known.paused_until else False
    assert replace(known, paused_until=None, version=0) == Preferences(
        default=Mode.DIGEST,
        categories={"builds": Mode.OFF},
        time_zone="Europe/Berlin",
        quiet="mon-fri 18:00-08:00",
        digest="weekly mon 09:00",
        locale="de",
        own_actions=True,
        topics=("news",),
    )
    assert await herald.services.topics.subscribers(herald.tenant, "releases", "", 10) == ([], "")
    assert lines({"body": after["body"][1]["items"]}) == ["✓ Einstellungen gespeichert"]
    assert RecipientTask(herald.tenant, f"u:{ada.person.object_id}", Task.RECONSIDER) in await tasks(herald)
    assert has(await ada.click(after, action_verbs.SHOW), "retry")


async def test_saving_twice_and_at_once_changes_nothing_twice(ada: Desk) -> None:
    card = await form(ada)
    await asyncio.gather(*(save(ada, card, pause="1h", category__builds="off") for _ in range(4)))
    known = await ada.preferences()
    assert known.version == 1
    await save(ada, card, pause="1h", category__builds="off")
    assert await ada.preferences() == known


async def test_an_activity_that_comes_again_undoes_nothing_newer(ada: Desk) -> None:
    """As Teams repeats it, or somebody who kept it."""
    first = {"changes": {"id": "the-first"}}
    _, card = await ada.get()
    stopped = await ada.click(card, action_verbs.STOP, **first)
    assert (await ada.preferences()).categories == {"builds": Mode.OFF}
    await ada.herald.services.conversations.change_preferences(
        ada.herald.tenant, ReferenceKind.USER, ada.person.object_id, lambda old: old.with_mode("builds", Mode.IMMEDIATE)
    )
    again = await ada.click(card, action_verbs.STOP, **first)
    assert (await ada.preferences()).categories == {"builds": Mode.IMMEDIATE}
    assert "You already did this" in text(again)
    assert "You already did this" not in text(stopped)
    await ada.click(card, action_verbs.STOP, changes={"id": "another"})
    assert (await ada.preferences()).categories == {"builds": Mode.OFF}


async def test_a_card_that_is_saved_again_by_the_same_activity_undoes_nothing_newer(ada: Desk) -> None:
    _, card = await ada.get()
    settings = await ada.click(card, action_verbs.PREFERENCES)
    saved = {"typed": {"quiet": "18:00-08:00"}, "changes": {"id": "the-first"}}
    await ada.click(settings, action_verbs.SAVE, **saved)
    assert (await ada.preferences()).quiet == "18:00-08:00"
    await ada.herald.services.conversations.change_preferences(
        ada.herald.tenant, ReferenceKind.USER, ada.person.object_id, lambda old: replace(old, quiet="")
    )
    again = await ada.click(settings, action_verbs.SAVE, **saved)
    assert (await ada.preferences()).quiet == ""
    assert "You already did this" in text(again)


async def test_an_old_card_does_not_undo_newer_changes(ada: Desk) -> None:
    card = await form(ada)
    await save(ada, card, category__builds="off", quiet="sat,sun")
    await save(ada, card, category__news="immediate")
    known = await ada.preferences()
    assert (known.categories, known.quiet) == ({"builds": Mode.OFF, "news": Mode.IMMEDIATE}, "sat,sun")


async def test_what_cannot_be_read_is_said_at_its_field_and_nothing_is_lost(ada: Desk) -> None:
    card = await form(ada)
    forged = {"default": "loud"}
    after = await save(
        ada, card, time_zone="Berlin", quiet="whenever", digest="daily 9:00", category__builds="off", **forged
    )
    assert await ada.preferences() == Preferences()
    fields = {each.get("id"): each for each in after["body"]}
    at = {each["id"]: after["body"][number + 1] for number, each in enumerate(after["body"][:-1]) if each.get("id")}
    assert "did you mean Europe/Berlin?" in lines({"body": [at["time_zone"]]})[0]
    assert "is not a day of the week" in lines({"body": [at["quiet"]]})[0]
    assert lines({"body": [at["default"]]}) == ["one of immediate, digest, off"]
    assert fields["digest"]["value"] == "daily 9:00"
    assert fields["category.builds"]["value"] == "off"
    await save(ada, after, time_zone="Europe/Berlin", quiet="", default="declared")
    known = await ada.preferences()
    assert (known.time_zone, known.digest, known.categories) == ("Europe/Berlin", "daily 09:00", {"builds": Mode.OFF})


async def test_a_mandatory_category_cannot_be_switched_off_by_a_forged_field(ada: Desk) -> None:
    card = await form(ada)
    assert "Security: mandatory, always on" in text(card)
    await save(ada, card, category__security="off", category__unheard="off")
    assert await ada.preferences() == Preferences()


async def test_a_field_that_no_card_sends_changes_nothing(ada: Desk) -> None:
    for data in ({"default": "loud"}, {"stopped": 7}, {"pause": "x" * 400}, {"quiet": "x" * 400}, {"version": "9"}):
        await ada.invoke(action_verbs.SAVE, {"herald": {"was": "x"}, **data})
    assert await ada.preferences() == Preferences()


async def test_in_a_channel_the_card_is_about_the_channel(channel: Desk) -> None:
    data = {"herald": {"was": {"quiet": ""}}, "quiet": "sat,sun"}
    body = await channel.invoke(action_verbs.SAVE, data)
    assert body["type"] == CARD
    there = await channel.herald.services.conversations.get(
        channel.herald.tenant, ReferenceKind.CONVERSATION, channel.place["channel"]
    )
    assert there
    assert there.preferences.quiet == "sat,sun"
    assert await channel.preferences() == Preferences()
