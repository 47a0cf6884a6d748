"""Stalls: the longest time for which the first use of each part holds up the event loop, in a new interpreter.

The storage is in memory, and nothing answers beyond it. "loop CPU" is the CPU time of the loop's own thread between two
beats, which other processes on the machine do not change much; "stall" is the time by which a beat came late.
"""

# ruff: noqa: T201

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from benchmarks.report import Options, Report

ROOT = Path(__file__).resolve().parents[1]
BEAT_SECONDS = 0.005
TENANT = "5f0c1b52-8f5e-4a57-9d0b-6b1d3c0f7a11"
PERSON = "c4a7e1d2-9b36-4d58-8f0c-5e2a7b91d364"
#: Nothing listens at the token service: port 9 of this machine.
SETTINGS = {
    "MicrosoftAppId": "8f14c2a0-6d1f-4f0b-9a57-3a1f3f0f9b11",
    "MicrosoftAppPassword": "unused",
    "MicrosoftAppTenantId": TENANT,
    "ToChannelFromBotLoginUrl": f"https://127.0.0.1:9/{TENANT}",
}
LATER = {"at": "2099-01-01T09:00"}
#: Modules that jsonschema would also import here, since the packages for development depend on it.
DEVELOPMENT_ONLY = ("rfc3987_syntax", "isoduration", "webcolors", "uri_template", "fqdn")
EVENT = {"specversion": "1.0", "id": "1", "source": "/a", "type": "b"}
#: Fifty events whose rules are the most expensive of those that a calendar may have.
CALENDAR = "\n".join((
    "BEGIN:VCALENDAR",
    *(
        f"BEGIN:VEVENT\nDTSTART;VALUE=DATE:2020{1 + day % 12:02d}{1 + day % 28:02d}\n"
        f"RRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYDAY=MO,TU,WE,TH,FR,SA,SU;BYSETPOS={1 + day % 7}\nEND:VEVENT"
        for day in range(50)
    ),
    "END:VCALENDAR",
))  # fmt: skip
CARD: dict[str, Any] = {
    "type": "AdaptiveCard",
    "version": "1.4",
    "body": [{"type": "TextBlock", "text": "Done"}] * 20,
    "actions": [{"type": "Action.OpenUrl", "title": "Open", "url": "https://example.com"}],
}


@dataclass
class Stall:
    """The longest stall so far, and the most CPU time of the loop's thread between two beats (seconds)."""

    seconds: float = 0.0
    loop_cpu: float = 0.0
    process_cpu: float = field(default_factory=time.process_time)


@contextlib.asynccontextmanager
async def measure() -> AsyncIterator[Stall]:
    stall = Stall()

    async def beat() -> None:
        while True:
            wall, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(BEAT_SECONDS)
            stall.seconds = max(stall.seconds, time.perf_counter() - wall - BEAT_SECONDS)
            stall.loop_cpu = max(stall.loop_cpu, time.thread_time() - cpu)

    task = asyncio.create_task(beat())
    await asyncio.sleep(2 * BEAT_SECONDS)
    stall.seconds = stall.loop_cpu = 0.0
    try:
        yield stall
        await asyncio.sleep(2 * BEAT_SECONDS)
    finally:
        task.cancel()
        stall.process_cpu = time.process_time() - stall.process_cpu


def notification(**changed: Any) -> bytes:
    """Return a notification for one person that is due in the far future, with changes."""
    data = {"id": "1", "recipients": [{"user": PERSON}], "category": "builds", "content": {"title": "Done"}}
    return json.dumps({**data, "schedule": LATER, **changed}).encode()


def schedule(**changed: Any) -> bytes:
    announcement = {"rule": "0 9 * * *", "notification": {"recipients": [{"user": PERSON}], "category": "builds",
                    "content": {"title": "Done"}}, **changed}  # fmt: skip
    return json.dumps({"command": "schedule", "target": {"schedule": "daily"}, "announcement": announcement}).encode()


async def open_all() -> Any:
    """Open the services as a worker does, on a storage in memory."""
    from shared.services import get_services
    from tests.support.storage import Storage

    storage = Storage()
    with patch("shared.services.Table", storage.table), patch("shared.services.open_storage", storage.open):
        return await get_services()


async def _ingest(services: Any, body: bytes) -> None:
    from notify.ingest import ingest

    await ingest(services, body, "m1")


def ingesting(*bodies: bytes) -> Callable[[Any], Awaitable[None]]:
    async def use(services: Any) -> None:
        for body in bodies:
            await _ingest(services, body)

    return use


async def _tick(services: Any) -> None:
    from timer_digest.tick import tick

    await tick(services)


async def _token(services: Any) -> None:
    from shared.teams.tokens import NoToken

    with contextlib.suppress(NoToken):
        await services.connector._tokens.get()


async def _announce(services: Any) -> None:
    from dataclasses import replace
    from datetime import UTC, datetime

    from shared.announcements import announce_due
    from shared.contract.parsing import canonical_json
    from shared.states import ScheduleState
    from shared.storage.schedules import StoredSchedule

    due = datetime(2026, 11, 30, 9, tzinfo=UTC)
    data = canonical_json(json.loads(schedule(holidays=CALENDAR))["announcement"])
    stored = StoredSchedule(
        tenant=TENANT, name="daily", data=data, state=ScheduleState.ACTIVE, next_due=due, occurrence="2026-11-30T09:00"
    )
    await services.schedules.insert(stored)
    services = replace(services, clock=lambda: datetime(2026, 11, 30, 9, 1, tzinfo=UTC))
    async with measure() as stall:
        await announce_due(services, TENANT, "daily")
    print_stall("announcement with a calendar", stall)


