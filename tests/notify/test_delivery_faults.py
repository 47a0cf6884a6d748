"""A storage fault at each operation of a delivery: what Teams confirmed is recorded as sent, once."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from azure.core.exceptions import AzureError, HttpResponseError, ServiceRequestError, ServiceResponseError

from shared.contract.parsing import Request as NotificationRequest
from shared.contract.parsing import parse_message
from shared.keys import unkey
from shared.queue_messages import DELIVERIES, NOTIFICATIONS, RECIPIENTS, WORK_QUEUES, Delivery, RecipientTask
from shared.records import StoredNotification, notification_key
from shared.services import Services
from shared.states import DIGESTS, Mode, NotificationState, Purpose, ReferenceKind, ReferenceStatus
from shared.storage.deliveries import shard_names
from tests.support.herald import notification
from tests.support.memory import MemoryAccount
from tests.support.odd_teams import OddTeams, Request, chat_of, tenant_of
from tests.support.tapped import TAP, Tap, TappedMemory, TappedPut
from tests.support.triggers import IN_WORK, ObservedQueues, QueueHost
from tests.support.virtual_time import run_virtual, virtual_now
from tests.support.virtual_workers import SERVICE_URL, open_workers

pytestmark = pytest.mark.usefixtures("queued")

#: Seconds in which everything before the faults is done, in which the digest becomes due, and after which all is done.
SETUP_SECONDS, DIGEST_SECONDS, REST_SECONDS = 30.0, 300.0, 700.0
#: Seconds of longer faults: the second is longer than a claim.
SHORT_SECONDS, LONG_SECONDS = 20.0, 120.0
#: Turns of the conversation that are reserved before the delivery whose turn is later.
RESERVED_TURNS = 20


@dataclass(frozen=True)
class Fault:
    """How an operation fails: with `error`, before it takes effect or, if its answer is `lost`, after it."""

    name: str
    error: type[AzureError]
    lost: bool = False
    seconds: float = 0.0


FAULTS = (
    Fault("refused", HttpResponseError),
    Fault("not sent", ServiceRequestError),
    Fault("not sent for 20 s", ServiceRequestError, seconds=SHORT_SECONDS),
    Fault("not sent for 120 s", ServiceRequestError, seconds=LONG_SECONDS),
    Fault("answer lost", ServiceResponseError, lost=True),
    Fault("answers lost for 20 s", ServiceResponseError, lost=True, seconds=SHORT_SECONDS),
    Fault("answers lost for 120 s", ServiceResponseError, lost=True, seconds=LONG_SECONDS),
)


@dataclass
class FaultCase:
    """One recipient in a tenant of their own, and the operation at which the storage fails: `point`, from 1 on.

    `key` is the notification whose delivery meets the fault, "" for a digest, whose key is not known before.
    """

    tenant: str
    point: int
    fault: Fault
    recipient: str = ""
    named: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""
    key: str = ""
    count: int = 0
    until: float = 0.0

    @property
    def person(self) -> str:
        return self.tenant[:8] + "-0000-4000-8000-00000000000a"

    def make_body(self, title: str, **data: Any) -> bytes:
        return notification(self.named, id=title, tenant=self.tenant, content={"title": title}, **data)


class FaultyStorage(Tap):
    """Counts the storage operations of each case's delivery, and lets them fail as the case says, once armed."""

    def __init__(self, cases: Sequence[FaultCase], now: Callable[[], float]) -> None:
        self._cases, self._now = {case.tenant: case for case in cases}, now
        self.is_armed = False

    async def before(self, written: str) -> None:
        if (case := self._case()) is None:
            return
        case.count += 1
        if case.count == case.point:
            case.until = self._now() + case.fault.seconds
        if self._fails(case) and not case.fault.lost:
            raise case.fault.error("the storage failed")

    async def after(self, written: str) -> None:
        if (case := self._case()) and self._fails(case) and case.fault.lost:
            raise case.fault.error("the answer was lost")

    def _fails(self, case: FaultCase) -> bool:
        is_later = 0 < case.point < case.count and case.fault.seconds > 0
        return case.count == case.point or (is_later and self._now() < case.until)

    def _case(self) -> FaultCase | None:
        queue, body = IN_WORK.get(("", b""))
        if self.is_armed and queue == RECIPIENTS:
            return self._cases[RecipientTask.decode(body).tenant]
        if not self.is_armed or queue != DELIVERIES:
            return None
        message = Delivery.decode(body)
        recipient = message.recipient[2:]
        case = self._cases[recipient.split("!")[1] if "!" in recipient else tenant_of(recipient)]
        return case if case.key in ("", message.notification) else None


