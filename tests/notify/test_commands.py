"""Commands of upstream systems: cancel, recall, edit and redrive."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from azure.core.exceptions import ServiceRequestError

from local.fake_teams.api import Behaviour, PersonView, TeamsFault
from notify.delivery.deliver import deliver
from notify.expansion import expand
from notify.ingest import ingest
from notify.progress import FIRST_CHECK_DELAY, finish
from notify.redrive import reopen
from shared.queue_messages import DELIVERIES, NOTIFICATIONS, Expansion
from shared.records import StoredNotification
from shared.states import NotificationState, ReferenceKind, ReferenceStatus
from shared.storage.table import Conflict
from shared.storage.unreadable import UnreadableRow
from tests.support.herald import Herald, notification, user
from tests.support.tapped import TAP, OperationCounter

NEW_CONTENT = {"title": "Build 42 succeeded"}


async def add_people(herald: Herald, count: int) -> list[PersonView]:
    await herald.grow(people=count)
    await herald.teams.set_behaviour(Behaviour(enforce_limits=False))
    return await herald.store_people(count)


async def titles_by_person(herald: Herald) -> dict[str, str]:
    """Return the title of the message that each person sees."""
    received = await herald.received()
    return {str(m.person): m.activity["summary"] for m in received if not m.deleted_at}


async def send_first_page(herald: Herald) -> StoredNotification:
    """Submit a notification to 12 people in pages of five, and send the first page."""
    await add_people(herald, 12)
    object.__setattr__(herald.services.settings, "tenant_rate", 1)
    ids = [each.object_id for each in (await herald.teams.world()).people]
    for each in ids:
        await herald.services.topics.subscribe(herald.tenant, "releases", f"u:{each}")
    submitted = await herald.submit({"topic": "releases"})
    object.__setattr__(herald.services.settings, "tenant_rate", 45)
    await herald.handle_messages(DELIVERIES)
    assert (submitted.state, submitted.page) == (NotificationState.EXPANDING, 1)
    return submitted


async def test_cancel_during_a_broadcast_sends_no_further_page_and_stores_final_counts(timed: Herald) -> None:
    submitted = await send_first_page(timed)
    assert len(await timed.received()) == 5
    await timed.command("cancel", submitted)
    await timed.run_until_idle()
    after = await timed.reload(submitted)
    assert (after.state, after.counts, after.total) == (NotificationState.CANCELLED, '{"sent":5}', 5)
    assert len(await timed.received()) == 5


async def test_cancel_ends_a_delivery_that_is_queued_for_a_retry(timed: Herald) -> None:
    [ada] = await add_people(timed, 1)
    await timed.teams.inject(TeamsFault(operation="send", status=429, retry_after=30, count=1))
    submitted = await timed.submit(user(ada))
    await timed.handle_messages()
    await timed.command("cancel", submitted)
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"cancelled": 1}
    assert (await timed.reload(submitted)).counts == '{"cancelled":1}'


async def test_cancelled_delivery_that_may_have_arrived_is_unknown(timed: Herald) -> None:
    [ada] = await add_people(timed, 1)
    await timed.teams.inject(TeamsFault(operation="send", status=502, retry_after=30, accept=True, count=1))
    submitted = await timed.submit(user(ada))
    await timed.handle_messages()
    await timed.command("cancel", submitted)
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"unknown": 1}
    assert len(await timed.received()) == 1


async def test_cancelled_scheduled_notification_is_not_sent(timed: Herald) -> None:
    [ada] = await add_people(timed, 1)
    at = "2099-01-01T09:00"
    submitted = await timed.submit(user(ada), schedule={"at": at, "timeZone": "UTC"})
    await timed.command("cancel", submitted)
    await timed.run_until_idle()
    after = await timed.reload(submitted)
    assert (after.state, after.total, after.counts) == (NotificationState.CANCELLED, 0, "{}")
    assert await timed.received() == []


async def test_cancel_leaves_a_finished_notification_finished(timed: Herald) -> None:
    [ada] = await add_people(timed, 1)
    submitted = await timed.submit(user(ada))
    await timed.handle_messages()
    await timed.command("cancel", submitted)
    await timed.run_until_idle()
    assert (await timed.reload(submitted)).state is NotificationState.FINISHED


async def test_notification_that_finishes_during_a_cancel_stays_finished(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ada] = await add_people(timed, 1)
    submitted = await timed.submit(user(ada))
    advance = timed.services.notifications.advance

    async def late(of: StoredNotification, **changes: object) -> StoredNotification:
        monkeypatch.setattr(timed.services.notifications, "advance", advance)
        await timed.handle_messages()
        return await advance(of, **changes)

    monkeypatch.setattr(timed.services.notifications, "advance", late)
    await timed.command("cancel", submitted)
    await timed.run_until_idle()
    assert (await timed.reload(submitted)).state is NotificationState.FINISHED
    assert await timed.counts(submitted) == {"sent": 1}


async def test_cancellation_key_selects_all_notifications_that_have_it(timed: Herald) -> None:
    [ada] = await add_people(timed, 1)
    at = {"at": "2099-01-01T09:00", "timeZone": "UTC"}
    both = [await timed.submit(user(ada), schedule=at, cancellationKey="build/42") for _ in range(2)]
    other = await timed.submit(user(ada), schedule=at, cancellationKey="build/43")
    body = {"command": "cancel", "target": {"cancellationKey": "build/42"}}
    await ingest(timed.services, json.dumps(body).encode(), "m1")
    assert {(await timed.reload(each)).state for each in both} == {NotificationState.CANCELLED}
    assert (await timed.reload(other)).state is NotificationState.SCHEDULED


@pytest.mark.parametrize(
    ("target", "pointer"),
    [
        ({"source": "/ci", "id": "nobody"}, "/target"),
        ({"cancellationKey": "nobody"}, "/target"),
        ({"deadLetters": {"queue": "deliveries", "reason": "poison"}}, "/target/deadLetters"),
    ],
)
async def test_command_with_an_unknown_target_is_a_dead_letter(
    timed: Herald, target: dict[str, Any], pointer: str
) -> None:
    await ingest(timed.services, json.dumps({"command": "redrive", "target": target}).encode(), "m1")
    [letter] = await timed.dead_letters()
    assert (letter["reason"], json.loads(letter["faults"])[0]["pointer"]) == ("unknown", pointer)


async def test_recall_deletes_each_message_once_and_updates_the_final_counts(timed: Herald) -> None:
    people = await add_people(timed, 3)
    submitted = await timed.submit(*map(user, people))
    await timed.handle_messages()
    await timed.command("recall", submitted)
    await timed.command("recall", submitted)
    await timed.run_until_idle()
    assert all(message.deleted_at for message in await timed.received())
    assert (await timed.teams.stats()).requests["delete"]["200"] == 3
    assert await timed.counts(submitted) == {"recalled": 3}
    after = await timed.reload(submitted)
    assert (after.state, after.counts) == (NotificationState.FINISHED, '{"recalled":3}')


async def test_recall_during_a_broadcast_sends_no_further_page(timed: Herald) -> None:
    submitted = await send_first_page(timed)
    await timed.command("recall", submitted)
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"recalled": 5}
    assert (await timed.reload(submitted)).counts == '{"recalled":5}'
    assert await titles_by_person(timed) == {}


@pytest.mark.usefixtures("queued")
async def test_message_being_sent_during_a_recall_is_recalled(timed: Herald) -> None:
    [ada] = await add_people(timed, 1)
    submitted = await timed.submit(user(ada))
    await timed.teams.set_behaviour(Behaviour(latency=0.3))
    sending = asyncio.create_task(timed.handle_messages())
    while (await timed.delivery_record(await timed.message(submitted, f"u:{ada.object_id}"))).state != "sending":
        await asyncio.sleep(0.01)
    await timed.command("recall", submitted)
    await timed.advance_clock(5)  # the sweep finds the claim, or the sent message
    await sending
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"recalled": 1}
    assert await titles_by_person(timed) == {}


async def stall_before_claim(
    herald: Herald, monkeypatch: pytest.MonkeyPatch, submitted: StoredNotification, person: PersonView
) -> Any:
    """Begin a delivery that stalls between reading its notification and the claim; return a function to resume it."""
    message = await herald.message(submitted, f"u:{person.object_id}")
    resumed, has_read = asyncio.Event(), asyncio.Event()
    claim = herald.services.deliveries.claim

    async def late(*args: Any) -> Any:
        has_read.set()
        await resumed.wait()
        return await claim(*args)

    monkeypatch.setattr(herald.services.deliveries, "claim", late)
    sending = asyncio.create_task(deliver(herald.services, message))
    await has_read.wait()
    await herald.clear_queue(DELIVERIES)

    async def resume() -> None:
        resumed.set()
        await sending
        await herald.run_until_idle()

    return resume


@pytest.mark.usefixtures("queued")
async def test_worker_that_stalled_before_a_recall_sends_nothing(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ada] = await add_people(timed, 1)
    submitted = await timed.submit(user(ada))
    resume = await stall_before_claim(timed, monkeypatch, submitted, ada)
    await timed.command("recall", submitted)
    await timed.advance_clock(60)
    await resume()
    assert await timed.counts(submitted) == {"cancelled": 1}
    assert await timed.received() == []


@pytest.mark.usefixtures("queued")
@pytest.mark.parametrize("command", ["recall", "edit"])
async def test_change_that_a_stalled_worker_missed_follows_although_it_dies(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The worker records that it sent the message, and dies before it looks for a change."""
    [ada] = await add_people(timed, 1)
    submitted = await timed.submit(user(ada))
    message = await timed.message(submitted, f"u:{ada.object_id}")
    send, recent, is_dead = timed.services.connector.send, timed.services.notifications.recent, False

    async def send_and_die(*args: Any) -> Any:
        nonlocal is_dead
        await timed.services.notifications.advance(
            await timed.reload(submitted), **({"recalled": True} if command == "recall" else {"revision": 1})
        )
        outcome = await send(*args)
        is_dead = True
        return outcome

    async def recent_if_alive(key: str) -> Any:
        if is_dead:
            raise ServiceRequestError("the worker died")
        return await recent(key)

    monkeypatch.setattr(timed.services.connector, "send", send_and_die)
    monkeypatch.setattr(timed.services.notifications, "recent", recent_if_alive)
    await timed.clear_queue(DELIVERIES)
    with pytest.raises(ServiceRequestError):
        await deliver(timed.services, message)
    is_dead = False
    await deliver(timed.services, message)  # it comes again
    await timed.run_until_idle()
    row = await timed.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row.get("revision", 0)) == (("recalled", 0) if command == "recall" else ("sent", 1))
    assert len(await titles_by_person(timed)) == (command == "edit")


