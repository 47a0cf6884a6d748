from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from local.fake_teams.api import Growth
from local.fake_teams.client import FakeTeams
from tests.fake_teams.conftest import Bot, activities, message

CARD = {
    "contentType": "application/vnd.microsoft.card.adaptive",
    "content": {"type": "AdaptiveCard", "version": "1.5", "body": []},
}


async def test_created_conversation_has_the_same_id_for_the_same_person(teams: FakeTeams, bot: Bot) -> None:
    first, second = (await teams.world()).people[:2]
    created = [await bot.create(first.object_id), await bot.create(first.id), await bot.create(second.object_id)]
    assert [reply.status for reply in created] == [200, 200, 200]
    ids = [reply.body["id"] for reply in created]
    assert ids == [first.conversation, first.conversation, second.conversation]
    assert ids[0].startswith("a:1")
    assert ids[0] != ids[2]


@pytest.mark.parametrize(
    ("members", "tenant"),
    [
        (["person1@example.com"], None),
        (["11111111-1111-4111-8111-111111111111"], None),
        ([], None),
        (["{person}", "{person}"], None),
        (["{person}"], "22222222-2222-4222-8222-222222222222"),
        (["{person}"], ""),
    ],
)
async def test_conversation_with_unknown_members_or_tenant_is_refused(
    teams: FakeTeams, bot: Bot, members: list[str], tenant: str | None
) -> None:
    person = (await teams.world()).people[0].object_id
    data = {"tenant": {"id": teams.tenant if tenant is None else tenant}}
    body = {"members": [{"id": each.format(person=person)} for each in members], "channelData": data}
    reply = await bot.call("POST", "v3/conversations", body)
    assert (reply.status, reply.code) == (400, "Bad Argument")


async def test_conversation_with_a_person_of_another_tenant_is_refused(teams: FakeTeams, bot: Bot) -> None:
    stranger = (await teams.grow(Growth(tenant="33333333-3333-4333-8333-333333333333", people=1))).people[0]
    assert (await bot.create(stranger.object_id)).status == 400
    assert (await bot.create(stranger.object_id, stranger.tenant)).status == 200


async def test_thread_in_a_channel_is_created_and_accepts_replies(teams: FakeTeams, bot: Bot) -> None:
    channel = (await teams.world()).teams[0].channels[1]
    parameters = {"isGroup": True, "channelData": {"channel": {"id": channel.id}}, "activity": message("root")}
    created = await bot.call("POST", "v3/conversations", parameters)
    assert created.status == 200
    assert created.body["id"] == f"{channel.id};messageid={created.body['activityId']}"
    replied = await bot.send(created.body["id"], message("reply"))
    assert replied.status == 201
    received = await teams.received(conversation=channel.id)
    assert [each.activity["text"] for each in received] == ["root", "reply"]
    assert {each.conversation for each in received} == {created.body["id"]}


async def test_message_to_a_channel_starts_a_thread(teams: FakeTeams, bot: Bot) -> None:
    channel = (await teams.world()).teams[0].channels[0].id
    root = (await bot.send(channel)).body["id"]
    assert (await bot.send(f"{channel};messageid={root}")).status == 201
    assert (await bot.send(f"{channel};messageid=1")).code == "ConversationNotFound"


async def test_send_returns_201_with_an_id_and_stores_the_activity(teams: FakeTeams, bot: Bot) -> None:
    person = (await teams.world()).people[0]
    activity = {"type": "message", "attachments": [CARD], "summary": "news"}
    sent = await bot.send(person.conversation, activity)
    assert sent.status == 201
    assert sent.body["id"].isdigit()
    [received] = await teams.received(person=person.object_id)
    assert (received.id, received.activity, received.person) == (sent.body["id"], activity, person.object_id)


async def test_reply_stores_its_parent(teams: FakeTeams, bot: Bot) -> None:
    person = (await teams.world()).people[0]
    reply = await bot.call("POST", activities(person.conversation, "17"), message("yes"))
    assert reply.status == 201
    assert [each.reply_to for each in await teams.received()] == ["17"]


async def test_text_and_attachment_become_two_messages_without_an_id(teams: FakeTeams, bot: Bot) -> None:
    chat = (await teams.world()).chats[0]
    reply = await bot.send(chat.id, message("look", attachments=[CARD]))
    assert (reply.status, reply.body) == (202, {})
    text, card = await teams.received(conversation=chat.id)
    assert (text.activity["text"], text.activity["attachments"]) == ("look", [])
    assert (card.activity["text"], card.activity["attachments"]) == ("", [CARD])


async def test_update_and_delete_are_applied_with_history(teams: FakeTeams, bot: Bot) -> None:
    conversation = (await teams.world()).people[0].conversation
    path = activities(conversation, (await bot.send(conversation, message("one"))).body["id"])
    assert (await bot.call("PUT", path, message("two"))).status == 200
    assert (await bot.call("DELETE", path)).status == 200
    [received] = await teams.received()
    assert received.activity["text"] == "two"
    assert [change.activity["text"] for change in received.updates] == ["one"]
    assert received.deleted_at is not None


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_change_of_an_unknown_or_deleted_activity_is_404(teams: FakeTeams, bot: Bot, method: str) -> None:
    conversation = (await teams.world()).people[0].conversation
    sent = activities(conversation, (await bot.send(conversation)).body["id"])
    assert (await bot.call("DELETE", sent)).status == 200
    for path in (sent, activities(conversation, "17")):
        reply = await bot.call(method, path, message("two"))
        assert (reply.status, reply.code) == (404, "ActivityNotFoundInConversation")