async def activity(services: Any, **changed: Any) -> None:
    """Let the endpoint handle a message, as from a client on this machine without tokens."""
    import messages.functions

    with patch("messages.functions.get_services", lambda: _return(services)):
        endpoint = await messages.functions._get_endpoint()
    message = {
        "type": "message", "id": "f:1", "timestamp": "2026-11-20T09:00:00.000Z", "channelId": "msteams",
        "serviceUrl": "https://smba.trafficmanager.net/emea/", "from": {"id": "29:ada", "aadObjectId": PERSON},
        "recipient": {"id": "28:" + SETTINGS["MicrosoftAppId"]}, "text": "hello", "locale": "de-DE",
        "conversation": {"conversationType": "personal", "tenantId": TENANT, "id": "a:1"},
        "channelData": {"tenant": {"id": TENANT}},
        "entities": [{"type": "clientInfo", "locale": "de-DE", "country": "DE", "timezone": "Europe/Berlin"}],
        **changed,
    }  # fmt: skip
    endpoint._verifier = _Verifier()
    await endpoint.receive({}, json.dumps(message).encode())


class _Verifier:
    async def verify(self, header: str) -> str:
        return "https://smba.trafficmanager.net/emea/"


async def _return(value: Any) -> Any:
    return value


def writing(text: str) -> Callable[[Any], Awaitable[None]]:
    async def use(services: Any) -> None:
        await activity(services, text=text)

    return use


async def _verify_token(services: Any) -> None:
    import messages.functions

    with patch("messages.functions.get_services", lambda: _return(services)):
        endpoint = await messages.functions._get_endpoint()
    await endpoint.receive({"authorization": "Bearer a.b.c"}, b"{}")


#: First uses by name, each in an interpreter of its own; a use may use other parts before it is measured.
USES: dict[str, Callable[[Any], Awaitable[None]]] = {
    "notification": ingesting(notification()),
    "CloudEvent": ingesting(json.dumps({**EVENT, "data": json.loads(notification())}).encode()),
    "invalid notification": ingesting(notification(content={"titel": "Done"})),
    "notification that is sent": ingesting(notification(schedule=None)),
    "card": ingesting(notification(content=None, card=CARD)),
    "invalid card": ingesting(notification(content=None, card={**CARD, "body": [{"type": "Nope"}]})),
    "largest card": ingesting(notification(content=None, card={**CARD, "body": CARD["body"] * 50})),
    "zone": ingesting(notification(schedule={**LATER, "timeZone": "Europe/Berlin"})),
    "Windows zone": ingesting(notification(schedule={**LATER, "timeZone": "W. Europe Standard Time"})),
    "unknown zone": ingesting(notification(schedule={**LATER, "timeZone": "Europe/Berln"})),
    "POSIX zone": ingesting(notification(schedule={**LATER, "timeZone": "CET-1CEST,M3.5.0,M10.5.0/3"})),
    "cron": ingesting(schedule()),
    "RRULE": ingesting(schedule(rule="FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYDAY=MO", start="2026-11-30T09:00")),
    "calendar": ingesting(schedule(holidays=CALENDAR)),
    "announcement with a calendar": _announce,
    "token": _token,
    "tick": _tick,
    "activity": writing("hello"),
    "command help": writing("help"),
    "command status": writing("status"),
    "command preferences": writing("preferences"),
    "command timezone": writing("timezone Berln"),
    "command quiet": writing("quiet 6pm-8am"),
    "command digest": writing("digest daily 9am"),
    "token of an activity": _verify_token,
}


def print_stall(name: str, stall: Stall) -> None:
    print(json.dumps([name, stall.seconds, stall.loop_cpu, stall.process_cpu]))


async def measure_use(name: str) -> None:
    """Print the stalls of one first use, and of what precedes it, as lines of JSON."""
    sys.modules.update(dict.fromkeys(DEVELOPMENT_ONLY))  # as if they were not installed
    import function_app  # noqa: F401

    async with measure() as stall:
        services = await open_all()
    if name == "opening the services":
        print_stall(name, stall)
    elif name == "announcement with a calendar":
        await USES[name](services)
    else:
        async with measure() as stall:
            await USES[name](services)
        print_stall(name, stall)
    await services.close()


async def run(options: Options) -> Report:
    runs: defaultdict[str, list[list[float]]] = defaultdict(list)
    for number in range(options.runs + 1):
        for name in ("opening the services", *USES):
            printed = subprocess.run(  # noqa: S603, ASYNC221 (our own interpreter, one after the other)
                [sys.executable, "-m", "benchmarks.stalls", name],
                cwd=ROOT, env=os.environ | SETTINGS, check=True, capture_output=True, text=True,
            )  # fmt: skip
            if number:  # the first run writes the .pyc files
                runs[name].append(json.loads(printed.stdout.splitlines()[-1])[1:])
    report = Report({"runs": runs})
    rows = [[name, *(1000 * median(column) for column in zip(*each, strict=True))] for name, each in runs.items()]
    report.add_table(("first use", "stall, ms", "loop CPU, ms", "process CPU, ms"), rows)
    return report


if __name__ == "__main__":
    asyncio.run(measure_use(sys.argv[1]))