@pytest.mark.usefixtures("queued")
async def test_worker_that_stalled_during_an_edit_edits_its_message(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ada] = await add_people(timed, 1)
    submitted = await timed.submit(user(ada))
    resume = await stall_before_claim(timed, monkeypatch, submitted, ada)
    await timed.command("edit", submitted, content=NEW_CONTENT)
    await timed.advance_clock(60)
    await resume()
    assert await titles_by_person(timed) == {ada.object_id: NEW_CONTENT["title"]}


async def test_edit_changes_sent_messages_and_deliveries_still_to_be_sent(timed: Herald) -> None:
    submitted = await send_first_page(timed)
    await timed.command("edit", submitted, content=NEW_CONTENT)
    await timed.run_until_idle()
    assert set((await titles_by_person(timed)).values()) == {NEW_CONTENT["title"]}
    assert len(await timed.received()) == 12
    stats = await timed.teams.stats()
    assert stats.count("send") == 12
    assert (await timed.reload(submitted)).counts == '{"sent":12}'


async def test_repeated_edit_changes_nothing(timed: Herald) -> None:
    [ada] = await add_people(timed, 1)
    submitted = await timed.submit(user(ada))
    await timed.handle_messages()
    for _ in range(3):
        await timed.command("edit", submitted, content=NEW_CONTENT)
        await timed.run_until_idle()
    assert (await timed.teams.stats()).count("update") == 1
    edited = await timed.reload(submitted)
    assert edited.revision == 1
    assert json.loads(edited.data)["content"] == NEW_CONTENT  # an older instance may not know the other fields


