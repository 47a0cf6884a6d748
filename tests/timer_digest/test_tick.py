"""What was scheduled goes out at its time, once, whoever ticks and however often."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from shared.states import NotificationState
from shared.store.conversations import Kind
from tests.notify.conftest import Herald, user


async def scheduled(herald: Herald, ahead: timedelta) -> tuple[object, object]:
    await herald.grow(people=1)
    [ada] = await herald.people(1)
    at = (herald.clock() + ahead).replace(tzinfo=None).isoformat(timespec="minutes")
    asked = await herald.ask(user(ada), schedule={"at": at, "timeZone": "UTC"})
    return ada, asked


async def test_it_waits_for_its_time_and_then_goes_out_once(herald: Herald) -> None:
    await scheduled(herald, timedelta(hours=2))
    assert await herald.tick() == 0
    await herald.send()
    assert await herald.received() == []
    herald.clock.moved += timedelta(hours=2, seconds=1)
    assert await herald.tick() == 1
    await herald.send()
    assert await herald.tick() == 0
    await herald.send()
    assert len(await herald.received()) == 1


async def test_it_goes_out_also_when_the_app_was_down_at_that_minute(herald: Herald) -> None:
    await scheduled(herald, timedelta(minutes=5))
    herald.clock.moved += timedelta(days=3)
    assert await herald.tick() == 1
    await herald.send()
    assert len(await herald.received()) == 1


async def test_two_ticks_at_once_send_it_once(herald: Herald) -> None:
    await scheduled(herald, timedelta(minutes=5))
    herald.clock.moved += timedelta(minutes=7)
    await asyncio.gather(herald.tick(), herald.tick(), herald.tick())
    await herald.send()
    await herald.tick()
    await herald.send()
    assert len(await herald.received()) == 1


async def test_a_row_written_late_into_a_passed_minute_is_found(herald: Herald) -> None:
    _, asked = await scheduled(herald, timedelta(minutes=5))
    herald.clock.moved += timedelta(hours=1)
    await herald.tick()
    long_ago = herald.clock() - timedelta(days=30)
    await herald.services.due.put(long_ago, "notification", asked.key)  # type: ignore[attr-defined]
    assert await herald.tick() == 1


async def test_more_than_one_batch_is_woken_in_one_tick(herald: Herald) -> None:
    now = herald.clock()
    keys = [f"{number:064x}" for number in range(120)]
    await asyncio.gather(*(herald.services.due.put(now - timedelta(minutes=1 + n % 7), "notification", k) for n, k in enumerate(keys)))  # noqa: E501  # fmt: skip
    assert await herald.tick() == 120


async def test_what_this_version_cannot_wake_stays_for_a_newer_one(herald: Herald) -> None:
    now = herald.clock()
    await herald.services.due.put(now - timedelta(minutes=2), "somethingNew", "x")
    await scheduled(herald, timedelta(minutes=1))
    herald.clock.moved += timedelta(minutes=3)
    assert await herald.tick() == 1
    assert [waking.kind for waking in await herald.services.due.until(herald.clock(), 10)] == ["somethingNew"]


async def test_a_scheduled_notification_looks_up_its_recipients_when_it_is_sent(herald: Herald) -> None:
    ada, asked = await scheduled(herald, timedelta(minutes=5))
    assert asked.state is NotificationState.SCHEDULED  # type: ignore[attr-defined]
    moved = {"service_url": "https://127.0.0.1:1/"}
    await herald.services.conversations.save(
        herald.tenant,
        Kind.USER,
        ada.object_id,  # type: ignore[attr-defined]
        moved,
        at=herald.clock(),
    )
    herald.clock.moved += timedelta(minutes=7)
    await herald.tick()
    await herald.send()
    assert await herald.counts(asked) == {"failed": 1}  # type: ignore[arg-type]
