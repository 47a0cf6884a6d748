"""Digests of channels, which include deliveries to their threads."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from shared.preferences.preferences import FOREVER
from shared.queue_messages import Task
from shared.states import Mode, ReferenceKind, ReferenceStatus
from tests.support.digests import advance_to, card_texts, run_task
from tests.support.herald import Herald


async def test_channel_has_a_digest_by_its_own_preferences(timed: Herald) -> None:
    timed.clock.offset += datetime(2026, 11, 23, 10, tzinfo=UTC) - timed.clock()
    [team] = (await timed.grow(teams=1)).teams
    channel = team.channels[0].id
    await timed.teams.set_installed([team.id])
    await save_channel(timed, team.id, channel)
    await timed.services.conversations.change_preferences(
        timed.tenant, ReferenceKind.CONVERSATION, channel, lambda old: old.with_mode("builds", Mode.DIGEST)
    )
    recipient = {"channel": {"teamId": team.id, "channelId": channel}}
    notifications = [await timed.submit(recipient, content={"title": f"Build {number}"}) for number in range(2)]
    await timed.handle_messages()
    assert await timed.received() == []
    await advance_to(timed, "2026-11-24T09:01")
    [digest] = await timed.received()
    assert {"Build 0", "Build 1"} <= {text.split(" · ")[0] for text in card_texts(digest)}
    assert [await timed.counts(each) for each in notifications] == [{"digested": 1}] * 2


async def save_channel(herald: Herald, team: str, channel: str) -> None:
    """Store the references of a team with the app and of its channel."""
    seen = {"service_url": herald.teams.service_url, "conversation_type": "channel", "team": team}
    save = herald.services.conversations.save
    await save(
        herald.tenant, ReferenceKind.CONVERSATION, channel, seen, at=herald.clock(), status=ReferenceStatus.ACTIVE
    )
    installed = {"service_url": herald.teams.service_url}
    await save(herald.tenant, ReferenceKind.TEAM, team, installed, at=herald.clock(), status=ReferenceStatus.ACTIVE)


async def add_channel_with_thread(herald: Herald, **preferences: Any) -> tuple[str, str]:
    """Return two recipients: a channel with these preferences, and a thread in it."""
    herald.clock.offset += datetime(2026, 11, 23, 10, tzinfo=UTC) - herald.clock()
    [team] = (await herald.grow(teams=1)).teams
    channel = team.channels[0].id
    await herald.teams.set_installed([team.id])
    await save_channel(herald, team.id, channel)
    await herald.submit({"conversation": channel}, content={"title": "Root"})
    await herald.handle_messages()
    [root] = await herald.received()
    await herald.services.conversations.change_preferences(
        herald.tenant, ReferenceKind.CONVERSATION, channel, lambda old: replace(old, **preferences)
    )
    return f"c:{channel}", f"c:{channel};messageid={root.id}"


async def test_thread_delivery_is_held_with_its_channel(timed: Herald) -> None:
    channel, thread = await add_channel_with_thread(timed, paused_until=FOREVER)
    notification = await timed.submit(*({"conversation": each[2:]} for each in (channel, thread)))
    await timed.handle_messages()
    assert len(await timed.services.held_deliveries.list(timed.tenant, channel, 10)) == 2
    await timed.services.conversations.change_preferences(
        timed.tenant, ReferenceKind.CONVERSATION, channel[2:], lambda old: replace(old, paused_until=None)
    )
    await run_task(timed, channel, Task.RECONSIDER)
    assert await timed.counts(notification) == {"sent": 2}
    assert await timed.services.held_deliveries.list(timed.tenant, channel, 10) == []


async def test_digest_of_a_channel_includes_thread_deliveries(timed: Herald) -> None:
    channel, thread = await add_channel_with_thread(timed, categories={"builds": Mode.DIGEST})
    both = await timed.submit(*({"conversation": each[2:]} for each in (channel, thread)), content={"title": "Both"})
    alone = await timed.submit({"conversation": thread[2:]}, content={"title": "In a thread"})
    await timed.handle_messages()
    await advance_to(timed, "2026-11-24T09:01")
    [_, digest] = await timed.received()
    assert {"Both", "In a thread"} <= {text.split(" · ")[0] for text in card_texts(digest)}
    assert await timed.counts(both) == {"digested": 2}
    assert await timed.counts(alone) == {"digested": 1}
    assert await timed.services.held_deliveries.list(timed.tenant, channel, 10) == []


async def test_digest_includes_200_threads_of_a_channel(timed: Herald) -> None:
    channel, _ = await add_channel_with_thread(timed, categories={"builds": Mode.DIGEST})
    threads = [f"{channel[2:]};messageid={number:032}" for number in range(201)]
    notification = await timed.submit(*({"conversation": each} for each in threads))
    await timed.expand(notification)
    await timed.handle_messages()
    await advance_to(timed, "2026-11-24T09:01")
    assert await timed.counts(notification) == {"digested": 200, "open": 1}
    await advance_to(timed, "2026-11-25T09:01")
    assert await timed.counts(notification) == {"digested": 201}
    assert await timed.services.held_deliveries.list(timed.tenant, channel, 10) == []


async def test_same_thread_key_in_channel_and_thread_is_two_lines(timed: Herald) -> None:
    channel, thread = await add_channel_with_thread(timed, categories={"builds": Mode.DIGEST})
    for recipient, title in ((thread, "Failed"), (channel, "Fine")):
        data = {"content": {"title": title}, "thread": {"key": "deploy"}}
        await timed.submit({"conversation": recipient[2:]}, **data)
    await timed.handle_messages()
    await advance_to(timed, "2026-11-24T09:01")
    [_, digest] = await timed.received()
    assert {"Failed", "Fine"} <= {text.split(" · ")[0] for text in card_texts(digest)}
