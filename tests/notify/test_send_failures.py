"""Failures of sending: refusals of Teams, lost responses and dead workers each lead to the right state."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from local.fake_teams.api import TeamsFault
from notify.delivery.deliver import deliver
from notify.policy import RETRY_PERIOD
from shared.preferences.categories import Categories, Category
from shared.queue_messages import DELIVERIES
from shared.states import ReferenceKind, ReferenceStatus
from shared.storage.deliveries import CLAIM_SECONDS
from tests.support.herald import Herald, set_token, user

pytestmark = pytest.mark.usefixtures("queued")


async def add_person(herald: Herald) -> Any:
    await herald.grow(people=1)
    [ada] = await herald.store_people(1)
    return ada


@pytest.mark.parametrize(
    ("fault", "state", "reason"),
    [
        (TeamsFault(operation="send", status=400, code="Bad Argument"), "failed", "badRequest"),
        (TeamsFault(operation="send", status=403, code="BotDisabledByAdmin"), "suppressed", "disabledByAdmin"),
        (TeamsFault(operation="send", status=403, code="ConversationBlockedByUser"), "suppressed", "blocked"),
        (
            TeamsFault(operation="send", status=403, code="MessageWritesBlocked", shape="nested"),
            "suppressed",
            "blocked",
        ),
        (TeamsFault(operation="send", status=403, code="BotNotInConversationRoster"), "suppressed", "notInstalled"),
        (TeamsFault(operation="send", status=403, code="NotEnoughPermissions"), "failed", "notPermitted"),
        (TeamsFault(operation="send", status=413, code="MessageSizeTooBig"), "failed", "tooBig"),
        (TeamsFault(operation="send", status=500, code="ServiceError"), "failed", "serviceError"),
        (TeamsFault(operation="send", status=429, retry_after=30), "queued", "throttled"),
        (TeamsFault(operation="send", status=412, code="PreconditionFailed"), "queued", "precondition"),
        (TeamsFault(operation="send", status=403, code="BadArgument"), "queued", "notPermitted"),
        (TeamsFault(operation="send", status=409), "queued", "precondition"),
        (TeamsFault(operation="send", status=307), "failed", "badRequest"),
        (TeamsFault(operation="send", status=502, shape="html"), "queued", "noAnswer"),
        (TeamsFault(operation="send", status=503), "queued", "noAnswer"),
        (TeamsFault(operation="send", drop=True), "queued", "noAnswer"),
        (TeamsFault(operation="token", status=500), "queued", "noToken"),
    ],
)
async def test_refusal_is_recorded_with_state_and_reason(
    herald: Herald, fault: TeamsFault, state: str, reason: str
) -> None:
    set_token(herald.services, "")
    ada = await add_person(herald)
    await herald.teams.inject(fault)
    submitted = await herald.submit(user(ada))
    await herald.handle_messages()
    row = await herald.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == (state, reason)
    assert await herald.counts(submitted) == {"open" if state == "queued" else state: 1}
    assert await herald.message_count(DELIVERIES) == (1 if state == "queued" else 0)


async def run_next_try(herald: Herald, submitted: Any, recipient: str) -> dict[str, Any]:
    """Move the clock to the next try, run it, and return the delivery's row."""
    message = await herald.message(submitted, recipient)
    state = await herald.delivery_record(message)
    assert state.not_before
    herald.clock.offset += max(timedelta(), state.not_before - herald.clock()) + timedelta(seconds=1)
    await deliver(herald.services, message)
    return await herald.row(submitted, recipient)


@pytest.mark.parametrize(
    ("fault", "attempts", "maybe_twice", "received"),
    [
        (TeamsFault(operation="send", status=429, retry_after=1, count=1), 1, False, 1),
        (TeamsFault(operation="send", status=429, count=1), 1, False, 1),
        (TeamsFault(operation="send", status=412, code="PreconditionFailed", count=1), 2, False, 1),
        (TeamsFault(operation="send", status=502, shape="html", count=1), 2, True, 1),
        (TeamsFault(operation="send", drop=True, count=1), 2, True, 1),
        (TeamsFault(operation="send", drop=True, accept=True, count=1), 2, True, 2),
    ],
)
async def test_temporary_failure_is_retried_and_a_lost_response_is_marked_maybe_twice(
    herald: Herald, fault: TeamsFault, attempts: int, maybe_twice: bool, received: int
) -> None:
    set_token(herald.services, "")
    herald.services.rate_limiter._real_time = herald.clock
    ada = await add_person(herald)
    await herald.teams.inject(fault)
    submitted = await herald.submit(user(ada))
    await herald.handle_messages()
    row = await run_next_try(herald, submitted, f"u:{ada.object_id}")
    assert (row["state"], row["attempts"], row.get("maybe_twice", False)) == ("sent", attempts, maybe_twice)
    assert len(await herald.received()) == received