async def test_send_without_an_installation_is_403(teams: FakeTeams, bot: Bot) -> None:
    world = await teams.world()
    person, team, chat = world.people[0], world.teams[0], world.chats[0]
    await teams.set_installed([person.object_id, team.id, chat.id], installed=False)
    assert (await bot.create(person.object_id)).code == "ForbiddenOperationException"
    for conversation in (person.conversation, team.channels[1].id, chat.id):
        reply = await bot.send(conversation)
        assert (reply.status, reply.code) == (403, "BotNotInConversationRoster")
    await teams.set_installed([person.object_id])
    assert (await bot.send(person.conversation)).status == 201


async def test_unknown_conversation_or_team_is_404(bot: Bot) -> None:
    for path in (activities("a:1unknown"), activities("19:x@thread.tacv2")):
        reply = await bot.call("POST", path, message("x"))
        assert (reply.status, reply.code) == (404, "ConversationNotFound")
    assert (await bot.call("GET", "v3/teams/19%3Ax%40thread.tacv2")).code == "ConversationNotFound"
    assert (await bot.call("GET", "v3/nonsense")).status == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        {"text": "no type"},
        {"type": ""},
        {"type": "message"},
        {"type": "message", "text": "x", "attachments": {}},
        {"type": "message", "attachments": [{"content": {}}]},
        {"type": "message", "attachments": [{**CARD, "content": {"type": "Card"}}]},
    ],
)
async def test_invalid_activity_is_400(teams: FakeTeams, bot: Bot, body: Any) -> None:
    conversation = (await teams.world()).people[0].conversation
    reply = await bot.call("POST", activities(conversation), body)
    assert (reply.status, reply.code) == (400, "Bad Argument")
    assert await teams.received() == []


async def test_activity_size_is_measured_in_utf_16_without_images(teams: FakeTeams, bot: Bot) -> None:
    conversation = (await teams.world()).people[0].conversation
    image = {"contentType": "image/png", "contentUrl": "data:image/png;base64," + "A" * 200_000}
    assert (await bot.send(conversation, {"type": "message", "attachments": [image]})).status == 201
    # 3 bytes in UTF-8, but 2 bytes in UTF-16.
    assert (await bot.send(conversation, message("€" * 50_000))).status == 201
    for text in ("a" * 52_000, "a" * 2_000_000):
        reply = await bot.send(conversation, message(text))
        assert (reply.status, reply.code) == (413, "MessageSizeTooBig")


@pytest.mark.parametrize(
    "authorization", ["Bearer garbage", "Basic eDp5", "Bearer eyJhbGciOiJub25lIn0.eyJhdWQiOiJ4In0."]
)
async def test_foreign_token_is_401(teams: FakeTeams, bot: Bot, authorization: str) -> None:
    conversation = (await teams.world()).people[0].conversation
    reply = await bot.call("POST", activities(conversation), message("x"), authorization=authorization)
    assert (reply.status, list(reply.body)) == (401, ["message"])
    assert await teams.received() == []


async def test_members_of_each_kind_of_conversation(teams: FakeTeams, bot: Bot) -> None:
    world = await teams.world()
    everyone = {person.object_id for person in world.people}
    for conversation, expected in [
        (world.people[0].conversation, {world.people[0].object_id}),
        (world.teams[0].channels[1].id, everyone),
        (world.chats[0].id, everyone),
    ]:
        path = f"v3/conversations/{quote(conversation, safe='')}/members"
        reply = await bot.call("GET", path)
        assert {member["aadObjectId"] for member in reply.body} == expected
        one = await bot.call("GET", f"{path}/{quote(world.people[0].id, safe='')}")
        assert one.body["userPrincipalName"] == world.people[0].user_principal_name
        assert one.body["tenantId"] == teams.tenant
    missing = await bot.call("GET", f"v3/conversations/{quote(world.chats[0].id, safe='')}/members/29%3A1x")
    assert (missing.status, missing.code) == (404, "MemberNotFoundInConversation")


async def test_pages_of_members_respect_the_limits_of_teams(teams: FakeTeams, bot: Bot) -> None:
    grown = await teams.grow(Growth(tenant=teams.tenant, people=117, teams=1, members=120))
    path = f"v3/conversations/{quote(grown.teams[0].id, safe='')}/pagedmembers"
    sizes, found, token = [], [], ""
    while True:
        page = (await bot.call("GET", f"{path}?pageSize=1&continuationToken={token or 0}")).body
        sizes.append(len(page["members"]))
        found += [member["aadObjectId"] for member in page["members"]]
        token = page.get("continuationToken")
        if token is None:
            break
    assert sizes == [50, 50, 20]
    assert sorted(found) == sorted(grown.teams[0].members)
    assert (await bot.call("GET", f"{path}?pageSize=none")).status == 400


async def test_team_details_and_channels(teams: FakeTeams, bot: Bot) -> None:
    team = (await teams.world()).teams[0]
    path = f"v3/teams/{quote(team.id, safe='')}"
    details = (await bot.call("GET", path)).body
    assert (details["id"], details["name"], details["aadGroupId"]) == (team.id, team.name, team.group_id)
    assert (details["channelCount"], details["memberCount"]) == (2, 3)
    channels = (await bot.call("GET", f"{path}/conversations")).body["conversations"]
    assert [(each["id"], each["name"]) for each in channels] == [(each.id, each.name) for each in team.channels]
    assert channels[0] == {"id": team.id, "name": None, "type": "standard"}
