"""Digests of channels, which tell what goes to their threads too."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from shared.preferences.preferences import FOREVER
from shared.queue_messages import Task
from shared.states import Mode, ReferenceKind, ReferenceStatus
from tests.support.digests import go_to, see_to, texts
from tests.support.herald import Herald


async def test_a_channel_has_its_digest_by_its_own_wishes(timed: Herald) -> None:
    timed.clock.moved += datetime(2026, 11, 23, 10, tzinfo=UTC) - timed.clock()
    [team] = (await timed.grow(teams=1)).teams
    channel = team.channels[0].id
    await timed.teams.set_installed([team.id])
    await know_channel(timed, team.id, channel)
    await timed.services.conversations.change_preferences(
        timed.tenant, ReferenceKind.CONVERSATION, channel, lambda old: old.with_mode("builds", Mode.DIGEST)
    )
    place = {"channel": {"teamId": team.id, "channelId": channel}}
    asked = [await timed.ask(place, content={"title": f"Build {number}"}) for number in range(2)]
    await timed.send()
    assert await timed.received() == []
    await go_to(timed, "2026-11-24T09:01")
    [digest] = await timed.received()
    assert {"Build 0", "Build 1"} <= set(texts(digest))
    assert [await timed.counts(each) for each in asked] == [{"digested": 1}] * 2


async def know_channel(herald: Herald, team: str, channel: str) -> None:
    seen = {"service_url": herald.teams.service_url, "conversation_type": "channel", "team": team}
    save = herald.services.conversations.save
    await save(
        herald.tenant, ReferenceKind.CONVERSATION, channel, seen, at=herald.clock(), status=ReferenceStatus.ACTIVE
    )
    installed = {"service_url": herald.teams.service_url}
    await save(herald.tenant, ReferenceKind.TEAM, team, installed, at=herald.clock(), status=ReferenceStatus.ACTIVE)


async def channel_with_a_thread(herald: Herald, **wants: Any) -> tuple[str, str]:
    """Recipients that are a channel, with these wishes, and a thread in it."""
    herald.clock.moved += datetime(2026, 11, 23, 10, tzinfo=UTC) - herald.clock()
    [team] = (await herald.grow(teams=1)).teams
    channel = team.channels[0].id
    await herald.teams.set_installed([team.id])
    await know_channel(herald, team.id, channel)
    await herald.ask({"conversation": channel}, content={"title": "Root"})
    await herald.send()
    [root] = await herald.received()
    await herald.services.conversations.change_preferences(
        herald.tenant, ReferenceKind.CONVERSATION, channel, lambda old: replace(old, **wants)
    )
    return f"c:{channel}", f"c:{channel};messageid={root.id}"


async def test_what_goes_to_a_thread_waits_with_its_channel(timed: Herald) -> None:
    channel, thread = await channel_with_a_thread(timed, paused_until=FOREVER)
    asked = await timed.ask(*({"conversation": each[2:]} for each in (channel, thread)))
    await timed.send()
    assert len(await timed.services.held_deliveries.of(timed.tenant, channel, 10)) == 2
    await timed.services.conversations.change_preferences(
        timed.tenant, ReferenceKind.CONVERSATION, channel[2:], lambda old: replace(old, paused_until=None)
    )
    await see_to(timed, channel, Task.RECONSIDER)
    assert await timed.counts(asked) == {"sent": 2}
    assert await timed.services.held_deliveries.of(timed.tenant, channel, 10) == []


async def test_what_goes_to_a_thread_is_in_the_digest_of_its_channel(timed: Herald) -> None:
    channel, thread = await channel_with_a_thread(timed, categories={"builds": Mode.DIGEST})
    both = await timed.ask(*({"conversation": each[2:]} for each in (channel, thread)), content={"title": "Both"})
    alone = await timed.ask({"conversation": thread[2:]}, content={"title": "In a thread"})
    await timed.send()
    await go_to(timed, "2026-11-24T09:01")
    [_, digest] = await timed.received()
    assert {"Both", "In a thread"} <= set(texts(digest))
    assert await timed.counts(both) == {"digested": 2}
    assert await timed.counts(alone) == {"digested": 1}
    assert await timed.services.held_deliveries.of(timed.tenant, channel, 10) == []


async def test_two_hundred_threads_of_a_channel_are_told_in_one_digest(timed: Herald) -> None:
    channel, _ = await channel_with_a_thread(timed, categories={"builds": Mode.DIGEST})
    threads = [f"{channel[2:]};messageid={number:032}" for number in range(201)]
    asked = await timed.ask(*({"conversation": each} for each in threads))
    await timed.expand(asked)
    await timed.send()
    await go_to(timed, "2026-11-24T09:01")
    assert await timed.counts(asked) == {"digested": 200, "open": 1}
    await go_to(timed, "2026-11-25T09:01")
    assert await timed.counts(asked) == {"digested": 201}
    assert await timed.services.held_deliveries.of(timed.tenant, channel, 10) == []


async def test_the_same_thread_key_in_two_places_is_two_threads(timed: Herald) -> None:
    channel, thread = await channel_with_a_thread(timed, categories={"builds": Mode.DIGEST})
    for place, title in ((thread, "Failed"), (channel, "Fine")):
        told = {"content": {"title": title}, "thread": {"key": "deploy"}}
        await timed.ask({"conversation": place[2:]}, **told)
    await timed.send()
    await go_to(timed, "2026-11-24T09:01")
    [_, digest] = await timed.received()
    assert {"Failed", "Fine"} <= set(texts(digest))
