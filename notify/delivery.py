"""One delivery: decide, claim, send, and write down what came of it.

A message may come twice, and a process may die anywhere. The row in Deliveries is what counts: it is claimed
before the request leaves, by the ETag, so that no two processes send the same; a claim that nobody ended means
that the request may have arrived, which the row then says.
"""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from datetime import datetime, timedelta
from functools import lru_cache

from notify import policy
from notify.policy import Step, Target
from shared.cards.notification import activity
from shared.contract import stored
from shared.queues import Delivery
from shared.services import Services
from shared.states import DeliveryState, Reason
from shared.store.conversations import Kind, Status
from shared.store.deliveries import CLAIM_SECONDS, State
from shared.store.notifications import Notification
from shared.store.table import Conflict
from shared.teams.connector import TIMEOUT
from shared.teams.ids import channel_of
from shared.teams.outcome import Outcome, Verdict

#: Seconds until the next try when our token is not accepted: it needs a person, and costs the message no attempt.
UNAUTHORIZED_RETRY = 60.0
#: How often a row that others change at the same moment is looked at anew.
TRIES = 8
#: Notifications whose activity is kept ready in memory.
RENDERED = 128

#: What an answer of Teams tells of the recipient from now on.
_MARKS = {
    Reason.BLOCKED: Status.BLOCKED,
    Reason.NOT_INSTALLED: Status.UNINSTALLED,
}
_OURS = (Reason.UNAUTHORIZED, Reason.NO_TOKEN)

log = logging.getLogger(__name__)


async def deliver(services: Services, message: Delivery) -> None:
    """Bring one delivery a step further: to its final state, or back to the queue for later."""
    notification = await services.notifications.recent(message.notification)
    if notification is None:
        log.warning("No notification %s: its delivery is dropped", message.notification)
        return
    # Where the ETag still holds, the row is as it was when the message was written.
    known: State | None = State(
        state=DeliveryState.QUEUED, attempts=message.attempts, etag=message.etag, created=notification.created
    )
    for _ in range(TRIES):
        if known is None:
            log.warning("No row for a delivery of notification %s", message.notification)
            return
        now = services.clock()
        todo, until = policy.step(known, now)
        if todo is Step.END:
            return
        if todo is Step.WAIT:
            await _later(services, message, known.etag, known.attempts, (until - now).total_seconds())
            return
        try:
            if todo is Step.RESOLVE:
                if notification.content.on_unknown == "stop":
                    await services.deliveries.settle(
                        message, known.etag, DeliveryState.UNKNOWN, now=now, reason=Reason.CRASHED
                    )
                    return
                known = replace(known, maybe_twice=True)
            await _send(services, notification, message, known, now)
            return
        except Conflict:
            known = await services.deliveries.get(message)
    raise Conflict


async def _send(
    services: Services, notification: Notification, message: Delivery, known: State, now: datetime
) -> None:
    deliveries = services.deliveries
    if notification.expires and notification.expires <= now:
        await deliveries.settle(message, known.etag, DeliveryState.EXPIRED, now=now)
        return
    target = await _target(services, notification.tenant, message.recipient)
    if isinstance(target, Reason):
        await deliveries.settle(message, known.etag, DeliveryState.SUPPRESSED, now=now, reason=target)
        return
    if notification.content.simulate:
        await deliveries.settle(message, known.etag, DeliveryState.SIMULATED, now=now)
        return
    claimed = replace(known, etag=await deliveries.claim(message, known, now))
    outcome, conversation = await _post(services, notification, target, now)
    if outcome.verdict is Verdict.SUPPRESSED and outcome.reason in _MARKS:
        status = _MARKS[outcome.reason]
        await services.conversations.save(
            notification.tenant, target.kind, target.id, {}, at=services.clock(), status=status, create=False
        )
    await _conclude(services, notification, message, claimed, outcome, conversation)


