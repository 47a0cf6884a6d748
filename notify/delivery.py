"""Deliver one message: decide, claim, send, and record the result.

A queue message may arrive twice, and a worker may die anywhere. The row in Deliveries decides: it is claimed by its
ETag before the request leaves, so that no two workers send the same delivery. A claim that nobody ended means that the
request may have arrived; the row then says so.
"""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from datetime import timedelta

from notify import policy, threads
from notify.edit_recall import amend
from notify.policy import Decision, PolicyInput, Step, Target
from notify.recipients import ResolvedRecipient, resolve
from notify.scheduling import in_zone
from notify.sending import Sending
from shared import telling
from shared.cards.size import TooLarge
from shared.conversation_ids import channel_of
from shared.queue_messages import Delivery, RecipientTask, Task
from shared.records import DeliveryRecord
from shared.rendering import rendered
from shared.services import Services
from shared.states import DeliveryState, NotificationState, Purpose, Reason, ReferenceKind, ReferenceStatus, Rule
from shared.storage.deliveries import CLAIM_SECONDS
from shared.storage.markers import welcomed
from shared.storage.table import Conflict
from shared.teams.connector import TIMEOUT_SECONDS, Route
from shared.teams.outcome import Outcome, Verdict

#: Seconds over which those come back, by chance, whom a lane that is held sent away.
JITTER_SECONDS = 5.0
#: How often a row that others change at the same moment is looked at anew.
MAX_CONFLICTS = 8
#: Where a bot of the GCC cloud sends when Teams says that its API host is another ("Send proactive messages").
GCC = "https://smba.infra.gcc.teams.microsoft.com/teams"

#: The status of a reference after Teams refused a request for this reason.
_MARKS = {
    Reason.BLOCKED: ReferenceStatus.BLOCKED,
    Reason.NOT_INSTALLED: ReferenceStatus.UNINSTALLED,
}

log = logging.getLogger(__name__)


async def deliver(services: Services, message: Delivery) -> None:
    """Bring one delivery a step further: to its final state, or back to the queue for later."""
    if message.task is not Task.SEND:
        fresh = await services.notifications.get(message.notification)
        if fresh is not None:
            await amend(services, fresh, message)
        return
    notification = await services.notifications.recent(message.notification)
    if notification is None:
        log.warning("No notification %s: its delivery is dropped", message.notification)
        return
    # An ETag that still holds says that the delivery was not tried yet: its row need not be read.
    untried = DeliveryRecord(state=DeliveryState.QUEUED, attempts=0, etag=message.etag)
    known = untried if message.etag else await services.deliveries.get(message)
    for _ in range(MAX_CONFLICTS):
        if known is None:
            log.warning("No row for a delivery of notification %s", message.notification)
            return
        sending = Sending(services, notification, message, known, services.real_time())
        todo, until = policy.step(known, sending.now)
        if todo is Step.END:
            reason = Reason(known.reason) if known.reason else None
            await sending.ended(known.state, reason, last=True)  # whoever ended it may have died before that
            if known.rule == Rule.CANCELLED:
                await sending.delete_held()
            return
        held = known.state is DeliveryState.QUEUED and known.reason in policy.HELD
        if todo is Step.WAIT and not held:
            await sending.requeue((until - sending.now).total_seconds(), replace(message, etag=""))
            return
        try:
            if todo is Step.RESOLVE:
                if sending.on_unknown == "stop":
                    await sending.end(DeliveryState.UNKNOWN, Reason.CRASHED)
                    return
                sending = replace(sending, known=replace(known, maybe_twice=True))
            await _send(sending)
            return
        except Conflict:
            known = await services.deliveries.get(message)
    raise Conflict


