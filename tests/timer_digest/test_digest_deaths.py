"""Whoever dies or sleeps while a digest is made, sent and settled: nothing is lost, and nothing is told twice.

A process stops at one of its writes to the storage (`tests.support.dying`), and another brings all to its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from local.fake_teams.api import PersonView, TeamsFault
from shared.preferences.preferences import FOREVER
from shared.queue_messages import RecipientTask, Task
from shared.states import Mode
from shared.storage.notifications import StoredNotification
from tests.support.digests import ask, came, prefer, texts
from tests.support.dying import MANY, Host, Life, die_at_each, sleep_at_each
from timer_digest.release_held import release


@dataclass(frozen=True, kw_only=True)
class Held:
    """What waits for one person; each of it is to end in one of the states `ends`, and to be told where it is told."""

    person: PersonView
    asked: Sequence[StoredNotification]
    ends: Sequence[str] = ("digested",)


async def somebody(host: Host, **wants: Any) -> PersonView:
    """Somebody new, whose digest comes in less than three minutes."""
    [person] = (await host.grow(people=1)).people
    await host.know(person)
    slot = host.clock() + timedelta(minutes=2)
    await prefer(host, person, digest=f"daily {slot:%H:%M}", time_zone="UTC", **wants)
    return person


async def of_a_digest(host: Host) -> Held:
    ada = await somebody(host, categories={"builds": Mode.DIGEST})
    asked = [await ask(host, ada, f"Build {number}") for number in range(2)]
    asked += [await ask(host, ada, f"State {number}", thread={"key": "t"}) for number in range(2)]
    return Held(person=ada, asked=asked)


async def of_what_a_pause_held(host: Host) -> Held:
    ada = await somebody(host, paused_until=host.clock() + timedelta(minutes=1))
    return Held(person=ada, asked=[await ask(host, ada, f"Build {number}") for number in range(3)])


async def of_which_some_is_over(host: Host) -> Held:
    ada = await somebody(host, categories={"builds": Mode.DIGEST, "news": Mode.DIGEST})
    off = await ask(host, ada, "Build 0")
    asked = [off, await ask(host, ada, "News 0", category="news"), await ask(host, ada, "Build 1")]
    await host.command("cancel", off)
    await prefer(host, ada, categories={"builds": Mode.DIGEST, "news": Mode.IMMEDIATE})
    return Held(person=ada, asked=asked, ends=("digested", "sent", "cancelled"))


async def of_what_was_asked_for(host: Host) -> Held:
    ada = await somebody(host, categories={"builds": Mode.DIGEST}, paused_until=FOREVER)
    asked = [await ask(host, ada, f"Build {number}") for number in range(2)]
    await host.services.queues.enqueue_recipient(RecipientTask(host.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW))
    return Held(person=ada, asked=asked)


async def of_what_is_called_off(host: Host) -> Held:
    ada = await somebody(host, categories={"builds": Mode.DIGEST}, paused_until=FOREVER)
    asked = [await ask(host, ada, f"Build {number}") for number in range(2)]
    for each in asked:
        await host.command("cancel", each)
    return Held(person=ada, asked=asked, ends=("cancelled",))


async def of_a_pause_that_is_called_off(host: Host) -> Held:
    ada = await somebody(host, categories={"news": Mode.DIGEST}, paused_until=FOREVER)
    asked = [await ask(host, ada, f"Build {number}") for number in range(3)]
    asked.append(await ask(host, ada, "News 0", category="news"))
    await prefer(host, ada, paused_until=None)
    await host.services.queues.enqueue_recipient(RecipientTask(host.tenant, f"u:{ada.object_id}", Task.RECONSIDER))
    return Held(person=ada, asked=asked, ends=("digested", "sent"))


async def of_a_digest_that_quiet_hours_cancel(host: Host) -> Held:
    """Teams delays it into its reader's quiet hours."""
    begin, end = (host.clock() + timedelta(minutes=minutes) for minutes in (3, 5))
    ada = await somebody(host, categories={"builds": Mode.DIGEST}, quiet=f"{begin:%H:%M}-{end:%H:%M}")
    asked = [await ask(host, ada, f"Build {number}") for number in range(2)]
    late = TeamsFault(
        operation="send", person=ada.object_id, status=412, code="PreconditionFailed", retry_after=90, count=1
    )
    await host.teams.inject(late)
    return Held(person=ada, asked=asked)