LOG = {"title": "Log", "url": "https://ci.example/42/log"}
GRAPH = {"url": "https://ci.example/42.png", "altText": "Times"}
MENTION = {"name": "Ada", "user": "ada@contoso.example"}


@pytest.mark.parametrize(
    ("edit", "shown", "pointers"),
    [
        ({"links": [LOG]}, "42/log", []),
        ({"images": [GRAPH]}, "42.png", []),
        ({"text": "<at>Ada</at>", "mentions": [MENTION]}, "**Ada**", []),
        ({"mentions": [MENTION]}, "Old", ["/content/mentions/0/name"]),
    ],
)
async def test_edit_replaces_links_images_and_mentions(
    timed: Herald, edit: dict[str, Any], shown: str, pointers: list[str]
) -> None:
    [ada] = await add_people(timed, 1)
    old = {"title": "Old", "links": [{"title": "Open", "url": "https://ci.example/old"}]}
    submitted = await timed.submit(user(ada), content=old)
    await timed.handle_messages()
    await timed.command("edit", submitted, content=NEW_CONTENT | edit)
    await timed.run_until_idle()
    assert [fault["pointer"] for each in await timed.dead_letters() for fault in json.loads(each["faults"])] == pointers
    assert json.loads((await timed.reload(submitted)).data)["content"] == (old if pointers else NEW_CONTENT | edit)
    [message] = await timed.received()
    card = json.dumps(message.activity)
    assert shown in card
    assert ("https://ci.example/old" in card) == bool(pointers)