async def test_retry_after_of_teams_is_respected(herald: Herald) -> None:
    ada = await add_person(herald)
    await herald.teams.inject(TeamsFault(operation="send", status=429, retry_after=120, count=1))
    submitted = await herald.submit(user(ada))
    await herald.handle_messages()
    state = await herald.delivery_record(await herald.message(submitted, f"u:{ada.object_id}"))
    assert state.not_before
    assert timedelta(seconds=110) < state.not_before - herald.clock() <= timedelta(seconds=120)


async def test_duplicate_message_before_the_next_try_is_due_is_requeued(herald: Herald) -> None:
    ada = await add_person(herald)
    await herald.teams.inject(TeamsFault(operation="send", status=429, retry_after=120, count=1))
    submitted = await herald.submit(user(ada))
    stale = await herald.message(submitted, f"u:{ada.object_id}")
    await herald.handle_messages()
    await deliver(herald.services, stale)
    assert (await herald.teams.stats()).count("send") == 1
    assert await herald.message_count(DELIVERIES) == 2


async def test_unknown_outcome_is_not_resent_if_on_unknown_is_stop(herald: Herald) -> None:
    ada = await add_person(herald)
    await herald.teams.inject(TeamsFault(operation="send", drop=True, accept=True))
    submitted = await herald.submit(user(ada), onUnknown="stop")
    await herald.handle_messages()
    assert await herald.counts(submitted) == {"unknown": 1}
    assert len(await herald.received()) == 1


async def test_on_unknown_of_the_category_applies(herald: Herald) -> None:
    ada = await add_person(herald)
    careful = Categories([Category.model_validate({"name": "payments", "onUnknown": "stop"})])
    object.__setattr__(herald.services, "categories", careful)
    await herald.teams.inject(TeamsFault(operation="send", drop=True, accept=True))
    submitted = await herald.submit(user(ada), category="payments")
    await herald.handle_messages()
    assert await herald.counts(submitted) == {"unknown": 1}


async def test_message_with_an_unknown_outcome_is_sent_again_at_most_twice(herald: Herald) -> None:
    """Answers of Teams: an unknown outcome."""
    ada = await add_person(herald)
    await herald.teams.inject(TeamsFault(operation="send", drop=True, accept=True))
    submitted = await herald.submit(user(ada))
    await herald.handle_messages()
    states = [(await run_next_try(herald, submitted, f"u:{ada.object_id}"))["state"] for _ in range(2)]
    assert states == ["queued", "unknown"]
    assert len(await herald.received()) == 3


async def test_message_answered_with_500_may_have_arrived_and_can_be_redriven(herald: Herald) -> None:
    """Answers of Teams: a failure that stored the message."""
    ada = await add_person(herald)
    await herald.teams.inject(TeamsFault(operation="send", status=500, code="ServiceError", accept=True, count=1))
    submitted = await herald.submit(user(ada))
    await herald.handle_messages()
    row = await herald.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row["maybe_twice"]) == ("failed", True)
    await herald.command("redrive", submitted)
    await herald.run_until_idle()
    row = await herald.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row["maybe_twice"], len(await herald.received())) == ("sent", True, 2)


