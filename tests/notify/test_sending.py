"""A message on the queue reaches each recipient once, and the row says what came of it."""

from __future__ import annotations

import asyncio
import base64
import json

from local.fake_teams.api import Behaviour, TeamsFault
from shared.cards.footer import FOOTER_ID
from shared.conversation_ids import channel_of
from shared.preferences.categories import Categories, Category
from shared.states import NotificationState, ReferenceKind, ReferenceStatus
from tests.support.herald import Herald, give_token, notification, user


async def test_a_person_gets_the_card_with_a_summary_and_the_row_says_sent(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.people(1)
    content = {"title": "Build 42 failed", "text": "Stage test failed", "result": "Not deployed"}
    asked = await herald.ask(user(ada), content=content)
    await herald.send()
    [message] = await herald.received()
    assert message.person == ada.object_id
    assert message.activity["summary"] == "Build 42 failed"
    assert "text" not in message.activity
    [attachment] = message.activity["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert "Not deployed" in json.dumps(attachment["content"])
    row = await herald.row(asked, f"u:{ada.object_id}")
    assert (row["state"], row["activity_id"], row["attempts"]) == ("sent", message.id, 1)
    done = await herald.services.notifications.get(asked.key)
    assert done
    assert (done.state, done.total, done.counts) == (NotificationState.FINISHED, 1, '{"sent":1}')
    assert await herald.counts(asked) == {"sent": 1}


async def test_raw_and_base64_messages_of_the_queue_both_arrive(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.people(1)
    raw = notification(user(ada)).decode()
    encoded = base64.b64encode(notification(user(ada))).decode()
    await herald.services.queues.put("notifications", raw)
    await herald.services.queues.put("notifications", encoded)
    await herald.send()
    assert len(await herald.received()) == 2


async def test_everyone_gets_it_once_page_by_page_also_who_is_named_beside(herald: Herald) -> None:
    await herald.grow(people=60)
    people = await herald.people(60)
    object.__setattr__(herald.services.settings, "tenant_rate", 3)  # pages of 15
    await herald.teams.set_behaviour(Behaviour(enforce_limits=False))
    asked = await herald.ask({"all": True}, *(user(each) for each in people[:20]))
    asked = await herald.expand(asked)
    await herald.send()
    assert asked.page > 4
    assert sorted(str(m.person) for m in await herald.received()) == sorted(p.object_id for p in people)
    assert asked.total == 60
    assert await herald.counts(asked) == {"sent": 60}


async def test_people_without_a_chat_or_who_left_are_not_everyone(herald: Herald) -> None:
    await herald.grow(people=3)
    ada, bob, eve = await herald.people(3)
    conversations = herald.services.conversations
    await conversations.save(herald.tenant, ReferenceKind.USER, "3" * 8, {"name": "seen in a team"}, at=herald.clock())
    await conversations.save(
        herald.tenant, ReferenceKind.USER, bob.object_id, {}, at=herald.clock(), status=ReferenceStatus.UNINSTALLED
    )
    asked = await herald.ask({"all": True})
    await herald.expand(asked)
    await herald.send()
    assert {m.person for m in await herald.received()} == {ada.object_id, eve.object_id}


async def test_a_person_without_a_chat_gets_one_and_it_is_kept(herald: Herald) -> None:
    ada = (await herald.grow(people=1)).people[0]
    await herald.know_tenant()
    for _ in range(2):
        await herald.ask(user(ada))
        await herald.send()
    assert len(await herald.received()) == 2
    assert (await herald.teams.stats()).count("create") == 1
    known = await herald.services.conversations.get(herald.tenant, ReferenceKind.USER, ada.object_id)
    alias = await herald.services.conversations.get(herald.tenant, ReferenceKind.CONVERSATION, ada.conversation)
    assert known
    assert alias
    assert (known.conversation_id, alias.user) == (ada.conversation, ada.object_id)


async def test_where_no_service_url_is_known_no_call_leaves(herald: Herald) -> None:
    ada = (await herald.grow(people=1)).people[0]
    asked = await herald.ask(user(ada))
    await herald.send()
    row = await herald.row(asked, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("suppressed", "notInstalled")
    stats = await herald.teams.stats()
    assert stats.requests == {}
    assert stats.tokens_issued == 0


async def test_who_uninstalled_gets_nothing_and_no_call_leaves(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.people(1)
    await herald.services.conversations.save(
        herald.tenant, ReferenceKind.USER, ada.object_id, {}, at=herald.clock(), status=ReferenceStatus.UNINSTALLED
    )
    asked = await herald.ask(user(ada))
    await herald.send()
    assert await herald.counts(asked) == {"suppressed": 1}
    assert (await herald.teams.stats()).requests == {}


async def test_a_personal_conversation_leads_to_its_person(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.people(1)
    asked = await herald.ask({"conversation": ada.conversation}, user(ada))
    await herald.send()
    assert len(await herald.received()) == 1
    assert await herald.counts(asked) == {"sent": 1}


async def test_a_channel_is_reached_by_its_team_even_before_it_said_anything(herald: Herald) -> None:
    grown = await herald.grow(people=3, teams=1, channels=2)
    team = grown.teams[0]
    channel = team.channels[-1]
    seen = {"service_url": herald.teams.service_url, "group": team.group_id}
    save = herald.services.conversations.save
    await save(herald.tenant, ReferenceKind.TEAM, team.id, seen, at=herald.clock(), status=ReferenceStatus.ACTIVE)
    await save(herald.tenant, ReferenceKind.TEAM, team.group_id, {"team": team.id}, at=herald.clock())
    for name in (team.id, team.group_id):
        await herald.ask({"channel": {"teamId": name, "channelId": channel.id}})
    await herald.send()
    assert [channel_of(message.conversation) for message in await herald.received()] == [channel.id, channel.id]


async def test_what_is_learnt_of_a_team_counts_for_its_channels_until_it_is_installed_again(herald: Herald) -> None:
    grown = await herald.grow(people=3, teams=1, channels=2)
    team = grown.teams[0]
    save = herald.services.conversations.save
    seen = {"service_url": herald.teams.service_url}
    await save(herald.tenant, ReferenceKind.TEAM, team.id, seen, at=herald.clock(), status=ReferenceStatus.ACTIVE)
    await herald.teams.set_installed([team.id], installed=False)
    channels = [{"channel": {"teamId": team.id, "channelId": each.id}} for each in team.channels]
    first = await herald.ask(channels[0])
    await herald.send()
    assert (await herald.row(first, f"c:{team.channels[0].id}"))["reason"] == "notInstalled"
    asked_teams = (await herald.teams.stats()).count("send")
    second = await herald.ask(channels[1])
    await herald.send()
    assert await herald.counts(second) == {"suppressed": 1}
    assert (await herald.teams.stats()).count("send") == asked_teams
    await herald.teams.set_installed([team.id])
    await save(herald.tenant, ReferenceKind.TEAM, team.id, seen, at=herald.clock(), status=ReferenceStatus.ACTIVE)
    third = await herald.ask(*channels)
    await herald.send()
    assert await herald.counts(third) == {"sent": len(channels)}


async def test_a_group_chat_and_a_thread_are_reached_by_conversation_id(herald: Herald) -> None:
    grown = await herald.grow(people=3, teams=1, chats=1)
    chat, team = grown.chats[0], grown.teams[0]
    save = herald.services.conversations.save
    for identifier in (chat.id, team.id):
        seen = {"service_url": herald.teams.service_url}
        await save(
            herald.tenant,
            ReferenceKind.CONVERSATION,
            identifier,
            seen,
            at=herald.clock(),
            status=ReferenceStatus.ACTIVE,
        )
    await herald.ask({"conversation": team.id})
    await herald.send()
    [root] = await herald.received()
    await herald.ask({"conversation": chat.id}, {"conversation": f"{team.id};messageid={root.id}"})
    await herald.send()
    thread = f"{team.id};messageid={root.id}"
    assert sorted(m.conversation for m in await herald.received()) == sorted([chat.id, thread, thread])


async def test_a_simulated_one_goes_all_the_way_but_to_teams(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.people(1)
    asked = await herald.ask(user(ada), simulate=True)
    await herald.send()
    assert await herald.counts(asked) == {"simulated": 1}
    assert (await herald.teams.stats()).requests == {}


async def test_a_category_may_be_simulated_as_a_whole(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.people(1)
    trial = Categories([Category(name="trial", simulate=True)])
    object.__setattr__(herald.services, "categories", trial)
    simulated, sent = await herald.ask(user(ada), category="trial"), await herald.ask(user(ada), category="other")
    await herald.send()
    assert (await herald.counts(simulated), await herald.counts(sent)) == ({"simulated": 1}, {"sent": 1})


async def test_what_is_late_is_expired_and_not_sent(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.people(1)
    asked = await herald.ask(user(ada), expiresAt="2020-01-01T00:00:00Z")
    await herald.send()
    assert await herald.counts(asked) == {"expired": 1}
    assert await herald.received() == []


async def test_a_stored_service_url_that_is_no_host_of_teams_gets_no_request_and_no_token(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.people(1)
    await herald.know(ada, service_url="https://127.0.0.1:1/teams/")
    asked = await herald.ask(user(ada))
    await herald.send()
    row = await herald.row(asked, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("failed", "hostNotAllowed")
    assert (await herald.teams.stats()).tokens_issued == 0


async def test_fifty_senders_that_start_cold_fetch_one_token_and_share_connections(herald: Herald) -> None:
    give_token(herald.services, "")
    await herald.grow(people=50)
    people = await herald.people(50)
    await herald.teams.set_behaviour(Behaviour(enforce_limits=False, token_latency=0.2, latency=0.05))
    asked = await herald.ask(*(user(each) for each in people))
    await herald.send()
    assert await herald.counts(asked) == {"sent": 50}
    stats = await herald.teams.stats()
    assert stats.count("token") == 1
    assert stats.connections["connector"] <= 32  # as many as were in flight at once


async def test_the_card_is_told_apart_by_no_one_else_than_its_notification(herald: Herald) -> None:
    await herald.grow(people=2)
    ada, bob = await herald.people(2)
    await asyncio.gather(
        herald.ask(user(ada), content={"title": "For Ada"}), herald.ask(user(bob), content={"title": "For Bob"})
    )
    await herald.send()
    told = {message.person: message.activity["summary"] for message in await herald.received()}
    assert told == {ada.object_id: "For Ada", bob.object_id: "For Bob"}


async def test_a_card_of_ones_own_is_sent_as_it_is_with_the_footer_below(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.people(1)
    card = {"type": "AdaptiveCard", "version": "1.5", "body": [{"type": "TextBlock", "text": "Mine"}]}
    await herald.ask(user(ada), content=None, card=card)
    await herald.send()
    [message] = await herald.received()
    *above, footer = message.activity["attachments"][0]["content"].pop("body")
    assert message.activity["attachments"][0]["content"] | {"body": above} == card
    assert footer["id"] == FOOTER_ID
    assert message.activity["summary"] == "Mine"


async def test_a_chat_that_the_person_deleted_is_made_anew(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.people(1)
    await herald.teams.inject(
        TeamsFault(operation="send", conversation=ada.conversation, status=404, code="ConversationNotFound", count=1)
    )
    asked = await herald.ask(user(ada))
    await herald.send()
    assert await herald.counts(asked) == {"sent": 1}
    assert (await herald.teams.stats()).count("create") == 1
