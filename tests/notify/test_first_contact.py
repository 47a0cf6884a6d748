"""`onMissing: install`: people who never had the app get it through Graph, then the welcome, then the message."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from local.fake_teams.api import Growth, PersonView, TeamsEvent
from notify.delivery.deliver import deliver
from notify.delivery.first_contact import LONGEST_WELCOME
from shared.preferences.categories import Categories, Category
from shared.queue_messages import DELIVERIES, Delivery
from shared.records import StoredNotification
from shared.states import NotificationState, Reason, ReferenceKind, ReferenceStatus
from shared.teams.graph_answers import Installed, MailboxSettings
from shared.teams.outcome import Outcome, Verdict
from tests.messages.users import serve_endpoint
from tests.support.herald import Herald, user

DENIED = Outcome(Verdict.FAILED, Reason.GRAPH_PERMISSION_MISSING)


class FakeGraph:
    """Installs the app in the fake Teams, unless `answers` has other answers, which come first."""

    def __init__(self, herald: Herald, *answers: Outcome) -> None:
        self.herald, self.answers, self.installs = herald, list(answers), list[str]()
        self.mailbox: MailboxSettings | Outcome = DENIED
        #: Whether Teams sends the events of an install.
        self.sends_events = False

    async def install_for_person(self, _tenant: str, person: str) -> Installed | Outcome:
        if self.answers:
            return self.answers.pop(0)
        already = person in self.installs
        self.installs.append(person)
        await self.herald.teams.set_installed([person])
        if self.sends_events:
            async with serve_endpoint(self.herald) as endpoint:
                await self.herald.teams.send_event(TeamsEvent(kind="install", person=person, endpoint=endpoint))
        return Installed(already=already)

    async def mailbox_settings(self, *_: str) -> MailboxSettings | Outcome:
        return self.mailbox


@pytest.fixture
def graph(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> FakeGraph:
    graph = FakeGraph(timed)
    for name in ("install_for_person", "mailbox_settings"):
        monkeypatch.setattr(timed.services.graph, name, getattr(graph, name))
    return graph


async def die(*_: Any, **__: Any) -> Any:
    raise ConnectionError


async def take_message(herald: Herald) -> tuple[Any, Any]:
    """Take the only message on the queue of deliveries; return the queue and the message, which is not deleted."""
    queue = herald.outside_queues.get_queue_client(DELIVERIES)
    [message] = [each async for each in queue.receive_messages()]
    return queue, message


async def add_person(herald: Herald) -> PersonView:
    """Return a person who never had the app, in a tenant whose serviceUrl is known."""
    [person] = (await herald.teams.grow(Growth(tenant=herald.tenant, people=1, installed=False))).people
    await herald.store_tenant()
    return person


async def titles(herald: Herald) -> list[str]:
    return [str(message.activity.get("summary")) for message in await herald.received()]


async def send(herald: Herald, person: PersonView, **data: Any) -> tuple[str, str]:
    """Send a notification, do all work that follows, and return the state and reason of its delivery."""
    notification = await herald.submit(user(person), onMissing="install", **data)
    await herald.run_until_idle()
    row = await herald.row(notification, f"u:{person.object_id}")
    return row["state"], row["reason"]


@pytest.mark.parametrize("sends_events", [False, True])
async def test_welcome_comes_once_and_before_the_message(
    timed: Herald, graph: FakeGraph, *, sends_events: bool
) -> None:
    graph.sends_events = sends_events
    ada = await add_person(timed)
    assert await send(timed, ada) == ("sent", "")
    assert [title == "Done" for title in await titles(timed)] == [False, True]
    assert graph.installs == [ada.object_id]
    assert await send(timed, ada, content={"title": "Again"}) == ("sent", "")
    assert graph.installs == [ada.object_id]


async def test_worker_that_installs_sends_the_welcome_and_the_message(timed: Herald, graph: FakeGraph) -> None:
    """Nobody looks again and again whether the welcome has arrived: with thousands of people, that fills the queue."""
    ada = await add_person(timed)
    notification = await timed.submit(user(ada), onMissing="install")
    assert await timed.message_count(DELIVERIES) == 1
    await timed.handle_messages(DELIVERIES)
    assert await timed.message_count(DELIVERIES) + len(timed.delayed) == 0
    assert [title == "Done" for title in await titles(timed)] == [False, True]
    assert (await timed.reload(notification)).counts == '{"sent":1}'
    assert {stored.state for stored in await stored_notifications(timed)} == {NotificationState.FINISHED}


async def stored_notifications(herald: Herald) -> list[StoredNotification]:
    rows = herald.outside_tables.get_table_client("HeraldNotifications").list_entities()
    found = [await herald.services.notifications.get(row["RowKey"]) async for row in rows]
    return [each for each in found if each]


async def test_person_who_is_known_is_not_installed(timed: Herald, graph: FakeGraph) -> None:
    [ada] = (await timed.grow(people=1)).people
    await timed.store_reference(ada)
    assert await send(timed, ada) == ("sent", "")
    assert graph.installs == []


async def test_person_who_removed_the_app_does_not_get_it_again(timed: Herald, graph: FakeGraph) -> None:
    [ada] = (await timed.grow(people=1)).people
    async with serve_endpoint(timed) as endpoint:
        await timed.teams.send_event(TeamsEvent(kind="install", person=ada.object_id, endpoint=endpoint))
        await timed.teams.send_event(TeamsEvent(kind="uninstall", person=ada.object_id, endpoint=endpoint))
    await timed.handle_messages()
    assert await send(timed, ada) == ("suppressed", "notInstalled")
    assert graph.installs == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (DENIED, ("failed", "graphPermissionMissing")),
        (Outcome(Verdict.FAILED, Reason.APP_NOT_IN_CATALOGUE), ("failed", "appNotInCatalogue")),
        (Outcome(Verdict.SUPPRESSED, Reason.BLOCKED_BY_POLICY), ("suppressed", "blockedByPolicy")),
        (Outcome(Verdict.SUPPRESSED, Reason.UNKNOWN_PERSON), ("suppressed", "unknownPerson")),
    ],
)
async def test_refusal_ends_in_its_own_reason(
    timed: Herald, graph: FakeGraph, answer: Outcome, expected: tuple[str, str]
) -> None:
    graph.answers = [answer]
    assert await send(timed, await add_person(timed)) == expected
    assert await timed.received() == []


async def test_failed_delivery_is_installed_after_a_redrive(timed: Herald, graph: FakeGraph) -> None:
    graph.answers = [DENIED]
    ada = await add_person(timed)
    notification = await timed.submit(user(ada), onMissing="install")
    await timed.run_until_idle()
    await timed.command("redrive", notification)
    await timed.run_until_idle()
    assert (await timed.row(notification, f"u:{ada.object_id}"))["state"] == "sent"


@pytest.mark.parametrize(
    "answer",
    [
        Outcome(Verdict.RETRY, Reason.THROTTLED, 1.5),
        Outcome(Verdict.RETRY, Reason.PACED, 2.0),
        Outcome(Verdict.UNKNOWN, Reason.NO_ANSWER),
    ],
    ids=lambda answer: answer.reason,
)
async def test_install_without_an_answer_is_tried_again(timed: Herald, graph: FakeGraph, answer: Outcome) -> None:
    graph.answers = [answer, answer]
    ada = await add_person(timed)
    notification = await timed.submit(user(ada), onMissing="install")
    await timed.run_until_idle()
    row = await timed.row(notification, f"u:{ada.object_id}")
    assert (row["state"], row.get("maybe_twice", False)) == ("sent", False)


async def test_nothing_is_installed_for_what_is_not_sent_now(timed: Herald, graph: FakeGraph) -> None:
    """Quiet hours, preferences and schedules decide first."""
    ada = await add_person(timed)
    at = f"{timed.clock() + timedelta(hours=2):%Y-%m-%dT%H:%M}"  # elsewhere this time has passed
    schedule = {"at": at, "timeZone": "recipient"}
    notification = await timed.submit(user(ada), onMissing="install", schedule=schedule)
    await timed.handle_messages()
    row = await timed.row(notification, f"u:{ada.object_id}")
    assert (row["state"], row["reason"], graph.installs) == ("queued", "localTime", [])
    await timed.command("cancel", notification)
    await timed.run_until_idle()
    assert graph.installs == []


async def test_nothing_is_installed_for_a_simulated_notification(timed: Herald, graph: FakeGraph) -> None:
    assert await send(timed, await add_person(timed), simulate=True) == ("simulated", "")
    assert graph.installs == []


async def test_time_zone_of_the_mailbox_counts_for_a_person_met_for_the_first_time(
    timed: Herald, graph: FakeGraph
) -> None:
    graph.mailbox = MailboxSettings("Asia/Tokyo", "de-DE")
    ada = await add_person(timed)
    at = timed.clock().replace(second=0, microsecond=0) + timedelta(hours=10)
    schedule = {"at": f"{at:%Y-%m-%dT%H:%M}", "timeZone": "recipient"}
    await timed.submit(user(ada), onMissing="install", schedule=schedule)
    await timed.handle_messages()
    reference = await timed.services.conversations.get(timed.tenant, ReferenceKind.USER, ada.object_id)
    assert reference
    assert (reference.time_zone, reference.locale) == ("Asia/Tokyo", "de-DE")
    [held] = await timed.services.held_deliveries.list(timed.tenant, f"u:{ada.object_id}", 10)
    assert held.until == at - timedelta(hours=9)


async def test_message_is_sent_without_a_welcome_that_does_not_arrive(
    timed: Herald, graph: FakeGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(*_: Any) -> None:
        return

    monkeypatch.setattr("notify.delivery.deliver._send_welcome", lose)
    ada = await add_person(timed)
    before = timed.clock()
    assert await send(timed, ada) == ("sent", "")
    assert timed.clock() - before >= LONGEST_WELCOME
    assert await titles(timed) == ["Done"]
    reference = await timed.services.conversations.get(timed.tenant, ReferenceKind.USER, ada.object_id)
    assert reference
    assert (reference.status, bool(reference.conversation_id)) == (ReferenceStatus.ACTIVE, True)


async def test_welcome_of_a_worker_that_died_is_sent_although_the_event_of_the_install_comes_first(
    timed: Herald, graph: FakeGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event makes the person known, so that the message that comes again installs nothing."""
    ada = await add_person(timed)

    await timed.submit(user(ada), onMissing="install")
    queue, message = await take_message(timed)
    await queue.delete_message(message)
    with monkeypatch.context() as patch:
        patch.setattr("notify.delivery.deliver._send_claimed", die)
        with pytest.raises(ConnectionError):
            await deliver(timed.services, Delivery.decode(message.content.encode()))
    async with serve_endpoint(timed) as endpoint:
        await timed.teams.send_event(TeamsEvent(kind="install", person=ada.object_id, endpoint=endpoint))
    await timed.handle_messages()
    assert await titles(timed) == []
    await timed.services.queues.put(DELIVERIES, message.content)
    await timed.run_until_idle()
    assert [title == "Done" for title in await titles(timed)] == [False, True]
    assert {stored.state for stored in await stored_notifications(timed)} == {NotificationState.FINISHED}


