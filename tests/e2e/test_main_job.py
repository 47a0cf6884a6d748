"""The main job, end to end: people install the bot, and notifications from the queue reach them."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta

from shared.queue_messages import NOTIFICATIONS
from shared.storage.clients import open_storage
from shared.time.clock import format_clock
from tests.e2e.conftest import SHORT_VISIBILITY, Deployment
from tests.support.herald import notification, user


async def test_raw_and_base64_notifications_reach_people_once_with_one_token(
    deployment: Deployment,
) -> None:
    deployment.start_hosts()
    people = (await deployment.teams.world()).people
    await deployment.install(*people)
    raw = notification(user(people[0]), content={"title": "For one"})
    encoded = base64.b64encode(notification({"all": True}, content={"title": "For all"})).decode()
    await deployment.put(raw)
    await deployment.put(encoded)
    received = await deployment.teams.wait(len(people) + 1, timeout=30)
    texts = sorted((str(message.person), message.activity["summary"]) for message in received)
    assert texts == sorted([(people[0].object_id, "For one"), *((person.object_id, "For all") for person in people)])
    stats = await deployment.teams.stats()
    assert (stats.count("token"), stats.tokens_used) == (1, 1)

    async def states() -> set[str]:
        rows = await deployment.read_rows("Deliveries")
        return {str(row["state"]) for row in rows if row["RowKey"] != "~counts"}

    async with asyncio.timeout(30):
        while await states() != {"sent"}:
            await asyncio.sleep(0.1)


async def test_uninstall_stops_delivery_until_reinstall_and_teams_and_group_chats_are_reached_after_install(
    deployment: Deployment,
) -> None:
    deployment.start_hosts()
    world = await deployment.teams.world()
    ada, *_ = world.people
    await deployment.install(ada)
    await deployment.send_event(kind="uninstall", person=ada.object_id)
    await deployment.put(notification(user(ada), content={"title": "Gone"}))

    async def is_suppressed() -> bool:
        return any(row.get("reason") == "notInstalled" for row in await deployment.read_rows("Deliveries"))

    async with asyncio.timeout(30):
        while not await is_suppressed():
            await asyncio.sleep(0.1)
    await deployment.install(ada)
    await deployment.put(notification(user(ada), content={"title": "Back"}))
    [back] = await deployment.teams.wait(1, timeout=30)
    assert back.activity["summary"] == "Back"

    team, chat = world.teams[0], world.chats[0]
    await deployment.send_event(kind="install", person=ada.object_id, team=team.id)
    await deployment.send_event(kind="install", person=ada.object_id, chat=chat.id)
    channel = {"channel": {"teamId": team.group_id, "channelId": team.channels[-1].id}}
    await deployment.put(notification(channel, {"conversation": chat.id}))
    received = (await deployment.teams.wait(3, timeout=30))[1:]
    assert {message.conversation.split(";")[0] for message in received} == {team.channels[-1].id, chat.id}


async def test_notification_due_during_downtime_is_sent_after_restart(deployment: Deployment) -> None:
    host = deployment.start_hosts()
    ada, *_ = (await deployment.teams.world()).people
    await deployment.install(ada)
    at = (datetime.now(UTC) + timedelta(minutes=2)).replace(tzinfo=None)
    schedule = {"at": at.isoformat(timespec="minutes"), "timeZone": "UTC"}
    await deployment.put(notification(user(ada), schedule=schedule))
    async with asyncio.timeout(30):
        while not await deployment.read_rows("Timers"):
            await asyncio.sleep(0.1)
    host.stop()
    deployment.start_hosts(HERALD_CLOCK=format_clock((at + timedelta(minutes=5)).isoformat(), 1))
    await deployment.teams.wait(1, timeout=30)


async def test_killed_host_loses_no_notification(deployment: Deployment) -> None:
    host = deployment.start_hosts(**SHORT_VISIBILITY)
    ada, *_ = (await deployment.teams.world()).people
    await deployment.install(ada)
    await deployment.put(notification(user(ada)))
    queues, tables = open_storage({"AzureWebJobsStorage": deployment.connection})
    async with queues, tables, asyncio.timeout(30):
        queue = queues.get_queue_client(NOTIFICATIONS)
        while await queue.peek_messages():
            await asyncio.sleep(0.005)
    host.kill()
    deployment.start_hosts()
    # If the host was killed right after the claim, the next one must wait until the claim ends, 90 s.
    [message] = await deployment.teams.wait(1, timeout=110)
    assert message.person == ada.object_id
