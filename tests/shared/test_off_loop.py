"""What takes long is done in a thread, so that it does not hold up the event loop."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pkgutil import resolve_name
from typing import Any

import pytest

import messages.functions
from messages.subject import PreferenceSubject
from notify.ingest import ingest
from shared import services as opening
from shared.announcements import announce_due
from shared.preferences.preferences import Preferences
from shared.services import open_services
from shared.settings import load_settings
from shared.states import ReferenceKind
from shared.teams.tokens import Tokens
from shared.time.holidays import Holidays
from tests.shared.test_settings import BOT
from tests.support.herald import Herald, notification
from tests.support.storage import Storage

CARD = {"type": "AdaptiveCard", "version": "1.5", "body": [{"type": "TextBlock", "text": "Done"}]}
CALENDAR = "BEGIN:VCALENDAR\nBEGIN:VEVENT\nDTSTART;VALUE=DATE:20261224\nRRULE:FREQ=YEARLY\nEND:VEVENT\nEND:VCALENDAR"
PERSON = "6f9619ff-8b86-d011-b42d-00c04fc964ff"
CONTENT = {"recipients": [{"user": PERSON}], "category": "builds", "content": {"title": "Done"}}

#: Records each call of a function, given by its path: whether it was in another thread than the test's.
Recorder = Callable[[str], list[bool]]


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    loop_thread = threading.get_ident()

    def start(path: str) -> list[bool]:
        original = resolve_name(path)
        aside: list[bool] = []

        def recorded(*arguments: Any, **named: Any) -> Any:
            aside.append(threading.get_ident() != loop_thread)
            return original(*arguments, **named)

        monkeypatch.setattr(path, recorded)
        return aside

    return start


def command(name: str, target: dict[str, str], **more: Any) -> bytes:
    return json.dumps({"command": name, "target": target, **more}).encode()


async def test_message_is_parsed_aside(herald: Herald, record: Recorder) -> None:
    parsed = record("shared.contract.parsing.parse_message")
    await ingest(herald.services, notification({"user": PERSON}), "m1")
    assert parsed == [True]


async def test_card_of_a_notification_an_announcement_and_an_edit_is_checked_aside(
    herald: Herald, monkeypatch: pytest.MonkeyPatch, record: Recorder
) -> None:
    monkeypatch.setattr("shared.cards.validation.find_faults", lambda _: [])  # without jsonschema
    checked = record("shared.cards.validation.find_faults")
    own = {"schedule": {"at": "2099-01-01T09:00"}, "content": None, "card": CARD}
    await ingest(herald.services, notification({"user": PERSON}, id="1", source="/ci", **own), "m1")
    announced = {"rule": "0 9 * * *", "notification": CONTENT | {"content": None, "card": CARD}}
    await ingest(herald.services, command("schedule", {"schedule": "daily"}, announcement=announced), "m2")
    edited = command("edit", {"source": "/ci", "id": "1"}, card=CARD | {"version": "1.4"})
    await ingest(herald.services, edited, "m3")
    assert checked == [True] * 3
    assert await herald.dead_letters() == []


async def test_calendar_is_read_and_followed_aside(herald: Herald, record: Recorder) -> None:
    """When its announcement is created, and when an occurrence is due."""
    read, followed = record("shared.time.holidays._all_day_events"), record("shared.announcements.occurrences")
    announced = {"rule": "0 9 * * *", "notification": CONTENT, "holidays": CALENDAR}
    await ingest(herald.services, command("schedule", {"schedule": "daily"}, announcement=announced), "m1")
    created = len(read), len(followed)
    stored = await herald.services.schedules.get(herald.tenant, "daily")
    assert stored
    await announce_due(replace(herald.services, clock=lambda: stored.next_due), herald.tenant, "daily")
    assert min(created) > 0
    assert min(len(read) - created[0], len(followed) - created[1]) > 0
    assert all(read + followed)


def test_threads_share_the_dates_of_a_calendar() -> None:
    """Its dates come from a generator, in which only one thread may be at a time."""
    holidays, day = Holidays(CALENDAR, date(2026, 1, 1)), date(2026, 12, 24)
    dates, others = holidays._dates, list[Future[bool]]()

    def compute() -> Iterator[date]:
        others.append(pool.submit(holidays.__contains__, day))
        with pytest.raises(TimeoutError):  # the other thread waits
            others[0].result(0.05)
        yield from dates

    with ThreadPoolExecutor() as pool:
        holidays._dates = compute()
        assert day in holidays
        assert others[0].result()


@pytest.mark.parametrize("path", ["ssl.create_default_context", "shared.contract.models.Notification.model_rebuild"])
async def test_services_are_opened_without_slow_work_on_the_loop(
    monkeypatch: pytest.MonkeyPatch, record: Recorder, path: str
) -> None:
    monkeypatch.setattr("shared.services.Table", Storage().table)
    done = record(path)
    services = await open_services(load_settings(BOT), Storage().open())
    await services.close()
    assert done == [True]


async def test_credential_of_the_storage_is_imported_aside_and_modules_are_no_garbage(
    monkeypatch: pytest.MonkeyPatch, record: Recorder
) -> None:
    for name, value in BOT.items():
        monkeypatch.setenv(name, value)
    storage = Storage()
    monkeypatch.setattr("shared.services.Table", storage.table)
    monkeypatch.setattr("shared.services.open_storage", storage.open)
    monkeypatch.setattr("shared.services._opening", None)
    opened, frozen = record("shared.services.open_storage"), record("gc.freeze")
    await (await opening.get_services()).close()
    assert opened == [True]
    assert len(frozen) == 1


async def test_token_is_requested_aside(monkeypatch: pytest.MonkeyPatch, record: Recorder) -> None:
    """The first request imports msal."""
    monkeypatch.setattr("shared.teams.tokens.request_token", lambda *_: {"access_token": "token", "expires_in": 3600})
    requested = record("shared.teams.tokens.request_token")
    assert await Tokens(load_settings(BOT), time.monotonic).get() == "token"
    assert requested == [True]


async def test_botbuilder_is_imported_aside(herald: Herald, monkeypatch: pytest.MonkeyPatch, record: Recorder) -> None:
    async def get_services() -> object:
        return herald.services

    monkeypatch.setattr("messages.functions.get_services", get_services)
    monkeypatch.setattr("messages.functions._opened", None)
    imported = record("importlib.import_module")
    await messages.functions._get_endpoint()
    assert imported == [True]


async def test_preferences_card_is_drawn_aside(herald: Herald, record: Recorder) -> None:
    """The first card of a day lists all time zones."""
    drawn = record("messages.subject.draw_preferences_card")
    subject = PreferenceSubject(services=herald.services, tenant=herald.tenant, kind=ReferenceKind.USER, id=PERSON)
    assert (await subject.draw_card(Preferences()))["type"] == "AdaptiveCard"
    assert drawn == [True]
