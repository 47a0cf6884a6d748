"""Decide whether a delivery is sent now, by `notify.policy`; if not, hold or end it."""

from __future__ import annotations

from datetime import datetime, timedelta

from notify import policy
from notify.delivery.record import Sending
from notify.policy import Decision, PolicyInput
from notify.recipients import ResolvedRecipient, resolve
from notify.scheduling import compute_local_due
from shared.conversation_ids import channel_of
from shared.queue_messages import RecipientTask, Task
from shared.states import DeliveryState, NotificationState, Purpose, Reason, Rule
from shared.storage.markers import welcomed

#: How often a delivery that waits for the install of a team is evaluated again.
INSTALL_CHECK_INTERVAL = timedelta(hours=1)


async def build_policy_input(sending: Sending, recipient: ResolvedRecipient) -> PolicyInput:
    """Return the values on which policy decides; for a welcome, also claim the marker that prevents a second one."""
    services, notification, content = sending.services, sending.notification, sending.notification.content
    identifier, card = sending.message.recipient, content.content
    category, is_welcome = services.categories.of(content.category), notification.purpose is Purpose.WELCOME
    now, is_missed = services.clock(), False
    due_time = compute_local_due(content.schedule, recipient.zone, notification.schedule_set_at)
    if due_time.due and sending.only_schedule_held_it:
        # If the zone has changed since, the delivery was held until the due time in the old one.
        held_until = sending.known.reason == Reason.LOCAL_TIME and sending.known.not_before
        due, due_called_at = (held_until or due_time.due).timestamp(), sending.message.due_called_at
        # Lateness is the time from due to the tick that called the delivery, not to the receipt of its message.
        late = (due_called_at if due_called_at >= due else now.timestamp()) - due
        is_missed = late > category.late_grace(services.settings.late_grace).total_seconds()
    is_new = not is_welcome or await services.markers.claim(welcomed(notification.tenant), identifier, notification.key)
    return PolicyInput(
        now=now,
        target=recipient.target,
        category=category,
        preferences=recipient.preferences,
        zone=recipient.zone,
        default_digest=services.settings.default_digest,
        purpose=notification.purpose,
        is_cancelled=notification.state is NotificationState.CANCELLED,
        expires=notification.expires,
        local_at=due_time.due,
        hold_until=_hold_until(sending, now),
        is_missed=is_missed,
        is_past=due_time.skip,
        is_welcomed=not is_new,
        is_own_action=bool(card and card.actor and card.actor.user and f"u:{card.actor.user.lower()}" == identifier),
        thread=notification.thread,
    )


async def hold_or_end(
    sending: Sending, policy_input: PolicyInput, decision: Decision, recipient: ResolvedRecipient
) -> None:
    """Do what a decision not to send says."""
    services, notification, identifier = sending.services, sending.notification, sending.message.recipient
    if decision.until and decision.reason:
        if notification.purpose is Purpose.DIGEST:  # the deliveries that it includes are held again instead
            await sending.end(DeliveryState.CANCELLED, decision.reason)
            return
        local_time = compute_local_due(notification.content.schedule, recipient.zone, notification.schedule_set_at).due
        since = max(notification.notification_time, local_time) if local_time else notification.notification_time
        for_digest = policy.is_for_digest(policy_input, decision.rule)
        await sending.hold(decision.reason, decision.until, since, for_digest=for_digest)
        current = await resolve(services, notification.tenant, identifier)
        may_be_installed = decision.rule is Rule.UNREACHABLE and current.target != recipient.target
        if may_be_installed or (current.preferences, current.zone) != (recipient.preferences, recipient.zone):
            # The change re-evaluated the deliveries that were held then, maybe without this one.
            task = RecipientTask(notification.tenant, channel_of(identifier), Task.RECONSIDER)
            await services.queues.enqueue_recipient(task)
    elif decision.rule is Rule.UNREACHABLE:
        await sending.end(DeliveryState.SUPPRESSED, decision.reason)
    elif decision.state:
        await sending.end_unsent(decision.state, decision.reason)
        if decision.rule is Rule.CANCELLED and sending.known.reason in policy.HOLD_REASONS:
            await sending.delete_held()


def _hold_until(sending: Sending, now: datetime) -> datetime | None:
    """Return until when the delivery waits for an install, None if it does not wait.

    The install of a person or group chat is an event that names them. That of a team does not name its channels, so
    that a channel is looked at again and again.
    """
    notification, recipient = sending.notification, sending.message.recipient
    if notification.content.on_missing != "hold" or recipient.startswith("t:"):
        return None
    latest = notification.created + sending.services.settings.longest_hold
    until = min(latest, notification.expires or latest)
    return until if recipient.startswith("u:") else min(until, now + INSTALL_CHECK_INTERVAL)