async def _send(sending: Sending) -> None:
    services, notification, known, now = sending.services, sending.notification, sending.known, sending.now
    addressee = await resolve(services, notification.tenant, sending.message.recipient)
    decision = policy.decide(await _case(sending, addressee))
    sending = replace(sending, rule=decision.rule)
    target = addressee.target
    if isinstance(target, Reason) or decision.state or decision.until:
        await _set_aside(sending, decision, addressee)
        return
    if notification.content.simulate or services.categories.of(notification.content.category).simulate:
        await sending.end(DeliveryState.SIMULATED)
        return
    if held := services.rate_limiter.paused_seconds(notification.tenant):
        await sending.requeue(held + random.uniform(0, min(held, JITTER_SECONDS)))  # noqa: S311 (jitter)
        return
    if notification.purpose is Purpose.DIGEST:
        whose = (notification.tenant, sending.message.recipient)
        if await telling.is_unwanted(services, *whose, notification, addressee.preferences, addressee.zone):
            await sending.end(DeliveryState.CANCELLED)
            return
    route = Route(notification.tenant, target.service_url, notification.urgent)
    shown = await threads.shown(services, notification, sending.message.recipient)
    if shown and shown.newest > notification.occurred_at:
        if known.maybe_twice:
            await _yield_to_newer(sending, route)
        else:
            await sending.end(DeliveryState.SUPERSEDED)
        return
    try:
        activity = rendered(services, notification)
    except TooLarge:
        await sending.end(DeliveryState.FAILED, Reason.TOO_BIG)
        return
    claimed = replace(known, etag=await services.deliveries.claim(sending.message, known, now))
    sending = replace(sending, known=claimed)
    recipient = sending.message.recipient
    updated = None
    if shown and threads.is_update(notification, shown):
        updated, newer = await threads.update(services, notification, recipient, route, shown, activity)
        if newer:
            await _yield_to_newer(replace(sending, known=replace(claimed, maybe_twice=True)), route)
            return
    if updated and updated.reason is not Reason.CONVERSATION_GONE:
        outcome, conversation = updated, updated.conversation_id
    else:  # nothing shows the thread, or not any more
        thread = threads.below(notification, target, shown)
        outcome, conversation = await _post(sending, target, route, activity, thread)
        if outcome.verdict is Verdict.DONE and outcome.activity_id:
            await threads.keep(services, notification, recipient, shown, (outcome.activity_id, conversation))
    if outcome.verdict is Verdict.SUPPRESSED and outcome.reason in _MARKS:
        status = _MARKS[outcome.reason]
        await services.conversations.save(
            notification.tenant, target.kind, target.id, {}, at=services.real_time(), status=status, create=False
        )
    await _conclude(sending, outcome, conversation)


async def _case(sending: Sending, addressee: ResolvedRecipient) -> PolicyInput:
    services, notification, content = sending.services, sending.notification, sending.notification.content
    recipient, told = sending.message.recipient, content.content
    once, category = notification.purpose is Purpose.WELCOME, services.categories.of(content.category)
    now, plan, missed = services.clock(), in_zone(content.schedule, addressee.zone, notification.schedule_set_at), False
    if plan.due and sending.unhindered:
        # A recipient who has moved to another zone since was held until the time of the former one.
        waited = sending.known.reason == Reason.LOCAL_TIME and sending.known.not_before
        due, due_called_at = (waited or plan.due).timestamp(), sending.message.due_called_at
        # A delivery that was due in time, and was queued behind others since, is not missed.
        late = (due_called_at if due_called_at >= due else now.timestamp()) - due
        missed = late > category.late_grace(services.settings.late_grace).total_seconds()
    return PolicyInput(
        now=now,
        target=addressee.target,
        category=category,
        preferences=addressee.preferences,
        zone=addressee.zone,
        digest=services.settings.default_digest,
        purpose=notification.purpose,
        cancelled=notification.state is NotificationState.CANCELLED,
        expires=notification.expires,
        local_at=plan.due,
        missed=missed,
        past=plan.skip,
        welcomed=once and not await services.markers.claim(welcomed(notification.tenant), recipient, notification.key),
        own=bool(told and told.actor and told.actor.user and f"u:{told.actor.user.lower()}" == recipient),
        thread=notification.thread,
    )


async def _set_aside(sending: Sending, decision: Decision, addressee: ResolvedRecipient) -> None:
    """Do what a decision says that is not to send."""
    if decision.until and decision.reason:
        services, notification, recipient = sending.services, sending.notification, sending.message.recipient
        own = in_zone(notification.content.schedule, addressee.zone, notification.schedule_set_at).due
        since = max(notification.notification_time, own) if own else notification.notification_time
        await sending.hold(decision.reason, decision.until, since)
        found = await resolve(services, notification.tenant, recipient)
        if (found.preferences, found.zone) != (addressee.preferences, addressee.zone):
            # All that waits was looked at when they changed, and this one maybe was not there yet.
            await services.queues.enqueue_recipient(
                RecipientTask(notification.tenant, channel_of(recipient), Task.RECONSIDER)
            )
    elif decision.rule is Rule.UNREACHABLE:
        await sending.end(DeliveryState.SUPPRESSED, decision.reason)
    elif decision.state:
        await sending.end_unsent(decision.state, decision.reason)
        if decision.rule is Rule.CANCELLED and sending.known.reason in policy.HELD:
            await sending.delete_held()  # nobody need be woken for it


