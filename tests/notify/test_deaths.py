"""Whoever dies, and wherever: nobody is lost, nobody is told twice without its being said, and the counts are right."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from local.fake_teams.api import Received
from notify.ingest import ingest
from notify.poison import MAX_POISON_RETRIES, retry_poison
from shared.queue_messages import DELIVERIES, EXPANSIONS, Delivery, Expansion
from shared.states import DeliveryState, NotificationState
from tests.notify.stories import STORIES, Story, Telling, that_waits_for_its_time, to_one
from tests.support.crashes import MAX_POINTS, Host, crash_at_each_write, pause_at_each_write

ENDED = (NotificationState.FINISHED, NotificationState.CANCELLED)


all_stories = pytest.mark.parametrize("telling", STORIES, ids=[each.__name__ for each in STORIES])


async def begin(host: Host, telling: Telling) -> Story:
    host.watchdog_enabled = False
    host.since = max((each.changed for each in await host.teams.received(since=host.since)), default=host.since)
    story = await telling(host)
    if story.body:
        await host.put(story.body)
    return story


async def check(host: Host, story: Story) -> None:
    """All is as it should be by what the queues brought again; and the watch changes nothing."""
    await _check(host, story)
    host.watchdog_enabled = True
    assert await host.run_worker()
    await _check(host, story)


async def _check(host: Host, story: Story) -> None:
    assert host.count_errors == []
    assert await host.dead_letters() == []
    rows = {row["RowKey"]: row for row in await host.rows(story.key) if "state" in row}
    everyone = {f"u:{each.object_id}" for each in story.to}
    assert rows.keys() <= everyone if story.cut else rows.keys() == everyone
    assert {row["state"] for row in rows.values()} <= set(story.ends)
    found = await host.services.notifications.get(story.key)
    assert found
    assert found.state in ENDED
    counted = Counter(row["state"] for row in rows.values())
    assert not any(not DeliveryState(state).final for state in counted)
    # What is recalled after the end is counted anew by the watch.
    if host.watchdog_enabled or not counted["recalled"]:
        assert json.loads(found.counts) == counted
    assert found.total == len(rows)
    received = await host.teams.received(since=host.since)
    for name in everyone:
        _check_one(story, rows.get(name), [m for m in received if f"u:{m.person}" == name], host.claims_lost[name])


def _check_one(story: Story, row: dict[str, Any] | None, received: list[Received], deaths: int) -> None:
    """Whether one was told as often as the row says; so many processes died while that was claimed."""
    doubt = deaths + story.unsure
    if row is None or row["state"] not in ("sent", "recalled"):
        assert len(received) <= doubt
        return
    assert 1 <= len(received) <= 1 + doubt
    assert row.get("maybe_twice", False) == bool(doubt)
    [last] = [each for each in received if each.id == row["activity_id"]]
    if row["state"] == "recalled":
        assert last.deleted_at
    else:
        assert (last.activity["summary"], last.deleted_at) == (story.title, None)


@all_stories
async def test_a_process_may_die_before_or_after_each_write(host: Host, telling: Telling) -> None:
    await crash_at_each_write(host, lambda: begin(host, telling), lambda story: check(host, story))


@all_stories
async def test_processes_may_die_one_after_another(host: Host, telling: Telling) -> None:
    """The story is told once; each who dies gets one point further than the one before."""
    story = await begin(host, telling)
    for point in range(1, MAX_POINTS):
        if await host.run_worker(point):
            await check(host, story)
            return
    raise AssertionError("there are more writes than thought")


@all_stories
async def test_a_process_may_sleep_before_or_after_each_write(host: Host, telling: Telling) -> None:
    await pause_at_each_write(host, lambda: begin(host, telling), lambda story: check(host, story))


@pytest.mark.parametrize("poison_retries", [0, MAX_POISON_RETRIES], ids=["which_gets_a_chance", "which_is_given_up"])
@pytest.mark.parametrize("page", [False, True], ids=["a_delivery", "a_page"])
async def test_who_sees_to_a_poisoned_message_may_die_too(host: Host, poison_retries: int, *, page: bool) -> None:
    for point in range(1, MAX_POINTS):
        story = await (that_waits_for_its_time if page else to_one)(host)
        [ada] = story.to
        await ingest(host.services, story.body, "m1")
        await host.lose(DELIVERIES)
        asked = await host.stored(story.body)
        delivery = Delivery(asked.key, "0", f"u:{ada.object_id}", "", 0, poison_retries=poison_retries)
        message = Expansion(asked.key, 0, poison_retries=poison_retries) if page else delivery
        queue = EXPANSIONS if page else DELIVERIES

        async def see_to_it(message: Delivery | Expansion = message, queue: str = queue) -> None:
            await retry_poison(host.services, queue, message.encode().encode(), "m1")

        lived = await host.run_worker(point, see_to_it)
        if not lived:
            await see_to_it()
        assert await host.run_worker()
        after, counts = await host.now(asked), await host.counts(asked)
        assert len(await host.teams.received(person=ada.object_id)) == (0 if poison_retries else 1)
        assert (counts, after.state) == (
            ({}, NotificationState.FAILED) if page and poison_retries
            else ({"failed" if poison_retries else "sent": 1}, NotificationState.FINISHED)
        )  # fmt: skip
        # One a day: midnight may lie between the two who give it up.
        assert len({letter["RowKey"] for letter in await host.dead_letters()}) == (1 if poison_retries else 0)
        assert host.count_errors == []
        if lived:
            return
    raise AssertionError("there are more writes than thought")
