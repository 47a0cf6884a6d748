"""Card actions through the real endpoint: signed invokes come in, rows, messages and cards come out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from local.fake_teams.api import TeamsEvent
from messages.card_actions.snooze import SNOOZE_SOURCE
from shared.cards import action_verbs
from shared.cards.validation import find_faults
from shared.preferences.categories import Categories, Category
from shared.preferences.preferences import Preferences, mute_key
from shared.queue_messages import RECIPIENTS, RESPONSES, RecipientTask, Task
from shared.settings import load_settings
from shared.states import Mode, ReferenceKind
from shared.time.localtime import load_zone, to_wall_time
from tests.messages.users import (
    CARD,
    CONTENT,
    MESSAGE,
    CardUser,
    card_lines,
    card_text,
    find_button,
    find_buttons,
    has_button,
    load_preferences,
    reported_responses,
    serve_endpoint,
)
from tests.support.herald import Herald, user

CATEGORIES = Categories(
    [
        Category(name="security", title="Security", mandatory=True),
        Category(name="builds", title="Builds", description="What CI does"),
        Category(name="news", title="News", default=Mode.DIGEST),
    ]
)
UPSTREAM_CARD = {
    "type": "AdaptiveCard",
    "version": "1.4",
    "body": [{"type": "TextBlock", "text": "Approve?"}, {"type": "Input.Text", "id": "comment"}],
    "actions": [
        {"type": "Action.Execute", "title": "Yes", "verb": "approve", "data": {"request": 7}},
        {"type": "Action.Execute", "title": "No", "verb": "reject", "data": {"request": 7}},
    ],
}
ZONE = load_zone("Europe/Berlin")


async def load_rows(herald: Herald, table: str) -> list[dict[str, Any]]:
    return [dict(row) async for row in herald.outside_tables.get_table_client(f"Herald{table}").list_entities()]


async def recipient_tasks(herald: Herald) -> list[RecipientTask]:
    queue = herald.outside_queues.get_queue_client(RECIPIENTS)
    return [RecipientTask.decode(each.content.encode()) for each in await queue.peek_messages(32)]


@pytest.fixture
async def herald(herald: Herald) -> Herald:
    herald.services = replace(herald.services, categories=CATEGORIES)
    return herald


@pytest.fixture
async def ada(herald: Herald) -> AsyncIterator[CardUser]:
    [person] = (await herald.grow(people=1, locale="en-GB", time_zone="Europe/Berlin")).people
    await herald.store_reference(person, time_zone="Europe/Berlin", locale="en-GB")
    async with serve_endpoint(herald) as url:
        yield CardUser(herald, url, person)


@pytest.fixture
async def ben(herald: Herald, ada: CardUser) -> CardUser:
    [person] = (await herald.grow(people=1)).people
    await herald.store_reference(person)
    return replace(ada, person=person)


async def test_card_has_all_buttons(ada: CardUser) -> None:
    _, card = await ada.receive_notification(thread={"key": "build/42"})
    assert find_faults(card) == []
    assert [each["title"] for each in find_buttons(card)][:2] == ["Retry", "Acknowledge"]
    for verb in (
        action_verbs.WHY,
        action_verbs.MUTE,
        action_verbs.TO_DIGEST,
        action_verbs.STOP,
        action_verbs.SNOOZE_HOUR,
        action_verbs.SNOOZE_TOMORROW,
        action_verbs.PREFERENCES,
    ):
        assert has_button(card, verb)


async def test_card_has_no_mute_without_a_thread_and_no_stop_if_mandatory(ada: CardUser) -> None:
    _, card = await ada.receive_notification(category="builds")
    assert not has_button(card, action_verbs.MUTE)
    _, card = await ada.receive_notification(category="security", thread={"key": "x"})
    assert not has_button(card, action_verbs.STOP)
    assert not has_button(card, action_verbs.MUTE)
    assert "Security · mandatory" in card_text(card)


async def test_acknowledgement_is_recorded_and_reported_once(ada: CardUser) -> None:
    notification, card = await ada.receive_notification()
    after = await ada.click(card, action_verbs.ACKNOWLEDGE)
    assert "Acknowledged on " in card_text(after)
    assert not has_button(after, action_verbs.ACKNOWLEDGE)
    assert has_button(after, "retry")
    again = await ada.click(card, action_verbs.ACKNOWLEDGE)
    assert "Already recorded on " in card_text(again)
    [event] = await reported_responses(ada.herald)
    assert event["specversion"] == "1.0"
    assert (event["type"], event["source"]) == ("herald.response.v1", "/herald")
    assert event["data"] == {
        "tenant": ada.herald.tenant,
        "notification": {"source": notification.source, "id": notification.id},
        "action": action_verbs.ACKNOWLEDGE,
        "user": {"id": ada.person.object_id},
        "conversation": {"id": ada.person.conversation},
        "inputs": {},
    }
    [row] = await load_rows(ada.herald, "Responses")
    assert (row["person"], row["action"], row["reported"]) == (ada.person.object_id, action_verbs.ACKNOWLEDGE, True)
    assert event["time"] == row["at"].isoformat()


async def test_response_returns_the_reference_that_the_row_keeps(ada: CardUser) -> None:
    reference = "Order \U0001f600 42"
    notification, card = await ada.receive_notification(reference=reference)
    await ada.click(card, "retry")
    await ada.click(card, action_verbs.SNOOZE_HOUR)
    await ada.herald.command("edit", notification, content=CONTENT | {"title": "Build 43 failed"})
    [event] = await reported_responses(ada.herald)
    assert event["data"]["notification"] == {
        "source": notification.source, "id": notification.id, "reference": reference
    }  # fmt: skip
    rows = [row for row in await load_rows(ada.herald, "Notifications") if row["purpose"] in ("notification", "snooze")]
    assert [row["reference"] for row in rows] == [reference] * 2


async def test_answer_shows_mentions_as_the_delivered_card_does(ada: CardUser) -> None:
    mentions = [{"name": "Ada", "user": ada.person.object_id}]
    _, card = await ada.receive_notification(content=CONTENT | {"text": "For <at>Ada</at>", "mentions": mentions})
    for shown in (card, await ada.click(card, "retry")):
        assert card_lines({"body": shown["body"][1:2]}) == ["For **Ada**"]
        assert "msteams" not in shown


async def test_concurrent_clicks_and_repeated_invokes_record_one_response(ada: CardUser) -> None:
    _, card = await ada.receive_notification()
    await asyncio.gather(*(ada.click(card, "retry", repeat=3) for _ in range(4)))
    assert len(await reported_responses(ada.herald)) == 1
    assert len(await load_rows(ada.herald, "Responses")) == 1


async def test_response_that_was_not_reported_is_reported_by_the_next_click(
    ada: CardUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, card = await ada.receive_notification()
    put = ada.herald.services.queues.put

    async def fail(name: str, text: str, delay: float = 0) -> None:
        if name == RESPONSES:
            raise TimeoutError
        await put(name, text, delay)

    with monkeypatch.context() as patched:
        patched.setattr(ada.herald.services.queues, "put", fail)
        event = TeamsEvent(
            kind="cardAction",
            person=ada.person.object_id,
            verb="retry",
            data=find_button(card, "retry")["data"],
            endpoint=ada.endpoint,
        )
        [answer] = await ada.herald.teams.send_event(event)
        assert answer.status == 503
    [row] = await load_rows(ada.herald, "Responses")
    await ada.click(card, "retry")
    [response] = await reported_responses(ada.herald)
    assert response["time"] == row["at"].isoformat()


async def test_response_to_an_upstream_card_has_its_data_and_inputs(ada: CardUser) -> None:
    _, card = await ada.receive_notification(content=None, card=UPSTREAM_CARD)
    assert find_faults(card) == []
    assert card["version"] == "1.5"
    after = await ada.click(card, "approve", typed={"comment": "Fine", "stray": 1})
    assert "Yes: recorded on " in card_text(after)
    assert not has_button(after, "approve")
    assert has_button(after, "reject")
    [event] = await reported_responses(ada.herald)
    assert event["data"]["inputs"] == {"request": 7, "comment": "Fine"}


async def test_response_too_long_for_the_queue_is_refused(ada: CardUser) -> None:
    _, card = await ada.receive_notification(content=None, card=UPSTREAM_CARD)
    after = await ada.click(card, "approve", typed={"comment": "é" * 11_000})
    assert card_lines(after) == ["Your text is too long. Nothing was recorded."]
    assert await load_rows(ada.herald, "Responses") == []


async def test_thread_is_muted_for_7_days_and_a_second_click_does_not_prolong_it(ada: CardUser) -> None:
    _, card = await ada.receive_notification(thread={"key": "build/42"})
    before = ada.herald.clock()
    after = await ada.click(card, action_verbs.MUTE)
    assert "This thread is muted until" in card_text(after)
    until = (await ada.load_preferences()).mutes[mute_key("build/42")]
    assert timedelta(days=7) <= until - before <= timedelta(days=7, minutes=1)
    await asyncio.gather(*(ada.click(card, action_verbs.MUTE) for _ in range(3)))
    assert (await ada.load_preferences()).mutes == {mute_key("build/42"): until}
    assert {each.task for each in await recipient_tasks(ada.herald)} == {Task.RECONSIDER}


@pytest.mark.parametrize(("verb", "mode"), [(action_verbs.TO_DIGEST, Mode.DIGEST), (action_verbs.STOP, Mode.OFF)])
async def test_button_changes_the_mode_of_its_category_only(ada: CardUser, verb: str, mode: Mode) -> None:
    _, card = await ada.receive_notification(category="builds")
    await ada.click(card, verb)
    stored = await ada.load_preferences()
    assert (stored.categories, stored.version) == ({"builds": mode}, 1)
    await ada.click(card, verb)
    assert (await ada.load_preferences()).version == 1
    stopped, _ = await ada.receive_notification(category="builds")
    assert (await ada.herald.row(stopped, f"u:{ada.person.object_id}"))["state"] != "sent"
    other, _ = await ada.receive_notification(category="other")
    assert (await ada.herald.row(other, f"u:{ada.person.object_id}"))["state"] == "sent"


@pytest.mark.parametrize(
    ("verb", "after"), [(action_verbs.SNOOZE_HOUR, timedelta(hours=1)), (action_verbs.SNOOZE_TOMORROW, None)]
)
async def test_snoozed_message_is_sent_again_once_with_all_buttons(
    ada: CardUser, verb: str, after: timedelta | None
) -> None:
    notification, card = await ada.receive_notification(thread={"key": "build/42", "onRepeat": "update"}, schedule=None)
    answer = await ada.click(card, verb)
    assert "Reminder set for " in card_text(answer)
    await asyncio.gather(*(ada.click(card, verb) for _ in range(3)))
    await ada.herald.handle_messages()
    assert len(await ada.received_cards()) == 1
    [posted] = [each for each in await load_rows(ada.herald, "Notifications") if each["source"] == SNOOZE_SOURCE]
    if after is None:
        wall = to_wall_time(posted["due"], ZONE)
        assert (wall.hour, wall.minute) == (9, 0)
        assert wall.date() == to_wall_time(ada.herald.clock(), ZONE).date() + timedelta(days=1)
    else:
        assert abs(posted["due"] - ada.herald.clock() - after) < timedelta(minutes=1)
    ada.herald.clock.offset += posted["due"] - ada.herald.clock() + timedelta(minutes=1)
    await ada.herald.tick()
    await ada.herald.handle_messages()
    first, second = await ada.received_cards()
    assert card_lines({"body": second["body"][:1]}) == ["Build 42 failed"]
    await ada.click(second, action_verbs.ACKNOWLEDGE)
    [event] = await reported_responses(ada.herald)
    assert event["data"]["notification"] == {"source": notification.source, "id": notification.id}
    assert "Acknowledged on " in card_text(await ada.click(first, action_verbs.ACKNOWLEDGE))
    assert len(await reported_responses(ada.herald)) == 1


async def test_message_that_expires_before_its_snooze_ends_is_not_snoozed(ada: CardUser) -> None:
    soon = (ada.herald.clock() + timedelta(minutes=30)).isoformat()
    _, card = await ada.receive_notification(expiresAt=soon)
    answer = await ada.click(card, action_verbs.SNOOZE_HOUR)
    assert card_lines(answer) == ["This notification expires before then, so I cannot remind you."]


@pytest.mark.parametrize("command", ["cancel", "recall"])
async def test_snoozed_copy_is_cancelled_with_the_original(ada: CardUser, command: str) -> None:
    notification, card = await ada.receive_notification()
    await ada.click(card, action_verbs.SNOOZE_HOUR)
    await ada.herald.command(command, notification)
    [posted] = [each for each in await load_rows(ada.herald, "Notifications") if each["source"] == SNOOZE_SOURCE]
    assert posted["state"] == "cancelled"


async def test_snoozed_copy_is_edited_with_the_original(ada: CardUser) -> None:
    notification, card = await ada.receive_notification()
    await ada.click(card, action_verbs.SNOOZE_HOUR)
    await ada.herald.command("edit", notification, content={"title": "Build 42 is green"})
    ada.herald.clock.offset += timedelta(hours=1, minutes=1)
    await ada.herald.tick()
    await ada.herald.handle_messages()
    assert card_lines({"body": (await ada.received_cards())[-1]["body"][:1]}) == ["Build 42 is green"]


async def test_explanation_names_the_setting_and_has_a_way_back(ada: CardUser) -> None:
    _, card = await ada.receive_notification(category="builds")
    await ada.herald.services.conversations.change_preferences(
        ada.herald.tenant, ReferenceKind.USER, ada.person.object_id, lambda old: replace(old, default=Mode.DIGEST)
    )
    answer = await ada.click(card, action_verbs.WHY)
    assert card_lines(answer) == [
        "Why did I get this?",
        "It was sent directly to you.",
        "Category Builds: In the digest (your choice for all categories).",
        "Builds: What CI does",
        "To change this, select “Manage” below the notification or write “preferences” to me.",
    ]
    back = await ada.click(answer, action_verbs.SHOW)
    assert back == card


SETTING_LINES: Sequence[tuple[Callable[[Preferences], Preferences], str, str]] = (
    (lambda old: old, "builds", "Category Builds: Delivered immediately (the default of this category)."),
    (lambda old: old.with_mode("builds", Mode.OFF), "builds", "Category Builds: Off (your choice for this category)."),
    (
        lambda old: replace(old, stopped=True),
        "x",
        "Category X: Off (you turned off all notifications except mandatory ones).",
    ),
    (
        lambda old: replace(old, stopped=True),
        "security",
        "Category Security: Delivered immediately. It is mandatory and cannot be turned off.",
    ),
)


async def test_explanation_says_where_the_setting_comes_from(ada: CardUser) -> None:
    tenant, person = ada.herald.tenant, ada.person.object_id
    for change, category, line in SETTING_LINES:
        _, card = await ada.receive_notification(category=category)
        await ada.herald.services.conversations.change_preferences(tenant, ReferenceKind.USER, person, change)
        assert line in card_lines(await ada.click(card, action_verbs.WHY))
        await ada.herald.services.conversations.change_preferences(
            tenant, ReferenceKind.USER, person, lambda old: Preferences()
        )


async def test_explanation_names_the_topic_and_the_team(ada: CardUser) -> None:
    services, tenant = ada.herald.services, ada.herald.tenant
    [team] = (await ada.herald.grow(teams=1, members=50)).teams
    observed = {"service_url": ada.herald.teams.service_url, "name": "Platform"}
    await services.conversations.save(tenant, ReferenceKind.TEAM, team.id, observed, at=ada.herald.clock())
    await services.topics.subscribe(tenant, "releases", f"u:{ada.person.object_id}")
    for recipient, line in (
        ({"topic": "releases"}, "You subscribed to the topic releases."),
        ({"team": team.id}, "It was sent to all members of Platform, and you are a member."),
        ({"all": True}, "It was sent to everyone in your organisation who has Herald."),
    ):
        await ada.herald.expand(await ada.herald.submit(recipient, content=CONTENT))
        await ada.herald.handle_messages()
        assert line in card_lines(await ada.click((await ada.received_cards())[-1], action_verbs.WHY))


async def test_refresh_by_teams_returns_the_card_and_records_nothing(ada: CardUser) -> None:
    _, card = await ada.receive_notification()
    await ada.click(card, action_verbs.ACKNOWLEDGE)
    changes = {"value": {"trigger": "automatic"}}
    body = await ada.invoke("retry", find_button(card, "retry")["data"], changes=changes)
    assert "Acknowledged on " in card_text(body["value"])
    assert len(await reported_responses(ada.herald)) == 1


async def test_answer_shows_the_latest_notification_of_an_updated_thread(ada: CardUser) -> None:
    thread = {"key": "build/42", "onRepeat": "update"}
    _, card = await ada.receive_notification(thread=thread)
    await ada.herald.submit(user(ada.person), content={"title": "Build 42 is green"}, thread=thread)
    await ada.herald.handle_messages()
    answer = await ada.click(card, action_verbs.MUTE)
    assert card_lines({"body": answer["body"][:1]}) == ["Build 42 is green"]


# Forged actions


@dataclass
class DeliveredCard:
    """A delivered card, and everything that a click could change."""

    user: CardUser
    card: dict[str, Any]

    async def state(self) -> list[Any]:
        tables = ("Responses", "Notifications", "Deliveries", "Markers", "Timers", "Topics")
        stored = [await load_rows(self.user.herald, table) for table in tables]
        conversations = await load_rows(self.user.herald, "Conversations")
        preferences = [row["preferences"] for row in conversations if "preferences" in row]
        tasks = await recipient_tasks(self.user.herald)
        return [stored, preferences, await reported_responses(self.user.herald), tasks]


FORGED = [
    action_verbs.ACKNOWLEDGE,
    "approve",
    action_verbs.STOP,
    action_verbs.SNOOZE_HOUR,
    action_verbs.WHY,
    action_verbs.SHOW,
    action_verbs.PREFERENCES,
]


async def assert_refused(delivered: DeliveredCard, by: CardUser, verb: str, data: dict[str, Any], **more: Any) -> None:
    """The click changes nothing, and is answered with a line that says so."""
    before = await delivered.state()
    body = await by.invoke(verb, data, **more)
    line = "This action is not available on this card, or no longer available. Nothing was changed."
    if body["type"] == CARD:
        assert card_lines(body["value"]) == [line]
    else:
        assert body["value"] == line
    assert await delivered.state() == before


async def deliver_card(card_user: CardUser) -> DeliveredCard:
    _, card = await card_user.receive_notification(content=None, card=UPSTREAM_CARD)
    return DeliveredCard(card_user, card)


async def test_click_on_another_persons_delivery_is_refused(ada: CardUser, ben: CardUser) -> None:
    await ben.herald.store_reference(ben.person, time_zone=ben.person.time_zone)
    delivered = await deliver_card(ada)
    data = find_button(delivered.card, action_verbs.WHY)["data"] | {"request": 7}
    for verb in FORGED:
        await assert_refused(delivered, ben, verb, data)


#: An activity without a time zone. The first time zone of a person would enqueue a re-evaluation.
NO_ZONE: dict[str, Any] = {"localTimezone": None, "entities": []}


async def test_click_from_another_tenant_is_refused(ada: CardUser) -> None:
    delivered = await deliver_card(ada)
    other = "9c1f6a52-3b7d-4e80-a5c4-2d8e7f0b6a13"
    settings = load_settings(ada.herald.environ | {"HERALD_ALLOWED_TENANTS": f"{ada.herald.tenant},{other}"})
    herald = replace(ada.herald, services=replace(ada.herald.services, settings=settings))
    async with serve_endpoint(herald) as url:
        changes = {"conversation": {"tenantId": other}, "channelData": {"tenant": {"id": other}}, **NO_ZONE}
        data = find_button(delivered.card, action_verbs.WHY)["data"] | {"request": 7}
        for verb in FORGED:
            await assert_refused(delivered, replace(ada, endpoint=url), verb, data, changes=changes)


async def test_forged_data_and_verbs_are_refused(ada: CardUser) -> None:
    delivered = await deliver_card(ada)
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
        await assert_refused(
            delivered, ada, verb, data | {"herald": find_button(delivered.card, action_verbs.WHY)["data"]["herald"]}
        )


async def test_click_without_a_valid_notification_is_refused(ada: CardUser) -> None:
    delivered = await deliver_card(ada)
    for herald in (None, "x", {}, {"n": 7}, {"n": ""}, {"n": "0" * 64}, {"n": "../x"}, {"n": None}, {"n": ["x"]}):
        await assert_refused(delivered, ada, "approve", {"request": 7, "herald": herald})


async def test_click_that_names_another_activity_is_refused(ada: CardUser) -> None:
    delivered = await deliver_card(ada)
    await assert_refused(
        delivered, ada, "approve", find_button(delivered.card, "approve")["data"], reply_to="1700000000000"
    )
    [received] = await ada.herald.teams.received(person=ada.person.object_id)
    await ada.click(delivered.card, "approve", reply_to=received.id)


async def test_click_on_a_recalled_card_is_refused(ada: CardUser) -> None:
    notification, card = await ada.receive_notification(content=None, card=UPSTREAM_CARD)
    await ada.herald.command("recall", notification)
    await assert_refused(DeliveredCard(ada, card), ada, "approve", find_button(card, "approve")["data"])


async def test_click_on_a_delivery_that_was_not_sent_is_refused(ada: CardUser) -> None:
    _, card = await ada.receive_notification(content=None, card=UPSTREAM_CARD)
    simulated = await ada.herald.submit(user(ada.person), content=None, card=UPSTREAM_CARD, simulate=True)
    await ada.herald.handle_messages()
    data = find_button(card, "approve")["data"] | {"herald": {"n": simulated.key}}
    await assert_refused(DeliveredCard(ada, card), ada, "approve", data)


async def test_click_without_a_valid_object_id_is_refused(ada: CardUser) -> None:
    delivered = await deliver_card(ada)
    data = find_button(delivered.card, "approve")["data"]
    for changes in ({"from": {"aadObjectId": None}}, {"from": {"aadObjectId": "x"}, **NO_ZONE}):
        await assert_refused(delivered, ada, "approve", data, changes=changes)
        await assert_refused(
            delivered, ada, action_verbs.SAVE, {"stopped": "true", "herald": {"was": {}}}, changes=changes
        )


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


async def test_malformed_invoke_is_answered_with_a_card_error(ada: CardUser) -> None:
    event = TeamsEvent(kind="cardAction", person=ada.person.object_id, verb="x", endpoint=ada.endpoint)
    [answer] = await ada.herald.teams.send_event(event)
    for value in MALFORMED:
        malformed = await ada.herald.teams.post(answer.activity | {"value": value}, endpoint=ada.endpoint)
        assert malformed.status == 200
        body = json.loads(malformed.body)
        assert (body["statusCode"], body["type"]) == (400, "application/vnd.microsoft.error")
        assert set(body["value"]) == {"code", "message"}


# In a channel or group chat


@pytest.fixture
async def channel(ada: CardUser) -> CardUser:
    """Ada in a channel of a team whose reference is stored."""
    [team] = (await ada.herald.grow(teams=1, members=50)).teams
    channel = team.channels[0].id
    services, now = ada.herald.services, ada.herald.clock()
    observed = {"service_url": ada.herald.teams.service_url, "name": team.name}
    await services.conversations.save(ada.herald.tenant, ReferenceKind.TEAM, team.id, observed, at=now)
    await services.conversations.save(
        ada.herald.tenant,
        ReferenceKind.CONVERSATION,
        channel,
        observed | {"conversation_type": "channel", "team": team.id},
        at=now,
    )
    return replace(ada, location={"team": team.id, "channel": channel})


async def post_in_channel(card_user: CardUser, **data: Any) -> tuple[dict[str, Any], CardUser]:
    """Send a card to the channel; returns it, and the user in its thread."""
    conversation = card_user.location["channel"]
    await card_user.herald.submit({"conversation": conversation}, **({"content": CONTENT} | data))
    await card_user.herald.handle_messages()
    [received] = await card_user.herald.teams.received(conversation=conversation)
    return received.activity["attachments"][0]["content"], replace(
        card_user, location=card_user.location | {"thread": received.id}
    )


async def test_personal_actions_in_a_channel_change_the_preferences_of_the_person_who_clicked(
    channel: CardUser, ben: CardUser
) -> None:
    card, ada = await post_in_channel(channel, category="builds", thread={"key": "x"})
    for verb in (action_verbs.STOP, action_verbs.MUTE, action_verbs.SNOOZE_HOUR):
        body = await ada.invoke(verb, find_button(card, verb)["data"])
        assert body["type"] == MESSAGE
        assert "personally" in body["value"]
    stored = await ada.load_preferences()
    assert stored.categories == {"builds": Mode.OFF}
    assert set(stored.mutes) == {mute_key("x")}
    assert await load_preferences(ada.herald, ben.person) == Preferences()
    reference = await ada.herald.services.conversations.get(
        ada.herald.tenant, ReferenceKind.CONVERSATION, ada.location["channel"]
    )
    assert reference
    assert reference.preferences == Preferences()


async def test_responses_in_a_channel_are_recorded_for_each_person(channel: CardUser, ben: CardUser) -> None:
    card, ada = await post_in_channel(channel)
    data = find_button(card, "retry")["data"]
    for card_user in (ada, replace(ben, location=ada.location)):
        body = await card_user.invoke("retry", data)
        assert body["type"] == MESSAGE
        assert body["value"].startswith("Retry: recorded on ")
        assert (await card_user.invoke("retry", data))["value"].startswith("Already recorded on ")
    assert {each["data"]["user"]["id"] for each in await reported_responses(ada.herald)} == {
        ada.person.object_id,
        ben.person.object_id,
    }


async def test_explanation_in_a_channel_names_the_setting_of_the_channel(channel: CardUser) -> None:
    card, ada = await post_in_channel(channel, category="builds")
    body = await ada.invoke(action_verbs.WHY, find_button(card, action_verbs.WHY)["data"])
    assert body["type"] == MESSAGE
    assert body["value"].startswith("It was sent directly to this conversation. Category Builds: Delivered immediately")


async def test_preferences_opened_in_a_channel_are_sent_to_the_persons_own_chat(channel: CardUser) -> None:
    card, ada = await post_in_channel(channel)
    body = await ada.invoke(action_verbs.PREFERENCES, find_button(card, action_verbs.PREFERENCES)["data"], repeat=3)
    assert body == {"statusCode": 200, "type": MESSAGE, "value": "I sent your preferences to our personal chat."}
    await ada.herald.handle_messages()
    [sent] = await ada.received_cards()
    assert has_button(sent, action_verbs.SAVE)


async def test_click_on_a_channel_card_from_elsewhere_is_refused(channel: CardUser) -> None:
    card, _ = await post_in_channel(channel)
    await assert_refused(
        DeliveredCard(channel, card), replace(channel, location={}), "retry", find_button(card, "retry")["data"]
    )


# The preferences card


async def open_preferences(card_user: CardUser) -> dict[str, Any]:
    """Open the preferences card from a notification."""
    _, card = await card_user.receive_notification()
    return await card_user.click(card, action_verbs.PREFERENCES)


async def save_preferences(card_user: CardUser, card: dict[str, Any], **typed: str) -> dict[str, Any]:
    """Save the card with these fields changed. `__` in a name is a dot."""
    shown = {each["id"]: each["value"] for each in card["body"] if str(each["type"]).startswith("Input.")}
    return await card_user.click(
        card, action_verbs.SAVE, typed=shown | {name.replace("__", "."): each for name, each in typed.items()}
    )


async def test_all_fields_of_the_preferences_card_are_saved(ada: CardUser) -> None:
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
    card = await open_preferences(ada)
    after = await save_preferences(
        ada,
        card,
        default="digest",
        category__builds="off",
        time_zone="W. Europe Standard Time",
        quiet_from="18:00",
        quiet_to="08:00",
        quiet_days="sun",
        digest_days="mon",
        digest_time="09:00",
        locale="de",
        own_actions="true",
        unmute="true",
        topic__releases="false",
        pause="tomorrow",
    )
    stored = await ada.load_preferences()
    assert to_wall_time(stored.paused_until, ZONE).hour == 9 if stored.paused_until else False
    assert replace(stored, paused_until=None, version=0) == Preferences(
        default=Mode.DIGEST,
        categories={"builds": Mode.OFF},
        time_zone="Europe/Berlin",
        quiet="18:00-08:00; sun",
        digest="weekly mon 09:00",
        locale="de",
        own_actions=True,
        topics=("news",),
    )
    assert await herald.services.topics.subscribers(herald.tenant, "releases", "", 10) == ([], "")
    assert card_lines({"body": after["body"][1]["items"]}) == ["✓ Einstellungen gespeichert"]
    assert RecipientTask(herald.tenant, f"u:{ada.person.object_id}", Task.RECONSIDER) in await recipient_tasks(herald)
    assert has_button(await ada.click(after, action_verbs.SHOW), "retry")


async def test_concurrent_and_repeated_saves_change_preferences_once(ada: CardUser) -> None:
    card = await open_preferences(ada)
    await asyncio.gather(*(save_preferences(ada, card, pause="1h", category__builds="off") for _ in range(4)))
    stored = await ada.load_preferences()
    assert stored.version == 1
    await save_preferences(ada, card, pause="1h", category__builds="off")
    assert await ada.load_preferences() == stored


async def test_repeated_click_does_not_undo_newer_changes(ada: CardUser) -> None:
    """The activity may be repeated by Teams, or by an attacker."""
    first = {"changes": {"id": "the-first"}}
    _, card = await ada.receive_notification()
    stopped = await ada.click(card, action_verbs.STOP, **first)
    assert (await ada.load_preferences()).categories == {"builds": Mode.OFF}
    await ada.herald.services.conversations.change_preferences(
        ada.herald.tenant, ReferenceKind.USER, ada.person.object_id, lambda old: old.with_mode("builds", Mode.IMMEDIATE)
    )
    again = await ada.click(card, action_verbs.STOP, **first)
    assert (await ada.load_preferences()).categories == {"builds": Mode.IMMEDIATE}
    assert "You already did this" in card_text(again)
    assert "You already did this" not in card_text(stopped)
    await ada.click(card, action_verbs.STOP, changes={"id": "another"})
    assert (await ada.load_preferences()).categories == {"builds": Mode.OFF}


async def test_repeated_save_does_not_undo_newer_changes(ada: CardUser) -> None:
    _, card = await ada.receive_notification()
    settings = await ada.click(card, action_verbs.PREFERENCES)
    saved = {"typed": {"quiet_from": "18:00", "quiet_to": "08:00"}, "changes": {"id": "the-first"}}
    await ada.click(settings, action_verbs.SAVE, **saved)
    assert (await ada.load_preferences()).quiet == "18:00-08:00"
    await ada.herald.services.conversations.change_preferences(
        ada.herald.tenant, ReferenceKind.USER, ada.person.object_id, lambda old: replace(old, quiet="")
    )
    again = await ada.click(settings, action_verbs.SAVE, **saved)
    assert (await ada.load_preferences()).quiet == ""
    assert "You already did this" in card_text(again)


async def test_old_preferences_card_does_not_undo_newer_changes(ada: CardUser) -> None:
    card = await open_preferences(ada)
    await save_preferences(ada, card, category__builds="off", quiet_days="sat,sun")
    await save_preferences(ada, card, category__news="immediate")
    stored = await ada.load_preferences()
    assert (stored.categories, stored.quiet) == ({"builds": Mode.OFF, "news": Mode.IMMEDIATE}, "sat,sun")


async def test_invalid_fields_show_their_errors_and_typed_values_remain(ada: CardUser) -> None:
    card = await open_preferences(ada)
    forged = {"default": "loud"}
    after = await save_preferences(
        ada, card, time_zone="Berlni", quiet_from="18:00", digest_days="daily", category__builds="off", **forged
    )
    assert await ada.load_preferences() == Preferences()
    fields = {each.get("id"): each for each in after["body"]}
    at = {each["id"]: after["body"][number + 1] for number, each in enumerate(after["body"][:-1]) if each.get("id")}
    assert "Did you mean Europe/Berlin?" in card_lines({"body": [at["time_zone"]]})[0]
    assert card_lines({"body": [at["quiet_from"]]}) == ["Set both times, or none."]
    assert card_lines({"body": [at["default"]]}) == ["Choose one of the modes of the list."]
    assert fields["digest_days"]["value"] == "daily"
    assert fields["category.builds"]["value"] == "off"
    await save_preferences(ada, after, time_zone="Europe/Berlin", quiet_from="", default="declared")
    stored = await ada.load_preferences()
    assert (stored.time_zone, stored.digest, stored.categories) == (
        "Europe/Berlin",
        "daily 09:00",
        {"builds": Mode.OFF},
    )


async def test_category_that_notifications_use_is_on_the_card_although_it_is_not_declared(ada: CardUser) -> None:
    await ada.herald.submit(user(ada.person), category="deploys")
    await ada.herald.submit(user(ada.person), category="deploys")
    card = await open_preferences(ada)
    [field] = [each for each in card["body"] if each.get("id") == "category.deploys"]
    assert field["label"] == "Deploys"
    await save_preferences(ada, card, category__deploys="off")
    assert (await ada.load_preferences()).categories == {"deploys": Mode.OFF}


async def test_forged_field_cannot_turn_off_a_mandatory_category(ada: CardUser) -> None:
    card = await open_preferences(ada)
    assert "Security: mandatory, always on" in card_text(card)
    await save_preferences(ada, card, category__security="off", category__unheard="off")
    assert await ada.load_preferences() == Preferences()


async def test_invalid_field_values_change_nothing(ada: CardUser) -> None:
    for data in (
        {"default": "loud"},
        {"stopped": 7},
        {"pause": "x" * 400},
        {"quiet_from": "x" * 400},
        {"version": "9"},
    ):
        await ada.invoke(action_verbs.SAVE, {"herald": {"was": "x"}, **data})
    assert await ada.load_preferences() == Preferences()


async def test_preferences_card_in_a_channel_saves_the_preferences_of_the_channel(channel: CardUser) -> None:
    data = {"herald": {"was": {"quiet_days": ""}}, "quiet_days": "sat,sun"}
    body = await channel.invoke(action_verbs.SAVE, data)
    assert body["type"] == CARD
    reference = await channel.herald.services.conversations.get(
        channel.herald.tenant, ReferenceKind.CONVERSATION, channel.location["channel"]
    )
    assert reference
    assert reference.preferences.quiet == "sat,sun"
    assert await channel.load_preferences() == Preferences()
