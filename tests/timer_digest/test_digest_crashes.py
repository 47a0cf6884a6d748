"""Workers that crash or pause while a digest is made, sent and settled: nothing is lost or sent twice.

A worker stops at one of its writes to the storage (`tests.support.crashes`), and another completes the work.
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
from shared.records import StoredNotification
from shared.states import Mode
from tests.support.crashes import MAX_POINTS, Host, Worker, crash_at_each_write, pause_at_each_write
from tests.support.digests import card_texts, received_by, send_to, set_preferences
from timer_digest.release_held import release


@dataclass(frozen=True, kw_only=True)
class HeldNotifications:
    """Notifications held for one person. Each is to end in one of the states `final_states`."""

    person: PersonView
    notifications: Sequence[StoredNotification]
    final_states: Sequence[str] = ("digested",)


async def add_digest_person(host: Host, **preferences: Any) -> PersonView:
    """Return a new person whose digest is due in less than three minutes."""
    [person] = (await host.grow(people=1)).people
    await host.store_reference(person)
    due = host.clock() + timedelta(minutes=2)
    await set_preferences(host, person, digest=f"daily {due:%H:%M}", time_zone="UTC", **preferences)
    return person


async def digest(host: Host) -> HeldNotifications:
    ada = await add_digest_person(host, categories={"builds": Mode.DIGEST})
    notifications = [await send_to(host, ada, f"Build {number}") for number in range(2)]
    notifications += [await send_to(host, ada, f"State {number}", thread={"key": "t"}) for number in range(2)]
    return HeldNotifications(person=ada, notifications=notifications)


async def digest_after_a_pause(host: Host) -> HeldNotifications:
    ada = await add_digest_person(host, paused_until=host.clock() + timedelta(minutes=1))
    notifications = [await send_to(host, ada, f"Build {number}") for number in range(3)]
    return HeldNotifications(person=ada, notifications=notifications)


async def digest_without_some_items(host: Host) -> HeldNotifications:
    """One item is cancelled, and another is to be sent immediately by now."""
    ada = await add_digest_person(host, categories={"builds": Mode.DIGEST, "news": Mode.DIGEST})
    off = await send_to(host, ada, "Build 0")
    notifications = [off, await send_to(host, ada, "News 0", category="news"), await send_to(host, ada, "Build 1")]
    await host.command("cancel", off)
    await set_preferences(host, ada, categories={"builds": Mode.DIGEST, "news": Mode.IMMEDIATE})
    return HeldNotifications(person=ada, notifications=notifications, final_states=("digested", "sent", "cancelled"))


async def digest_now(host: Host) -> HeldNotifications:
    ada = await add_digest_person(host, categories={"builds": Mode.DIGEST}, paused_until=FOREVER)
    notifications = [await send_to(host, ada, f"Build {number}") for number in range(2)]
    await enqueue_task(host, ada, Task.DIGEST_NOW)
    return HeldNotifications(person=ada, notifications=notifications)


async def cancelled_items(host: Host) -> HeldNotifications:
    ada = await add_digest_person(host, categories={"builds": Mode.DIGEST}, paused_until=FOREVER)
    notifications = [await send_to(host, ada, f"Build {number}") for number in range(2)]
    for notification in notifications:
        await host.command("cancel", notification)
    return HeldNotifications(person=ada, notifications=notifications, final_states=("cancelled",))


async def pause_ended_early(host: Host) -> HeldNotifications:
    ada = await add_digest_person(host, categories={"news": Mode.DIGEST}, paused_until=FOREVER)
    notifications = [await send_to(host, ada, f"Build {number}") for number in range(3)]
    notifications.append(await send_to(host, ada, "News 0", category="news"))
    await set_preferences(host, ada, paused_until=None)
    await enqueue_task(host, ada, Task.RECONSIDER)
    return HeldNotifications(person=ada, notifications=notifications, final_states=("digested", "sent"))


async def digest_cancelled_by_quiet_hours(host: Host) -> HeldNotifications:
    """Teams delays the digest into its reader's quiet hours."""
    begin, end = (host.clock() + timedelta(minutes=minutes) for minutes in (3, 5))
    ada = await add_digest_person(host, categories={"builds": Mode.DIGEST}, quiet=f"{begin:%H:%M}-{end:%H:%M}")
    notifications = [await send_to(host, ada, f"Build {number}") for number in range(2)]
    late = TeamsFault(
        operation="send", person=ada.object_id, status=412, code="PreconditionFailed", retry_after=90, count=1
    )
    await host.teams.inject(late)
    return HeldNotifications(person=ada, notifications=notifications)


