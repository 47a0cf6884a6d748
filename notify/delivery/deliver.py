"""Deliver one message: decide, prepare, send, and record the result.

A queue message may arrive twice, and a worker may die anywhere. The row in Deliveries decides: it is claimed by its
ETag before the request leaves, so that no two workers send the same delivery. If a claim ends and its worker has
recorded nothing, the request may have reached Teams; the row then says so.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from azure.core.exceptions import AzureError

from notify import policy, threads
from notify.audience import resolve_channel
from notify.delivery import first_contact
from notify.delivery.change import edit_or_recall
from notify.delivery.decide import build_policy_input, hold_or_end
from notify.delivery.prepare import find_delay
from notify.delivery.record import Sending, enqueue_missed_change, record_outcome, store_chat
from notify.delivery.send import send
from notify.policy import PolicyInput, Step, Target
from notify.progress import finish_directly, schedule_check
from notify.recipients import ResolvedRecipient, resolve, store_host
from shared import publishing
from shared.cards.size import TooLarge
from shared.contract.faults import Fault, MessageRefused, unknown_notification
from shared.contract.models import ChannelRecipient
from shared.queue_messages import NO_ROW, Delivery, Expansion, Task
from shared.records import ConversationReference, DeliveryRecord, StoredNotification
from shared.rendering import render_notification
from shared.services import Services
from shared.states import DeliveryState, Purpose, Reason, ReferenceKind, ReferenceStatus, Rule
from shared.storage.deliveries import CLAIM_SECONDS
from shared.storage.delivery_counts import FEW_SHARD
from shared.storage.table import Conflict
from shared.storage.threads import StoredThread
from shared.teams.connector import Route
from shared.teams.exchange import TIMEOUT_SECONDS
from shared.teams.outcome import Outcome, Verdict
from shared.teams.rate_limiter import MAX_WAIT_SECONDS, RetryLater

#: Tries per message while other workers change the delivery's row.
MAX_CONFLICTS = 8

#: How long after the begin of a try a request may still be sent: otherwise the claim could end before the request does.
MAX_CLAIM_TIME = timedelta(seconds=CLAIM_SECONDS - TIMEOUT_SECONDS - MAX_WAIT_SECONDS)
#: The status of a conversation reference after Teams refused a request for this reason.
_STATUS_AFTER = {
    Reason.BLOCKED: ReferenceStatus.BLOCKED,
    Reason.NOT_INSTALLED: ReferenceStatus.UNINSTALLED,
}


async def deliver(services: Services, message: Delivery) -> None:
    """Do a delivery's task: send, edit or recall it, hold it, or put it back on the queue for a later try.

    Raises `Conflict` if other workers changed the row on every try; the queue message then comes again. Raises
    `MessageRefused` if the notification or the delivery is not stored.
    """
    if message.next_page:
        await services.queues.enqueue_expansion(Expansion(message.notification, message.next_page))
        message = replace(message, next_page=0)
    if message.task is not Task.SEND:
        current = await services.notifications.get(message.notification)
        if current is None:
            raise unknown_notification()
        await edit_or_recall(services, current, message)
        return
    notification = await services.notifications.recent(message.notification)
    if notification is None:
        raise unknown_notification()
    # While the row still has the message's ETag, the delivery was not tried yet, and its row need not be read.
    is_untried, message = bool(message.etag), replace(message, etag="" if message.etag == NO_ROW else message.etag)
    untried = DeliveryRecord(state=DeliveryState.QUEUED, attempts=0, etag=message.etag)
    known = untried if is_untried else await _read(services, notification, message)
    await _send_or_wait(Sending(services, notification, message, known, services.real_time()))


async def deliver_directly(
    services: Services,
    notification: StoredNotification,
    recipient: str,
    recipient_index: int,
    ended: dict[str, DeliveryState],
    *,
    longest_wait: float,
) -> None:
    """Send a delivery of a few that has no row and no queue message yet, or enqueue it if it would have to wait.

    `recipient_index` is that of its row; `ended` and `longest_wait` are those of `Sending`. Raises as `deliver` does.
    """
    sending = _first_try(services, notification, recipient, recipient_index)
    await _send_or_wait(replace(sending, ended=ended, longest_wait=longest_wait))


def _first_try(
    services: Services, notification: StoredNotification, recipient: str, recipient_index: int = 0
) -> Sending:
    message = Delivery(notification.key, FEW_SHARD, recipient, "", 0)
    new = DeliveryRecord(state=DeliveryState.QUEUED, attempts=0, etag="", recipient_index=recipient_index)
    return Sending(services, notification, message, new, services.real_time())


async def deliver_single(
    services: Services,
    notification: StoredNotification,
    recipient: str,
    *,
    longest_wait: float = math.inf,
    read: tuple[ConversationReference, datetime] | None = None,
) -> DeliveryState | None:
    """Send a notification of Herald's own that was just stored, and has no row yet.

    Returns its final state, or None if its delivery was enqueued. If this raises, or the worker dies, somebody has to
    enqueue the delivery. `longest_wait` is that of `Sending`; `read` is the recipient's reference and when reading it
    began, if that was just now.
    """
    ended: dict[str, DeliveryState] = {}
    sending = replace(_first_try(services, notification, recipient), ended=ended, longest_wait=longest_wait)
    if read:
        sending = replace(sending, reference=read[0], now=read[1])
    await _send_or_wait(sending)
    await finish_directly(services, notification, ended)
    return ended.get(recipient)


async def _read(services: Services, notification: StoredNotification, message: Delivery) -> DeliveryRecord:
    known = await services.deliveries.get(message)
    if known is None:
        raise MessageRefused("unknown", [Fault("", f"names a delivery of {notification.identity} that is not stored")])
    return known


async def _send_or_wait(sending: Sending) -> None:
    services, message = sending.services, sending.message
    for _ in range(MAX_CONFLICTS):
        known = sending.known
        step, until = policy.next_step(known, sending.now)
        if step is Step.END:
            await sending.follow_up(known.state, is_last=True)  # the worker that ended it may have died before this
            await _repeat_records(sending)
            if known.rule == Rule.CANCELLED:
                await sending.delete_held()
            return
        is_held = known.state is DeliveryState.QUEUED and known.reason in policy.HOLD_REASONS
        if step is Step.WAIT and not is_held:
            await sending.requeue((until - sending.now).total_seconds(), replace(message, etag=""))
            return
        try:
            if step is Step.RESOLVE:
                count = known.unknown_outcomes + 1
                if not policy.may_resend(sending.on_unknown, count):
                    await sending.end(DeliveryState.UNKNOWN, Reason.CRASHED)
                    return
                sending = replace(sending, known=replace(known, maybe_twice=True, unknown_outcomes=count))
            await _try(sending)
            return
        except Conflict:
            known = await _read(services, sending.notification, message)
            sending = replace(sending, known=known, now=services.real_time(), reference=None)
    raise Conflict


async def _try(sending: Sending) -> None:
    services, notification, known = sending.services, sending.notification, sending.known
    # Decide
    decided = await _decide(sending)
    if decided is None:
        return
    sending, recipient, policy_input, is_first = decided
    target = recipient.target
    assert isinstance(target, Target)
    # Prepare
    message, identifier = sending.message, sending.message.recipient
    lane, read_at = recipient.lane, sending.now
    if delayed := await find_delay(services, notification, message, lane, read_at, longest_wait=sending.longest_wait):
        await sending.requeue(*delayed)
        return
    route = Route(notification.tenant, target.service_url, notification.urgent, identifier)
    previous = await threads.get_thread(services, notification, identifier)
    if previous and previous.newest > notification.occurred_at:
        if known.maybe_twice:
            await _yield_to_newer(sending, route)
        else:
            await sending.end(DeliveryState.SUPERSEDED)
        return
    try:
        activity = render_notification(services, notification, identifier)
    except TooLarge:
        await sending.end(DeliveryState.FAILED, Reason.TOO_BIG)
        return
    # Send
    etag = await services.deliveries.claim(sending.message, known, sending.now, sending.outage_seconds)
    claimed = replace(known, etag=etag)
    sending = replace(sending, known=claimed)
    if services.real_time() - sending.now > MAX_CLAIM_TIME:  # the storage failed meanwhile
        await sending.release(known)
        await sending.requeue(0, replace(sending.message, etag=""))
        return
    try:
        outcome, conversation, is_update = await _send_claimed(sending, target, route, activity, previous)
    except AzureError:  # of a rate lane or the thread's row: no message left, or an update, which is safe to repeat
        with suppress(Conflict, AzureError):
            await sending.release(known)
        raise
    if outcome is None:
        await _yield_to_newer(sending, route)
        return
    if outcome.verdict is Verdict.SUPPRESSED and outcome.reason in policy.MISSING:
        is_welcome = sending.ended is not None and notification.purpose is Purpose.WELCOME
        if is_first or is_welcome:  # Teams does not know of the install yet
            await record_outcome(sending, replace(outcome, verdict=Verdict.RETRY), "")
            return
        decision = policy.decide(replace(policy_input, target=outcome.reason))
        if decision.until:
            await hold_or_end(sending, policy_input, decision, recipient)
            await _mark_target(sending, target, outcome)
            return
    # Record: the result first, so that what Teams has confirmed is not sent again if the storage fails after it.
    await record_outcome(sending, outcome, conversation)
    if outcome.verdict is Verdict.DONE and not is_update:
        await _record_conversation(sending, previous, outcome.activity_id, conversation)
        if target.kind is ReferenceKind.USER and conversation != target.conversation:
            service_url = outcome.service_url or route.service_url
            await store_chat(services, notification.tenant, target.id, conversation, service_url)
    await store_host(services, notification.tenant, target, outcome)
    await _mark_target(sending, target, outcome)


async def _decide(sending: Sending) -> tuple[Sending, ResolvedRecipient, PolicyInput, bool] | None:
    """Return the recipient to whom to send now; None if the delivery has ended, or is held or requeued.

    Also returns the values that decided, and whether the recipient never had the app, which is installed by now.
    """
    services, notification, identifier = sending.services, sending.notification, sending.message.recipient
    recipient = await resolve(services, notification.tenant, identifier, sending.reference)
    if recipient.target in policy.MISSING and sending.known.reason == Reason.NOT_INSTALLED:
        try:
            if await _has_shown_channel(sending):
                recipient = await resolve(services, notification.tenant, identifier)
        except RetryLater as later:
            await sending.requeue(later.seconds)
            return None
    is_first = first_contact.may_install(sending, recipient)
    if is_first:
        recipient = await first_contact.meet(sending, recipient)
    policy_input = await build_policy_input(sending, recipient)
    decision = policy.decide(first_contact.pretend_installed(policy_input) if is_first else policy_input)
    sending = replace(sending, rule=decision.rule)
    is_sent_now = not decision.state and not decision.until
    if is_sent_now and (notification.content.simulate or policy_input.category.simulate):
        await sending.end(DeliveryState.SIMULATED)
        return None
    if is_sent_now and is_first:
        installed = await first_contact.install(sending, partial(_send_welcome, services, identifier))
        if installed is None:
            return None
        recipient = installed
        decision = policy.decide(replace(policy_input, target=recipient.target))
    if decision.state or decision.until:
        await hold_or_end(sending, policy_input, decision, recipient)
        return None
    if await first_contact.is_being_welcomed(sending, recipient):
        await sending.requeue(first_contact.WELCOME_DELAY_SECONDS, replace(sending.message, etag=""))
        return None
    return sending, recipient, policy_input, is_first


async def _send_welcome(services: Services, recipient: str, welcome: StoredNotification, is_new: bool) -> None:
    """Send a new welcome at once; one that an earlier worker has begun goes through the queue."""
    if not is_new:
        await publishing.enqueue(services, welcome, recipient)
        return
    # The message that comes again after a crash may find the person known, or be cancelled.
    await schedule_check(services, welcome.key)
    await deliver_single(services, welcome, recipient)


async def _has_shown_channel(sending: Sending) -> bool:
    """Return whether Teams now shows the channel that a held delivery waits for. Raises `RetryLater`."""
    notification, recipient = sending.notification, sending.message.recipient
    channels = [each.channel for each in notification.content.recipients if isinstance(each, ChannelRecipient)]
    named = next((each for each in channels if f"c:{each.channel_id}" == recipient), None)
    return named is not None and await resolve_channel(sending.services, notification.tenant, named) == recipient


async def _send_claimed(
    sending: Sending, target: Target, route: Route, activity: bytes, previous: StoredThread | None
) -> tuple[Outcome | None, str, bool]:
    """Send the activity, or show it on the card of its thread.

    Returns the outcome, the conversation, and whether a card was updated. The outcome is None if that card must show a
    newer notification.
    """
    services, notification, recipient = sending.services, sending.notification, sending.message.recipient
    if previous and threads.is_update(notification, previous):
        updated, newer = await threads.update_card(services, notification, recipient, route, previous, activity)
        if newer:
            return None, "", True
        if updated.reason is not Reason.CONVERSATION_GONE:
            return updated, updated.conversation_id, True
    # No card shows the thread, or its conversation was deleted.
    thread = threads.reply_conversation(notification, target, previous)
    return *(await send(sending, target, route, activity, thread)), False


async def _mark_target(sending: Sending, target: Target, outcome: Outcome) -> None:
    """Mark the conversation that Teams refused, or that could be reached in spite of an old mark."""
    status = _STATUS_AFTER.get(outcome.reason) if outcome.verdict is Verdict.SUPPRESSED and outcome.reason else None
    if target.is_probe and outcome.verdict is Verdict.DONE:
        status = ReferenceStatus.ACTIVE
    if status:
        # As of before the request: an install since then counts. The time is stored even if the mark was there before.
        at = sending.now
        observed = {"status_at": at.isoformat()}
        await sending.services.conversations.save(
            sending.notification.tenant, target.kind, target.id, observed, at=at, status=status, create=False
        )


async def _record_conversation(
    sending: Sending, previous: StoredThread | None, activity_id: str, conversation: str
) -> None:
    """Record that the sent message shows its thread; safe to repeat."""
    if activity_id:
        recipient, sent = sending.message.recipient, (activity_id, conversation)
        await threads.record_sent(sending.services, sending.notification, recipient, previous, sent)


async def _repeat_records(sending: Sending) -> None:
    """Record again what follows from a message that was sent: the worker may have died before it did."""
    services, known, message = sending.services, sending.known, sending.message
    if known.state is not DeliveryState.SENT or not known.conversation_id:
        return
    await enqueue_missed_change(sending, known.revision)
    previous = await threads.get_thread(services, sending.notification, message.recipient)
    if sending.notification.thread and not (previous and previous.notification == sending.notification.key):
        await _record_conversation(sending, previous, known.activity_id, known.conversation_id)
    if message.recipient.startswith("u:"):
        reference = await services.conversations.get_recipient(sending.notification.tenant, message.recipient)
        if not reference.conversation_id:
            await store_chat(services, sending.notification.tenant, message.recipient[2:], known.conversation_id)


async def _yield_to_newer(sending: Sending, route: Route) -> None:
    """Show the newest notification of the thread on the card that our update may have overwritten, and end ours."""
    outcome = await threads.show_newest(sending.services, sending.notification, sending.message.recipient, route)
    if outcome.verdict is Verdict.RETRY:
        # The mark lets the next try show the newest again.
        await record_outcome(replace(sending, known=replace(sending.known, maybe_twice=True)), outcome, "")
    else:
        await sending.end(DeliveryState.SUPERSEDED)
