"""A digest that could not be sent at once goes by what its reader wants when it can be."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock

import pytest

from local.fake_teams.api import PersonView, TeamsFault
from notify.ingest import ingest
from notify.poison import MAX_POISON_RETRIES, retry_poison
from shared.preferences.preferences import FOREVER
from shared.queue_messages import DELIVERIES, DELIVERIES_URGENT, RECIPIENTS, Delivery, RecipientTask, Task
from shared.states import Mode
from tests.support.digests import ask, came, go_to, one, prefer, see_to, texts
from tests.support.herald import Herald
from timer_digest import digest_sender
from timer_digest.release_held import release

#: When the digest of nine in Berlin is put off by Teams for a minute, and when it can be sent.
PUT_OFF, LATER = "2026-11-24T08:00:30", "2026-11-24T08:02:00"


async def hold(timed: Herald, person: PersonView) -> None:
    """Let Teams take the next message to somebody only a minute later."""
    fault = TeamsFault(
        operation="send", person=person.object_id, status=412, code="PreconditionFailed", retry_after=60, count=1
    )
    await timed.teams.inject(fault)


@pytest.mark.parametrize(
    ("digest_preferences", "counts"),
    [
        pytest.param({}, {"digested": 1}, id="nothing else"),
        pytest.param({"categories": {}}, {"digested": 1}, id="all at once"),
        pytest.param({"stopped": True}, {"suppressed": 1}, id="nothing at all"),
        pytest.param({"categories": {"builds": Mode.OFF}}, {"suppressed": 1}, id="not this category"),
        pytest.param({"paused_until": FOREVER}, {"open": 1}, id="a pause"),
        pytest.param({"quiet": "09:01-11:00"}, {"open": 1}, id="quiet hours"),
    ],
)
async def test_it_tells_only_what_its_reader_wants_by_then(
    timed: Herald, digest_preferences: dict[str, Any], counts: dict[str, int]
) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada)
    await hold(timed, ada)
    await go_to(timed, PUT_OFF)
    await prefer(timed, ada, **digest_preferences)
    await go_to(timed, LATER)
    await timed.wait(11)
    assert await timed.counts(asked) == counts
    assert len(await came(timed, ada)) == counts.get("digested", 0)


async def test_what_quiet_hours_put_off_then_comes_at_their_end_as_the_one_of_its_date(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00", quiet="09:01-11:00")
    first = await ask(timed, ada, "First")
    await hold(timed, ada)
    await go_to(timed, PUT_OFF)
    await go_to(timed, LATER)
    assert await came(timed, ada) == []
    await timed.wait(11)
    await go_to(timed, "2026-11-24T10:01")
    assert await timed.counts(first) == {"digested": 1}
    second = await ask(timed, ada, "Second")
    await go_to(timed, "2026-11-24T22:00")
    assert await timed.counts(second) == {"open": 1}
    await go_to(timed, "2026-11-25T08:00:30")
    assert await timed.counts(second) == {"digested": 1}
    assert len(await came(timed, ada)) == 2


async def test_what_was_called_off_or_has_expired_by_then_is_not_told_with_the_rest(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = [await ask(timed, ada, title) for title in ("Stays", "Called off")]
    asked.append(await ask(timed, ada, "Expires", expiresAt="2026-11-24T08:01:00Z"))
    await hold(timed, ada)
    await go_to(timed, PUT_OFF)
    await timed.command("cancel", asked[1])
    await go_to(timed, LATER)
    await timed.wait(11)
    assert [await timed.counts(each) for each in asked] == [{"digested": 1}, {"cancelled": 1}, {"expired": 1}]
    [digest] = await came(timed, ada)
    assert "Stays" in texts(digest)
    assert not {"Called off", "Expires"} & set(texts(digest))


@pytest.mark.parametrize("paused_until", [FOREVER, None])
async def test_one_that_was_asked_for_comes_early_without_what_was_called_off_since(
    timed: Herald, paused_until: datetime | None
) -> None:
    ada = await one(timed, "2026-11-23T10:00", paused_until=paused_until)
    stays, off = [await ask(timed, ada, title) for title in ("Stays", "Called off")]
    await hold(timed, ada)
    await see_to(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    await timed.command("cancel", off)
    await timed.wait(61)
    for _ in range(2):
        await timed.wait(6)
    assert [await timed.counts(each) for each in (stays, off)] == [{"digested": 1}, {"cancelled": 1}]
    [digest] = await came(timed, ada)
    assert texts(digest)[0] == "Digest: 1 notification"


async def test_what_it_was_to_tell_can_be_called_off_at_once_again(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00", quiet="09:01-11:00")
    asked = await ask(timed, ada)
    await hold(timed, ada)
    await go_to(timed, PUT_OFF)
    await go_to(timed, LATER)
    await timed.command("cancel", asked)
    await timed.wait(4)
    assert await timed.counts(asked) == {"cancelled": 1}


async def test_one_that_was_asked_for_comes_in_a_pause_also_when_it_is_late(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00", paused_until=FOREVER)
    asked = await ask(timed, ada)
    await hold(timed, ada)
    await see_to(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    await timed.wait(61)
    assert await timed.counts(asked) == {"digested": 1}


async def test_what_one_told_that_may_have_arrived_says_that_it_may_come_twice(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada)
    await timed.teams.inject(TeamsFault(operation="send", person=ada.object_id, drop=True, accept=True, count=1))
    await go_to(timed, PUT_OFF)
    await go_to(timed, LATER)
    assert len(await came(timed, ada)) == 2
    row = await timed.row(asked, f"u:{ada.object_id}")
    assert (row["state"], row["maybe_twice"]) == ("digested", True)


async def test_while_teams_gives_no_answers_a_digest_asks_what_its_reader_wants(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada)
    await timed.teams.inject(TeamsFault(operation="send", person=ada.object_id, status=503, count=1))
    await go_to(timed, PUT_OFF)
    await prefer(timed, ada, stopped=True)
    await go_to(timed, LATER)
    await timed.wait(11)
    assert await came(timed, ada) == []
    row = await timed.row(asked, f"u:{ada.object_id}")
    assert (row["state"], row["maybe_twice"]) == ("unknown", True)


async def test_one_that_was_settled_is_not_sent_again_by_hand(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked = await ask(timed, ada)
    timed.clock.moved += datetime(2026, 11, 24, 8, 0, 30, tzinfo=UTC) - timed.clock()
    await timed.tick()
    await people(timed)
    [message] = await timed.outside_queues.get_queue_client(DELIVERIES).peek_messages()
    await timed.lose(DELIVERIES)
    poisoned = replace(Delivery.decode(message.content.encode()), poison_retries=MAX_POISON_RETRIES)
    await retry_poison(timed.services, DELIVERIES, poisoned.encode().encode(), "m1")
    await timed.send()
    assert await timed.counts(asked) == {"failed": 1}
    letters = {"command": "redrive", "target": {"deadLetters": {"queue": DELIVERIES, "reason": "poison"}}}
    await ingest(timed.services, json.dumps(letters).encode(), "m2")
    await timed.send()
    assert await came(timed, ada) == []


async def test_who_dies_before_it_is_posted_leaves_it_as_late_as_it_is(
    timed: Herald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    asked, person = await ask(timed, ada), RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.RELEASE)
    timed.clock.moved += datetime(2026, 11, 24, 8, 0, 30, tzinfo=UTC) - timed.clock()
    with monkeypatch.context() as dying:
        dying.setattr(digest_sender, "_post", AsyncMock(side_effect=RuntimeError))
        with pytest.raises(RuntimeError):
            await release(timed.services, person)
    await prefer(timed, ada, stopped=True)
    await timed.wait(30)
    await release(timed.services, person)
    await timed.send()
    await timed.wait(11)
    assert await came(timed, ada) == []
    assert await timed.counts(asked) == {"suppressed": 1}


async def test_to_look_at_somebody_again_and_again_adds_no_messages(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    await ask(timed, ada)
    await hold(timed, ada)
    await go_to(timed, PUT_OFF)
    before = len(timed.kept)
    for _ in range(5):
        await see_to(timed, f"u:{ada.object_id}", Task.DIGEST_NOW)
    assert len(timed.kept) == before


async def test_what_is_urgent_does_not_wait_for_a_digest_that_is_on_its_way(timed: Herald) -> None:
    ada = await one(timed, "2026-11-24T07:00", quiet="07:00-08:59")
    await ask(timed, ada, "News", category="news", priority="urgent")
    await ask(timed, ada, "Build")
    await timed.services.queues.enqueue_recipient(RecipientTask(timed.tenant, f"u:{ada.object_id}", Task.DIGEST_NOW))
    await people(timed)
    assert (await timed.waiting(DELIVERIES), await timed.waiting(DELIVERIES_URGENT)) == (1, 0)
    timed.clock.moved += timedelta(minutes=59, seconds=30)
    await timed.tick()
    await people(timed)
    assert await timed.waiting(DELIVERIES_URGENT) == 1


async def test_digests_of_the_version_before_go_on(timed: Herald) -> None:
    ada = await one(timed, "2026-11-23T10:00")
    first = await ask(timed, ada)
    await go_to(timed, "2026-11-24T08:00:30")
    [row] = [row async for row in timed.outside_tables.get_table_client("HeraldHeldDeliveries").list_entities()]
    before = {name: row[name] for name in row if name not in ("before", "asked")}
    await timed.services.held_deliveries._table.put(before)
    second = await ask(timed, ada)
    await go_to(timed, "2026-11-25T08:00:30")
    assert [await timed.counts(each) for each in (first, second)] == [{"digested": 1}] * 2


async def people(timed: Herald) -> None:
    await timed._drain(RECIPIENTS, lambda body: release(timed.services, RecipientTask.decode(body)))
