"""Commands on the queue: what was not sent is called off, what was sent is taken back, changed, or tried again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from local.fake_teams.api import Behaviour, PersonView, TeamsFault
from notify.delivery.deliver import deliver
from notify.expansion import expand
from notify.ingest import ingest
from notify.progress import FIRST_CHECK_DELAY, finish
from notify.redrive import reopen
from shared.queue_messages import DELIVERIES, NOTIFICATIONS, Expansion
from shared.states import NotificationState, ReferenceKind, ReferenceStatus
from shared.storage.notifications import StoredNotification
from shared.storage.table import Conflict
from tests.support.herald import Herald, notification, user

NEW = {"title": "Build 42 is mended"}


async def people(herald: Herald, count: int) -> list[PersonView]:
    await herald.grow(people=count)
    await herald.teams.set_behaviour(Behaviour(enforce_limits=False))
    return await herald.people(count)


async def titles(herald: Herald) -> dict[str, str]:
    """What each person sees now."""
    received = await herald.received()
    return {str(m.person): m.activity["summary"] for m in received if not m.deleted_at}


async def broadcast(herald: Herald) -> StoredNotification:
    """One to 12 people, in pages of five, of which the first is sent."""
    await people(herald, 12)
    object.__setattr__(herald.services.settings, "tenant_rate", 1)
    ids = [each.object_id for each in (await herald.teams.world()).people]
    for each in ids:
        await herald.services.topics.subscribe(herald.tenant, "releases", f"u:{each}")
    asked = await herald.ask({"topic": "releases"})
    object.__setattr__(herald.services.settings, "tenant_rate", 45)
    await herald.send()
    assert (asked.state, asked.page) == (NotificationState.EXPANDING, 1)
    return asked


async def test_what_is_cancelled_in_the_middle_of_a_broadcast_goes_no_further_and_sums_up(timed: Herald) -> None:
    asked = await broadcast(timed)
    assert len(await timed.received()) == 5
    await timed.command("cancel", asked)
    await timed.run()
    after = await timed.now(asked)
    assert (after.state, after.counts, after.total) == (NotificationState.CANCELLED, '{"sent":5}', 5)
    assert len(await timed.received()) == 5


async def test_a_cancelled_one_calls_off_what_waits_for_its_next_try(timed: Herald) -> None:
    [ada] = await people(timed, 1)
    await timed.teams.inject(TeamsFault(operation="send", status=429, retry_after=30, count=1))
    asked = await timed.ask(user(ada))
    await timed.send()
    await timed.command("cancel", asked)
    await timed.run()
    assert await timed.counts(asked) == {"cancelled": 1}
    assert (await timed.now(asked)).counts == '{"cancelled":1}'


async def test_a_cancelled_one_that_may_have_arrived_is_unknown(timed: Herald) -> None:
    [ada] = await people(timed, 1)
    await timed.teams.inject(TeamsFault(operation="send", status=502, retry_after=30, accept=True, count=1))
    asked = await timed.ask(user(ada))
    await timed.send()
    await timed.command("cancel", asked)
    await timed.run()
    assert await timed.counts(asked) == {"unknown": 1}
    assert len(await timed.received()) == 1


async def test_a_scheduled_one_that_is_cancelled_never_goes_out(timed: Herald) -> None:
    [ada] = await people(timed, 1)
    at = "2099-01-01T09:00"
    asked = await timed.ask(user(ada), schedule={"at": at, "timeZone": "UTC"})
    await timed.command("cancel", asked)
    await timed.run()
    after = await timed.now(asked)
    assert (after.state, after.total, after.counts) == (NotificationState.CANCELLED, 0, "{}")
    assert await timed.received() == []


async def test_what_is_finished_cannot_be_cancelled_any_more(timed: Herald) -> None:
    [ada] = await people(timed, 1)
    asked = await timed.ask(user(ada))
    await timed.send()
    await timed.command("cancel", asked)
    await timed.run()
    assert (await timed.now(asked)).state is NotificationState.FINISHED


async def test_what_finishes_at_the_moment_it_is_cancelled_stays_finished(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ada] = await people(timed, 1)
    asked = await timed.ask(user(ada))
    advance = timed.services.notifications.advance

    async def late(of: StoredNotification, **changes: object) -> StoredNotification:
        monkeypatch.setattr(timed.services.notifications, "advance", advance)
        await timed.send()
        return await advance(of, **changes)

    monkeypatch.setattr(timed.services.notifications, "advance", late)
    await timed.command("cancel", asked)
    await timed.run()
    assert (await timed.now(asked)).state is NotificationState.FINISHED
    assert await timed.counts(asked) == {"sent": 1}


async def test_a_cancellation_key_means_all_that_have_it_and_no_other(timed: Herald) -> None:
    [ada] = await people(timed, 1)
    at = {"at": "2099-01-01T09:00", "timeZone": "UTC"}
    both = [await timed.ask(user(ada), schedule=at, cancellationKey="build/42") for _ in range(2)]
    other = await timed.ask(user(ada), schedule=at, cancellationKey="build/43")
    body = {"command": "cancel", "target": {"cancellationKey": "build/42"}}
    await ingest(timed.services, json.dumps(body).encode(), "m1")
    assert {(await timed.now(each)).state for each in both} == {NotificationState.CANCELLED}
    assert (await timed.now(other)).state is NotificationState.SCHEDULED


@pytest.mark.parametrize(
    ("target", "pointer"),
    [
        ({"source": "/ci", "id": "nobody"}, "/target"),
        ({"cancellationKey": "nobody"}, "/target"),
        ({"deadLetters": {"queue": "deliveries", "reason": "poison"}}, "/target/deadLetters"),
    ],
)
async def test_a_command_about_what_there_is_not_is_a_dead_letter(
    timed: Herald, target: dict[str, Any], pointer: str
) -> None:
    await ingest(timed.services, json.dumps({"command": "redrive", "target": target}).encode(), "m1")
    [letter] = await timed.dead_letters()
    assert (letter["reason"], json.loads(letter["faults"])[0]["pointer"]) == ("unknown", pointer)


async def test_what_was_sent_is_taken_back_once_and_the_final_counts_say_so(timed: Herald) -> None:
    everyone = await people(timed, 3)
    asked = await timed.ask(*map(user, everyone))
    await timed.send()
    await timed.command("recall", asked)
    await timed.command("recall", asked)
    await timed.run()
    assert all(message.deleted_at for message in await timed.received())
    assert (await timed.teams.stats()).requests["delete"]["200"] == 3
    assert await timed.counts(asked) == {"recalled": 3}
    after = await timed.now(asked)
    assert (after.state, after.counts) == (NotificationState.FINISHED, '{"recalled":3}')


async def test_a_recall_in_the_middle_calls_the_rest_off(timed: Herald) -> None:
    asked = await broadcast(timed)
    await timed.command("recall", asked)
    await timed.run()
    assert await timed.counts(asked) == {"recalled": 5}
    assert (await timed.now(asked)).counts == '{"recalled":5}'
    assert await titles(timed) == {}


async def test_what_is_being_sent_while_it_is_recalled_is_taken_back_too(timed: Herald) -> None:
    [ada] = await people(timed, 1)
    asked = await timed.ask(user(ada))
    await timed.teams.set_behaviour(Behaviour(latency=0.3))
    sending = asyncio.create_task(timed.send())
    while (await timed.state(await timed.message(asked, f"u:{ada.object_id}"))).state != "sending":
        await asyncio.sleep(0.01)
    await timed.command("recall", asked)
    await timed.wait(5)  # the sweep meets the claim, or what has become of it
    await sending
    await timed.run()
    assert await timed.counts(asked) == {"recalled": 1}
    assert await titles(timed) == {}


async def stalled(
    herald: Herald, monkeypatch: pytest.MonkeyPatch, asked: StoredNotification, person: PersonView
) -> Any:
    """A delivery whose process stands still between its look at the notification and the claim."""
    message = await herald.message(asked, f"u:{person.object_id}")
    goes_on, is_current = asyncio.Event(), asyncio.Event()
    claim = herald.services.deliveries.claim

    async def late(*args: Any) -> Any:
        is_current.set()
        await goes_on.wait()
        return await claim(*args)

    monkeypatch.setattr(herald.services.deliveries, "claim", late)
    sending = asyncio.create_task(deliver(herald.services, message))
    await is_current.wait()
    await herald.lose(DELIVERIES)

    async def resume() -> None:
        goes_on.set()
        await sending
        await herald.run()

    return resume


async def test_a_process_that_stood_still_over_a_recall_takes_back_what_it_sends(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ada] = await people(timed, 1)
    asked = await timed.ask(user(ada))
    resume = await stalled(timed, monkeypatch, asked, ada)
    await timed.command("recall", asked)
    await timed.wait(60)
    await resume()
    assert await timed.counts(asked) == {"recalled": 1}
    assert await titles(timed) == {}


async def test_a_process_that_stood_still_over_an_edit_brings_what_it_sends_up_to_date(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ada] = await people(timed, 1)
    asked = await timed.ask(user(ada))
    resume = await stalled(timed, monkeypatch, asked, ada)
    await timed.command("edit", asked, content=NEW)
    await timed.wait(60)
    await resume()
    assert await titles(timed) == {ada.object_id: NEW["title"]}


async def test_an_edit_changes_what_was_sent_and_what_is_still_to_be_sent(timed: Herald) -> None:
    asked = await broadcast(timed)
    await timed.command("edit", asked, content=NEW)
    await timed.run()
    assert set((await titles(timed)).values()) == {NEW["title"]}
    assert len(await timed.received()) == 12
    stats = await timed.teams.stats()
    assert stats.count("send") == 12
    assert (await timed.now(asked)).counts == '{"sent":12}'


async def test_the_same_edit_again_changes_nothing(timed: Herald) -> None:
    [ada] = await people(timed, 1)
    asked = await timed.ask(user(ada))
    await timed.send()
    for _ in range(3):
        await timed.command("edit", asked, content=NEW)
        await timed.run()
    assert (await timed.teams.stats()).count("update") == 1
    assert (await timed.now(asked)).revision == 1


async def test_of_two_edits_at_once_all_see_the_same_one(timed: Herald) -> None:
    everyone = await people(timed, 3)
    asked = await timed.ask(*map(user, everyone))
    await timed.send()
    await asyncio.gather(*(timed.command("edit", asked, content={"title": name}) for name in ("One", "Two")))
    await timed.run()
    last = (await timed.now(asked)).content.content
    assert last
    assert set((await titles(timed)).values()) == {last.title}
    assert (await timed.now(asked)).revision == 2


async def test_an_edit_that_teams_would_not_take_is_refused_and_changes_nothing(timed: Herald) -> None:
    [ada] = await people(timed, 1)
    asked = await timed.ask(user(ada))
    await timed.send()
    facts = [{"title": "x" * 230, "value": "y" * 230}] * 100
    await timed.command("edit", asked, content={"title": "Large", "facts": facts})
    await timed.run()
    [letter] = await timed.dead_letters()
    assert (letter["reason"], json.loads(letter["faults"])[0]["pointer"]) == ("invalid", "/content")
    assert (await timed.now(asked)).revision == 0


async def test_an_edit_that_is_too_long_to_be_stored_with_the_recipients_is_refused(timed: Herald) -> None:
    nobody = ({"user": f"00000000-0000-4000-8000-{number:012d}"} for number in range(900))
    asked = await timed.ask(*nobody)
    await timed.command("edit", asked, content={"title": "Long", "text": "x" * 30_000})
    [letter] = await timed.dead_letters()
    assert letter["reason"] == "invalid"
    assert (await timed.now(asked)).revision == 0


async def test_the_original_again_after_an_edit_is_the_same_notification(timed: Herald) -> None:
    [ada] = await people(timed, 1)
    body = notification(user(ada))
    await ingest(timed.services, body, "m1")
    asked = await timed.stored(body)
    await timed.send()
    await timed.command("edit", asked, content=NEW)
    await ingest(timed.services, body, "m2")
    await timed.run()
    assert await timed.dead_letters() == []
    assert await titles(timed) == {ada.object_id: NEW["title"]}


@pytest.mark.parametrize("command", ["recall", "edit"])
async def test_a_change_that_teams_delays_is_made_in_the_end(timed: Herald, command: str) -> None:
    [ada] = await people(timed, 1)
    asked = await timed.ask(user(ada))
    await timed.send()
    operation: Any = "delete" if command == "recall" else "update"
    await timed.teams.inject(
        TeamsFault(operation=operation, status=412, code="PreconditionFailed", count=2),
        TeamsFault(operation=operation, drop=True, accept=True, count=1),
    )
    await timed.command(command, asked, **({"content": NEW} if command == "edit" else {}))
    await timed.run()
    if command == "recall":
        assert await timed.counts(asked) == {"recalled": 1}
    else:
        assert (await timed.row(asked, f"u:{ada.object_id}"))["revision"] == 1


async def test_a_recall_that_takes_longer_than_the_watch_is_counted_too(timed: Herald) -> None:
    [ada] = await people(timed, 1)
    asked = await timed.ask(user(ada))
    await timed.run()
    late = int(2 * FIRST_CHECK_DELAY.total_seconds())
    await timed.teams.inject(
        TeamsFault(operation="delete", status=412, code="PreconditionFailed", retry_after=late, count=1)
    )
    await timed.command("recall", asked)
    await timed.run()
    assert (await timed.now(asked)).counts == '{"recalled":1}'


async def test_an_edit_that_meets_a_recall_ends_with_the_recall(timed: Herald) -> None:
    everyone = await people(timed, 3)
    asked = await timed.ask(*map(user, everyone))
    await timed.send()
    await asyncio.gather(timed.command("edit", asked, content=NEW), timed.command("recall", asked))
    await timed.run()
    assert await timed.counts(asked) == {"recalled": 3}
    assert await titles(timed) == {}


async def failed(herald: Herald) -> tuple[StoredNotification, list[PersonView]]:
    """One that one of two people could not be given."""
    ada, bob = await people(herald, 2)
    await herald.teams.inject(
        TeamsFault(operation="send", person=ada.object_id, status=400, code="Bad Argument", count=1)
    )
    asked = await herald.ask(user(ada), user(bob))
    await herald.run()
    assert await herald.counts(asked) == {"failed": 1, "sent": 1}
    return asked, [ada, bob]


async def test_a_redrive_sends_to_whom_it_failed_and_finishes_anew(timed: Herald) -> None:
    asked, _ = await failed(timed)
    await timed.command("redrive", asked)
    await timed.run()
    assert len(await timed.received()) == 2
    after = await timed.now(asked)
    assert (after.state, after.counts, after.total) == (NotificationState.FINISHED, '{"sent":2}', 2)


async def test_a_redrive_with_nothing_to_do_leaves_it_finished(timed: Herald) -> None:
    [ada] = await people(timed, 1)
    asked = await timed.ask(user(ada))
    await timed.run()
    await timed.command("redrive", asked)
    assert (await timed.now(asked)).state is NotificationState.FINISHED
    await timed.run()
    after = await timed.now(asked)
    assert (after.state, after.counts) == (NotificationState.FINISHED, '{"sent":1}')
    assert len(await timed.received()) == 1


async def test_what_is_redriven_is_tried_as_long_as_a_new_one(timed: Herald) -> None:
    asked, _ = await failed(timed)
    await timed.wait(3 * 24 * 3600)
    await timed.teams.inject(TeamsFault(operation="send", status=412, code="PreconditionFailed", count=3))
    await timed.command("redrive", asked)
    await timed.run()
    assert await timed.counts(asked) == {"sent": 2}


async def test_an_unknown_one_that_is_redriven_says_that_it_may_have_come_twice(timed: Herald) -> None:
    [ada] = await people(timed, 1)
    await timed.teams.inject(TeamsFault(operation="send", drop=True, accept=True, count=1))
    asked = await timed.ask(user(ada), onUnknown="stop")
    await timed.run()
    assert await timed.counts(asked) == {"unknown": 1}
    await timed.command("redrive", asked)
    await timed.run()
    row = await timed.row(asked, f"u:{ada.object_id}")
    assert (row["state"], row["maybe_twice"]) == ("sent", True)
    assert len(await timed.received()) == 2


async def test_what_was_called_off_or_taken_back_is_not_redriven(timed: Herald) -> None:
    asked, _ = await failed(timed)
    await timed.command("recall", asked)
    await timed.run()
    await timed.command("redrive", asked)
    await timed.run()
    assert await timed.counts(asked) == {"failed": 1, "recalled": 1}


async def test_who_counted_before_a_redrive_opened_it_again_does_not_finish_it(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, _ = await failed(timed)
    await timed.services.notifications.advance(
        await timed.now(asked), state=NotificationState.EXPANDED, counts=""
    )  # as it is between the last delivery and the end
    counted = timed.services.deliveries.final_counts

    async def late(key: str, shards: int) -> Any:
        found = await counted(key, shards)
        monkeypatch.setattr(timed.services.deliveries, "final_counts", counted)
        page = await timed.services.deliveries.page(key, "0", "", 10)
        await reopen(timed.services, key, page)
        return found

    monkeypatch.setattr(timed.services.deliveries, "final_counts", late)
    await finish(timed.services, asked.key)
    assert (await timed.now(asked)).state is NotificationState.EXPANDED
    assert (await timed.counts(asked))["open"] == 1


async def test_a_notification_whose_list_failed_is_listed_again(timed: Herald) -> None:
    [ada] = await people(timed, 1)
    asked = await timed.ask(user(ada), schedule={"at": "2099-01-01T09:00", "timeZone": "UTC"})
    await timed.services.notifications.advance(asked, state=NotificationState.FAILED)
    await expand(timed.services, Expansion(asked.key, 0))  # a copy of the page that failed
    assert (await timed.now(asked)).state is NotificationState.FAILED
    await timed.command("redrive", asked)
    await timed.run()
    assert (await timed.now(asked)).counts == '{"sent":1}'


async def test_who_uninstalled_cannot_be_given_a_change_and_stands_in_nobodys_way(timed: Herald) -> None:
    ada, bob = await people(timed, 2)
    asked = await timed.ask(user(ada), user(bob))
    await timed.send()
    await timed.services.conversations.save(
        timed.tenant, ReferenceKind.USER, ada.object_id, {}, at=timed.clock(), status=ReferenceStatus.UNINSTALLED
    )
    await timed.command("recall", asked)
    await timed.run()
    assert await timed.counts(asked) == {"sent": 1, "recalled": 1}


async def test_a_dead_letter_is_put_back_on_its_queue_and_forgotten(timed: Herald) -> None:
    [ada] = await people(timed, 1)
    body = notification(user(ada))
    row = await timed.services.dead_letters.put(NOTIFICATIONS, "m1", body, "poison", [], timed.clock())
    for target in ({"key": row}, {"reason": "poison"}):
        command = {"command": "redrive", "target": {"deadLetters": {"queue": NOTIFICATIONS, **target}}}
        await timed.services.dead_letters.put(NOTIFICATIONS, "m1", body, "poison", [], timed.clock())
        await ingest(timed.services, json.dumps(command).encode(), "m2")
        assert await timed.dead_letters() == []
    await timed.run()
    assert len(await timed.received()) == 1


async def test_a_change_is_written_on_the_row_as_it_is_whoever_else_changes_it(timed: Herald) -> None:
    """Sixteen edits and cancellations at once: none is lost, and none fails."""
    [ada] = await people(timed, 1)
    asked = await timed.ask(user(ada), schedule={"at": "2099-01-01T09:00", "timeZone": "UTC"})
    edits = (timed.command("edit", asked, content={"title": f"Edit {n}"}) for n in range(8))
    await asyncio.gather(*edits, timed.command("cancel", asked))
    after = await timed.now(asked)
    assert (after.revision, after.state) == (8, NotificationState.CANCELLED)
    with pytest.raises(Conflict):
        await timed.services.notifications.advance(asked, revision=1)