async def enqueue_task(host: Host, person: PersonView, task: Task) -> None:
    await host.services.queues.enqueue_recipient(RecipientTask(host.tenant, f"u:{person.object_id}", task))


Scenario = Callable[[Host], Awaitable[HeldNotifications]]

SCENARIOS: Sequence[Scenario] = (
    digest,
    digest_after_a_pause,
    digest_without_some_items,
    digest_now,
    cancelled_items,
    pause_ended_early,
    digest_cancelled_by_quiet_hours,
)
all_scenarios = pytest.mark.parametrize("scenario", SCENARIOS, ids=[each.__name__ for each in SCENARIOS])


async def check(host: Host, held: HeldNotifications) -> None:
    """Check that each notification has ended, was sent at most once, and left no held row."""
    assert host.count_errors == []
    assert await host.dead_letters() == []
    recipient = f"u:{held.person.object_id}"
    shown: Counter[str] = Counter()
    for received in await received_by(host, held.person):
        shown.update(card_texts(received))
    for notification in held.notifications:
        title = notification.content.content.title if notification.content.content else ""
        row = await host.row(notification, recipient)
        state = row["state"]
        assert state in held.final_states, title
        if held.final_states == ("digested",):
            assert row.get("maybe_twice", False) == bool(host.claims_lost[recipient]), title
        assert (await host.reload(notification)).counts == f'{{"{state}":1}}'
        is_sent = state in ("digested", "sent")
        # The older state of the thread is shown only in a digest without the newer one.
        may_be_hidden = state == "digested" and title == "State 0"
        # A request of a worker that crashed may have arrived, and is sent again.
        most = (1 if is_sent else 0) + (host.claims_lost[recipient] if is_sent or state == "unknown" else 0)
        assert is_sent - may_be_hidden <= shown[title] <= most, title
    assert await host.services.held_deliveries.list(host.tenant, recipient, 10) == []
    assert not (await host.services.held_deliveries.digest_state(host.tenant, recipient)).included


@all_scenarios
async def test_digest_is_completed_after_a_crash_at_any_write(host: Host, scenario: Scenario) -> None:
    await crash_at_each_write(host, lambda: scenario(host), lambda held: check(host, held))


@all_scenarios
async def test_digest_is_completed_while_a_worker_pauses_at_any_write(host: Host, scenario: Scenario) -> None:
    await pause_at_each_write(host, lambda: scenario(host), lambda held: check(host, held))


async def test_preferences_may_change_while_a_worker_pauses_at_any_write(host: Host) -> None:
    """Another worker acts on the change while the worker that makes the digest pauses."""

    async def begin() -> HeldNotifications:
        return replace(await digest(host), final_states=("digested", "sent", "superseded"))

    async def change_preferences(held: HeldNotifications) -> None:
        await set_preferences(host, held.person, categories={})
        await enqueue_task(host, held.person, Task.RECONSIDER)

    await pause_at_each_write(host, begin, lambda held: check(host, held), change_preferences)


async def test_worker_may_pause_while_it_reconsiders_and_another_crashes_at_the_digest(host: Host) -> None:
    """A worker pauses before each write of RECONSIDER; one that makes the digest crashes before each of its writes."""
    for point in range(1, MAX_POINTS, 2):
        for crash_point in range(1, 20, 2):
            held = await digest(host)
            host.claims_lost.clear()
            worker, services = Worker(host.count_error, point), host.services
            task = RecipientTask(host.tenant, f"u:{held.person.object_id}", Task.RECONSIDER)
            if await worker.run(lambda services=services, task=task: release(services, task)):  # type: ignore[misc]
                assert point > 1
                return
            await host.replace_worker(point)
            await host.run_worker(crash_point)
            await worker.resume()
            await services.close()
            assert await host.run_worker()
            await check(host, held)
    raise AssertionError(f"there are more than {MAX_POINTS} points")