async def test_person_who_was_welcomed_as_a_member_of_a_team_gets_a_message_at_once(
    timed: Herald, graph: FakeGraph
) -> None:
    """That welcome has no delivery in the partition of one to a single person."""
    timed.services = replace(timed.services, categories=Categories([Category(name="welcome", title="Welcome")]))
    world = await timed.grow(people=1, teams=1)
    [ada], [team] = world.people, world.teams
    async with serve_endpoint(timed) as endpoint:
        await timed.teams.send_event(TeamsEvent(kind="install", person=ada.object_id, team=team.id, endpoint=endpoint))
        await timed.handle_messages()
        assert len(await timed.received()) == 1
        await timed.teams.send_event(TeamsEvent(kind="install", person=ada.object_id, endpoint=endpoint))
        await timed.handle_messages()
        assert len(await timed.received()) == 1
    expires = (timed.clock() + timedelta(minutes=5)).isoformat()
    assert await send(timed, ada, expiresAt=expires) == ("sent", "")


async def test_welcome_of_a_worker_that_died_is_sent_although_the_message_was_cancelled(
    timed: Herald, graph: FakeGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for the welcome any more, and its marker drops that of the event."""
    ada = await add_person(timed)
    notification = await timed.submit(user(ada), onMissing="install")
    queue, message = await take_message(timed)
    await queue.delete_message(message)

    with monkeypatch.context() as patch:
        patch.setattr("notify.delivery.deliver._send_claimed", die)
        with pytest.raises(ConnectionError):
            await deliver(timed.services, Delivery.decode(message.content.encode()))
    await timed.command("cancel", notification)
    await timed.advance_clock(30)
    async with serve_endpoint(timed) as endpoint:
        await timed.teams.send_event(TeamsEvent(kind="install", person=ada.object_id, endpoint=endpoint))
    await timed.services.queues.put(DELIVERIES, message.content)
    await timed.run_until_idle()
    assert [title == "Done" for title in await titles(timed)] == [False]


async def test_welcome_is_finished_although_its_worker_died_after_it_was_sent(
    timed: Herald, graph: FakeGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chat is known by then, so that the message that comes again installs nothing."""
    ada = await add_person(timed)
    await timed.submit(user(ada), onMissing="install")
    queue, message = await take_message(timed)

    with monkeypatch.context() as patch:
        patch.setattr("notify.delivery.deliver.finish_directly", die)
        with pytest.raises(ConnectionError):
            await deliver(timed.services, Delivery.decode(message.content.encode()))
    await deliver(timed.services, Delivery.decode(message.content.encode()))
    await queue.delete_message(message)
    await timed.run_until_idle()
    assert [title == "Done" for title in await titles(timed)] == [False, True]
    assert {stored.state for stored in await stored_notifications(timed)} == {NotificationState.FINISHED}
