"""Nine minutes without tables or queues in the middle of broadcasts: each message is sent once, none is poison."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from azure.core.exceptions import AzureError, ServiceRequestError

from shared.queue_messages import NOTIFICATIONS
from shared.services import Services
from shared.states import DeliveryState, NotificationState, ReferenceKind
from shared.storage.deliveries import shard_names
from tests.support.herald import notification
from tests.support.memory import MemoryAccount
from tests.support.odd_teams import OddTeams
from tests.support.triggers import FUNCTIONS, QueueHost
from tests.support.virtual_time import START, run_virtual
from tests.support.virtual_workers import open_workers, store_person

TENANTS = [f"0000000{letter}-0000-4000-8000-000000000000" for letter in "ab"]
#: Of each tenant. Requests a second to each, so that a broadcast takes 20 s; and processes that share the queues.
PEOPLE, MORE_PEOPLE, RATE, WORKERS = 200, 3, 10, 2
#: When the storage fails and works again, and when all is done, in seconds: what the host could not put back on a queue
#: comes again after its lease of 600 s.
OUTAGE_BEGIN, OUTAGE_END, END = 10.0, 550.0, 2400.0
#: When the scheduled notification is due and the pause ends: during the outage.
DUE = START + timedelta(minutes=5)
#: When the last notification's message becomes visible.
VISIBLE_SECONDS = 60
#: Seconds after the outage within which these are sent: a message that fails is tried four times in 90 s, and again a
#: minute later.
LATE_SECONDS = 180.0


@dataclass
class Run:
    host: QueueHost
    teams: OddTeams
    #: The states of all deliveries, and whether they are marked.
    rows: Counter[tuple[DeliveryState, bool]]
    problems: list[str]


def person_of(tenant: str, number: int) -> str:
    return f"{tenant[:8]}-0000-4000-8000-{number:012x}"


async def run_outage(parts: Sequence[str], patch: pytest.MonkeyPatch) -> Run:
    """Let these parts of the storage fail in the middle of two broadcasts.

    Each tenant has three people more: for the scheduled notification, for the delivery that a pause holds, and for a
    notification whose message becomes visible during the outage.
    """
    account = MemoryAccount()
    host, teams = QueueHost(account), OddTeams({}, 0.0, random.Random(1))
    workers = await open_workers(host, teams, patch, WORKERS, TENANTS, RATE)
    queue, services = account.get_queue_client(NOTIFICATIONS), workers[0]
    for letter, tenant in zip("ab", TENANTS, strict=True):
        people = [person_of(tenant, number) for number in range(PEOPLE + MORE_PEOPLE)]
        for person in people:
            await store_person(services, tenant, person)
        *broadcast, scheduled, paused, later = people
        await services.conversations.change_preferences(
            tenant, ReferenceKind.USER, paused, lambda old: replace(old, paused_until=DUE)
        )
        schedule = {"at": DUE.replace(tzinfo=None).isoformat(timespec="minutes"), "timeZone": "UTC"}
        for number, (recipients, data) in enumerate(
            [(broadcast, {}), ([scheduled], {"schedule": schedule}), ([paused], {}), ([later], {})]
        ):
            title = f"Notice {letter}{number:03d}"
            named = [{"user": person} for person in recipients]
            body = notification(*named, id=title, tenant=tenant, content={"title": title}, **data)
            is_later = recipients == [later]
            await queue.send_message(body.decode(), visibility_timeout=VISIBLE_SECONDS if is_later else 0)
    outage = asyncio.create_task(_fail(account, parts))
    await host.run(END)
    await outage
    run = Run(host, teams, Counter(), [])
    await _read(run, account, services)
    await asyncio.gather(*(worker.close() for worker in workers))
    return run


async def _fail(account: MemoryAccount, parts: Sequence[str]) -> None:
    await asyncio.sleep(OUTAGE_BEGIN)
    for part in parts:
        setattr(account.outage, part, ServiceRequestError)
    await asyncio.sleep(OUTAGE_END - OUTAGE_BEGIN)
    account.outage.tables = account.outage.queues = None


async def _read(run: Run, account: MemoryAccount, services: Services) -> None:
    """Read all rows, and note what is left or does not match."""
    async for row in account.get_table_client("HeraldNotifications").list_entities():
        stored = await services.notifications.get(row["RowKey"])
        assert stored
        states: Counter[str] = Counter()
        for shard in shard_names(stored.shards):
            for _, record in await services.deliveries.page(stored.key, shard, "", 1000):
                run.rows[record.state, record.maybe_twice] += 1
                states[record.state] += 1
        counts = +await services.deliveries.counts(stored.key, stored.shards)
        if not (counts == states == Counter(json.loads(stored.counts or "{}"))) or stored.total != states.total():
            run.problems.append(f"{stored.id}: counts {counts} and {stored.counts}, rows {states}")
        if stored.state is not NotificationState.FINISHED:
            run.problems.append(f"{stored.id} is {stored.state}")
    for name in FUNCTIONS:
        if left := await account.get_queue_client(name).peek_messages(10**6):
            run.problems.append(f"{len(left)} messages are left on {name}")
    for table in ("DeadLetters", "HeldDeliveries"):
        run.problems += [f"{table}: {row}" async for row in account.get_table_client(f"Herald{table}").list_entities()]


@pytest.mark.parametrize("parts", [("tables",), ("queues",), ("tables", "queues")], ids="-".join)
def test_all_is_sent_once_in_spite_of_nine_minutes_without_storage(
    parts: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The platform: the tables or the storage are away."""
    random.seed(1)
    run = run_virtual(lambda: run_outage(parts, monkeypatch))
    assert (run.problems, run.host.poison) == ([], [])
    assert [error for _, _, error in run.host.errors if not isinstance(error, AzureError)] == []
    assert run.rows == {(DeliveryState.SENT, False): len(TENANTS) * (PEOPLE + MORE_PEOPLE)}
    sent = Counter((each.title, each.conversation) for each in run.teams.requests)
    assert set(sent.values()) == {1}
    assert len(sent) == len(TENANTS) * (PEOPLE + MORE_PEOPLE)
    before = sum(each.at < OUTAGE_BEGIN for each in run.teams.requests)
    assert 0.3 * len(sent) < before < 0.7 * len(sent)
    due = [each.at for each in run.teams.requests if not each.title.endswith("000")]
    assert len(due) == MORE_PEOPLE * len(TENANTS)
    assert OUTAGE_END < min(due) <= max(due) < OUTAGE_END + LATE_SECONDS
