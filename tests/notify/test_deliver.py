"""Deliver notifications: each recipient receives one message, and the delivery's row records the result."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

from local.fake_teams.api import Behaviour, TeamsFault
from notify.delivery.deliver import deliver
from shared.cards.footer import FOOTER_ID
from shared.conversation_ids import channel_of
from shared.preferences.categories import Categories, Category
from shared.queue_messages import Task
from shared.states import NotificationState, ReferenceKind, ReferenceStatus
from tests.support.herald import Herald, notification, set_token, user


async def test_person_receives_the_card_with_a_summary_and_the_row_is_sent(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    content = {"title": "Build 42 failed", "text": "Stage test failed", "result": "Not deployed"}
    submitted = await herald.submit(user(ada), content=content)
    await herald.handle_messages()
    [message] = await herald.received()
    assert message.person == ada.object_id
    assert message.activity["summary"] == "Build 42 failed"
    assert "text" not in message.activity
    [attachment] = message.activity["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert "Not deployed" in json.dumps(attachment["content"])
    row = await herald.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row["activity_id"], row["attempts"]) == ("sent", message.id, 1)
    finished = await herald.services.notifications.get(submitted.key)
    assert finished
    assert (finished.state, finished.total, finished.counts) == (NotificationState.FINISHED, 1, '{"sent":1}')
    assert await herald.counts(submitted) == {"sent": 1}


async def test_raw_and_base64_queue_messages_are_both_delivered(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    raw = notification(user(ada)).decode()
    encoded = base64.b64encode(notification(user(ada))).decode()
    await herald.services.queues.put("notifications", raw)
    await herald.services.queues.put("notifications", encoded)
    await herald.handle_messages()
    assert len(await herald.received()) == 2


async def test_all_recipients_receive_it_once_page_by_page_even_if_named_twice(herald: Herald) -> None:
    await herald.grow(people=60)
    people = await herald.store_people(60)
    object.__setattr__(herald.services.settings, "tenant_rate", 3)  # pages of 15
    await herald.teams.set_behaviour(Behaviour(enforce_limits=False))
    submitted = await herald.submit({"all": True}, *(user(each) for each in people[:20]))
    submitted = await herald.expand(submitted)
    await herald.handle_messages()
    assert submitted.page > 4
    assert sorted(str(m.person) for m in await herald.received()) == sorted(p.object_id for p in people)
    assert submitted.total == 60
    assert await herald.counts(submitted) == {"sent": 60}


async def test_audience_all_excludes_people_without_a_chat_and_uninstalled(herald: Herald) -> None:
    await herald.grow(people=3)
    ada, bob, eve = await herald.store_people(3)
    conversations = herald.services.conversations
    await conversations.save(herald.tenant, ReferenceKind.USER, "3" * 8, {"name": "team member"}, at=herald.clock())
    await conversations.save(
        herald.tenant, ReferenceKind.USER, bob.object_id, {}, at=herald.clock(), status=ReferenceStatus.UNINSTALLED
    )
    submitted = await herald.submit({"all": True})
    await herald.expand(submitted)
    await herald.handle_messages()
    assert {m.person for m in await herald.received()} == {ada.object_id, eve.object_id}


async def test_people_of_another_tenant_are_not_reached(herald: Herald) -> None:
    """Not by their id, and not with everybody, although their references are in the same table."""
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    tenant, person = "0000000b-0000-4000-8000-00000000000b", "00000001-0000-4000-8000-00000000000b"
    observed = {"service_url": herald.teams.service_url, "conversation_id": "a:other", "conversation_type": "personal"}
    await herald.services.conversations.save(
        tenant, ReferenceKind.USER, person, observed, at=herald.clock(), status=ReferenceStatus.ACTIVE
    )
    everybody, named = await herald.submit({"all": True}), await herald.submit({"user": person})
    await herald.handle_messages()
    assert [message.person for message in await herald.received()] == [ada.object_id]
    assert await herald.counts(everybody) == {"sent": 1}
    assert await herald.counts(named) == {"suppressed": 1}


async def test_missing_chat_is_created_and_stored(herald: Herald) -> None:
    ada = (await herald.grow(people=1)).people[0]
    await herald.store_tenant()
    for _ in range(2):
        await herald.submit(user(ada))
        await herald.handle_messages()
    assert len(await herald.received()) == 2
    assert (await herald.teams.stats()).count("create") == 1
    known = await herald.services.conversations.get(herald.tenant, ReferenceKind.USER, ada.object_id)
    alias = await herald.services.conversations.get(herald.tenant, ReferenceKind.CONVERSATION, ada.conversation)
    assert known
    assert alias
    assert (known.conversation_id, alias.user) == (ada.conversation, ada.object_id)


async def test_unknown_service_url_causes_no_request(herald: Herald) -> None:
    ada = (await herald.grow(people=1)).people[0]
    submitted = await herald.submit(user(ada))
    await herald.handle_messages()
    row = await herald.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("suppressed", "notInstalled")
    stats = await herald.teams.stats()
    assert stats.requests == {}
    assert stats.tokens_issued == 0


async def test_person_who_uninstalled_causes_no_request(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    await herald.services.conversations.save(
        herald.tenant, ReferenceKind.USER, ada.object_id, {}, at=herald.clock(), status=ReferenceStatus.UNINSTALLED
    )
    submitted = await herald.submit(user(ada))
    await herald.handle_messages()
    assert await herald.counts(submitted) == {"suppressed": 1}
    assert (await herald.teams.stats()).requests == {}


async def test_personal_conversation_resolves_to_its_person(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    submitted = await herald.submit({"conversation": ada.conversation}, user(ada))
    await herald.handle_messages()
    assert len(await herald.received()) == 1
    assert await herald.counts(submitted) == {"sent": 1}


async def test_channel_without_reference_is_reached_through_its_team(herald: Herald) -> None:
    world = await herald.grow(people=3, teams=1, channels=2)
    team = world.teams[0]
    channel = team.channels[-1]
    observed = {"service_url": herald.teams.service_url, "group": team.group_id}
    save = herald.services.conversations.save
    await save(herald.tenant, ReferenceKind.TEAM, team.id, observed, at=herald.clock(), status=ReferenceStatus.ACTIVE)
    await save(herald.tenant, ReferenceKind.TEAM, team.group_id, {"team": team.id}, at=herald.clock())
    for name in (team.id, team.group_id):
        await herald.submit({"channel": {"teamId": name, "channelId": channel.id}})
    await herald.handle_messages()
    assert [channel_of(message.conversation) for message in await herald.received()] == [channel.id, channel.id]


async def test_uninstalled_team_suppresses_all_its_channels_until_installed_again(herald: Herald) -> None:
    world = await herald.grow(people=3, teams=1, channels=2)
    team = world.teams[0]
    save = herald.services.conversations.save
    observed = {"service_url": herald.teams.service_url}
    await save(herald.tenant, ReferenceKind.TEAM, team.id, observed, at=herald.clock(), status=ReferenceStatus.ACTIVE)
    channels = [{"channel": {"teamId": team.id, "channelId": each.id}} for each in team.channels]
    first = await herald.submit(*channels)
    await herald.handle_messages()
    assert await herald.counts(first) == {"sent": len(channels)}
    removed = ReferenceStatus.UNINSTALLED
    await save(herald.tenant, ReferenceKind.TEAM, team.id, {}, at=herald.clock(), status=removed)
    requests_before = (await herald.teams.stats()).count("send")
    second = await herald.submit(*channels)
    await herald.handle_messages()
    assert await herald.counts(second) == {"suppressed": len(channels)}
    assert (await herald.teams.stats()).count("send") == requests_before
    await save(herald.tenant, ReferenceKind.TEAM, team.id, observed, at=herald.clock(), status=ReferenceStatus.ACTIVE)
    third = await herald.submit(*channels)
    await herald.handle_messages()
    assert await herald.counts(third) == {"sent": len(channels)}


async def test_refusal_marks_only_the_channel_until_the_bot_is_installed_in_the_team_again(herald: Herald) -> None:
    """Answers of Teams: marks."""
    world = await herald.grow(people=3, teams=1, channels=2)
    team = world.teams[0]
    save = herald.services.conversations.save
    observed = {"service_url": herald.teams.service_url, "status_at": herald.clock().isoformat()}
    await save(herald.tenant, ReferenceKind.TEAM, team.id, observed, at=herald.clock(), status=ReferenceStatus.ACTIVE)
    general, private = (
        {"channel": {"teamId": team.id, "channelId": each.id}} for each in (team.channels[0], team.channels[-1])
    )
    fault = TeamsFault(
        operation="send", conversation=team.channels[-1].id, status=403, code="BotNotInConversationRoster", count=1
    )
    await herald.teams.inject(fault)
    states = []
    for recipient in (private, general, private):
        submitted = await herald.submit(recipient)
        await herald.handle_messages()
        states.append(dict(await herald.counts(submitted)))
    assert states == [{"suppressed": 1}, {"sent": 1}, {"suppressed": 1}]
    installed = {"status_at": (herald.clock() + timedelta(seconds=1)).isoformat()}
    await save(herald.tenant, ReferenceKind.TEAM, team.id, installed, at=herald.clock(), status=ReferenceStatus.ACTIVE)
    submitted = await herald.submit(private)
    await herald.handle_messages()
    assert await herald.counts(submitted) == {"sent": 1}


async def test_group_chat_and_thread_are_reached_by_conversation_id(herald: Herald) -> None:
    world = await herald.grow(people=3, teams=1, chats=1)
    chat, team = world.chats[0], world.teams[0]
    save = herald.services.conversations.save
    for identifier in (chat.id, team.id):
        observed = {"service_url": herald.teams.service_url}
        await save(
            herald.tenant,
            ReferenceKind.CONVERSATION,
            identifier,
            observed,
            at=herald.clock(),
            status=ReferenceStatus.ACTIVE,
        )
    await herald.submit({"conversation": team.id})
    await herald.handle_messages()
    [root] = await herald.received()
    await herald.submit({"conversation": chat.id}, {"conversation": f"{team.id};messageid={root.id}"})
    await herald.handle_messages()
    thread = f"{team.id};messageid={root.id}"
    assert sorted(m.conversation for m in await herald.received()) == sorted([chat.id, thread, thread])


async def test_mentions_are_entities_in_a_group_chat_and_names_in_a_personal_chat(herald: Herald) -> None:
    """One notification for both, sent and then edited."""
    chat = (await herald.grow(people=3, chats=1)).chats[0]
    [ada] = await herald.store_people(1)
    observed = {"service_url": herald.teams.service_url}
    await herald.services.conversations.save(
        herald.tenant, ReferenceKind.CONVERSATION, chat.id, observed, at=herald.clock(), status=ReferenceStatus.ACTIVE
    )
    content = {"title": "Done", "text": "For <at>Ada</at>", "mentions": [{"name": "Ada", "user": ada.object_id}]}
    submitted = await herald.submit({"conversation": chat.id}, user(ada), content=content)
    await herald.handle_messages()
    entity = {"type": "mention", "text": "<at>Ada</at>", "mentioned": {"id": ada.object_id, "name": "Ada"}}

    async def shown() -> dict[str, tuple[str, Any]]:
        cards = {m.conversation: m.activity["attachments"][0]["content"] for m in await herald.received()}
        return {place: (card["body"][1]["text"], card.get("msteams")) for place, card in cards.items()}

    group = {"entities": [entity]}
    assert await shown() == {chat.id: ("For <at>Ada</at>", group), ada.conversation: ("For **Ada**", None)}
    await herald.command("edit", submitted, content=content | {"text": "Still for <at>Ada</at>"})
    for place in (f"c:{chat.id}", f"u:{ada.object_id}"):
        await deliver(herald.services, replace(await herald.message(submitted, place), task=Task.EDIT))
    assert await shown() == {chat.id: ("Still for <at>Ada</at>", group), ada.conversation: ("Still for **Ada**", None)}


async def test_simulated_notification_sends_no_request_to_teams(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    submitted = await herald.submit(user(ada), simulate=True)
    await herald.handle_messages()
    assert await herald.counts(submitted) == {"simulated": 1}
    assert (await herald.teams.stats()).requests == {}


async def test_simulated_category_sends_no_request_to_teams(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    trial = Categories([Category(name="trial", simulate=True)])
    object.__setattr__(herald.services, "categories", trial)
    simulated, sent = await herald.submit(user(ada), category="trial"), await herald.submit(user(ada), category="other")
    await herald.handle_messages()
    assert (await herald.counts(simulated), await herald.counts(sent)) == ({"simulated": 1}, {"sent": 1})


async def test_expired_notification_is_not_sent(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    submitted = await herald.submit(user(ada), expiresAt="2020-01-01T00:00:00Z")
    await herald.handle_messages()
    assert await herald.counts(submitted) == {"expired": 1}
    assert await herald.received() == []


async def test_stored_service_url_of_a_foreign_host_gets_no_request_and_no_token(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    await herald.store_reference(ada, service_url="https://127.0.0.1:1/teams/")
    submitted = await herald.submit(user(ada))
    await herald.handle_messages()
    row = await herald.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("failed", "hostNotAllowed")
    assert (await herald.teams.stats()).tokens_issued == 0


async def test_fifty_deliveries_after_a_cold_start_fetch_one_token_and_share_connections(herald: Herald) -> None:
    set_token(herald.services, "")
    await herald.grow(people=50)
    people = await herald.store_people(50)
    await herald.teams.set_behaviour(Behaviour(enforce_limits=False, token_latency=0.2, latency=0.05))
    submitted = await herald.submit(*(user(each) for each in people))
    await herald.handle_messages()
    assert await herald.counts(submitted) == {"sent": 50}
    stats = await herald.teams.stats()
    assert stats.count("token") == 1
    assert stats.connections["connector"] <= 32  # as many as were in flight at once


async def test_deliveries_at_once_keep_their_own_content(herald: Herald) -> None:
    await herald.grow(people=2)
    ada, bob = await herald.store_people(2)
    await asyncio.gather(
        herald.submit(user(ada), content={"title": "For Ada"}), herald.submit(user(bob), content={"title": "For Bob"})
    )
    await herald.handle_messages()
    titles = {message.person: message.activity["summary"] for message in await herald.received()}
    assert titles == {ada.object_id: "For Ada", bob.object_id: "For Bob"}


async def test_senders_card_is_sent_unchanged_with_the_footer_below(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    card = {"type": "AdaptiveCard", "version": "1.5", "body": [{"type": "TextBlock", "text": "Mine"}]}
    await herald.submit(user(ada), content=None, card=card)
    await herald.handle_messages()
    [message] = await herald.received()
    *above, footer = message.activity["attachments"][0]["content"].pop("body")
    assert message.activity["attachments"][0]["content"] | {"body": above} == card
    assert footer["id"] == FOOTER_ID
    assert message.activity["summary"] == "Mine"


async def test_chat_that_the_person_deleted_is_created_again(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    await herald.teams.inject(
        TeamsFault(operation="send", conversation=ada.conversation, status=404, code="ConversationNotFound", count=1)
    )
    submitted = await herald.submit(user(ada))
    await herald.handle_messages()
    assert await herald.counts(submitted) == {"sent": 1}
    assert (await herald.teams.stats()).count("create") == 1
