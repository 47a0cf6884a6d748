"""An hour in which Teams gives all odd answers by chance; a day later, each delivery has the state they justify."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.queue_messages import DELIVERIES, DELIVERIES_URGENT, EXPANSIONS, NOTIFICATIONS, SWEEPS, WORK_QUEUES
from shared.records import DeliveryRecord, StoredNotification
from shared.services import Services
from shared.states import DeliveryState, NotificationState, Reason, ReferenceKind, ReferenceStatus
from shared.storage.deliveries import shard_names
from tests.support.herald import notification
from tests.support.memory import MemoryAccount
from tests.support.odd_teams import NOT_PAUSING, ODD_ANSWERS, Meaning, OddTeams, Request, chat_of
from tests.support.triggers import QueueHost
from tests.support.virtual_time import run_virtual, virtual_now
from tests.support.virtual_workers import SERVICE_URL, open_workers

HOUR, DAY = 3600.0, 24 * 3600.0
#: Half of the notifications of the tenants with odd answers come later, at the latest after this time.
LAST_SECONDS = 3000
#: Requests a second to each tenant, and the part of it that a tenant keeps while others are refused.
RATE, MIN_RATE = 10, 0.75
#: How late a request may use its slot, in seconds (`rate_windows.MAX_LATENESS`).
LATENESS_SECONDS = 0.05
#: Processes that share the queues.
WORKERS = 2
#: Requests of one delivery whose outcome is unknown, unless `onUnknown` is `stop` (docs/contract.md).
MAX_UNKNOWN_OUTCOMES = 3
#: How long requests may still leave for a recipient that is refused meanwhile: two that end without an answer.
MARK_SECONDS = 70
#: How long slots may still be used that another process took before a pause (at most `rate_windows.MAX_LEAD`, twice).
PAUSE_SLACK_SECONDS = 2.5
#: Teams makes nobody wait longer than 15 minutes; the rest is jitter.
MAX_DELAY_SECONDS = 900 + 30
ODD_A, ODD_B, WELL = (f"0000000{letter}-0000-4000-8000-000000000000" for letter in "abc")
#: A request so refused marks the recipient, who gets no other request for days.
MARKING = (Reason.BLOCKED, Reason.NOT_INSTALLED)
#: States that only an answer of Teams leads to, here where nothing expires, is cancelled or held.
POSSIBLE = (
    DeliveryState.SENT, DeliveryState.SUPPRESSED, DeliveryState.FAILED, DeliveryState.UNKNOWN, DeliveryState.SUPERSEDED
)  # fmt: skip


@dataclass
class Tenant:
    """The recipients of one tenant, as upstream systems name them, by their row keys; and the bodies to enqueue."""

    id: str
    recipients: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Expected recipients of each notification, by its title.
    expected: dict[str, set[str]] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    #: The recipients with a stored reference.
    stored: set[str] = field(default_factory=set)

    def person(self, number: int) -> str:
        return f"{self.id[:8]}-0000-4000-8000-{number:012x}"

    def add_notification(self, keys: Sequence[str], **data: Any) -> None:
        title = f"Notice {self.id[7]}{len(self.bodies):03d}"
        content = {"title": title}
        recipients = [self.recipients[key] for key in keys]
        self.bodies.append(notification(*recipients, id=title, tenant=self.id, content=content, **data))
        self.expected[title] = set(keys)


@dataclass
class Run:
    """What a run left: each delivery's row, with its notification, and what Teams was asked and answered."""

    host: QueueHost
    teams: OddTeams
    tenants: Sequence[Tenant]
    notifications: dict[str, StoredNotification] = field(default_factory=dict)
    rows: dict[tuple[str, str], DeliveryRecord] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)