async def test_two_edits_at_once_leave_all_messages_with_the_last_content(timed: Herald) -> None:
    people = await add_people(timed, 3)
    submitted = await timed.submit(*map(user, people))
    await timed.handle_messages()
    await asyncio.gather(*(timed.command("edit", submitted, content={"title": name}) for name in ("One", "Two")))
    await timed.run_until_idle()
    last = (await timed.reload(submitted)).content.content
    assert last
    assert set((await titles_by_person(timed)).values()) == {last.title}
    assert (await timed.reload(submitted)).revision == 2


CARD = {"type": "AdaptiveCard", "version": "1.5", "body": [{"type": "TextBlock", "text": "From a card"}]}


@pytest.mark.parametrize(
    ("first", "edit", "summary"),
    [
        ({}, {"card": CARD}, "From a card"),
        ({"content": None, "card": CARD}, {"content": NEW_CONTENT}, NEW_CONTENT["title"]),
        ({"content": None, "card": CARD}, {"card": CARD | {"fallbackText": "New"}}, "New"),
        ({}, {"content": NEW_CONTENT, "card": None}, NEW_CONTENT["title"]),
    ],
)
async def test_card_and_content_can_be_edited_as_either(
    timed: Herald, first: dict[str, Any], edit: dict[str, Any], summary: str
) -> None:
    """See docs/odd-inputs.md, "Messages on the queue"."""
    [ada] = await add_people(timed, 1)
    submitted = await timed.submit(user(ada), **first)
    await timed.handle_messages()
    for _ in range(2):
        await timed.command("edit", submitted, **edit)
        await timed.run_until_idle()
    assert await timed.dead_letters() == []
    assert await titles_by_person(timed) == {ada.object_id: summary}
    assert (await timed.reload(submitted)).revision == 1


async def test_edit_with_a_card_that_teams_would_not_show_is_refused(timed: Herald) -> None:
    [ada] = await add_people(timed, 1)
    submitted = await timed.submit(user(ada))
    await timed.command("edit", submitted, card=CARD | {"version": "9.0"})
    [letter] = await timed.dead_letters()
    assert json.loads(letter["faults"])[0]["pointer"] == "/card/version"


async def test_edit_with_a_card_too_large_for_teams_is_refused(timed: Herald) -> None:
    [ada] = await add_people(timed, 1)
    submitted = await timed.submit(user(ada))
    await timed.handle_messages()
    facts = [{"title": "x" * 230, "value": "y" * 230}] * 100
    await timed.command("edit", submitted, content={"title": "Large", "facts": facts})
    await timed.run_until_idle()
    [letter] = await timed.dead_letters()
    assert (letter["reason"], json.loads(letter["faults"])[0]["pointer"]) == ("invalid", "/content")
    assert (await timed.reload(submitted)).revision == 0


async def test_edit_too_long_to_be_stored_with_the_recipients_is_refused(timed: Herald) -> None:
    strangers = ({"user": f"00000000-0000-4000-8000-{number:012d}"} for number in range(900))
    submitted = await timed.submit(*strangers)
    await timed.command("edit", submitted, content={"title": "Long", "text": "x" * 30_000})
    [letter] = await timed.dead_letters()
    assert letter["reason"] == "invalid"
    assert (await timed.reload(submitted)).revision == 0


async def test_original_message_repeated_after_an_edit_is_a_duplicate(timed: Herald) -> None:
    [ada] = await add_people(timed, 1)
    body = notification(user(ada))
    await ingest(timed.services, body, "m1")
    submitted = await timed.stored(body)
    await timed.handle_messages()
    await timed.command("edit", submitted, content=NEW_CONTENT)
    await ingest(timed.services, body, "m2")
    await timed.run_until_idle()
    assert await timed.dead_letters() == []
    assert await titles_by_person(timed) == {ada.object_id: NEW_CONTENT["title"]}


