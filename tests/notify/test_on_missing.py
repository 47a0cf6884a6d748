"""`onMissing: hold`: a notification waits for the install of the bot, until it expires or its longest hold ends."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from local.fake_teams.api import Behaviour, Growth, PersonView, TeamsEvent
from notify.command_dispatch import SWEEP_DELAY_SECONDS
from shared.preferences.preferences import Preferences
from shared.states import Mode, ReferenceKind
from tests.messages.users import serve_endpoint
from tests.support.herald import Herald, user
from timer_digest.digest_plan import MAX_SEPARATE_MESSAGES

DAY = timedelta(days=1).total_seconds()


async def add_person(herald: Herald) -> PersonView:
    """Return a person who has not installed the bot, in a tenant whose serviceUrl is known."""
    [person] = (await herald.teams.grow(Growth(tenant=herald.tenant, people=1, installed=False))).people
    await herald.store_tenant()
    return person


async def install(herald: Herald, **where: Any) -> None:
    """Install the bot, and do all work that follows within a minute."""
    async with serve_endpoint(herald) as endpoint:
        await herald.teams.send_event(TeamsEvent(kind="install", endpoint=endpoint, **where))
    await herald.handle_messages()
    await herald.advance_clock(60)


async def titles(herald: Herald) -> list[str]:
    return [str(message.activity.get("summary")) for message in await herald.received()]


async def send(herald: Herald, person: PersonView, title: str = "Build 42", **data: Any) -> str:
    """Send a notification that waits for the install; return the key of its row."""
    notification = await herald.submit(user(person), content={"title": title}, onMissing="hold", **data)
    await herald.handle_messages()
    row = await herald.row(notification, f"u:{person.object_id}")
    assert (row["state"], row["reason"]) == ("queued", "notInstalled")
    return notification.key


async def test_person_gets_it_after_the_install_behind_the_welcome(timed: Herald) -> None:
    ada = await add_person(timed)
    await send(timed, ada)
    await timed.advance_clock(10 * DAY)
    assert await titles(timed) == []
    await install(timed, person=ada.object_id)
    assert [title == "Build 42" for title in await titles(timed)] == [False, True]
    assert await timed.services.held_deliveries.list(timed.tenant, f"u:{ada.object_id}", 10) == []


async def test_it_waits_also_if_events_say_that_the_bot_was_uninstalled(timed: Herald) -> None:
    [ada] = (await timed.grow(people=1)).people
    async with serve_endpoint(timed) as endpoint:
        for kind in ("install", "uninstall"):
            await timed.teams.send_event(TeamsEvent(kind=kind, person=ada.object_id, endpoint=endpoint))
    await timed.handle_messages()
    before = await titles(timed)
    await send(timed, ada)
    await install(timed, person=ada.object_id)
    assert (await titles(timed))[len(before) :][-1] == "Build 42"


async def test_without_an_install_it_ends_after_the_longest_hold(timed: Herald) -> None:
    ada = await add_person(timed)
    notification = await timed.submit(user(ada), onMissing="hold")
    await timed.run_until_idle()
    row = await timed.row(notification, f"u:{ada.object_id}")
    assert row["state"] == "suppressed"
    assert timed.clock() - notification.created >= timed.services.settings.longest_hold


async def test_expired_notification_is_not_sent_after_the_install(timed: Herald) -> None:
    ada = await add_person(timed)
    expires = timed.clock() + timedelta(days=2)
    notification = await timed.submit(user(ada), onMissing="hold", expiresAt=expires.isoformat())
    await timed.advance_clock(2 * DAY + 60)
    assert (await timed.row(notification, f"u:{ada.object_id}"))["state"] == "expired"
    await install(timed, person=ada.object_id)
    assert "Done" not in await titles(timed)


async def test_cancelled_notification_is_not_sent_after_the_install(timed: Herald) -> None:
    ada = await add_person(timed)
    notification = await timed.submit(user(ada), onMissing="hold")
    await timed.handle_messages()
    await timed.command("cancel", notification)
    await timed.advance_clock(SWEEP_DELAY_SECONDS)
    assert (await timed.row(notification, f"u:{ada.object_id}"))["state"] == "cancelled"
    await install(timed, person=ada.object_id)
    assert "Done" not in await titles(timed)


async def test_many_become_one_digest_after_the_install(timed: Herald) -> None:
    ada = await add_person(timed)
    await timed.teams.set_behaviour(Behaviour(enforce_limits=False))  # they go by the real time
    for number in range(MAX_SEPARATE_MESSAGES + 1):
        await send(timed, ada, f"Build {number}")
    await install(timed, person=ada.object_id)
    await timed.run_until_idle()  # the windows of a conversation count the chats that Teams refused to create
    assert len(await titles(timed)) == 2  # the welcome and the digest


async def test_preferences_hold_for_a_person_who_is_met_for_the_first_time(timed: Herald) -> None:
    ada = await add_person(timed)
    await timed.services.conversations.change_preferences(
        timed.tenant, ReferenceKind.USER, ada.object_id, lambda _: Preferences(categories={"builds": Mode.OFF})
    )
    notification = await timed.submit(user(ada), onMissing="hold")
    await timed.handle_messages()
    await install(timed, person=ada.object_id)
    row = await timed.row(notification, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("suppressed", "optedOut")


async def test_install_during_the_hold_is_not_missed(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event arrives after the delivery was found unreachable, and before its row is held."""
    ada = await add_person(timed)
    put = timed.services.held_deliveries.put

    async def put_after_the_event(*args: Any) -> None:
        monkeypatch.undo()
        async with serve_endpoint(timed) as endpoint:
            await timed.teams.send_event(TeamsEvent(kind="install", person=ada.object_id, endpoint=endpoint))
        await put(*args)

    monkeypatch.setattr(timed.services.held_deliveries, "put", put_after_the_event)
    await timed.submit(user(ada), onMissing="hold")
    await timed.handle_messages()
    await timed.advance_clock(60)
    assert (await titles(timed)).count("Done") == 1


async def test_chat_gets_it_after_the_install(timed: Herald) -> None:
    await timed.grow(people=3)
    [chat] = (await timed.grow(chats=1)).chats
    await timed.teams.set_installed([chat.id], installed=False)
    await timed.submit({"conversation": chat.id}, onMissing="hold")
    await timed.handle_messages()
    assert "Done" not in await titles(timed)
    await install(timed, chat=chat.id)
    assert (await titles(timed)).count("Done") == 1


async def test_channel_gets_it_within_an_hour_after_the_install(timed: Herald) -> None:
    await timed.grow(people=3)
    [team] = (await timed.grow(teams=1)).teams
    await timed.teams.set_installed([team.id], installed=False)
    await timed.submit({"channel": {"teamId": team.id, "channelId": team.channels[1].id}}, onMissing="hold")
    await timed.handle_messages()
    await install(timed, team=team.id)
    await timed.advance_clock(3600)
    assert (await titles(timed)).count("Done") == 1


async def test_without_hold_it_ends_at_once(timed: Herald) -> None:
    ada = await add_person(timed)
    notification = await timed.submit(user(ada))
    await timed.handle_messages()
    assert (await timed.row(notification, f"u:{ada.object_id}"))["state"] == "suppressed"