async def store_recipients(services: Services, tenant: Tenant, people: int) -> None:
    """Store what the tenant's events told: two thirds of the people have a chat, and so have all teams and chats."""
    now, save = virtual_now(), services.conversations.save
    observed = {"service_url": SERVICE_URL}
    await save(tenant.id, ReferenceKind.TENANT, tenant.id, observed, at=now)
    for number in range(people):
        person = tenant.person(number)
        tenant.recipients[f"u:{person}"] = {"user": person}
        if number % 3:
            chat = {"conversation_id": chat_of(person), "conversation_type": "personal", "user_id": f"29:{person}"}
            await save(tenant.id, ReferenceKind.USER, person, observed | chat, at=now, status=ReferenceStatus.ACTIVE)
            tenant.stored.add(f"u:{person}")
    team = f"19:team!{tenant.id}!@thread.tacv2"
    await save(tenant.id, ReferenceKind.TEAM, team, observed, at=now, status=ReferenceStatus.ACTIVE)
    for number in range(people // 8):
        channel = f"19:channel{number}!{tenant.id}!@thread.tacv2"
        known = observed | {"conversation_type": "channel", "team": team}
        await save(tenant.id, ReferenceKind.CONVERSATION, channel, known, at=now)
        tenant.recipients[f"c:{channel}"] = {"channel": {"teamId": team, "channelId": channel}}
        group = f"19:group{number}!{tenant.id}!@thread.v2"
        known = observed | {"conversation_type": "groupChat"}
        await save(tenant.id, ReferenceKind.CONVERSATION, group, known, at=now)
        tenant.recipients[f"c:{group}"] = {"conversation": group}
        tenant.stored |= {f"c:{channel}", f"c:{group}"}


def add_notifications(tenant: Tenant, count: int, chance: random.Random) -> None:
    """Add notifications of all kinds for `count` deliveries."""
    everybody = list(tenant.recipients)
    thread_people = everybody[:3] + everybody[-4:]
    number = 0
    while count > 0:
        data: dict[str, Any] = {"onUnknown": "stop"} if number % 3 == 0 else {}
        data |= {"priority": "urgent"} if number % 4 == 3 else {}
        keys = chance.sample(everybody, min(count, 15, len(everybody)))
        if number % 5 in (1, 2):
            on_repeat = ("update", "reply")[number % 5 - 1]
            data |= {"thread": {"key": on_repeat, "onRepeat": on_repeat}}
            keys = thread_people[:count]
        tenant.add_notification(keys, **data)
        count -= len(keys)
        number += 1


def add_team(tenant: Tenant, teams: OddTeams, members: int) -> None:
    """Add notifications to the members of the team, whose roster has several pages; the first also to a new channel."""
    team, channel = f"19:team!{tenant.id}!@thread.tacv2", f"19:new!{tenant.id}!@thread.tacv2"
    roster = [tenant.person(1000 + number) for number in range(members)]
    teams.rosters[team], teams.channels[team] = roster, [team, channel]
    tenant.recipients[f"c:{channel}"] = {"channel": {"teamId": team, "channelId": channel}}
    tenant.recipients["team"] = {"team": team}
    for singles in ([f"c:{channel}"], []):
        tenant.add_notification([*singles, "team"])
        [*_, title] = tenant.expected
        tenant.expected[title] = {*singles, *(f"u:{each}" for each in roster)}


async def run_hour(count: int, seed: int, patch: pytest.MonkeyPatch) -> Run:
    """Let an hour with odd answers and a day after it pass."""
    chance = random.Random(seed)
    account, tenants = MemoryAccount(), [Tenant(ODD_A), Tenant(ODD_B), Tenant(WELL)]
    # A pause stops a tenant's requests, so that only the tenant without pauses gets many answers in an hour.
    teams = OddTeams({ODD_A: ODD_ANSWERS, ODD_B: NOT_PAUSING}, HOUR, chance)
    host = QueueHost(account)
    workers = await open_workers(host, teams, patch, WORKERS, [each.id for each in tenants], RATE)
    services = workers[0]
    members = 60 if count < 1000 else 130  # in pages of 50
    for tenant in tenants:
        await store_recipients(services, tenant, 40 if count < 1000 else 120)
        share = count * 2 // 5 if tenant.id == WELL else count * 3 // 10
        add_notifications(tenant, max(share - 2 * members, 30) if tenant.id == ODD_A else share, chance)
    add_team(tenants[0], teams, members)
    queue = account.get_queue_client(NOTIFICATIONS)
    for tenant in tenants:
        for number, body in enumerate(tenant.bodies):
            is_later = tenant.id != WELL and number % 2
            await queue.send_message(
                body.decode(), visibility_timeout=chance.randrange(LAST_SECONDS) if is_later else 0
            )
    await host.run(HOUR + DAY)
    run = Run(host, teams, tenants)
    async for page in services.notifications._table.pages("PartitionKey ge @first", {"first": "0"}, size=1000):
        for row in page:
            stored = await services.notifications.get(row["RowKey"])
            assert stored
            run.notifications[stored.key] = stored
            for shard in shard_names(stored.shards):
                for message, record in await services.deliveries.page(stored.key, shard, "", 1000):
                    run.rows[stored.key, message.recipient] = record
    for name in WORK_QUEUES:
        run.left[name] = len(await account.get_queue_client(name).peek_messages(10**6))
    await asyncio.gather(*(worker.close() for worker in workers))
    return run


def find_faults(run: Run) -> Iterator[str]:
    """Yield a line for each delivery whose state its answers do not justify."""
    marks: set[tuple[str, str]] = set()
    for (_, recipient), log in run.teams.by_delivery.items():
        refused = {each.answer.reason for each in log if each.answer.meaning is Meaning.REFUSED}
        marks |= {(recipient, str(reason)) for reason in refused & set(MARKING)}
    for tenant in run.tenants:  # a team that refuses to list its members is marked with its channels
        if any(each.answer.reason is Reason.NOT_INSTALLED for each in run.teams.by_expansion[tenant.id]):
            marks |= {(key, Reason.NOT_INSTALLED) for key, named in tenant.recipients.items() if "channel" in named}
    for (key, recipient), row in run.rows.items():
        stored = run.notifications[key]
        log = run.teams.by_delivery.get((key, recipient), [])
        for fault in find_delivery_faults(stored, recipient, row, log, marks):
            answers = [f"{each.kind}: {each.answer.name}" for each in log]
            yield f"{stored.id} {recipient} {row.state} {row.reason}: {fault}; answers: {answers}"
    shown = {
        (run.notifications[key].tenant, run.notifications[key].thread, recipient)
        for (key, recipient), row in run.rows.items()
        if row.state is not DeliveryState.SUPERSEDED
    }
    for (key, recipient), row in run.rows.items():
        stored = run.notifications[key]
        if row.state is DeliveryState.SUPERSEDED and (stored.tenant, stored.thread, recipient) not in shown:
            yield f"{stored.id} {recipient}: superseded by nothing"


def find_delivery_faults(
    stored: StoredNotification,
    recipient: str,
    row: DeliveryRecord,
    log: Sequence[Request],
    marks: set[tuple[str, str]],
) -> Iterator[str]:
    last = log[-1].answer if log else None
    sends = [each.answer for each in log if each.kind == "send"]
    unknown = [each for each in sends if each.meaning is Meaning.UNKNOWN]
    is_stop = stored.content.on_unknown == "stop"
    if row.state not in POSSIBLE:
        yield "no answer leads to this state"
    if row.state is DeliveryState.SENT and not (last and last.meaning is Meaning.DONE and log[-1].kind != "create"):
        yield "Teams did not confirm it"
    is_listed = not recipient.startswith("t:")  # the rows of what was not listed are checked with the recipients
    is_refused = last is not None and last.meaning is Meaning.REFUSED and last.reason == row.reason
    if row.state is DeliveryState.SUPPRESSED and is_listed and not is_refused and (recipient, row.reason) not in marks:
        yield "Teams did not refuse the recipient"
    is_given = last is not None and last.meaning is Meaning.FAILED and last.reason == row.reason
    if row.state is DeliveryState.FAILED and not is_given:
        yield "its last answer gives another reason"
    if row.state is DeliveryState.UNKNOWN and not (unknown and last is unknown[-1]):
        yield "its last answer was known"
    if row.state is DeliveryState.UNKNOWN and len(unknown) != (1 if is_stop else MAX_UNKNOWN_OUTCOMES):
        yield "it was given up too early or too late"
    if len(unknown) > (1 if is_stop else MAX_UNKNOWN_OUTCOMES) or (is_stop and unknown and last is not unknown[0]):
        yield "it was sent again after an unknown outcome"
    is_superseded = row.state is DeliveryState.SUPERSEDED
    # Of a card that two deliveries update, each may have to show the newest again; until then it is marked, too.
    is_update = any(each.kind == "update" for each in log)
    if row.maybe_twice and not is_update and not unknown and not (last and last.status == 500):
        yield "nothing made it uncertain"
    says_so = row.maybe_twice or is_superseded or row.state is DeliveryState.UNKNOWN
    if not says_so and (unknown or (last and last.is_stored)):
        yield "it is uncertain"


def find_second_posts(run: Run) -> Iterator[str]:
    """Yield a line for each notification that was posted again to a recipient after Teams had confirmed it."""
    confirmed: dict[tuple[str, str], str] = {}
    for each in run.teams.requests:  # in the order in which they began
        if each.kind != "send":
            continue
        place = each.title, each.conversation.split(";")[0]
        if place in confirmed:
            yield f"{place}: {each.answer.name} after {confirmed[place]}"
        if each.answer.meaning is Meaning.DONE:
            confirmed[place] = each.answer.name


def find_recipient_faults(run: Run) -> Iterator[str]:
    """Yield a line for each notification that is not finished, or whose counts or rows are not its recipients."""
    expected = {title: keys for tenant in run.tenants for title, keys in tenant.expected.items()}
    if {stored.id for stored in run.notifications.values()} != set(expected):
        yield "notifications were lost"
    for stored in run.notifications.values():
        rows = {recipient: row for (key, recipient), row in run.rows.items() if key == stored.key}
        counts = json.loads(stored.counts or "{}")
        states = sorted(str(row.state) for row in rows.values())
        if stored.state is not NotificationState.FINISHED:
            yield f"{stored.id} is {stored.state}"
        if sum(counts.values()) != stored.total or sorted(s for s, n in counts.items() for _ in range(n)) != states:
            yield f"{stored.id}: {counts} of {stored.total}, rows {states}"
        unlisted = {recipient for recipient in rows if recipient.startswith("t:")}
        missing, extra = expected[stored.id] - set(rows), set(rows) - expected[stored.id] - unlisted
        lists = [each for each in run.teams.by_expansion[stored.tenant] if each.kind == "list"]
        refused = {
            f"t:{each.conversation}" for each in lists if each.answer.meaning in (Meaning.REFUSED, Meaning.FAILED)
        }
        # All members are missing together, in the place of their team. A channel is not in the list that Teams refused.
        is_justified = refused and (unlisted & refused or not any(each.startswith("u:") for each in missing))
        if extra or (missing and not is_justified):
            names = [each.answer.name for each in lists]
            yield f"{stored.id}: {len(missing)} missing, {len(extra)} too many; {unlisted}; lists were answered {names}"


def measured_rate(run: Run, tenant: str) -> float:
    """Return the messages a second to a tenant, from the first to the last one."""
    times = [each.at for each in run.teams.requests if each.tenant == tenant and each.kind != "list"]
    return (len(times) - 1) / (max(times) - min(times))


def find_requests_after_marks(run: Run) -> Iterator[str]:
    """Yield a line for each request to a recipient that Teams had refused before."""
    stored = {recipient for tenant in run.tenants for recipient in tenant.stored}
    by_recipient: dict[str, list[Request]] = {}
    for (_, recipient), log in run.teams.by_delivery.items():
        by_recipient.setdefault(recipient, []).extend(log)
    for recipient in stored & set(by_recipient):
        log = by_recipient[recipient]
        marked = [each.answered_at for each in log if each.kind != "create" and each.answer.reason in MARKING]
        late = [each.at for each in log if marked and each.at > min(marked) + MARK_SECONDS]
        if late:
            yield f"{recipient} was refused at {min(marked)}, and got requests at {late}"


def find_ignored_pauses(run: Run) -> Iterator[str]:
    """Yield a line for each request within the time for which Teams had asked for none.

    A 429 to a message is about its conversation, one to any other request about the tenant.
    """
    for throttled in run.teams.requests:
        if throttled.answer.status != 429:
            continue
        is_message = throttled.kind in ("send", "update")
        first = throttled.answered_at + PAUSE_SLACK_SECONDS
        last = throttled.answered_at + throttled.answer.pause_seconds - 0.01  # slots are whole microseconds
        for each in run.teams.requests:
            is_meant = each.tenant == throttled.tenant
            if is_message:
                is_meant = each.conversation.split(";")[0] == throttled.conversation.split(";")[0]
            if is_meant and first < each.at < last:
                yield f"{each.kind} at {each.at} in spite of {throttled}"


def find_bursts(run: Run) -> Iterator[str]:
    """Yield a line for each tenant that got more requests in a second than its rate."""
    for tenant in run.tenants:
        times = sorted(each.at for each in run.teams.requests if each.tenant == tenant.id)
        shortest = min(later - at for at, later in zip(times, times[RATE + 1 :], strict=False))
        if shortest < 1 - LATENESS_SECONDS:
            yield f"{tenant.id}: {RATE + 2} requests within {shortest} s"


@pytest.mark.parametrize(
    ("count", "seed"),
    [(300, 1), *(pytest.param(2000, seed, marks=[pytest.mark.full, pytest.mark.timeout(300)]) for seed in (1, 2, 3))],
)
def test_each_delivery_ends_as_its_answers_justify(count: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of Teams: all of them, and others."""
    random.seed(seed)
    run = run_virtual(lambda: run_hour(count, seed, monkeypatch))
    assert run.host.errors == []
    assert list(find_recipient_faults(run)) == []
    assert list(find_faults(run)) == []
    assert list(find_second_posts(run)) == []
    assert list(find_requests_after_marks(run)) == []
    assert list(find_ignored_pauses(run)) == []
    assert list(find_bursts(run)) == []
    assert not any(run.left.values()), run.left
    assert {queue: delay for queue, delay in run.host.delays.items() if delay > MAX_DELAY_SECONDS} == {}
    assert measured_rate(run, WELL) >= MIN_RATE * RATE
    # All of this happened.
    states = {row.state for row in run.rows.values()}
    assert states >= set(POSSIBLE) - (set() if count > 1000 else {DeliveryState.SUPERSEDED})
    assert len(run.rows) > 0.75 * count
    seen = {each.answer.name for each in run.teams.requests}
    assert len(seen) > (len(ODD_ANSWERS) if count > 1000 else 0.9 * len(ODD_ANSWERS))
    assert set(run.host.delays) >= {DELIVERIES, DELIVERIES_URGENT, EXPANSIONS, SWEEPS}