@pytest.mark.parametrize("command", ["recall", "edit"])
async def test_edit_or_recall_is_retried_until_teams_accepts_it(timed: Herald, command: str) -> None:
    [ada] = await add_people(timed, 1)
    submitted = await timed.submit(user(ada))
    await timed.handle_messages()
    operation: Any = "delete" if command == "recall" else "update"
    await timed.teams.inject(
        TeamsFault(operation=operation, status=412, code="PreconditionFailed", count=2),
        TeamsFault(operation=operation, drop=True, accept=True, count=1),
    )
    await timed.command(command, submitted, **({"content": NEW_CONTENT} if command == "edit" else {}))
    await timed.run_until_idle()
    if command == "recall":
        assert await timed.counts(submitted) == {"recalled": 1}
    else:
        assert (await timed.row(submitted, f"u:{ada.object_id}"))["revision"] == 1


async def test_recall_retried_after_the_watchdog_check_is_counted(timed: Herald) -> None:
    [ada] = await add_people(timed, 1)
    submitted = await timed.submit(user(ada))
    await timed.run_until_idle()
    late = int(2 * FIRST_CHECK_DELAY.total_seconds())
    await timed.teams.inject(
        TeamsFault(operation="delete", status=412, code="PreconditionFailed", retry_after=late, count=1)
    )
    await timed.command("recall", submitted)
    await timed.run_until_idle()
    assert (await timed.reload(submitted)).counts == '{"recalled":1}'


async def test_edit_and_recall_at_once_end_with_the_recall(timed: Herald) -> None:
    people = await add_people(timed, 3)
    submitted = await timed.submit(*map(user, people))
    await timed.handle_messages()
    await asyncio.gather(timed.command("edit", submitted, content=NEW_CONTENT), timed.command("recall", submitted))
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"recalled": 3}
    assert await titles_by_person(timed) == {}


async def submit_with_one_failure(herald: Herald) -> tuple[StoredNotification, list[PersonView]]:
    """Submit a notification to two people, which fails for the first."""
    ada, bob = await add_people(herald, 2)
    await herald.teams.inject(
        TeamsFault(operation="send", person=ada.object_id, status=400, code="Bad Argument", count=1)
    )
    submitted = await herald.submit(user(ada), user(bob))
    await herald.run_until_idle()
    assert await herald.counts(submitted) == {"failed": 1, "sent": 1}
    return submitted, [ada, bob]


async def test_redrive_sends_failed_deliveries_and_finishes_again(timed: Herald) -> None:
    submitted, _ = await submit_with_one_failure(timed)
    await timed.command("redrive", submitted)
    await timed.run_until_idle()
    assert len(await timed.received()) == 2
    after = await timed.reload(submitted)
    assert (after.state, after.counts, after.total) == (NotificationState.FINISHED, '{"sent":2}', 2)


async def test_redrive_without_failed_deliveries_leaves_it_finished(timed: Herald) -> None:
    [ada] = await add_people(timed, 1)
    submitted = await timed.submit(user(ada))
    await timed.run_until_idle()
    await timed.command("redrive", submitted)
    assert (await timed.reload(submitted)).state is NotificationState.FINISHED
    await timed.run_until_idle()
    after = await timed.reload(submitted)
    assert (after.state, after.counts) == (NotificationState.FINISHED, '{"sent":1}')
    assert len(await timed.received()) == 1


async def test_redriven_delivery_is_retried_as_long_as_a_new_one(timed: Herald) -> None:
    submitted, _ = await submit_with_one_failure(timed)
    await timed.advance_clock(3 * 24 * 3600)
    await timed.teams.inject(TeamsFault(operation="send", status=412, code="PreconditionFailed", count=3))
    await timed.command("redrive", submitted)
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 2}


async def test_redriven_unknown_delivery_is_marked_maybe_twice(timed: Herald) -> None:
    [ada] = await add_people(timed, 1)
    await timed.teams.inject(TeamsFault(operation="send", drop=True, accept=True, count=1))
    submitted = await timed.submit(user(ada), onUnknown="stop")
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"unknown": 1}
    await timed.command("redrive", submitted)
    await timed.run_until_idle()
    row = await timed.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row["maybe_twice"]) == ("sent", True)
    assert len(await timed.received()) == 2