@dataclass
class Run:
    """One run of a scenario for several cases at once."""

    services: Services
    host: QueueHost
    teams: OddTeams
    tap: FaultyStorage

    async def put(self, body: bytes) -> None:
        await self.host.account.get_queue_client(NOTIFICATIONS).send_message(body.decode())

    def requests(self, case: FaultCase) -> Sequence[Request]:
        """Return the requests for the case's delivery; with a digest, for each delivery of the person."""
        found = self.teams.by_delivery.items()
        return [
            each
            for (key, recipient), log in found
            if recipient == case.recipient and case.key in ("", key)
            for each in log
        ]

    async def digests(self, case: FaultCase) -> Sequence[StoredNotification]:
        """Return the digests for the case's person that have a delivery."""
        rows = self.host.account.get_table_client("HeraldDeliveries").list_entities()
        keys = {row["PartitionKey"].split(";")[0] async for row in rows if unkey(row["RowKey"]) == case.recipient}
        stored = [await self.services.notifications.get(key) for key in sorted(keys)]
        return [each for each in stored if each and each.purpose in DIGESTS]


Prepare = Callable[[Run, FaultCase], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    """`prepare` does what comes before, and sets the case's notification; `kinds` are the requests that it leads to.

    A request of `repeatable` kinds may be sent again.
    """

    prepare: Prepare
    kinds: Sequence[str] = ("send",)
    repeatable: Sequence[str] = ()
    state: str = "sent"
    seconds: float = 0.0


async def _store_person(run: Run, case: FaultCase, *, chat: bool = True, **preferences: Any) -> None:
    save, now = run.services.conversations.save, virtual_now()
    observed = {"service_url": SERVICE_URL}
    await save(case.tenant, ReferenceKind.TENANT, case.tenant, observed, at=now)
    case.recipient, case.named = f"u:{case.person}", {"user": case.person}
    if chat:
        known = observed | {"conversation_id": chat_of(case.person), "conversation_type": "personal"}
        await save(case.tenant, ReferenceKind.USER, case.person, known, at=now, status=ReferenceStatus.ACTIVE)
    if preferences:
        await run.services.conversations.change_preferences(
            case.tenant, ReferenceKind.USER, case.person, lambda old: replace(old, **preferences)
        )


async def _store_channel(run: Run, case: FaultCase) -> None:
    save, now = run.services.conversations.save, virtual_now()
    team, channel = f"19:team!{case.tenant}!@thread.tacv2", f"19:channel!{case.tenant}!@thread.tacv2"
    observed = {"service_url": SERVICE_URL}
    await save(case.tenant, ReferenceKind.TEAM, team, observed, at=now, status=ReferenceStatus.ACTIVE)
    known = observed | {"conversation_type": "channel", "team": team}
    await save(case.tenant, ReferenceKind.CONVERSATION, channel, known, at=now)
    case.recipient, case.named = f"c:{channel}", {"channel": {"teamId": team, "channelId": channel}}


async def plain(run: Run, case: FaultCase) -> None:
    await _store_person(run, case)
    case.body = case.make_body("Notice a001")


async def chat_to_create(run: Run, case: FaultCase) -> None:
    await _store_person(run, case, chat=False)
    case.body = case.make_body("Notice a001")


async def card_update(run: Run, case: FaultCase) -> None:
    await _store_person(run, case)
    thread = {"key": "build", "onRepeat": "update"}
    await run.put(case.make_body("Notice a000", thread=thread))
    case.body = case.make_body("Notice a001", thread=thread)


async def first_card(run: Run, case: FaultCase) -> None:
    await _store_person(run, case)
    case.body = case.make_body("Notice a001", thread={"key": "build", "onRepeat": "update"})


async def channel_reply(run: Run, case: FaultCase) -> None:
    await _store_channel(run, case)
    thread = {"key": "build", "onRepeat": "reply"}
    await run.put(case.make_body("Notice a000", thread=thread))
    case.body = case.make_body("Notice a001", thread=thread)


async def later_turn(run: Run, case: FaultCase) -> None:
    await _store_person(run, case)
    case.body = case.make_body("Notice a001")


async def edit(run: Run, case: FaultCase) -> None:
    await _sent(run, case, "edit", content={"title": "Notice a002"})


async def recall(run: Run, case: FaultCase) -> None:
    await _sent(run, case, "recall")


async def _sent(run: Run, case: FaultCase, command: str, **data: Any) -> None:
    await _store_person(run, case)
    body = case.make_body("Notice a001")
    await run.put(body)
    case.key = _key_of(case, body)
    target = {"source": _source_of(body), "id": "Notice a001"}
    case.body = json.dumps({"command": command, "tenant": case.tenant, "target": target, **data}).encode()


async def digest(run: Run, case: FaultCase) -> None:
    await _store_person(run, case, categories={"builds": Mode.DIGEST}, digest="daily 10:05", time_zone="UTC")
    await run.put(case.make_body("Notice a001"))


SCENARIOS = {
    "plain": Scenario(plain),
    "chat to create": Scenario(chat_to_create, kinds=("create", "send"), repeatable=("create",)),
    "first card": Scenario(first_card),
    "card update": Scenario(card_update, kinds=("update",), repeatable=("update",)),
    "channel reply": Scenario(channel_reply),
    "later turn": Scenario(later_turn),
    "edit": Scenario(edit, kinds=("send", "update"), repeatable=("update",)),
    "recall": Scenario(recall, kinds=("send", "delete"), repeatable=("delete",), state="recalled"),
    "digest": Scenario(digest, seconds=DIGEST_SECONDS),
}


def _key_of(case: FaultCase, body: bytes) -> str:
    return notification_key(case.tenant, _source_of(body), json.loads(body)["id"])


def _source_of(body: bytes) -> str:
    parsed = parse_message(body)
    assert isinstance(parsed, NotificationRequest)
    return parsed.source


class TappedQueues(TappedPut, ObservedQueues):
    pass


async def run_cases(scenario: Scenario, cases: Sequence[FaultCase], patch: pytest.MonkeyPatch) -> Sequence[str]:
    """Run a scenario for all cases, and return a line for each one that did not end as it must."""
    account = MemoryAccount()
    host, teams = QueueHost(account), OddTeams({}, 0.0, random.Random(1))
    tenants = [case.tenant for case in cases]
    [services] = await open_workers(host, teams, patch, 1, tenants, 10, table=TappedMemory, queues=TappedQueues)
    tap = FaultyStorage(cases, asyncio.get_running_loop().time)
    TAP.set(tap)
    run = Run(services, host, teams, tap)
    for case in cases:
        await scenario.prepare(run, case)
    await host.run(SETUP_SECONDS)
    for case in cases:
        if case.body:
            case.key = case.key or _key_of(case, case.body)
            if scenario.prepare is later_turn:
                for _ in range(RESERVED_TURNS):
                    await services.rate_limiter.reserve_turn(case.tenant, chat_of(case.person))
            await run.put(case.body)
    tap.is_armed = True
    await host.run(scenario.seconds + REST_SECONDS)
    tap.is_armed = False
    lines = [
        f"{case.fault.name} at {case.point}: {fault}"
        for case in cases
        async for fault in find_faults(run, scenario, case)
    ]
    lines += [f"{queue}: poison" for queue, _ in host.poison]
    lines += [f"{queue}: {error!r}" for queue, _, error in host.errors if not isinstance(error, AzureError)]
    for name in WORK_QUEUES:
        if (await account.get_queue_client(name).get_queue_properties()).approximate_message_count:
            lines.append(f"{name} is not empty")
    lines += [str(dict(row)) async for row in account.get_table_client("HeraldDeadLetters").list_entities()]
    await services.close()
    return lines


async def find_faults(run: Run, scenario: Scenario, case: FaultCase) -> AsyncIterator[str]:
    """Yield what is wrong with the delivery of a case, its notification, and what follows from it."""
    requests = run.requests(case)
    kinds = Counter(each.kind for each in requests)
    if set(kinds) != set(scenario.kinds) or any(kinds[kind] > 1 for kind in set(kinds) - set(scenario.repeatable)):
        yield f"the requests were {dict(kinds)}"
    key = case.key
    if not key:
        keys = [each.key for each in await run.digests(case)]
        if len(keys) != 1:
            yield f"there are {len(keys)} digests"
            return
        [key] = keys
    stored = await run.services.notifications.get(key)
    assert stored
    [(_, row)] = [
        found
        for shard in shard_names(stored.shards)
        for found in await run.services.deliveries.page(key, shard, "", 10)
    ]
    if (row.state, row.maybe_twice, row.refused_change) != (scenario.state, False, ""):
        yield f"the row is {row}"
    if stored.purpose is Purpose.NOTIFICATION and row.revision != stored.revision and scenario.state != "recalled":
        yield f"revision {row.revision}, not {stored.revision}"
    sent_ids = {each.activity_id for each in requests if each.kind == "send"}
    if sent_ids and row.activity_id not in sent_ids:
        yield f"the activity is {row.activity_id!r}, not one of {sent_ids}"
    counts = await run.services.deliveries.counts(key, stored.shards)
    final = json.loads(stored.counts or "{}")
    if +counts != {scenario.state: 1} or final != {scenario.state: 1}:
        yield f"counts {+counts}, final {final}"
    if stored.state is not NotificationState.FINISHED:
        yield f"the notification is {stored.state}"
    if stored.content.thread:
        thread = await run.services.threads.get(case.tenant, case.recipient, stored.content.thread.key)
        if thread is None or thread.notification != key or not thread.activity_id:
            yield f"the thread's row is {thread}"
    if case.recipient.startswith("u:"):
        reference = await run.services.conversations.get_recipient(case.tenant, case.recipient)
        if reference.conversation_id != chat_of(case.person):
            yield f"the chat is {reference.conversation_id!r}"
    if case.point and case.count < case.point:
        yield f"there are only {case.count} operations"


@pytest.mark.parametrize("name", SCENARIOS)
def test_fault_at_each_operation_of_a_delivery(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform: the tables or the storage are away."""
    scenario = SCENARIOS[name]
    probe = FaultCase(_tenant(0), 0, FAULTS[0])
    assert run_virtual(lambda: run_cases(scenario, [probe], monkeypatch)) == []
    assert probe.count > 4
    cases = [
        FaultCase(_tenant(number * len(FAULTS) + index), number + 1, fault)
        for number in range(probe.count)
        for index, fault in enumerate(FAULTS)
    ]
    assert run_virtual(lambda: run_cases(scenario, cases, monkeypatch)) == []


def _tenant(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"