async def _yield_to_newer(sending: Sending, route: Route) -> None:
    """Show what is newer in the thread, which an update of ours covers or may cover; then ours is superseded."""
    outcome = await threads.show_again(sending.services, sending.notification, sending.message.recipient, route)
    if outcome.verdict is Verdict.RETRY:
        await _conclude(sending, outcome, "")
    else:
        await sending.end(DeliveryState.SUPERSEDED)


async def _post(
    sending: Sending, target: Target, route: Route, activity: bytes, thread: str = ""
) -> tuple[Outcome, str]:
    """Send it to `thread`, or else to the target, in a chat that is created where there is none.

    Returns the conversation too.
    """
    services = sending.services
    if thread:
        outcome = await services.connector.send(route, thread, activity)
        if outcome.reason is not Reason.CONVERSATION_GONE:
            return outcome, thread
    if target.conversation:
        outcome = await services.connector.send(route, target.conversation, activity)
        if outcome.reason is Reason.WRONG_CLOUD and route.service_url != GCC:
            return await _post(sending, replace(target, service_url=GCC), replace(route, service_url=GCC), activity)
        if outcome.reason is not Reason.CONVERSATION_GONE or target.kind is not ReferenceKind.USER:
            return outcome, target.conversation
        # The person deleted the chat: it is created anew, once.
    created = await _create(services, route, target)
    if created.verdict is not Verdict.DONE:
        return created, ""
    if services.real_time() - sending.now > timedelta(seconds=CLAIM_SECONDS - TIMEOUT_SECONDS):
        return Outcome(Verdict.RETRY, Reason.UNREACHABLE), ""  # the claim could end while the request is under way
    conversation = created.conversation_id
    return await services.connector.send(route, conversation, activity), conversation


async def _create(services: Services, route: Route, target: Target) -> Outcome:
    bot = target.bot_id or f"28:{services.settings.app_id}"
    outcome = await services.connector.create_conversation(route, bot, target.id)
    if outcome.verdict is Verdict.UNKNOWN:
        # Creating the same chat again yields the same one, so nothing can come twice.
        return replace(outcome, verdict=Verdict.RETRY)
    if outcome.verdict is Verdict.DONE:
        now, conversation = services.real_time(), outcome.conversation_id
        if not conversation:
            return Outcome(Verdict.FAILED, Reason.SERVICE_ERROR)
        seen = {"conversation_id": conversation, "conversation_type": "personal", "service_url": route.service_url}
        await services.conversations.save(route.tenant, ReferenceKind.USER, target.id, seen, at=now)
        alias = {"user": target.id, "conversation_type": "personal"}
        await services.conversations.save(route.tenant, ReferenceKind.CONVERSATION, conversation, alias, at=now)
    return outcome


async def _conclude(sending: Sending, outcome: Outcome, conversation: str) -> None:
    """Write the outcome down, and put the message back where there is to be another try."""
    services, notification, claimed = sending.services, sending.notification, sending.known
    now = services.real_time()
    age = now - claimed.since if claimed.attempts and claimed.since else timedelta()
    state = policy.final_state(outcome, sending.on_unknown, age)
    if state is not None:
        gave_up = state is DeliveryState.FAILED and outcome.verdict is not Verdict.FAILED
        await sending.end(
            state,
            Reason.EXHAUSTED if gave_up else outcome.reason,
            activity_id=outcome.activity_id,
            conversation_id=conversation,
            revision=notification.revision,
        )
        if state is DeliveryState.SENT:
            await _catch_up(sending)
        return
    attempts = claimed.attempts + 1
    wait = outcome.retry_after
    if wait is None:
        wait = policy.backoff(attempts, random.random())  # noqa: S311 (jitter)
    kept = claimed.attempts if outcome.reason in policy.NOT_ITS_MAKING else attempts
    etag = await services.deliveries.defer(
        sending.message,
        claimed.etag,
        outcome.reason,
        attempts=kept,
        maybe_twice=claimed.maybe_twice or outcome.verdict is Verdict.UNKNOWN,
        not_before=now + timedelta(seconds=wait),
        now=now,
    )
    await sending.requeue(wait, replace(sending.message, etag="" if kept else etag, attempts=kept))


async def _catch_up(sending: Sending) -> None:
    """Have amended what was sent while its notification was edited or recalled, after the sweep had passed it."""
    sent = sending.notification
    now = await sending.services.notifications.recent(sent.key)
    if now and (now.recalled or now.revision > sent.revision):
        again = replace(sending.message, etag="", attempts=0, task=Task.RECALL if now.recalled else Task.EDIT)
        await sending.requeue(0, again)
