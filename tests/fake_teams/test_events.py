from __future__ import annotations

import datetime
from typing import Any

import pytest
from botbuilder.core import TurnContext
from botbuilder.core.adapters import TestAdapter as MemoryAdapter
from botbuilder.core.teams import TeamsActivityHandler
from botbuilder.schema import Activity

from local.fake_teams.api import Growth, TeamsEvent
from local.fake_teams.client import ControlError, FakeTeams
from tests.fake_teams.conftest import Bot, FakeApp


class RecordingHandler(TeamsActivityHandler):  # type: ignore[misc]
    """Records which methods of the SDK's handler an activity reaches."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("on_") and name not in ("on_turn", "on_teams_members_added_dispatch"):
            self.reached.append(name)
        return found


async def dispatch(activity: dict[str, Any]) -> list[str]:
    handler = RecordingHandler()
    context = TurnContext(MemoryAdapter(), Activity.from_dict(activity))
    await handler.on_turn(context)
    return handler.reached


async def test_personal_install_posts_two_activities(teams: FakeTeams, app: FakeApp) -> None:
    person = (await teams.grow(Growth(tenant=teams.tenant, people=1, installed=False))).people[0]
    responses = await teams.send_event(TeamsEvent(kind="install", person=person.object_id, endpoint=app.url))
    assert [response.status for response in responses] == [200, 200]
    update, roster = app.activities
    assert (update["type"], update["action"]) == ("installationUpdate", "add")
    assert (roster["type"], roster["membersAdded"]) == ("conversationUpdate", [{"id": f"28:{teams.app_id}"}])
    for activity in app.activities:
        assert activity["serviceUrl"] == teams.service_url
        assert activity["channelId"] == "msteams"
        assert activity["from"] == {"id": person.id, "aadObjectId": person.object_id}
        assert activity["conversation"] == {
            "conversationType": "personal",
            "tenantId": teams.tenant,
            "id": person.conversation,
        }
        assert activity["channelData"]["tenant"] == {"id": teams.tenant}
        assert "localTimezone" not in activity
    assert "on_installation_update_add" in await dispatch(update)
    assert "on_teams_members_added" in await dispatch(roster)
    people = {each.object_id: each for each in (await teams.world()).people}
    assert people[person.object_id].installed


async def test_personal_uninstall_posts_no_conversation_update(teams: FakeTeams, app: FakeApp, bot: Bot) -> None:
    person = (await teams.world()).people[0]
    await teams.send_event(TeamsEvent(kind="uninstall", person=person.object_id, endpoint=app.url))
    [activity] = app.activities
    assert activity["action"] == "remove"
    assert "on_installation_update_remove" in await dispatch(activity)
    assert (await bot.send(person.conversation)).status == 403


async def test_team_install_names_the_team_the_channel_and_the_sender(teams: FakeTeams, app: FakeApp) -> None:
    world = await teams.world()
    team, person = world.teams[0], world.people[1]
    event = TeamsEvent(kind="install", team=team.id, person=person.object_id, endpoint=app.url)
    await teams.send_event(event)
    update, roster = app.activities
    assert update["channelData"]["settings"] == {"selectedChannel": {"id": team.id}}
    for activity in app.activities:
        assert activity["from"]["aadObjectId"] == person.object_id
        assert activity["conversation"]["conversationType"] == "channel"
        assert activity["channelData"]["team"] == {"id": team.id, "name": team.name, "aadGroupId": team.group_id}
    assert roster["channelData"]["eventType"] == "teamMemberAdded"
    app.activities.clear()
    await teams.send_event(event.model_copy(update={"kind": "uninstall"}))
    assert [activity["type"] for activity in app.activities] == ["installationUpdate", "conversationUpdate"]
    assert "on_teams_members_removed" in await dispatch(app.activities[1])


async def test_chat_install_is_in_a_group_chat(teams: FakeTeams, app: FakeApp) -> None:
    chat = (await teams.world()).chats[0]
    await teams.send_event(TeamsEvent(kind="install", chat=chat.id, endpoint=app.url))
    assert [activity["conversation"]["id"] for activity in app.activities] == [chat.id] * 2
    assert app.activities[0]["conversation"]["conversationType"] == "groupChat"
    assert app.activities[0]["conversation"]["isGroup"] is True


async def test_members_are_added_and_removed(teams: FakeTeams, app: FakeApp) -> None:
    team = (await teams.world()).teams[0]
    person = (await teams.grow(Growth(tenant=teams.tenant, people=1))).people[0]
    for kind, listed in (("membersAdded", True), ("membersRemoved", False)):
        event = TeamsEvent(kind=kind, team=team.id, people=[person.object_id], endpoint=app.url)  # type: ignore[arg-type]
        await teams.send_event(event)
        assert app.activities[-1][kind] == [{"id": person.id, "aadObjectId": person.object_id}]
        assert (person.object_id in (await teams.world()).teams[0].members) is listed


@pytest.mark.parametrize(
    ("event", "reached"),
    [
        ("channelCreated", "on_teams_channel_created"),
        ("channelRenamed", "on_teams_channel_renamed"),
        ("channelDeleted", "on_teams_channel_deleted"),
        ("channelRestored", "on_teams_channel_restored"),
        ("teamRenamed", "on_teams_team_renamed_activity"),
        ("teamDeleted", "on_teams_team_deleted"),
        ("teamHardDeleted", "on_teams_team_hard_deleted"),
        ("teamRestored", "on_teams_team_restored"),
        ("teamArchived", "on_teams_team_archived"),
        ("teamUnarchived", "on_teams_team_unarchived"),
    ],
)
async def test_team_event_reaches_its_handler(teams: FakeTeams, app: FakeApp, event: Any, reached: str) -> None:
    team = (await teams.world()).teams[0]
    channel = team.channels[1].id if event.startswith("channel") and event != "channelCreated" else None
    await teams.send_event(
        TeamsEvent(kind="teamEvent", team=team.id, channel=channel, event=event, name="New", endpoint=app.url)
    )
    assert reached in await dispatch(app.activities[0])
    if event.endswith(("Created", "Renamed")):
        changed = app.activities[0]["channelData"]["channel" if event.startswith("channel") else "team"]
        assert changed["name"] == "New"


async def test_deleted_channel_is_404_until_it_is_restored(teams: FakeTeams, app: FakeApp, bot: Bot) -> None:
    team = (await teams.world()).teams[0]
    channel = team.channels[1].id
    event = TeamsEvent(kind="teamEvent", team=team.id, channel=channel, event="channelDeleted", endpoint=app.url)
    await teams.send_event(event)
    assert (await bot.send(channel)).status == 404
    await teams.send_event(event.model_copy(update={"event": "channelRestored"}))
    assert (await bot.send(channel)).status == 201


async def test_message_has_locale_and_local_time(teams: FakeTeams, app: FakeApp) -> None:
    person = (await teams.grow(Growth(people=1, locale="de-DE", time_zone="Asia/Tokyo"))).people[0]
    await teams.send_event(TeamsEvent(kind="message", person=person.object_id, text="hello", endpoint=app.url))
    [activity] = app.activities
    assert (activity["text"], activity["locale"], activity["localTimezone"]) == ("hello", "de-DE", "Asia/Tokyo")
    local = datetime.datetime.fromisoformat(activity["localTimestamp"])
    assert local.utcoffset() == datetime.timedelta(hours=9)
    assert activity["entities"] == [
        {"type": "clientInfo", "locale": "de-DE", "country": "DE", "platform": "Windows", "timezone": "Asia/Tokyo"}
    ]
    assert activity["conversation"]["tenantId"] == person.tenant != teams.tenant
    assert "on_message_activity" in await dispatch(activity)


async def test_channel_message_mentions_the_bot_in_a_thread(teams: FakeTeams, app: FakeApp, bot: Bot) -> None:
    team = (await teams.world()).teams[0]
    channel = team.channels[1].id
    await teams.send_event(TeamsEvent(kind="message", channel=channel, text="hello", endpoint=app.url))
    [activity] = app.activities
    assert activity["conversation"]["id"] == f"{channel};messageid={activity['id']}"
    assert activity["text"] == "<at>Herald</at> hello"
    assert activity["channelData"]["channel"] == {"id": channel}
    assert activity["channelData"]["team"]["id"] == team.id
    assert (await bot.send(activity["conversation"]["id"])).status == 201


async def test_card_action_and_reaction_reach_their_handlers(teams: FakeTeams, app: FakeApp) -> None:
    person = (await teams.world()).people[0].object_id
    action_event = TeamsEvent(
        kind="cardAction", person=person, verb="retry", data={"n": 1}, reply_to="17", endpoint=app.url
    )
    reaction_event = TeamsEvent(kind="reaction", person=person, reply_to="17", endpoint=app.url)
    app.body = '{"statusCode":200}'
    [response] = await teams.send_event(action_event)
    assert response.body == '{"statusCode":200}'
    await teams.send_events([reaction_event, reaction_event.model_copy(update={"removed": True})])
    action, like, unlike = app.activities
    assert (action["name"], action["value"]["action"]["verb"], action["replyToId"]) == (
        "adaptiveCard/action", "retry", "17",
    )  # fmt: skip
    assert "on_adaptive_card_invoke" in await dispatch(action)
    assert "on_reactions_added" in await dispatch(like)
    assert "on_reactions_removed" in await dispatch(unlike)


async def test_changes_are_merged_and_a_repeat_posts_the_same_activity(teams: FakeTeams, app: FakeApp) -> None:
    person = (await teams.world()).people[0].object_id
    event = TeamsEvent(
        kind="message",
        person=person,
        endpoint=app.url,
        repeat=2,
        changes={"locale": None, "conversation": {"id": "a:x"}},
    )
    await teams.send_event(event)
    first, second = app.activities
    assert first == second
    assert "locale" not in first
    assert first["conversation"] == {"conversationType": "personal", "tenantId": teams.tenant, "id": "a:x"}


async def test_unreachable_app_has_no_status(teams: FakeTeams, unused_tcp_port: int) -> None:
    response = await teams.post({"type": "message"}, endpoint=f"http://127.0.0.1:{unused_tcp_port}/api/messages")
    assert response.status is None
    assert response.error


@pytest.mark.parametrize(
    "event",
    [
        TeamsEvent(kind="message"),
        TeamsEvent(kind="message", person="nobody"),
        TeamsEvent(kind="raw"),
        TeamsEvent(kind="membersAdded", person="nobody"),
        TeamsEvent(kind="message", person="29:1", endpoint="http://192.0.2.1/api/messages"),
    ],
)
async def test_invalid_event_is_refused(teams: FakeTeams, event: TeamsEvent) -> None:
    with pytest.raises(ControlError):
        await teams.send_event(event.model_copy(update={"endpoint": event.endpoint or "http://127.0.0.1:1"}))
    with pytest.raises(ControlError, match="endpoint"):
        await teams.send_event(event.model_copy(update={"endpoint": None}))
