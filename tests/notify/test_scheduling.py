"""Scheduled notifications are sent at one instant or at each recipient's local time, and can be rescheduled."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from local.fake_teams.api import Behaviour, PersonView
from notify.delivery.deliver import deliver
from notify.expansion import expand
from notify.ingest import ingest
from notify.scheduling import DueTime, compute_local_due
from shared.contract.models import Schedule
from shared.queue_messages import DELIVERIES, DELIVERIES_URGENT, EXPANSIONS, RECIPIENTS, Expansion, RecipientTask, Task
from shared.records import HeldDelivery, StoredNotification
from shared.states import NotificationState, ReferenceKind
from shared.storage import timers
from shared.time.localtime import load_zone
from tests.support.herald import Herald, notification, user
from timer_digest.release_held import release

#: Zones in the order in which they reach a local time, with their hours ahead of UTC on the day of these tests.
HOURS_AHEAD = {
    "Pacific/Kiritimati": 14,
    "Asia/Tokyo": 9,
    "Europe/Berlin": 1,
    "America/New_York": -5,
    "Pacific/Pago_Pago": -11,
}
#: The clock of the app at first, before 09:00 of the next day in all zones.
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
NINE = "2026-11-24T09:00"
GRACE = timedelta(minutes=60)
LOCAL_NINE = {"at": NINE, "timeZone": "recipient"}


def at_nine(hours_ahead: float) -> datetime:
    """Return the instant of the local time `NINE` in a zone so many hours ahead of UTC."""
    return datetime.fromisoformat(NINE).replace(tzinfo=UTC) - timedelta(hours=hours_ahead)


def set_clock(herald: Herald, at: datetime) -> None:
    herald.clock.offset = at - datetime.now(UTC)


async def add_people(herald: Herald, zones: Sequence[str], now: datetime = NOW) -> list[PersonView]:
    """Set the clock to `now`, and add one person in each of these zones."""
    set_clock(herald, now)
    await herald.teams.set_behaviour(Behaviour(enforce_limits=False))
    new = (await herald.grow(people=len(zones))).people
    await asyncio.gather(*(herald.store_reference(each, time_zone=name) for each, name in zip(new, zones, strict=True)))
    return list(new)


async def advance_to(herald: Herald, at: datetime) -> None:
    """Move the clock to an instant without any work in between, and then do all work that is due."""
    await herald.advance_clock((at - herald.clock()).total_seconds())


async def received_by(herald: Herald) -> list[str]:
    return [str(message.person) for message in await herald.received()]


async def reschedule(herald: Herald, of: StoredNotification, **schedule: Any) -> None:
    await herald.command("reschedule", of, schedule=schedule)


async def test_each_recipient_is_sent_it_at_their_local_time(timed: Herald) -> None:
    people = await add_people(timed, list(HOURS_AHEAD))
    submitted = await timed.submit(*map(user, people), schedule=LOCAL_NINE)
    assert (submitted.state, submitted.due) == (NotificationState.SCHEDULED, at_nine(14))
    for number, ahead in enumerate(HOURS_AHEAD.values()):
        await advance_to(timed, at_nine(ahead) - timedelta(seconds=30))
        assert len(await timed.received()) == number
        await advance_to(timed, at_nine(ahead) + timedelta(seconds=1))
        assert len(await timed.received()) == number + 1
    assert await received_by(timed) == [each.object_id for each in people]
    assert (await timed.reload(submitted)).counts == '{"sent":5}'


async def test_row_of_a_delivery_held_for_local_time_says_so(timed: Herald) -> None:
    ada, _ = await add_people(timed, ["Europe/Berlin", "Pacific/Kiritimati"])
    submitted = await timed.submit({"all": True}, schedule=LOCAL_NINE)
    await advance_to(timed, at_nine(14) + timedelta(minutes=1))
    row = await timed.row(await timed.reload(submitted), f"u:{ada.object_id}")
    assert (row["state"], row["reason"], row["rule"]) == ("queued", "localTime", "localTime")
    assert row["not_before"] == at_nine(1)


async def test_after_an_outage_late_deliveries_are_sent_in_order_or_missed_by_the_grace(timed: Herald) -> None:
    """The app is down from before 09:00 in Tokyo until 09:30 in Perth, after the grace for Tokyo."""
    people = await add_people(timed, ["Pacific/Kiritimati", "Asia/Tokyo", "Australia/Perth", "Europe/Berlin"])
    submitted = await timed.submit(*map(user, people), schedule=LOCAL_NINE)
    await advance_to(timed, at_nine(14) + timedelta(minutes=1))
    await advance_to(timed, at_nine(8) + timedelta(minutes=30))
    kiritimati, tokyo, perth, berlin = (each.object_id for each in people)
    assert await received_by(timed) == [kiritimati, perth]
    row = await timed.row(await timed.reload(submitted), f"u:{tokyo}")
    assert (row["state"], row["rule"]) == ("missed", "localTime")
    await advance_to(timed, at_nine(1) + timedelta(seconds=1))
    assert await received_by(timed) == [kiritimati, perth, berlin]
    assert (await timed.reload(submitted)).counts == '{"missed":1,"sent":3}'
    await timed.command("redrive", submitted)
    await timed.run_until_idle()
    assert await received_by(timed) == [kiritimati, perth, berlin, tokyo]


async def test_duplicate_messages_at_the_local_time_send_it_once(timed: Herald) -> None:
    [ada] = await add_people(timed, ["Europe/Berlin"])
    submitted = await timed.submit(user(ada), schedule=LOCAL_NINE)
    await advance_to(timed, at_nine(14))
    set_clock(timed, at_nine(1))
    message = await timed.message(await timed.reload(submitted), f"u:{ada.object_id}")
    await asyncio.gather(*(deliver(timed.services, message) for _ in range(6)))
    assert len(await timed.received()) == 1


async def test_delivery_paused_beyond_the_grace_is_not_missed(timed: Herald) -> None:
    [ada] = await add_people(timed, ["Europe/Berlin"])
    paused = at_nine(1) + timedelta(hours=5)
    await timed.services.conversations.change_preferences(
        timed.tenant, ReferenceKind.USER, ada.object_id, lambda preferences: preferences.__class__(paused_until=paused)
    )
    await timed.submit(user(ada), schedule=LOCAL_NINE)
    await advance_to(timed, at_nine(14))
    await advance_to(timed, at_nine(1))
    assert await timed.received() == []
    await advance_to(timed, paused + timedelta(minutes=1))
    assert await received_by(timed) == [ada.object_id]


async def test_reevaluation_after_an_outage_does_not_save_a_missed_delivery(timed: Herald) -> None:
    [ada] = await add_people(timed, ["Europe/Berlin"])
    submitted = await timed.submit(user(ada), schedule=LOCAL_NINE)
    await advance_to(timed, at_nine(14))
    set_clock(timed, at_nine(1) + GRACE + timedelta(minutes=1))
    await timed.services.queues.enqueue_recipient(RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.RECONSIDER))
    await timed.handle_messages()
    assert await timed.counts(await timed.reload(submitted)) == {"missed": 1}


async def test_delivery_enqueued_in_time_and_received_after_the_grace_is_not_missed(timed: Herald) -> None:
    people = await add_people(timed, ["Pacific/Kiritimati", "Europe/Berlin"])
    submitted = await timed.submit(*map(user, people), schedule=LOCAL_NINE)
    set_clock(timed, at_nine(14))
    await timed.tick()
    await timed.handle_batch(EXPANSIONS, lambda body: expand(timed.services, Expansion.decode(body)))
    await advance_to(timed, at_nine(14) + GRACE + timedelta(minutes=1))
    set_clock(timed, at_nine(1))
    await timed.tick()
    set_clock(timed, at_nine(1) + timedelta(minutes=1))
    await timed.handle_batch(RECIPIENTS, lambda body: release(timed.services, RecipientTask.decode(body)))
    set_clock(timed, at_nine(1) + GRACE + timedelta(minutes=1))
    await timed.handle_messages()
    assert await timed.counts(submitted) == {"sent": 2}


async def test_urgent_delivery_is_released_to_the_urgent_queue(timed: Herald) -> None:
    [ada] = await add_people(timed, ["Europe/Berlin"])
    await timed.submit(user(ada), schedule=LOCAL_NINE, priority="urgent")
    await advance_to(timed, at_nine(14))
    set_clock(timed, at_nine(1))
    await timed.tick()
    await timed.handle_batch(RECIPIENTS, lambda body: release(timed.services, RecipientTask.decode(body)))
    assert (await timed.message_count(DELIVERIES), await timed.message_count(DELIVERIES_URGENT)) == (0, 1)


async def test_notification_sent_earlier_does_not_supersede_a_scheduled_one_of_its_thread(timed: Herald) -> None:
    [ada] = await add_people(timed, ["Europe/Berlin"])
    at = {"at": NINE, "timeZone": "Europe/Berlin"}
    await timed.submit(user(ada), content={"title": "Vote today"}, thread={"key": "vote"}, schedule=at)
    set_clock(timed, NOW + timedelta(hours=3))
    await timed.submit(user(ada), content={"title": "12 have voted"}, thread={"key": "vote"})
    await timed.handle_messages()
    await advance_to(timed, at_nine(1))
    assert [message.activity["summary"] for message in await timed.received()] == ["12 have voted", "Vote today"]


async def test_held_delivery_follows_a_change_of_the_recipients_zone(timed: Herald) -> None:
    ada, bob = await add_people(timed, ["America/New_York", "America/New_York"])
    await timed.submit(user(ada), user(bob), schedule=LOCAL_NINE)
    await advance_to(timed, at_nine(14))
    for person, zone in ((ada, "Europe/Berlin"), (bob, "Pacific/Pago_Pago")):
        await timed.services.conversations.save(
            timed.tenant, ReferenceKind.USER, person.object_id, {"time_zone": zone}, at=timed.clock()
        )
        await timed.services.queues.enqueue_recipient(
            RecipientTask(timed.tenant, f"u:{person.object_id}", Task.RECONSIDER)
        )
    await timed.handle_messages()
    for zone, received in (("Europe/Berlin", [ada]), ("America/New_York", [ada]), ("Pacific/Pago_Pago", [ada, bob])):
        await advance_to(timed, at_nine(HOURS_AHEAD[zone]) + timedelta(seconds=1))
        assert await received_by(timed) == [each.object_id for each in received]


async def test_zone_change_while_a_delivery_is_being_held_is_respected(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ada] = await add_people(timed, ["Europe/Berlin"])
    await timed.submit(user(ada), schedule=LOCAL_NINE)
    put, has_moved = timed.services.held_deliveries.put, False

    async def move_then_put(tenant: str, item: HeldDelivery) -> None:
        nonlocal has_moved
        if has_moved:
            return await put(tenant, item)
        has_moved = True
        observed = {"time_zone": "Asia/Tokyo"}
        await timed.services.conversations.save(tenant, ReferenceKind.USER, ada.object_id, observed, at=timed.clock())
        await release(timed.services, RecipientTask(tenant, f"u:{ada.object_id}", Task.RECONSIDER))
        return await put(tenant, item)

    monkeypatch.setattr(timed.services.held_deliveries, "put", move_then_put)
    await advance_to(timed, at_nine(14))
    await advance_to(timed, at_nine(9) + timedelta(seconds=1))
    assert await received_by(timed) == [ada.object_id]


@pytest.mark.parametrize("reevaluated", [True, False])
async def test_delivery_is_sent_after_a_move_to_where_its_time_has_passed(timed: Herald, *, reevaluated: bool) -> None:
    """Held deliveries are re-evaluated after the recipient chose a zone, but not when Teams reports one."""
    [ada] = await add_people(timed, ["America/New_York"])
    await timed.submit(user(ada), schedule=LOCAL_NINE)
    await advance_to(timed, at_nine(14))
    await advance_to(timed, at_nine(-2))
    observed = {"time_zone": "Europe/Berlin"}
    await timed.services.conversations.save(timed.tenant, ReferenceKind.USER, ada.object_id, observed, at=timed.clock())
    if reevaluated:
        await timed.services.queues.enqueue_recipient(
            RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.RECONSIDER)
        )
        await timed.handle_messages()
    assert await received_by(timed) == ([ada.object_id] if reevaluated else [])
    await advance_to(timed, at_nine(-5) + timedelta(seconds=1))
    assert await received_by(timed) == [ada.object_id]


@pytest.mark.parametrize(
    ("if_past", "counts", "sent_at"),
    [("send", {"sent": 2}, NOW), ("skip", {"sent": 1, "suppressed": 1}, None), ("nextDay", {"sent": 2}, None)],
)
async def test_local_time_that_has_passed_follows_if_past(
    timed: Herald, if_past: str, counts: dict[str, int], sent_at: datetime | None
) -> None:
    """It is 21:00 in Tokyo, and 07:00 in New York."""
    tokyo, new_york = await add_people(timed, ["Asia/Tokyo", "America/New_York"])
    schedule = {"at": "2026-11-23T09:00", "timeZone": "recipient", "ifPast": if_past}
    submitted = await timed.submit(user(tokyo), user(new_york), schedule=schedule)
    await timed.handle_messages()
    assert await received_by(timed) == ([tokyo.object_id] if sent_at else [])
    await advance_to(timed, NOW + timedelta(hours=2, seconds=1))
    if if_past == "nextDay":
        assert await received_by(timed) == [new_york.object_id]
        await advance_to(timed, at_nine(9) + timedelta(seconds=1))
    assert await timed.counts(await timed.reload(submitted)) == counts
    if if_past == "skip":
        row = await timed.row(submitted, f"u:{tokyo.object_id}")
        assert (row["state"], row["reason"], row["rule"]) == ("suppressed", "past", "localTime")


@pytest.mark.parametrize(
    ("at", "zone", "expected"),
    [
        ("2027-03-28T02:30", "Europe/Berlin", DueTime(datetime(2027, 3, 28, 1, tzinfo=UTC))),  # skipped
        ("2027-10-31T02:30", "Europe/Berlin", DueTime(datetime(2027, 10, 31, 0, 30, tzinfo=UTC))),  # occurs twice
        ("2026-11-23T12:00", "UTC", DueTime(NOW)),
        ("2026-11-23T12:00", "Europe/Berlin", DueTime()),
    ],
)
def test_compute_local_due(at: str, zone: str, expected: DueTime) -> None:
    local = Schedule.model_validate({"at": at, "timeZone": "recipient"})
    assert compute_local_due(local, load_zone(zone), NOW) == expected
    fixed = Schedule.model_validate({"at": at, "timeZone": "UTC"})
    assert compute_local_due(fixed, load_zone(zone), NOW) == DueTime()


@pytest.mark.parametrize(("late_minutes", "state"), [(59, NotificationState.FINISHED), (62, NotificationState.MISSED)])
async def test_late_notification_is_sent_within_the_grace_and_missed_after_it(
    timed: Herald, caplog: pytest.LogCaptureFixture, late_minutes: int, state: NotificationState
) -> None:
    [ada] = await add_people(timed, ["UTC"])
    submitted = await timed.submit(user(ada), schedule={"at": NINE, "timeZone": "UTC"})
    await advance_to(timed, at_nine(0) + timedelta(minutes=late_minutes))
    assert (await timed.reload(submitted)).state is state
    missed = state is NotificationState.MISSED
    assert len(await timed.received()) == (not missed)
    assert ("is missed" in caplog.text) == missed
    await timed.command("redrive", submitted)
    await timed.run_until_idle()
    assert len(await timed.received()) == 1


async def test_grace_of_the_category_overrides_the_setting(timed: Herald) -> None:
    [ada] = await add_people(timed, ["UTC"])
    category = timed.services.categories.of("builds").model_copy(update={"grace_minutes": 5})
    timed.services.categories._by_name["builds"] = category
    submitted = await timed.submit(user(ada), schedule={"at": NINE, "timeZone": "UTC"})
    await advance_to(timed, at_nine(0) + timedelta(minutes=10))
    assert (await timed.reload(submitted)).state is NotificationState.MISSED


@pytest.mark.parametrize("hours", [-2, 2], ids=["earlier", "later"])
async def test_rescheduled_notification_is_sent_at_its_new_time_only(timed: Herald, hours: int) -> None:
    [ada] = await add_people(timed, ["UTC"])
    submitted = await timed.submit(user(ada), schedule={"at": NINE, "timeZone": "UTC"})
    new = at_nine(0) + timedelta(hours=hours)
    for _ in range(2):  # the repeated command changes nothing
        await reschedule(timed, submitted, at=f"{new:%Y-%m-%dT%H:%M}", timeZone="UTC")
    assert (await timed.reload(submitted)).due == new
    for at in sorted((new, at_nine(0))):
        await advance_to(timed, at - timedelta(minutes=1))
        assert len(await timed.received()) == (at > new)
        await advance_to(timed, at + timedelta(seconds=1))
        assert len(await timed.received()) == (at >= new)
    assert await timed.dead_letters() == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"at": "2099-07-02T10:00"}, ("2099-07-02T10:00", "Europe/Berlin", "skip")),
        ({"at": "2099-07-02T10:00", "timeZone": None, "ifPast": None}, ("2099-07-02T10:00", "Europe/Berlin", "skip")),
        ({"timeZone": "Asia/Tokyo"}, ("2099-07-01T09:00", "Asia/Tokyo", "skip")),
        ({"ifPast": "send"}, ("2099-07-01T09:00", "Europe/Berlin", "send")),
    ],
)
async def test_reschedule_keeps_what_it_does_not_name(
    timed: Herald, change: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    schedule = {"at": "2099-07-01T09:00", "timeZone": "Europe/Berlin", "ifPast": "skip"}
    submitted = await timed.submit({"all": True}, schedule=schedule)
    for _ in range(2):
        await reschedule(timed, submitted, **change)
    after = await timed.reload(submitted)
    assert after.content.schedule
    assert (after.content.schedule.at, after.content.schedule.time_zone, after.content.schedule.if_past) == expected
    at = datetime.fromisoformat(expected[0]).replace(tzinfo=ZoneInfo(expected[1]))
    assert (after.due, await timed.dead_letters()) == (at, [])


async def test_reschedule_to_the_past_follows_its_if_past(timed: Herald) -> None:
    ada, bob = await add_people(timed, ["UTC", "UTC"])
    first, second = [await timed.submit(user(each), schedule={"at": NINE, "timeZone": "UTC"}) for each in (ada, bob)]
    await reschedule(timed, first, at="2026-11-01T09:00", timeZone="UTC")
    await reschedule(timed, second, at="2026-11-01T09:00", timeZone="UTC", ifPast="skip")
    assert await received_by(timed) == [ada.object_id]
    assert (await timed.reload(second)).state is NotificationState.SKIPPED
    await timed.run_until_idle()
    assert await received_by(timed) == [ada.object_id]


async def test_reschedule_to_local_time_skips_zones_where_it_has_passed(timed: Herald) -> None:
    tokyo, berlin = await add_people(timed, ["Asia/Tokyo", "Europe/Berlin"])
    submitted = await timed.submit(user(tokyo), user(berlin), schedule={"at": "2026-11-30T09:00", "timeZone": "UTC"})
    await advance_to(timed, at_nine(5))  # 13:00 in Tokyo
    await reschedule(timed, submitted, at=NINE, timeZone="recipient", ifPast="skip")
    await advance_to(timed, at_nine(1) + timedelta(seconds=1))
    assert await timed.counts(await timed.reload(submitted)) == {"sent": 1, "suppressed": 1}


async def test_reschedule_is_refused_after_expansion_has_begun(timed: Herald) -> None:
    [ada] = await add_people(timed, ["UTC"])
    submitted = await timed.submit(user(ada), schedule={"at": NINE, "timeZone": "UTC"})
    await advance_to(timed, at_nine(0) + timedelta(seconds=1))
    await reschedule(timed, submitted, at="2026-12-01T09:00", timeZone="UTC")
    [letter] = await timed.dead_letters()
    fault = json.loads(letter["faults"])[0]
    assert (letter["reason"], fault["pointer"]) == ("begun", "/target")
    assert "finished" in fault["message"]
    assert len(await timed.received()) == 1


async def test_reschedule_by_cancellation_key_changes_only_scheduled_notifications(timed: Herald) -> None:
    ada, bob = await add_people(timed, ["UTC", "UTC"])
    await timed.submit(user(ada), cancellationKey="k")
    scheduled = await timed.submit(user(bob), cancellationKey="k", schedule={"at": NINE, "timeZone": "UTC"})
    await timed.handle_messages()
    schedule = {"at": "2026-12-01T09:00", "timeZone": "UTC"}
    body = {"command": "reschedule", "target": {"cancellationKey": "k"}, "schedule": schedule}
    await ingest(timed.services, json.dumps(body).encode(), "m")
    assert [letter["reason"] for letter in await timed.dead_letters()] == ["begun"]
    assert (await timed.reload(scheduled)).due == datetime(2026, 12, 1, 9, tzinfo=UTC)


async def test_reschedule_at_the_due_time_either_succeeds_or_is_refused(
    timed: Herald,
) -> None:
    [ada] = await add_people(timed, ["UTC"])
    for number in range(6):
        body = notification(user(ada), schedule={"at": NINE, "timeZone": "UTC"})
        await ingest(timed.services, body, "m")
        submitted = await timed.stored(body)
        set_clock(timed, at_nine(0))
        letters = len(await timed.dead_letters())

        async def reschedule_later(of: StoredNotification = submitted, number: int = number) -> None:
            await asyncio.sleep(number * 0.004)
            target = {"source": of.source, "id": of.id}
            schedule = {"at": "2026-12-01T09:00", "timeZone": "UTC"}
            command = {"command": "reschedule", "target": target, "schedule": schedule}
            await ingest(timed.services, json.dumps(command).encode(), uuid.uuid4().hex)

        await asyncio.gather(expand(timed.services, Expansion(submitted.key, 0)), reschedule_later())
        await timed.handle_messages()
        refused = len(await timed.dead_letters()) - letters
        state = (await timed.reload(submitted)).state
        assert (state, refused) in ((NotificationState.SCHEDULED, 0), (NotificationState.FINISHED, 1))
        assert await timed.counts(submitted) == ({"sent": 1} if refused else {})
        set_clock(timed, NOW)


async def test_first_page_is_delayed_if_a_little_early_and_dropped_if_much_too_early(
    timed: Herald,
) -> None:
    [ada] = await add_people(timed, ["UTC"])
    submitted = await timed.submit(user(ada), schedule={"at": NINE, "timeZone": "UTC"})
    await expand(timed.services, Expansion(submitted.key, 0))
    assert (timed.delayed, await timed.message_count(EXPANSIONS)) == ([], 0)
    set_clock(timed, at_nine(0) - timedelta(seconds=5))
    await expand(timed.services, Expansion(submitted.key, 0))
    assert len(timed.delayed) == 1
    assert await timed.received() == []
    await timed.advance_clock(6)
    assert len(await timed.received()) == 1


async def test_cancelled_notification_is_not_sent_where_its_local_time_is_later(timed: Herald) -> None:
    people = await add_people(timed, ["Pacific/Kiritimati", "Europe/Berlin"])
    submitted = await timed.submit(*map(user, people), schedule=LOCAL_NINE)
    await advance_to(timed, at_nine(14) + timedelta(seconds=1))
    await timed.command("cancel", submitted)
    await timed.run_until_idle()
    assert await received_by(timed) == [people[0].object_id]
    assert (await timed.reload(submitted)).counts == '{"cancelled":1,"sent":1}'


#: Zones of 24 different offsets, some of them half hours.
ZONES = (
    "Pacific/Kiritimati", "Pacific/Auckland", "Pacific/Fiji", "Pacific/Noumea", "Australia/Brisbane",
    "Australia/Darwin", "Asia/Tokyo", "Asia/Singapore", "Asia/Bangkok", "Asia/Dhaka", "Asia/Kathmandu",
    "Asia/Kolkata", "Asia/Karachi", "Asia/Dubai", "Asia/Tehran", "Europe/Istanbul", "Africa/Cairo", "Europe/Berlin",
    "Europe/London", "America/Sao_Paulo", "America/New_York", "America/Los_Angeles", "Pacific/Honolulu",
    "Pacific/Pago_Pago",
)  # fmt: skip


@pytest.mark.parametrize("count", [24, pytest.param(500, marks=[pytest.mark.full, pytest.mark.timeout(600)])])
async def test_people_in_24_zones_receive_it_once_at_their_local_time_despite_an_outage(
    timed: Herald, count: int
) -> None:
    zones = [ZONES[number % len(ZONES)] for number in range(count)]
    people = await add_people(timed, zones)
    submitted = await timed.submit(*map(user, people), schedule=LOCAL_NINE)
    wall = datetime.fromisoformat(NINE)
    times = {each.object_id: wall.replace(tzinfo=load_zone(name)) for each, name in zip(people, zones, strict=True)}
    outage_start, outage_end = at_nine(6), at_nine(2.75)  # the grace is over for what is due in the first 2.25 hours
    moments = sorted({at for at in times.values() if not outage_start <= at < outage_end} | {outage_end, at_nine(14)})
    received: list[str] = []
    for moment in moments:
        await advance_to(timed, moment + timedelta(seconds=1))
        for _ in range(count // 100):  # several pages, sent at the tenant's rate
            await timed.advance_clock(5)
        new = (await received_by(timed))[len(received) :]
        received += new
        earliest = outage_end - GRACE if moment == outage_end else moment
        assert set(new) == {name for name, at in times.items() if earliest <= at <= moment}
        assert len(new) == len(set(new))
    missed = {name for name, at in times.items() if outage_start <= at < outage_end - GRACE}
    assert missed
    assert set(received) == times.keys() - missed
    after = await timed.reload(submitted)
    assert json.loads(after.counts) == {"missed": len(missed), "sent": len(received)}
    timer_kinds = [timer.kind async for page in timed.services.timers.read_due(at_nine(-48), 100) for timer in page]
    assert set(timer_kinds) <= {timers.WATCHDOG}


@pytest.mark.parametrize(
    "schedule",
    [
        {"at": "2026-12-01T09:00", "timeZone": "UTC"},
        {"at": "2026-12-01T23:00", "timeZone": "recipient"},  # expansion begins at 09:00 UTC
    ],
)
async def test_notification_that_expires_before_it_is_due_is_refused(timed: Herald, schedule: dict[str, Any]) -> None:
    timed.clock.offset = datetime(2026, 11, 23, 12, tzinfo=UTC) - datetime.now(UTC)
    body = notification({"all": True}, schedule=schedule, expiresAt="2026-12-01T09:00:00Z")
    await ingest(timed.services, body, "m1")
    [letter] = await timed.dead_letters()
    assert json.loads(letter["faults"]) == [
        {"pointer": "/schedule/at", "message": "must be before the expiry, 2026-12-01T09:00Z"}
    ]
    submitted = await timed.submit({"all": True}, schedule=schedule, expiresAt="2026-12-01T09:01:00Z")
    assert submitted.state is NotificationState.SCHEDULED
    later = {"target": {"source": submitted.source, "id": submitted.id}, "schedule": {"at": "2026-12-03T09:00"}}
    await ingest(timed.services, json.dumps({"command": "reschedule", **later}).encode(), "m2")
    assert len(await timed.dead_letters()) == 2
    assert (await timed.reload(submitted)).due == submitted.due