Telling = Callable[[Host], Awaitable[Held]]

STORIES: Sequence[Telling] = (
    of_a_digest,
    of_what_a_pause_held,
    of_which_some_is_over,
    of_what_was_asked_for,
    of_what_is_called_off,
    of_a_pause_that_is_called_off,
    of_a_digest_that_quiet_hours_cancel,
)
all_stories = pytest.mark.parametrize("telling", STORIES, ids=[each.__name__ for each in STORIES])


async def check(host: Host, story: Held) -> None:
    """Each has ended, was told once if at all, and left nothing behind."""
    assert host.wrong == []
    assert await host.dead_letters() == []
    recipient = f"u:{story.person.object_id}"
    told: Counter[str] = Counter()
    for received in await came(host, story.person):
        told.update(texts(received))
    for asked in story.asked:
        title = asked.content.content.title if asked.content.content else ""
        row = await host.row(asked, recipient)
        state = row["state"]
        assert state in story.ends, title
        if story.ends == ("digested",):
            assert row.get("maybe_twice", False) == bool(host.doubtful[recipient]), title
        assert (await host.now(asked)).counts == f'{{"{state}":1}}'
        due = state in ("digested", "sent")
        # An older state of a thread is told only in a digest without the newer one.
        hidden = state == "digested" and title == "State 0"
        # A request that left when its process died may have arrived, and is sent again.
        most = (1 if due else 0) + (host.doubtful[recipient] if due or state == "unknown" else 0)
        assert due - hidden <= told[title] <= most, title
    assert await host.services.held_deliveries.of(host.tenant, recipient, 10) == []
    assert not (await host.services.held_deliveries.digest(host.tenant, recipient)).included


@all_stories
async def test_a_process_may_die_before_or_after_each_write_of_a_digest(host: Host, telling: Telling) -> None:
    await die_at_each(host, lambda: telling(host), lambda story: check(host, story))


@all_stories
async def test_a_process_may_sleep_before_or_after_each_write_of_a_digest(host: Host, telling: Telling) -> None:
    await sleep_at_each(host, lambda: telling(host), lambda story: check(host, story))


async def change_at(host: Host, point: int) -> bool:
    """Let somebody sleep at a point, while the wishes change and another does what follows; whether it got that far."""
    story = replace(await of_a_digest(host), ends=("digested", "sent", "superseded"))
    host.doubtful.clear()
    life, asleep = Life(host._miscounted, point), host.services
    slept = not await life.lead(host.run)
    if slept:
        await host._replace(point)
        await prefer(host, story.person, categories={})
        await host.services.queues.enqueue_recipient(
            RecipientTask(host.tenant, f"u:{story.person.object_id}", Task.RECONSIDER)
        )
        assert await host.live()
        await life.go_on()
        await asleep.close()
        assert await host.live()
    host.wrong += life.wrong
    await check(host, story)
    return slept


async def test_a_process_may_sleep_at_each_write_while_the_wishes_change(host: Host) -> None:
    for point in range(1, MANY):
        if not await change_at(host, point):
            assert point > 1
            return
    raise AssertionError("there are more writes than thought")


async def test_one_may_sleep_anywhere_who_lets_go_while_another_dies_at_the_digest(host: Host) -> None:
    """One sleeps at each write, before it, of letting all go, while one who makes the digest dies at each of its."""
    for point in range(1, MANY, 2):
        for death in range(1, 20, 2):
            story = await of_a_digest(host)
            host.doubtful.clear()
            life, asleep = Life(host._miscounted, point), host.services
            person = RecipientTask(host.tenant, f"u:{story.person.object_id}", Task.RECONSIDER)
            if await life.lead(lambda asleep=asleep, person=person: release(asleep, person)):  # type: ignore[misc]
                assert point > 1
                return
            await host._replace(point)
            await host.live(death)
            await life.go_on()
            await asleep.close()
            assert await host.live()
            await check(host, story)
    raise AssertionError("there are more writes than thought")