async def test_refusal_that_says_nothing_about_the_recipient_is_retried_and_then_redrivable(herald: Herald) -> None:
    """Answers of Teams: a refusal that says nothing about the recipient."""
    ada = await add_person(herald)
    await herald.teams.inject(TeamsFault(operation="send", status=403, code="BadArgument", count=3))
    submitted = await herald.submit(user(ada))
    await herald.handle_messages()
    assert (await run_next_try(herald, submitted, f"u:{ada.object_id}"))["state"] == "queued"
    herald.clock.offset += RETRY_PERIOD
    row = await run_next_try(herald, submitted, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("failed", "exhausted")
    await herald.command("redrive", submitted)
    await herald.run_until_idle()
    assert await herald.counts(submitted) == {"sent": 1}


async def test_delivery_is_exhausted_after_a_day_of_retries(herald: Herald) -> None:
    ada = await add_person(herald)
    await herald.teams.inject(TeamsFault(operation="send", status=412, code="PreconditionFailed"))
    submitted = await herald.submit(user(ada))
    await herald.handle_messages()
    herald.clock.offset += RETRY_PERIOD
    row = await run_next_try(herald, submitted, f"u:{ada.object_id}")
    assert (row["state"], row["reason"]) == ("failed", "exhausted")


async def test_recipient_who_blocked_the_bot_gets_no_request_until_they_are_active_again(herald: Herald) -> None:
    ada = await add_person(herald)
    await herald.teams.inject(TeamsFault(operation="send", status=403, code="ConversationBlockedByUser", count=1))
    await herald.submit(user(ada))
    await herald.handle_messages()
    second = await herald.submit(user(ada))
    await herald.handle_messages()
    assert await herald.counts(second) == {"suppressed": 1}
    assert (await herald.teams.stats()).count("send") == 1
    await herald.services.conversations.save(
        herald.tenant, ReferenceKind.USER, ada.object_id, {}, at=herald.clock(), status=ReferenceStatus.ACTIVE
    )
    third = await herald.submit(user(ada))
    await herald.handle_messages()
    assert await herald.counts(third) == {"sent": 1}


async def test_block_is_probed_after_a_while_and_an_install_since_the_request_wins(herald: Herald) -> None:
    """Answers of Teams: marks."""
    ada = await add_person(herald)
    blocked = TeamsFault(operation="send", status=403, code="ConversationBlockedByUser", count=2)
    await herald.teams.inject(blocked)

    async def send() -> dict[str, int]:
        submitted = await herald.submit(user(ada))
        await herald.handle_messages()
        return dict(await herald.counts(submitted))

    assert [await send() for _ in range(2)] == [{"suppressed": 1}] * 2
    assert (await herald.teams.stats()).count("send") == 1
    herald.clock.offset += herald.services.settings.probe_after + timedelta(minutes=1)
    assert [await send() for _ in range(2)] == [{"suppressed": 1}] * 2
    assert (await herald.teams.stats()).count("send") == 2
    herald.clock.offset += herald.services.settings.probe_after + timedelta(minutes=1)
    assert await send() == {"sent": 1}


async def test_wrong_secret_fails_no_delivery_and_counts_no_attempt(
    herald: Herald, caplog: pytest.LogCaptureFixture
) -> None:
    set_token(herald.services, "")
    ada = await add_person(herald)
    await herald.teams.inject(TeamsFault(operation="token", status=400, code="invalid_client", count=1))
    submitted = await herald.submit(user(ada))
    await herald.handle_messages()
    row = await herald.row(submitted, f"u:{ada.object_id}")
    assert (row["state"], row["attempts"]) == ("queued", 0)
    assert "check MicrosoftAppId and its credential" in caplog.text
    assert herald.environ["MicrosoftAppPassword"] not in caplog.text


async def test_refused_token_is_replaced_by_one_request_for_all_deliveries(herald: Herald) -> None:
    await herald.grow(people=10)
    people = await herald.store_people(10)
    await herald.submit(user(people[0]))
    await herald.handle_messages()
    await herald.teams.revoke_tokens()
    submitted = await herald.submit(*(user(each) for each in people))
    await herald.handle_messages()
    assert await herald.counts(submitted) == {"sent": 10}
    assert (await herald.teams.stats()).count("token") == 1  # besides the token that the worker had from its start


async def test_duplicate_message_waits_for_the_end_of_a_valid_claim(herald: Herald) -> None:
    ada = await add_person(herald)
    submitted = await herald.submit(user(ada))
    message = await herald.message(submitted, f"u:{ada.object_id}")
    known = await herald.delivery_record(message)
    await herald.services.deliveries.claim(message, known, herald.clock())
    await herald.handle_messages()
    assert (await herald.teams.stats()).requests == {}
    assert await herald.message_count(DELIVERIES) == 1


@pytest.mark.parametrize(("on_unknown", "state", "received"), [("resend", "sent", 1), ("stop", "unknown", 0)])
async def test_claim_of_a_dead_worker_is_an_unknown_outcome(
    herald: Herald, on_unknown: str, state: str, received: int
) -> None:
    ada = await add_person(herald)
    submitted = await herald.submit(user(ada), onUnknown=on_unknown)
    message = await herald.message(submitted, f"u:{ada.object_id}")
    await herald.services.deliveries.claim(message, await herald.delivery_record(message), herald.clock())
    herald.clock.offset += timedelta(seconds=CLAIM_SECONDS + 1)
    await herald.handle_messages()
    row = await herald.row(submitted, f"u:{ada.object_id}")
    assert row["state"] == state
    assert row.get("maybe_twice", False) is (state == "sent")
    assert len(await herald.received()) == received


async def test_duplicate_delivery_messages_send_one_message(herald: Herald) -> None:
    ada = await add_person(herald)
    submitted = await herald.submit(user(ada))
    message = await herald.message(submitted, f"u:{ada.object_id}")
    await asyncio.gather(*(deliver(herald.services, message) for _ in range(10)))
    await deliver(herald.services, message)
    assert len(await herald.received()) == 1
    assert await herald.counts(submitted) == {"sent": 1}
