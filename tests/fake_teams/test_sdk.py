"""The client of the Bot Framework SDK with the fake: it deserializes each response with the published models."""

from __future__ import annotations

import asyncio

from botbuilder.schema import Activity, ConversationParameters
from botbuilder.schema import ChannelAccount as Account
from botframework.connector import ConnectorClient
from botframework.connector.teams import TeamsConnectorClient
from msrest.authentication import BasicTokenAuthentication

from local.fake_teams.client import FakeTeams
from tests.fake_teams.conftest import Bot


async def test_connector_client_of_the_sdk_reads_every_response(teams: FakeTeams, bot: Bot) -> None:
    world = await teams.world()
    person, team = world.people[0], world.teams[0]

    def call_all_operations() -> None:
        credentials = BasicTokenAuthentication({"access_token": bot.token})
        client = ConnectorClient(credentials, teams.service_url)
        client.config.connection.verify = str(teams.ca_file)
        conversations = client.conversations
        parameters = ConversationParameters(members=[Account(id=person.object_id)], tenant_id=teams.tenant)
        parameters.channel_data = {"tenant": {"id": teams.tenant}}
        created = conversations.create_conversation(parameters)
        assert created.id == person.conversation
        sent = conversations.send_to_conversation(created.id, Activity(type="message", text="one"))
        assert sent.id
        assert conversations.reply_to_activity(created.id, sent.id, Activity(type="message", text="two")).id
        assert conversations.update_activity(created.id, sent.id, Activity(type="message", text="1")).id == sent.id
        conversations.delete_activity(created.id, sent.id)
        assert [member.id for member in conversations.get_conversation_members(created.id)] == [person.id]
        paged = conversations.get_conversation_paged_members(team.id)
        assert [member.id for member in paged.members] == [each.id for each in world.people]
        teams_client = TeamsConnectorClient(credentials, teams.service_url)
        teams_client.config.connection.verify = str(teams.ca_file)
        assert teams_client.teams.get_team_details(team.id).aad_group_id == team.group_id
        assert len(teams_client.teams.get_teams_channels(team.id).conversations) == 2

    await asyncio.to_thread(call_all_operations)
    assert [each.activity["text"] for each in await teams.received()] == ["two", "1"]
