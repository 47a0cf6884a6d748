"""Whoever dies, and wherever: nobody is lost, nobody is told twice without its being said, and the counts are right.

A process works through what is on the queues and dies at one of its storage operations, with all its tasks. What it
had taken from a queue comes again when the lease ends, to another process, which brings all to its end.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from local.fake_teams.api import Behaviour, Fault, PersonView, Received
from local.fake_teams.client import FakeTeams
from notify.intake import take_in
from notify.poison import CHANCES, rescue
from notify.progress import WATCHES
from shared.queues import DELIVERIES, EXPANSIONS, NOTIFICATIONS, Delivery, Expansion
from shared.services import open_services
from shared.settings import load
from shared.states import DeliveryState, NotificationState
from shared.storage import open_storage
from shared.store.notifications import notification_key
from tests.notify.conftest import Herald, attune, notification, opened, user
from tests.notify.tapped import TAP, Tap, tap

#: More writes than any of these stories has.
MANY = 400
#: Seconds after which a message comes again that a dead process had taken: at once, while its claims hold, or after
#: the lease of the Functions host, when they have ended. They take turns from write to write.
LEASES = (0.0, 600.0)
OLD, NEW = {"title": "Build 42 failed"}, {"title": "Build 42 is mended"}
ENDED = (NotificationState.FINISHED, NotificationState.CANCELLED)


class Life(Tap):
    """A process, which stops at `point`: 1 is before its first write, 2 after that, 3 before the second; 0 is never.

    From then on none of its tasks gets any further, unless it is to `go_on`. After each write to a partition of
    Deliveries, what is counted there is compared with the rows; `wrong` tells where they differ.
    """

    def __init__(self, rows: Callable[[str], Awaitable[str]], point: int) -> None:
        self._rows, self._point = rows, point
        self._begun = self._done = self._under_way = 0
        self.stopped, self._goes_on = asyncio.Event(), asyncio.Event()
        self.wrong: list[str] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    async def before(self, written: str) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._begun += bool(written)
        if written and self._point == 2 * self._begun - 1:
            self.stopped.set()
        await self._stand_still()
        self._under_way += 1

    async def after(self, written: str) -> None:
        self._done += bool(written)
        if written and self._point == 2 * self._done:
            self.stopped.set()
        table, _, partition = written.partition("/")
        if table == "HeraldDeliveries" and (wrong := await self._rows(partition)):
            self.wrong.append(f"{wrong}, after write {self._done}")
        self._under_way -= 1
        await self._stand_still()

    async def _stand_still(self) -> None:
        if self.stopped.is_set():
            await self._goes_on.wait()

    async def lead(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do the work; whether it was done before the process stopped."""
        token = TAP.set(self)
        self._work = asyncio.ensure_future(work())
        TAP.reset(token)
        stop = asyncio.create_task(self.stopped.wait())
        await asyncio.wait((self._work, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not self.stopped.is_set():
            await self._work
            return True
        while self._under_way:  # what left is written, although nobody is there any more to be told
            await asyncio.sleep(0.001)
        return False

    async def go_on(self) -> None:
        """Go on where it stopped, to the end of the work."""
        self._goes_on.set()
        await self._work

    async def die(self) -> None:
        ending = {self._work, *self._tasks}
        for each in ending:
            each.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


@dataclass
class Host(Herald):
    """What brings the messages to a process, and, after it died, to the next one."""

    #: Recipients of whom a process died while their row was claimed, and how often.
    doubtful: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    watched: bool = False
    _taken: dict[str, tuple[str, Any]] = field(default_factory=dict)

    async def put(self, body: bytes) -> None:
        await self.outside_queues.get_queue_client(NOTIFICATIONS).send_message(body.decode())

    async def live(self, point: int = 0, work: Callable[[], Awaitable[None]] | None = None) -> bool:
        """Let a process, which dies at `point`, do this work, or all there is; whether it lived to its end."""
        life = Life(self._miscounted, point)
        lived = await life.lead(work or self.run)
        if not lived:
            await life.die()
            await self.services.close()
            await self._replace(point)
        self.wrong += life.wrong
        return lived

    async def sleep(self, point: int) -> bool:
        """Let a process stop at `point`, and go on when another has done all; whether it got that far."""
        life = Life(self._miscounted, point)
        stopped, asleep = not await life.lead(self.run), self.services
        if stopped:
            await self._replace(point)
            assert await self.live()
            await life.go_on()
            await asleep.close()
        self.wrong += life.wrong
        return stopped

    async def wait(self, seconds: float) -> None:
        self.clock.moved += timedelta(seconds=seconds)
        now = self.clock()
        for each in [each for each in self.kept if each[0] <= now]:
            # By the queue itself, and not by a process, which could die of it.
            await self.outside_queues.get_queue_client(each[1]).send_message(each[2])
            self.kept.remove(each)
        await self.tick()
        await self.send()

    async def _drain(self, name: str, work: Callable[[bytes], Awaitable[None]]) -> bool:
        queue = self.outside_queues.get_queue_client(name)

        async def one(message: Any) -> None:
            self._taken[message.id] = name, message
            await work(message.content.encode())
            if self._taken.pop(message.id, None):
                await queue.delete_message(message)

        found = [each async for each in queue.receive_messages(max_messages=32, visibility_timeout=600)]
        await asyncio.gather(*map(one, found))
        return bool(found)

    async def _due(self) -> AsyncIterator[datetime]:
        """When something is due; the watch, which heals what nobody brings again, only when it is asked for."""
        async for row in self.outside_tables.get_table_client("HeraldDue").list_entities():
            if self.watched or not row["RowKey"].startswith(WATCHES):
                yield datetime.fromisoformat(row["PartitionKey"].split(";")[0] + "+00:00")

    async def _replace(self, point: int) -> None:
        """Note what a process leaves behind that stopped at `point`, and let another take its place."""
        self.doubtful.update([row["RowKey"] for row in await self.rows("") if row.get("state") == "sending"])
        for name, message in self._taken.values():
            await self.outside_queues.get_queue_client(name).delete_message(message)
            self.kept.append(
                (self.clock() + timedelta(seconds=LEASES[point // 2 % len(LEASES)]), name, message.content)
            )
        self._taken.clear()
        await self.start()

    async def start(self) -> None:
        """Start a process."""
        token = TAP.set(Tap())
        self.services = await open_services(load(self.environ), open_storage(self.environ), self.clock)
        TAP.reset(token)
        object.__setattr__(self.services.settings, "tenant_rate", 1)  # pages of five
        attune(self)

    async def rows(self, partition: str) -> list[dict[str, Any]]:
        """The rows of the partitions of Deliveries whose key begins so, those that count too."""
        table = self.outside_tables.get_table_client("HeraldDeliveries")
        found = table.query_entities(
            "PartitionKey ge @first and PartitionKey lt @last", parameters={"first": partition, "last": partition + "~"}
        )
        return [dict(row) async for row in found]

    async def _miscounted(self, partition: str) -> str:
        """How a partition of Deliveries is counted where it is otherwise than that, or ""."""
        rows = await self.rows(partition)
        counted = next((row for row in rows if row["RowKey"] == "~counts"), {})
        told = +Counter({name: counted.get(name, 0) for name in ("open", *DeliveryState)})
        found = Counter(DeliveryState(row["state"]).counted for row in rows if "state" in row)
        return "" if told == found else f"{dict(told)} is told of {dict(found)}"


@dataclass(frozen=True, kw_only=True)
class Story:
    """What goes on while somebody dies: a message on the queue, and what is to come of the notification `key`.

    The people of `to` all get a row, unless it is `cut` short; the row ends in one of the states `ends`, and what was
    sent shows `title`. `unsure` says that it may come twice although nobody dies.
    """

    key: str
    to: Sequence[PersonView]
    body: bytes
    ends: Sequence[str] = ("sent",)
    title: str = OLD["title"]
    unsure: bool = False
    cut: bool = False


async def people(host: Host, count: int) -> list[PersonView]:
    """So many new people, who are known."""
    found = (await host.grow(people=count)).people
    await asyncio.gather(*map(host.know, found))
    return found


def ask(*recipients: dict[str, Any], **data: Any) -> bytes:
    return notification(*recipients, **({"content": OLD, "source": "/ci"} | data))


def key_of(host: Host, body: bytes) -> str:
    return notification_key(host.tenant, "/ci", json.loads(body)["id"])


def order(command: str, body: bytes, **more: Any) -> bytes:
    """A command about the notification that `body` asked for."""
    target = {"source": "/ci", "id": json.loads(body)["id"]}
    return json.dumps({"command": command, "target": target, **more}).encode()


async def topic(host: Host, subscribers: Sequence[PersonView]) -> dict[str, str]:
    """A new topic that these have subscribed to."""
    name = uuid.uuid4().hex
    for each in subscribers:
        await host.services.topics.subscribe(host.tenant, name, f"u:{each.object_id}")
    return {"topic": name}


async def to_one(host: Host) -> Story:
    [ada] = await people(host, 1)
    body = ask(user(ada))
    return Story(key=key_of(host, body), to=[ada], body=body)


async def that_teams_puts_off(host: Host) -> Story:
    story = await to_one(host)
    await host.teams.fault(
        Fault(operation="send", person=story.to[0].object_id, status=412, code="PreconditionFailed", count=1)
    )
    return story


async def whose_answer_is_lost(host: Host) -> Story:
    story = await to_one(host)
    await host.teams.fault(Fault(operation="send", person=story.to[0].object_id, drop=True, accept=True, count=1))
    return replace(story, unsure=True)


async def that_is_not_sent_twice_whatever_happens(host: Host) -> Story:
    [ada] = await people(host, 1)
    body = ask(user(ada), onUnknown="stop")
    return Story(key=key_of(host, body), to=[ada], body=body, ends=("sent", "unknown"))


async def to_who_has_blocked_us(host: Host) -> Story:
    story = await to_one(host)
    await host.teams.fault(
        Fault(operation="send", person=story.to[0].object_id, status=403, code="ConversationBlockedByUser")
    )
    return replace(story, ends=("suppressed",))


async def to_who_has_no_chat(host: Host) -> Story:
    await host.know_tenant()
    [ada] = (await host.grow(people=1)).people
    body = ask(user(ada))
    return Story(key=key_of(host, body), to=[ada], body=body)


async def to_two_pages(host: Host) -> Story:
    everyone = await people(host, 7)
    body = ask(*map(user, everyone))
    return Story(key=key_of(host, body), to=everyone, body=body)


async def to_a_topic(host: Host) -> Story:
    """Its subscribers make two pages in several partitions; one of them is named beside."""
    everyone = await people(host, 6)
    body = ask(user(everyone[-1]), await topic(host, everyone))
    return Story(key=key_of(host, body), to=everyone, body=body)


async def that_updates_a_card(host: Host) -> Story:
    story = await to_one(host)
    await host.put(ask(user(story.to[0]), content={"title": "Before"}, thread={"key": story.key, "onRepeat": "update"}))
    await host.send()
    body = ask(user(story.to[0]), thread={"key": story.key, "onRepeat": "update"})
    return replace(story, key=key_of(host, body), body=body)


async def that_waits_for_its_time(host: Host) -> Story:
    [ada] = await people(host, 1)
    at = (host.clock() + timedelta(hours=1)).replace(tzinfo=None).isoformat(timespec="minutes")
    body = ask(user(ada), schedule={"at": at, "timeZone": "UTC"})
    return Story(key=key_of(host, body), to=[ada], body=body)


async def that_is_cancelled(host: Host) -> Story:
    """One was sent, one waits for its next try."""
    ada, bob = await people(host, 2)
    await host.teams.fault(
        Fault(operation="send", person=bob.object_id, status=412, code="PreconditionFailed", retry_after=60, count=1)
    )
    body = ask(user(ada), user(bob))
    await host.put(body)
    await host.send()
    return Story(key=key_of(host, body), to=[ada, bob], body=order("cancel", body), ends=("sent", "cancelled"))


async def that_is_cancelled_in_the_middle(host: Host) -> Story:
    story = await _half_sent(host)
    return replace(story, body=order("cancel", story.body), ends=("sent", "cancelled"), cut=True)


async def that_is_recalled(host: Host) -> Story:
    story = await _half_sent(host)
    return replace(story, body=order("recall", story.body), ends=("recalled", "cancelled"), cut=True)


async def that_is_edited(host: Host) -> Story:
    story = await _half_sent(host)
    return replace(story, body=order("edit", story.body, content=NEW), title=NEW["title"])


async def _half_sent(host: Host) -> Story:
    """The first of two pages is sent."""
    everyone = await people(host, 7)
    body = ask(*map(user, everyone))
    await host.put(body)
    await host.send()
    return Story(key=key_of(host, body), to=everyone, body=body)


async def that_is_redriven(host: Host) -> Story:
    ada, bob = await people(host, 2)
    await host.teams.fault(Fault(operation="send", person=bob.object_id, status=400, code="Bad Argument", count=1))
    body = ask(user(ada), user(bob))
    await host.put(body)
    await host.send()
    return Story(key=key_of(host, body), to=[ada, bob], body=order("redrive", body))


async def whose_message_was_lost(host: Host) -> Story:
    """It is the watch that finds it, and repeats what was there."""
    story = await to_one(host)
    await take_in(host.services, story.body, "m1")
    await host.lose(DELIVERIES)
    host.watched = True
    return replace(story, body=b"")


@pytest.fixture
async def host(connection: str, teams: FakeTeams, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    tap(monkeypatch)
    async with opened(connection, teams, monkeypatch) as herald:
        await teams.behave(Behaviour(enforce_limits=False))
        host = Host(**vars(herald))
        await host.services.close()
        await host.start()
        yield host
        await host.services.close()


Telling = Callable[[Host], Awaitable[Story]]

#: Each story, and which part of its points is tried in a quick run; it is odd, so that both sides of writes are.
STORIES: Sequence[tuple[Telling, int]] = (
    (to_one, 1),
    (that_teams_puts_off, 11),
    (whose_answer_is_lost, 11),
    (that_is_not_sent_twice_whatever_happens, 7),
    (to_who_has_blocked_us, 9),
    (to_who_has_no_chat, 9),
    (to_two_pages, 31),
    (to_a_topic, 41),
    (that_updates_a_card, 11),
    (that_waits_for_its_time, 5),
    (that_is_cancelled, 5),
    (that_is_cancelled_in_the_middle, 3),
    (that_is_recalled, 25),
    (that_is_edited, 41),
    (that_is_redriven, 11),
    (whose_message_was_lost, 11),
)
all_stories = pytest.mark.parametrize(
    "telling", [each for each, _ in STORIES], ids=[each.__name__ for each, _ in STORIES]
)


async def die_at_each(host: Host, telling: Telling, points: range) -> None:
    """Tell the story again and again, with somebody who dies at each of the `points`, as long as somebody does."""
    for point in points:
        story = await begin(host, telling)
        lived = await host.live(point)
        if not lived:
            assert await host.live()
        await check(host, story)
        if lived:
            assert point > points.start
            return
    raise AssertionError("there are more writes than thought")


async def die_again_and_again(host: Host, telling: Telling, step: int) -> None:
    """Tell the story once, with one who dies after the other, each of them so many points later."""
    story = await begin(host, telling)
    for point in range(1, MANY, step):
        if await host.live(point):
            await check(host, story)
            return
    raise AssertionError("there are more writes than thought")


async def begin(host: Host, telling: Telling) -> Story:
    host.watched = False
    story = await telling(host)
    host.doubtful.clear()
    if story.body:
        await host.put(story.body)
    return story


async def check(host: Host, story: Story) -> None:
    """All is as it should be by what the queues brought again; and the watch changes nothing."""
    await _check(host, story)
    host.watched = True
    assert await host.live()
    await _check(host, story)


async def _check(host: Host, story: Story) -> None:
    assert host.wrong == []
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
    if host.watched or not counted["recalled"]:  # what is recalled after the end is counted anew by the watch
        assert json.loads(found.counts) == counted
    assert found.total == len(rows)
    received = await host.received()
    for name in everyone:
        _check_one(story, rows.get(name), [m for m in received if f"u:{m.person}" == name], host.doubtful[name])


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


@pytest.mark.parametrize(("telling", "step"), STORIES, ids=[each.__name__ for each, _ in STORIES])
async def test_a_process_may_die_before_or_after_a_write(host: Host, telling: Telling, step: int) -> None:
    await die_at_each(host, telling, range(1, MANY, step))


@pytest.mark.full
@pytest.mark.timeout(1200)
@all_stories
async def test_a_process_may_die_before_or_after_each_write(host: Host, telling: Telling) -> None:
    await die_at_each(host, telling, range(1, MANY))


async def test_processes_may_die_one_after_another(host: Host) -> None:
    await die_again_and_again(host, to_one, 3)


@pytest.mark.full
@pytest.mark.timeout(1200)
@all_stories
async def test_many_processes_may_die_one_after_another(host: Host, telling: Telling) -> None:
    await die_again_and_again(host, telling, 1)


async def sleep_at_each(host: Host, telling: Telling, points: range) -> None:
    for point in points:
        story = await begin(host, telling)
        slept = await host.sleep(point)
        assert await host.live()
        await check(host, story)
        if not slept:
            assert point > points.start
            return
    raise AssertionError("there are more writes than thought")


async def test_a_process_may_sleep_while_another_does_its_work(host: Host) -> None:
    await sleep_at_each(host, to_one, range(1, MANY, 3))


@pytest.mark.full
@pytest.mark.timeout(1200)
@all_stories
async def test_a_process_may_sleep_before_or_after_each_write(host: Host, telling: Telling) -> None:
    await sleep_at_each(host, telling, range(1, MANY))


@pytest.mark.parametrize("chances", [0, CHANCES], ids=["which_gets_a_chance", "which_is_given_up"])
@pytest.mark.parametrize("page", [False, True], ids=["a_delivery", "a_page"])
async def test_who_sees_to_a_poisoned_message_may_die_too(host: Host, chances: int, *, page: bool) -> None:
    for point in range(1, MANY):
        story = await (that_waits_for_its_time if page else to_one)(host)
        [ada] = story.to
        await take_in(host.services, story.body, "m1")
        await host.lose(DELIVERIES)
        asked = await host.stored(story.body)
        delivery = Delivery(asked.key, "0", f"u:{ada.object_id}", "", 0, chances=chances)
        message = Expansion(asked.key, 0, chances=chances) if page else delivery
        queue = EXPANSIONS if page else DELIVERIES

        async def see_to_it(message: Delivery | Expansion = message, queue: str = queue) -> None:
            await rescue(host.services, queue, message.encode().encode(), "m1")

        lived = await host.live(point, see_to_it)
        if not lived:
            await see_to_it()
        assert await host.live()
        after, counts = await host.now(asked), await host.counts(asked)
        assert len(await host.teams.received(person=ada.object_id)) == (0 if chances else 1)
        assert (counts, after.state) == (
            ({}, NotificationState.FAILED) if page and chances
            else ({"failed" if chances else "sent": 1}, NotificationState.FINISHED)
        )  # fmt: skip
        assert len(await host.dead_letters()) == (1 if chances else 0)
        assert host.wrong == []
        if lived:
            return
    raise AssertionError("there are more writes than thought")