async def _target(services: Services, tenant: str, recipient: str) -> Target | Reason:
    conversations, identifier = services.conversations, recipient[2:]
    if recipient.startswith("u:"):
        reference = await conversations.get(tenant, Kind.USER, identifier)
        known = reference and reference.service_url
        return policy.person(
            identifier, reference, None if known else await conversations.get(tenant, Kind.TENANT, tenant)
        )
    reference = await conversations.get(tenant, Kind.CONVERSATION, channel_of(identifier))
    team = await conversations.get(tenant, Kind.TEAM, reference.team) if reference and reference.team else None
    return policy.conversation(identifier, reference, team)


async def _post(
    services: Services, notification: Notification, target: Target, claimed: datetime
) -> tuple[Outcome, str]:
    """Send it, to a personal chat that is created where there is none; returns the conversation too."""
    conversation, rendered = target.conversation, _rendered(notification.data)
    if conversation:
        outcome = await services.connector.send(target.service_url, conversation, rendered)
        if outcome.reason is not Reason.CONVERSATION_GONE or target.kind is not Kind.USER:
            return outcome, conversation
        # The person deleted the chat: it is created anew, once.
    created = await _create(services, notification.tenant, target)
    if created.verdict is not Verdict.DONE:
        return created, ""
    if services.clock() - claimed > timedelta(seconds=CLAIM_SECONDS - TIMEOUT):
        return Outcome(Verdict.RETRY, Reason.UNREACHABLE), ""  # the claim could end while the request is under way
    conversation = created.conversation_id
    return await services.connector.send(target.service_url, conversation, rendered), conversation


async def _create(services: Services, tenant: str, target: Target) -> Outcome:
    bot = target.bot_id or f"28:{services.settings.app_id}"
    outcome = await services.connector.create_conversation(target.service_url, tenant, bot, target.id)
    if outcome.verdict is Verdict.UNKNOWN:
        # Creating the same chat again yields the same one, so nothing can come twice.
        return replace(outcome, verdict=Verdict.RETRY)
    if outcome.verdict is Verdict.DONE:
        now, conversation = services.clock(), outcome.conversation_id
        if not conversation:
            return Outcome(Verdict.FAILED, Reason.SERVICE_ERROR)
        seen = {"conversation_id": conversation, "conversation_type": "personal", "service_url": target.service_url}
        await services.conversations.save(tenant, Kind.USER, target.id, seen, at=now)
        alias = {"user": target.id, "conversation_type": "personal"}
        await services.conversations.save(tenant, Kind.CONVERSATION, conversation, alias, at=now)
    return outcome


async def _conclude(
    services: Services,
    notification: Notification,
    message: Delivery,
    claimed: State,
    outcome: Outcome,
    conversation: str,
) -> None:
    """Write the outcome down, and put the message back where there is to be another try."""
    now = services.clock()
    state = policy.final_state(outcome, notification.content.on_unknown, now - claimed.created)
    if state is not None:
        gave_up = state is DeliveryState.FAILED and outcome.verdict not in (Verdict.FAILED, Verdict.DONE)
        await services.deliveries.settle(
            message,
            claimed.etag,
            state,
            now=now,
            reason=Reason.EXHAUSTED if gave_up else outcome.reason,
            activity_id=outcome.activity_id,
            conversation_id=conversation,
        )
        return
    attempts = claimed.attempts + 1
    wait = UNAUTHORIZED_RETRY if outcome.reason in _OURS else outcome.retry_after
    if wait is None:
        wait = policy.backoff(attempts, random.random())  # noqa: S311 (jitter)
    kept = claimed.attempts if outcome.reason in _OURS or outcome.reason is Reason.THROTTLED else attempts
    etag = await services.deliveries.release(
        message,
        claimed.etag,
        outcome.reason,
        attempts=kept,
        maybe_twice=outcome.verdict is Verdict.UNKNOWN,
        not_before=now + timedelta(seconds=wait),
        now=now,
    )
    await _later(services, message, etag, kept, wait)


async def _later(services: Services, message: Delivery, etag: str, attempts: int, delay: float) -> None:
    await services.queues.deliver(replace(message, etag=etag, attempts=attempts), delay)


@lru_cache(maxsize=RENDERED)
def _rendered(data: bytes) -> bytes:
    return activity(stored(data))
