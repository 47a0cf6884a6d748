"""What is scheduled goes out at its time, everybody's own where it is meant so, and its time can be changed."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from local.fake_teams.api import Behaviour, PersonView
from notify.delivery.deliver import deliver
from notify.expansion import expand
from notify.ingest import ingest
from notify.scheduling import DueTime, compute_local_due
from shared.contract.models import Schedule
from shared.queue_messages import DELIVERIES, DELIVERIES_URGENT, EXPANSIONS, RECIPIENTS, Expansion, RecipientTask, Task
from shared.records import HeldDelivery
from shared.states import NotificationState, ReferenceKind
from shared.storage import timers
from shared.storage.notifications import StoredNotification
from shared.time.localtime import load_zone
from tests.support.herald import Herald, notification, user
from timer_digest.release_held import release

#: Places in the order in which they get there, with what their clocks are ahead of UTC on the day of these tests.
PLACES = {
    "Pacific/Kiritimati": 14,
    "Asia/Tokyo": 9,
    "Europe/Berlin": 1,
    "America/New_York": -5,
    "Pacific/Pago_Pago": -11,
}
#: The clock of the app at first; everybody's 09:00 of the next day is ahead.
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
NINE = "2026-11-24T09:00"
GRACE = timedelta(minutes=60)
OWN = {"at": NINE, "timeZone": "recipient"}


def at_nine(hours_ahead: float) -> datetime:
    """The instant at which it is `NINE` where clocks are so many hours ahead of UTC."""
    return datetime.fromisoformat(NINE).replace(tzinfo=UTC) - timedelta(hours=hours_ahead)


def set_clock(herald: Herald, at: datetime) -> None:
    herald.clock.moved = at - datetime.now(UTC)


async def people(herald: Herald, zones: Sequence[str], now: datetime = NOW) -> list[PersonView]:
    """One person who lives in each of these zones; it is `now` then."""
    set_clock(herald, now)
    await herald.teams.set_behaviour(Behaviour(enforce_limits=False))
    new = (await herald.grow(people=len(zones))).people
    await asyncio.gather(*(herald.know(each, time_zone=name) for each, name in zip(new, zones, strict=True)))
    return list(new)


async def sleep_until(herald: Herald, at: datetime) -> None:
    """Let nothing run until then, and then all there is."""
    await herald.wait((at - herald.clock()).total_seconds())


async def who_was_told(herald: Herald) -> list[str]:
    return [str(message.person) for message in await herald.received()]


async def reschedule(herald: Herald, of: StoredNotification, **schedule: Any) -> None:
    await herald.command("reschedule", of, schedule=schedule)


async def test_each_recipient_is_told_at_their_own_time(timed: Herald) -> None:
    everyone = await people(timed, list(PLACES))
    asked = await timed.ask(*map(user, everyone), schedule=OWN)
    assert (asked.state, asked.due) == (NotificationState.SCHEDULED, at_nine(14))
    for number, ahead in enumerate(PLACES.values()):
        await sleep_until(timed, at_nine(ahead) - timedelta(seconds=30))
        assert len(await timed.received()) == number
        await sleep_until(timed, at_nine(ahead) + timedelta(seconds=1))
        assert len(await timed.received()) == number + 1
    assert await who_was_told(timed) == [each.object_id for each in everyone]
    assert (await timed.now(asked)).counts == '{"sent":5}'


async def test_who_waits_for_their_own_time_is_said_to(timed: Herald) -> None:
    ada, _ = await people(timed, ["Europe/Berlin", "Pacific/Kiritimati"])
    asked = await timed.ask({"all": True}, schedule=OWN)
    await sleep_until(timed, at_nine(14) + timedelta(minutes=1))
    row = await timed.row(await timed.now(asked), f"u:{ada.object_id}")
    assert (row["state"], row["reason"], row["rule"]) == ("queued", "localTime", "localTime")
    assert row["not_before"] == at_nine(1)


async def test_after_an_outage_the_late_ones_go_by_the_grace_and_in_order(timed: Herald) -> None:
    """The app is down from before Tokyo's time until half an hour after that of Perth: Tokyo's is missed by then."""
    everyone = await people(timed, ["Pacific/Kiritimati", "Asia/Tokyo", "Australia/Perth", "Europe/Berlin"])
    asked = await timed.ask(*map(user, everyone), schedule=OWN)
    await sleep_until(timed, at_nine(14) + timedelta(minutes=1))
    await sleep_until(timed, at_nine(8) + timedelta(minutes=30))
    kiritimati, tokyo, perth, berlin = (each.object_id for each in everyone)
    assert await who_was_told(timed) == [kiritimati, perth]
    row = await timed.row(await timed.now(asked), f"u:{tokyo}")
    assert (row["state"], row["rule"]) == ("missed", "localTime")
    await sleep_until(timed, at_nine(1) + timedelta(seconds=1))
    assert await who_was_told(timed) == [kiritimati, perth, berlin]
    assert (await timed.now(asked)).counts == '{"missed":1,"sent":3}'
    await timed.command("redrive", asked)
    await timed.run()
    assert await who_was_told(timed) == [kiritimati, perth, berlin, tokyo]


async def test_copies_that_come_at_once_at_the_recipients_time_send_it_once(timed: Herald) -> None:
    [ada] = await people(timed, ["Europe/Berlin"])
    asked = await timed.ask(user(ada), schedule=OWN)
    await sleep_until(timed, at_nine(14))
    set_clock(timed, at_nine(1))
    message = await timed.message(await timed.now(asked), f"u:{ada.object_id}")
    await asyncio.gather(*(deliver(timed.services, message) for _ in range(6)))
    assert len(await timed.received()) == 1


async def test_what_a_wish_held_beyond_the_grace_is_not_missed(timed: Herald) -> None:
    [ada] = await people(timed, ["Europe/Berlin"])
    paused = at_nine(1) + timedelta(hours=5)
    await timed.services.conversations.prefer(
        timed.tenant, ReferenceKind.USER, ada.object_id, lambda preferences: preferences.__class__(paused_until=paused)
    )
    await timed.ask(user(ada), schedule=OWN)
    await sleep_until(timed, at_nine(14))
    await sleep_until(timed, at_nine(1))
    assert await timed.received() == []
    await sleep_until(timed, paused + timedelta(minutes=1))
    assert await who_was_told(timed) == [ada.object_id]


async def test_who_changes_a_wish_after_an_outage_before_they_are_called_is_missed_all_the_same(timed: Herald) -> None:
    [ada] = await people(timed, ["Europe/Berlin"])
    asked = await timed.ask(user(ada), schedule=OWN)
    await sleep_until(timed, at_nine(14))
    set_clock(timed, at_nine(1) + GRACE + timedelta(minutes=1))
    await timed.services.queues.enqueue_recipient(RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.RECONSIDER))
    await timed.send()
    assert await timed.counts(await timed.now(asked)) == {"missed": 1}


async def test_who_was_called_in_time_and_stood_behind_others_beyond_the_grace_is_not_missed(timed: Herald) -> None:
    everyone = await people(timed, ["Pacific/Kiritimati", "Europe/Berlin"])
    asked = await timed.ask(*map(user, everyone), schedule=OWN)
    set_clock(timed, at_nine(14))
    await timed.tick()
    await timed._drain(EXPANSIONS, lambda body: expand(timed.services, Expansion.decode(body)))
    await sleep_until(timed, at_nine(14) + GRACE + timedelta(minutes=1))
    set_clock(timed, at_nine(1))
    await timed.tick()
    set_clock(timed, at_nine(1) + timedelta(minutes=1))
    await timed._drain(RECIPIENTS, lambda body: release(timed.services, RecipientTask.decode(body)))
    set_clock(timed, at_nine(1) + GRACE + timedelta(minutes=1))
    await timed.send()
    assert await timed.counts(asked) == {"sent": 2}


async def test_what_is_urgent_is_called_on_the_urgent_queue(timed: Herald) -> None:
    [ada] = await people(timed, ["Europe/Berlin"])
    await timed.ask(user(ada), schedule=OWN, priority="urgent")
    await sleep_until(timed, at_nine(14))
    set_clock(timed, at_nine(1))
    await timed.tick()
    await timed._drain(RECIPIENTS, lambda body: release(timed.services, RecipientTask.decode(body)))
    assert (await timed.waiting(DELIVERIES), await timed.waiting(DELIVERIES_URGENT)) == (0, 1)


async def test_a_later_word_in_the_same_thread_does_not_supersede_what_is_still_to_come(timed: Herald) -> None:
    [ada] = await people(timed, ["Europe/Berlin"])
    at = {"at": NINE, "timeZone": "Europe/Berlin"}
    await timed.ask(user(ada), content={"title": "Vote today"}, thread={"key": "vote"}, schedule=at)
    set_clock(timed, NOW + timedelta(hours=3))
    await timed.ask(user(ada), content={"title": "12 have voted"}, thread={"key": "vote"})
    await timed.send()
    await sleep_until(timed, at_nine(1))
    assert [message.activity["summary"] for message in await timed.received()] == ["12 have voted", "Vote today"]


async def test_who_moves_while_it_waits_is_told_at_the_time_of_the_new_place(timed: Herald) -> None:
    ada, bob = await people(timed, ["America/New_York", "America/New_York"])
    await timed.ask(user(ada), user(bob), schedule=OWN)
    await sleep_until(timed, at_nine(14))
    for person, place in ((ada, "Europe/Berlin"), (bob, "Pacific/Pago_Pago")):
        await timed.services.conversations.save(
            timed.tenant, ReferenceKind.USER, person.object_id, {"time_zone": place}, at=timed.clock()
        )
        await timed.services.queues.enqueue_recipient(
            RecipientTask(timed.tenant, f"u:{person.object_id}", Task.RECONSIDER)
        )
    await timed.send()
    for place, told in (("Europe/Berlin", [ada]), ("America/New_York", [ada]), ("Pacific/Pago_Pago", [ada, bob])):
        await sleep_until(timed, at_nine(PLACES[place]) + timedelta(seconds=1))
        assert await who_was_told(timed) == [each.object_id for each in told]


async def test_who_moves_while_it_begins_to_wait_is_told_at_the_time_of_the_new_place(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ada] = await people(timed, ["Europe/Berlin"])
    await timed.ask(user(ada), schedule=OWN)
    put, moved = timed.services.held_deliveries.put, False

    async def meanwhile(tenant: str, item: HeldDelivery) -> None:
        nonlocal moved
        if moved:
            return await put(tenant, item)
        moved = True
        zone_of = {"time_zone": "Asia/Tokyo"}
        await timed.services.conversations.save(tenant, ReferenceKind.USER, ada.object_id, zone_of, at=timed.clock())
        await release(timed.services, RecipientTask(tenant, f"u:{ada.object_id}", Task.RECONSIDER))
        return await put(tenant, item)

    monkeypatch.setattr(timed.services.held_deliveries, "put", meanwhile)
    await sleep_until(timed, at_nine(14))
    await sleep_until(timed, at_nine(9) + timedelta(seconds=1))
    assert await who_was_told(timed) == [ada.object_id]


@pytest.mark.parametrize("said", [True, False])
async def test_who_moves_to_where_the_time_is_long_over_is_told_all_the_same(timed: Herald, *, said: bool) -> None:
    """By a command, after which all that waits is decided anew, or only by what their Teams client tells."""
    [ada] = await people(timed, ["America/New_York"])
    await timed.ask(user(ada), schedule=OWN)
    await sleep_until(timed, at_nine(14))
    await sleep_until(timed, at_nine(-2))
    zone_of = {"time_zone": "Europe/Berlin"}
    await timed.services.conversations.save(timed.tenant, ReferenceKind.USER, ada.object_id, zone_of, at=timed.clock())
    if said:
        await timed.services.queues.enqueue_recipient(
            RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.RECONSIDER)
        )
        await timed.send()
    assert await who_was_told(timed) == ([ada.object_id] if said else [])
    await sleep_until(timed, at_nine(-5) + timedelta(seconds=1))
    assert await who_was_told(timed) == [ada.object_id]


@pytest.mark.parametrize(
    ("if_past", "counts", "told_at"),
    [("send", {"sent": 2}, NOW), ("skip", {"sent": 1, "suppressed": 1}, None), ("nextDay", {"sent": 2}, None)],
)
async def test_who_is_past_the_time_when_it_is_asked_for_goes_by_ifpast(
    timed: Herald, if_past: str, counts: dict[str, int], told_at: datetime | None
) -> None:
    """It is 21:00 in Tokyo, and 07:00 in New York."""
    tokyo, new_york = await people(timed, ["Asia/Tokyo", "America/New_York"])
    schedule = {"at": "2026-11-23T09:00", "timeZone": "recipient", "ifPast": if_past}
    asked = await timed.ask(user(tokyo), user(new_york), schedule=schedule)
    await timed.send()
    assert await who_was_told(timed) == ([tokyo.object_id] if told_at else [])
    await sleep_until(timed, NOW + timedelta(hours=2, seconds=1))
    if if_past == "nextDay":
        assert await who_was_told(timed) == [new_york.object_id]
        await sleep_until(timed, at_nine(9) + timedelta(seconds=1))
    assert await timed.counts(await timed.now(asked)) == counts
    if if_past == "skip":
        row = await timed.row(asked, f"u:{tokyo.object_id}")
        assert (row["state"], row["reason"], row["rule"]) == ("suppressed", "past", "localTime")


@pytest.mark.parametrize(
    ("at", "place", "plan"),
    [
        ("2027-03-28T02:30", "Europe/Berlin", DueTime(datetime(2027, 3, 28, 1, tzinfo=UTC))),  # in the gap
        ("2027-10-31T02:30", "Europe/Berlin", DueTime(datetime(2027, 10, 31, 0, 30, tzinfo=UTC))),  # shown twice
        ("2026-11-23T12:00", "UTC", DueTime(NOW)),
        ("2026-11-23T12:00", "Europe/Berlin", DueTime()),
    ],
)
def test_a_recipients_own_time_is_an_instant_or_has_passed(at: str, place: str, plan: DueTime) -> None:
    own = Schedule.model_validate({"at": at, "timeZone": "recipient"})
    assert compute_local_due(own, load_zone(place), NOW) == plan
    fixed = Schedule.model_validate({"at": at, "timeZone": "UTC"})
    assert compute_local_due(fixed, load_zone(place), NOW) == DueTime()


@pytest.mark.parametrize(("late", "state"), [(59, NotificationState.FINISHED), (62, NotificationState.MISSED)])
async def test_what_nothing_ran_for_is_sent_within_the_grace_and_else_missed_and_said_to_be(
    timed: Herald, caplog: pytest.LogCaptureFixture, late: int, state: NotificationState
) -> None:
    [ada] = await people(timed, ["UTC"])
    asked = await timed.ask(user(ada), schedule={"at": NINE, "timeZone": "UTC"})
    await sleep_until(timed, at_nine(0) + timedelta(minutes=late))
    assert (await timed.now(asked)).state is state
    missed = state is NotificationState.MISSED
    assert len(await timed.received()) == (not missed)
    assert ("is missed" in caplog.text) == missed
    await timed.command("redrive", asked)
    await timed.run()
    assert len(await timed.received()) == 1


async def test_the_grace_of_a_category_counts_before_that_of_the_settings(timed: Herald) -> None:
    [ada] = await people(timed, ["UTC"])
    category = timed.services.categories.of("builds").model_copy(update={"grace_minutes": 5})
    timed.services.categories._by_name["builds"] = category
    asked = await timed.ask(user(ada), schedule={"at": NINE, "timeZone": "UTC"})
    await sleep_until(timed, at_nine(0) + timedelta(minutes=10))
    assert (await timed.now(asked)).state is NotificationState.MISSED


@pytest.mark.parametrize("hours", [-2, 2], ids=["earlier", "later"])
async def test_what_is_rescheduled_goes_out_at_its_new_time_only(timed: Herald, hours: int) -> None:
    [ada] = await people(timed, ["UTC"])
    asked = await timed.ask(user(ada), schedule={"at": NINE, "timeZone": "UTC"})
    new = at_nine(0) + timedelta(hours=hours)
    for _ in range(2):  # to say it again changes nothing
        await reschedule(timed, asked, at=f"{new:%Y-%m-%dT%H:%M}", timeZone="UTC")
    assert (await timed.now(asked)).due == new
    for at in sorted((new, at_nine(0))):
        await sleep_until(timed, at - timedelta(minutes=1))
        assert len(await timed.received()) == (at > new)
        await sleep_until(timed, at + timedelta(seconds=1))
        assert len(await timed.received()) == (at >= new)
    assert await timed.dead_letters() == []


async def test_what_is_rescheduled_to_the_past_goes_by_its_new_ifpast(timed: Herald) -> None:
    ada, bob = await people(timed, ["UTC", "UTC"])
    first, second = [await timed.ask(user(each), schedule={"at": NINE, "timeZone": "UTC"}) for each in (ada, bob)]
    await reschedule(timed, first, at="2026-11-01T09:00", timeZone="UTC")
    await reschedule(timed, second, at="2026-11-01T09:00", timeZone="UTC", ifPast="skip")
    assert await who_was_told(timed) == [ada.object_id]
    assert (await timed.now(second)).state is NotificationState.SKIPPED
    await timed.run()
    assert await who_was_told(timed) == [ada.object_id]


async def test_a_reschedule_to_own_times_counts_as_past_what_was_then(timed: Herald) -> None:
    tokyo, berlin = await people(timed, ["Asia/Tokyo", "Europe/Berlin"])
    asked = await timed.ask(user(tokyo), user(berlin), schedule={"at": "2026-11-30T09:00", "timeZone": "UTC"})
    await sleep_until(timed, at_nine(5))  # it is 13:00 in Tokyo
    await reschedule(timed, asked, at=NINE, timeZone="recipient", ifPast="skip")
    await sleep_until(timed, at_nine(1) + timedelta(seconds=1))
    assert await timed.counts(await timed.now(asked)) == {"sent": 1, "suppressed": 1}


async def test_what_has_begun_cannot_be_rescheduled_and_the_refusal_says_so(timed: Herald) -> None:
    [ada] = await people(timed, ["UTC"])
    asked = await timed.ask(user(ada), schedule={"at": NINE, "timeZone": "UTC"})
    await sleep_until(timed, at_nine(0) + timedelta(seconds=1))
    await reschedule(timed, asked, at="2026-12-01T09:00", timeZone="UTC")
    [letter] = await timed.dead_letters()
    fault = json.loads(letter["faults"])[0]
    assert (letter["reason"], fault["pointer"]) == ("begun", "/target")
    assert "finished" in fault["message"]
    assert len(await timed.received()) == 1


async def test_of_several_that_share_a_key_those_that_wait_are_rescheduled(timed: Herald) -> None:
    ada, bob = await people(timed, ["UTC", "UTC"])
    await timed.ask(user(ada), cancellationKey="k")
    waits = await timed.ask(user(bob), cancellationKey="k", schedule={"at": NINE, "timeZone": "UTC"})
    await timed.send()
    schedule = {"at": "2026-12-01T09:00", "timeZone": "UTC"}
    body = {"command": "reschedule", "target": {"cancellationKey": "k"}, "schedule": schedule}
    await ingest(timed.services, json.dumps(body).encode(), "m")
    assert [letter["reason"] for letter in await timed.dead_letters()] == ["begun"]
    assert (await timed.now(waits)).due == datetime(2026, 12, 1, 9, tzinfo=UTC)


async def test_who_reschedules_at_the_moment_of_sending_either_does_or_is_told_that_it_has_begun(
    timed: Herald,
) -> None:
    [ada] = await people(timed, ["UTC"])
    for number in range(6):
        body = notification(user(ada), schedule={"at": NINE, "timeZone": "UTC"})
        await ingest(timed.services, body, "m")
        asked = await timed.stored(body)
        set_clock(timed, at_nine(0))
        letters = len(await timed.dead_letters())

        async def late(of: StoredNotification = asked, number: int = number) -> None:
            await asyncio.sleep(number * 0.004)
            target = {"source": of.source, "id": of.id}
            schedule = {"at": "2026-12-01T09:00", "timeZone": "UTC"}
            order = {"command": "reschedule", "target": target, "schedule": schedule}
            await ingest(timed.services, json.dumps(order).encode(), uuid.uuid4().hex)

        await asyncio.gather(expand(timed.services, Expansion(asked.key, 0)), late())
        await timed.send()
        refused = len(await timed.dead_letters()) - letters
        state = (await timed.now(asked)).state
        assert (state, refused) in ((NotificationState.SCHEDULED, 0), (NotificationState.FINISHED, 1))
        assert await timed.counts(asked) == ({"sent": 1} if refused else {})
        set_clock(timed, NOW)


async def test_a_page_that_comes_a_little_before_its_time_waits_for_it_and_much_before_is_dropped(
    timed: Herald,
) -> None:
    [ada] = await people(timed, ["UTC"])
    asked = await timed.ask(user(ada), schedule={"at": NINE, "timeZone": "UTC"})
    await expand(timed.services, Expansion(asked.key, 0))
    assert (timed.kept, await timed.waiting(EXPANSIONS)) == ([], 0)
    set_clock(timed, at_nine(0) - timedelta(seconds=5))
    await expand(timed.services, Expansion(asked.key, 0))
    assert len(timed.kept) == 1
    assert await timed.received() == []
    await timed.wait(6)
    assert len(await timed.received()) == 1


async def test_a_cancelled_one_is_sent_to_nobody_whose_time_has_not_come(timed: Herald) -> None:
    everyone = await people(timed, ["Pacific/Kiritimati", "Europe/Berlin"])
    asked = await timed.ask(*map(user, everyone), schedule=OWN)
    await sleep_until(timed, at_nine(14) + timedelta(seconds=1))
    await timed.command("cancel", asked)
    await timed.run()
    assert await who_was_told(timed) == [everyone[0].object_id]
    assert (await timed.now(asked)).counts == '{"cancelled":1,"sent":1}'


#: Zones of 24 different offsets, some of them half hours.
ZONES = (
    "Pacific/Kiritimati", "Pacific/Auckland", "Pacific/Fiji", "Pacific/Noumea", "Australia/Brisbane",
    "Australia/Darwin", "Asia/Tokyo", "Asia/Singapore", "Asia/Bangkok", "Asia/Dhaka", "Asia/Kathmandu",
    "Asia/Kolkata", "Asia/Karachi", "Asia/Dubai", "Asia/Tehran", "Europe/Istanbul", "Africa/Cairo", "Europe/Berlin",
    "Europe/London", "America/Sao_Paulo", "America/New_York", "America/Los_Angeles", "Pacific/Honolulu",
    "Pacific/Pago_Pago",
)  # fmt: skip


@pytest.mark.parametrize("count", [24, pytest.param(500, marks=[pytest.mark.full, pytest.mark.timeout(600)])])
async def test_people_in_24_zones_with_an_outage_between_are_each_told_once_at_their_time(
    timed: Herald, count: int
) -> None:
    places = [ZONES[number % len(ZONES)] for number in range(count)]
    everyone = await people(timed, places)
    asked = await timed.ask(*map(user, everyone), schedule=OWN)
    wall = datetime.fromisoformat(NINE)
    times = {each.object_id: wall.replace(tzinfo=load_zone(name)) for each, name in zip(everyone, places, strict=True)}
    down, up = at_nine(6), at_nine(2.75)  # what is due in the first two hours and a quarter is beyond the grace
    moments = sorted({at for at in times.values() if not down <= at < up} | {up, at_nine(14)})
    told: list[str] = []
    for moment in moments:
        await sleep_until(timed, moment + timedelta(seconds=1))
        for _ in range(count // 100):  # many are listed a page after the other, and sent at the rate of the tenant
            await timed.wait(5)
        new = (await who_was_told(timed))[len(told) :]
        told += new
        late = {name for name, at in times.items() if up - GRACE <= at < up} if moment == up else set()
        assert set(new) == late | {name for name, at in times.items() if at == moment}
        assert len(new) == len(set(new))
    missed = {name for name, at in times.items() if down <= at < up - GRACE}
    assert missed
    assert set(told) == times.keys() - missed
    after = await timed.now(asked)
    assert json.loads(after.counts) == {"missed": len(missed), "sent": len(told)}
    left = [waking.kind async for page in timed.services.timers.until(at_nine(-48), 100) for waking in page]
    assert set(left) <= {timers.WATCH}


@pytest.mark.parametrize(
    "schedule",
    [
        {"at": "2026-12-01T09:00", "timeZone": "UTC"},
        {"at": "2026-12-01T23:00", "timeZone": "recipient"},  # it begins at nine in UTC
    ],
)
async def test_what_would_expire_before_its_time_is_refused(timed: Herald, schedule: dict[str, Any]) -> None:
    timed.clock.moved = datetime(2026, 11, 23, 12, tzinfo=UTC) - datetime.now(UTC)
    body = notification({"all": True}, schedule=schedule, expiresAt="2026-12-01T09:00:00Z")
    await ingest(timed.services, body, "m1")
    [letter] = await timed.dead_letters()
    assert json.loads(letter["faults"]) == [
        {"pointer": "/schedule/at", "message": "must be before the expiry, 2026-12-01T09:00Z"}
    ]
    asked = await timed.ask({"all": True}, schedule=schedule, expiresAt="2026-12-01T09:01:00Z")
    assert asked.state is NotificationState.SCHEDULED
    later = {"target": {"source": asked.source, "id": asked.id}, "schedule": {"at": "2026-12-03T09:00"}}
    await ingest(timed.services, json.dumps({"command": "reschedule", **later}).encode(), "m2")
    assert len(await timed.dead_letters()) == 2
    assert (await timed.now(asked)).due == asked.due
