"""`python dev.py status` lists notifications and says what became of one."""

from __future__ import annotations

import json
from dataclasses import replace

from local import status
from notify.ingest import ingest
from shared.contract.faults import Fault
from shared.queue_messages import Task
from shared.records import DeliveryRecord
from shared.services import open_services
from shared.settings import load_settings
from shared.states import DeliveryState, Reason, ScheduleState
from shared.storage.clients import CONNECTION, open_storage
from shared.storage.delivery_counts import FEW_SHARD
from tests.shared.test_settings import BOT
from tests.support.herald import Herald, notification, user


async def test_list_shows_the_newest_notifications_and_dead_letters(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    first = await herald.submit(user(ada))
    second = await herald.submit(user(ada))
    await herald.run_until_idle()
    faults = [Fault("/recipients/0/user", "must be an Entra object id")]
    await herald.services.dead_letters.put("notifications", "m1", b"{}", "invalid", faults, herald.clock())
    newest = await herald.newest()
    assert {each.key for each in newest} >= {first.key, second.key}
    assert [each.created for each in newest] == sorted((each.created for each in newest), reverse=True)
    assert len(await herald.services.notification_index.list_newest(1)) == 1
    lines = status.describe_list(newest, await herald.services.dead_letters.list_newest(10))
    assert lines[0].split() == ["accepted", "(UTC)", "state", "source", "id", "result"]
    assert any(first.id in line and "finished" in line and "1 sent" in line for line in lines)
    assert lines[-2].split("  ")[2:4] == ["notifications", "invalid"]
    assert lines[-1] == "  /recipients/0/user must be an Entra object id"


async def test_schedules_are_listed_with_what_was_left_out_of_their_calendars(herald: Herald) -> None:
    """docs/odd-inputs.md, Times."""
    events = ["DTSTART;VALUE=DATE:20261225", "DTSTART;VALUE=DATE:20261301"]
    calendar = "".join(f"BEGIN:VEVENT\n{event}\nEND:VEVENT\n" for event in events)
    notification = {"recipients": [{"all": True}], "category": "news", "content": {"title": "x"}}
    announcement = {"rule": "0 9 * * *", "notification": notification}
    for name, holidays in (("a", {"holidays": f"BEGIN:VCALENDAR\n{calendar}END:VCALENDAR"}), ("b", {})):
        body = {"command": "schedule", "target": {"schedule": name}, "announcement": announcement | holidays}
        await ingest(herald.services, json.dumps(body).encode(), name)
    lines = status.describe_schedules(await herald.services.schedules.list_first(10))
    assert [line.split("  ")[0] for line in lines] == ["schedule", "", "schedule"]
    assert lines[1].startswith("  its calendar was read without event 2 (20261301): DTSTART must be a date")
    found = await herald.services.schedules.get(herald.tenant, "b")
    assert found
    broken = await herald.services.schedules.change(found, data=b"{}")
    assert status.describe_schedules([broken])[1] == "  it is no longer valid: see the dead letters"
    deleted = await herald.services.schedules.change(broken, state=ScheduleState.DELETED)
    assert status.describe_schedules([deleted]) == []


def test_empty_storage_is_said() -> None:
    assert status.describe_list([], []) == ["No notifications yet."]


async def test_deliveries_are_shown_with_what_to_do(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    stranger = "00000000-0000-4000-8000-000000000001"
    submitted = await herald.submit(user(ada), {"user": stranger}, reference="Order 42")
    await herald.run_until_idle()
    [found] = await herald.services.notifications.find(submitted.id)
    counts = await herald.services.deliveries.counts(found.key, found.shards)
    page = await herald.services.deliveries.page(found.key, FEW_SHARD, "", 10)
    lines = status.describe_notification(found, counts, [(message.recipient, record) for message, record in page])
    assert lines[:2] == [f"{found.source} {found.id}: finished", "reference: Order 42"]
    assert lines[2] in ("deliveries: 1 sent, 1 suppressed", "deliveries: 1 suppressed, 1 sent")
    [suppressed] = [line for line in lines if "suppressed" in line and stranger in line]
    assert suppressed.split("  ")[-1] == "install the app for this person, chat or team"
    lines = status.describe_notification(replace(found, left_out='{"accountDisabled": 3, "guest": 1}'), counts, [])
    assert lines[3] == "accounts without a delivery: 3 accountDisabled, 1 guest"


async def test_long_list_says_how_many_deliveries_are_shown(herald: Herald) -> None:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    submitted = await herald.submit(user(ada))
    record = DeliveryRecord(state=DeliveryState.SENT, attempts=2, etag="", maybe_twice=True)
    lines = status.describe_notification(submitted, {"open": 0, "sent": 3}, [("u:1", record)])
    assert lines[1] == "deliveries: 3 sent"
    assert lines[-2].endswith("it may have arrived twice")
    assert lines[-1] == "The first 1 of 3 are shown."


async def test_status_says_how_many_deliveries_kept_an_old_message(connection: str) -> None:
    """Answers of Teams: an edit or recall that Teams refuses."""
    environ = {CONNECTION: connection}
    services = await open_services(load_settings(environ | BOT), open_storage(environ))
    await ingest(services, notification({"user": "00000000-0000-4000-8000-000000000001"}, id="a"), "m1")
    [found] = await services.notifications.find("a")
    [(message, known)] = await services.deliveries.page(found.key, FEW_SHARD, "", 10)
    await services.deliveries.settle(message, known.etag, DeliveryState.SENT, now=services.clock())
    sent = await services.deliveries.get(message)
    assert sent
    await services.deliveries.refuse_change(replace(message, task=Task.EDIT), sent, Reason.BLOCKED)
    await services.close()
    lines = await status.read_status("a", environ)
    assert lines
    assert lines[1:3] == ["deliveries: 1 sent", "with an old message, as their edit or recall was refused: 1"]
    assert lines[-1].endswith("edit failed: blocked")
    finished = replace(found, counts='{"sent":3}', total=3)
    assert status.describe_result(finished) == "3 sent"
    assert status.describe_result(replace(finished, refused_changes=2)) == "3 sent (2 with an old message)"


async def test_status_of_an_id_shows_the_dead_letters_that_name_it(connection: str) -> None:
    environ = {CONNECTION: connection}
    services = await open_services(load_settings(environ | BOT), open_storage(environ))
    bodies = {"m1": b'{"id": "a", "data": {"category": ""}}', "m2": b'{"command": "cancel", "target": {"id": "a"}}'}
    for number, body in (bodies | {"m3": b'{"id": "b"}', "m4": b"{"}).items():
        await services.dead_letters.put("notifications", number, body, "invalid", [], services.clock())
    await services.close()
    lines = await status.read_status("a", environ)
    assert lines
    assert all(f"  queue message {number}  " in line for number, line in zip(("m1", "m2"), sorted(lines), strict=True))
    assert sorted(line.split("  ")[-1] for line in lines) == ["key notifications;m1", "key notifications;m2"]
    assert await status.read_status("c", environ) is None


def test_advice_names_only_reasons_that_exist() -> None:
    assert set(status.ADVICE) <= set(Reason)