async def test_recalled_notification_is_not_redriven(timed: Herald) -> None:
    submitted, _ = await submit_with_one_failure(timed)
    await timed.command("recall", submitted)
    await timed.run_until_idle()
    await timed.command("redrive", submitted)
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"failed": 1, "recalled": 1}


@pytest.mark.usefixtures("queued")
async def test_worker_that_counted_before_a_redrive_does_not_finish_the_notification(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted, _ = await submit_with_one_failure(timed)
    await timed.services.notifications.advance(
        await timed.reload(submitted), state=NotificationState.EXPANDED, counts=""
    )  # the state after the last delivery and before the final counts
    counted = timed.services.deliveries.final_counts

    async def late(key: str, shards: int) -> Any:
        found = await counted(key, shards)
        monkeypatch.setattr(timed.services.deliveries, "final_counts", counted)
        page = await timed.services.deliveries.page(key, "0", "", 10)
        await reopen(timed.services, key, page)
        return found

    monkeypatch.setattr(timed.services.deliveries, "final_counts", late)
    await finish(timed.services, submitted.key)
    assert (await timed.reload(submitted)).state is NotificationState.EXPANDED
    assert (await timed.counts(submitted))["open"] == 1


async def test_redrive_resumes_a_failed_expansion(timed: Herald) -> None:
    [ada] = await add_people(timed, 1)
    submitted = await timed.submit(user(ada), schedule={"at": "2099-01-01T09:00", "timeZone": "UTC"})
    await timed.services.notifications.advance(submitted, state=NotificationState.FAILED)
    await expand(timed.services, Expansion(submitted.key, 0))  # a duplicate of the failed page's message
    assert (await timed.reload(submitted)).state is NotificationState.FAILED
    await timed.command("redrive", submitted)
    await timed.run_until_idle()
    assert (await timed.reload(submitted)).counts == '{"sent":1}'


async def test_recall_skips_a_recipient_who_uninstalled_the_bot(timed: Herald) -> None:
    ada, bob = await add_people(timed, 2)
    submitted = await timed.submit(user(ada), user(bob))
    await timed.handle_messages()
    await timed.services.conversations.save(
        timed.tenant, ReferenceKind.USER, ada.object_id, {}, at=timed.clock(), status=ReferenceStatus.UNINSTALLED
    )
    await timed.command("recall", submitted)
    await timed.run_until_idle()
    assert await timed.counts(submitted) == {"sent": 1, "recalled": 1}


async def test_redriven_dead_letter_is_requeued_and_deleted(timed: Herald) -> None:
    [ada] = await add_people(timed, 1)
    body = notification(user(ada))
    row = await timed.services.dead_letters.put(NOTIFICATIONS, "m1", body, "poison", [], timed.clock())
    for target in ({"key": row}, {"reason": "poison"}):
        command = {"command": "redrive", "target": {"deadLetters": {"queue": NOTIFICATIONS, **target}}}
        await timed.services.dead_letters.put(NOTIFICATIONS, "m1", body, "poison", [], timed.clock())
        await ingest(timed.services, json.dumps(command).encode(), "m2")
        assert await timed.dead_letters() == []
    await timed.run_until_idle()
    assert len(await timed.received()) == 1


@pytest.mark.parametrize(("table", "advice"), [("Timers", "reschedule a scheduled"), ("Schedules", "delete the row")])
async def test_redrive_of_a_row_that_was_set_aside_says_what_to_do_instead(
    timed: Herald, table: str, advice: str
) -> None:
    """Times: a malformed row of table Timers or Schedules is set aside with a dead letter."""
    malformed = UnreadableRow("has no text in the column key", {"PartitionKey": "p", "RowKey": "watchdog;x"})
    key = await timed.services.dead_letters.put_row(table, malformed, timed.clock())
    for number, target in enumerate(({"key": key}, {"reason": "unreadable"})):
        command = {"command": "redrive", "target": {"deadLetters": {"queue": table, **target}}}
        await ingest(timed.services, json.dumps(command).encode(), f"m{number}")
    row, *refused = sorted(await timed.dead_letters(), key=lambda letter: letter["queue"] != table)
    assert (row["queue"], len(refused)) == (table, 2)
    for letter in refused:
        [fault] = json.loads(letter["faults"])
        assert (letter["reason"], fault["pointer"]) == ("invalid", "/target/deadLetters/queue")
        assert fault["message"].startswith(f"{table} is a table, not a queue: its rows cannot be put back")
        assert advice in fault["message"]


async def test_commands_at_once_are_all_applied_to_the_current_row(timed: Herald) -> None:
    """Eight edits and a cancel at once: none is lost, and none fails."""
    [ada] = await add_people(timed, 1)
    submitted = await timed.submit(user(ada), schedule={"at": "2099-01-01T09:00", "timeZone": "UTC"})
    edits = (timed.command("edit", submitted, content={"title": f"Edit {n}"}) for n in range(8))
    await asyncio.gather(*edits, timed.command("cancel", submitted))
    after = await timed.reload(submitted)
    assert (after.revision, after.state) == (8, NotificationState.CANCELLED)
    with pytest.raises(Conflict):
        await timed.services.notifications.advance(submitted, revision=1)


@pytest.mark.parametrize(
    ("command", "fault", "reason"),
    [
        ("recall", TeamsFault(operation="delete", status=501), "serviceError"),
        ("recall", TeamsFault(operation="delete", status=403, code="ConversationBlockedByUser"), "blocked"),
        ("edit", TeamsFault(operation="update", status=400, code="Bad Argument"), "badRequest"),
        ("edit", TeamsFault(operation="update", status=412, code="PreconditionFailed"), "exhausted"),
    ],
)
async def test_delivery_says_why_an_edit_or_recall_did_not_change_it(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, command: str, fault: TeamsFault, reason: str
) -> None:
    """Answers of Teams: an edit or recall that Teams refuses."""
    monkeypatch.setattr("notify.delivery.change.MAX_ATTEMPTS", 5)
    [ada] = await add_people(timed, 1)
    submitted = await timed.submit(user(ada))
    await timed.handle_messages()
    await timed.teams.inject(fault)
    more = {"content": {"title": "New"}} if command == "edit" else {}
    await timed.command(command, submitted, **more)
    await timed.run_until_idle()
    row = await timed.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row["refused_change"], row["change_reason"]) == ("sent", command, reason)


@pytest.mark.parametrize("command", ["edit", "recall"])
@pytest.mark.parametrize("shards", [0, 16])
async def test_counts_say_how_many_deliveries_kept_an_old_message(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, command: str, shards: int
) -> None:
    """Answers of Teams: an edit or recall that Teams refuses. It is no state: these sum to the recipients."""
    people = await add_people(timed, 3)
    if shards > 1:
        monkeypatch.setattr("shared.publishing.SHARDED_FROM", 1)
    submitted = await timed.submit(*map(user, people))
    await timed.run_until_idle()
    sent = {"sent": 3}
    # Two of three are refused, one of these again, and then none.
    for number, (faults, refused) in enumerate(((2, 2), (1, 1), (0, 0))):
        operation: Any = "update" if command == "edit" else "delete"
        if faults:
            await timed.teams.inject(TeamsFault(operation=operation, status=400, code="Bad Argument", count=faults))
        await timed.command(command, submitted, **({"content": {"title": f"{number}"}} if command == "edit" else {}))
        await timed.run_until_idle()
        states = sent if command == "edit" else {"sent": refused, "recalled": 3 - refused}
        counts, in_rows = await timed.services.deliveries.counts_and_refused(submitted.key, submitted.shards)
        after = await timed.reload(submitted)
        assert (+counts, in_rows) == (+Counter(states), refused)
        assert (json.loads(after.counts), after.refused_changes) == (+Counter(states), refused)
        for person in people:
            row = await timed.row(submitted, f"u:{person.object_id}")
            assert bool(row.get("refused_change")) == bool(row.get("change_reason"))
    assert submitted.shards == shards


async def test_edit_that_teams_accepts_needs_one_write_of_its_delivery(tapped: Herald) -> None:
    [ada] = await add_people(tapped, 1)
    submitted = await tapped.submit(user(ada))
    await tapped.run_until_idle()
    await tapped.command("edit", submitted, content=NEW_CONTENT)
    counter = OperationCounter()
    token = TAP.set(counter)
    await tapped.advance_clock(10)
    TAP.reset(token)
    assert (await tapped.row(submitted, f"u:{ada.object_id}"))["revision"] == 1
    assert (counter.operations["HeraldDeliveries"], counter.operations["HeraldTimers"]) == (1, 0)
