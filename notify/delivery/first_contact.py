"""Install the app, through Graph, for a person who never had it (`onMissing: install`), before their first message.

The welcome comes first: the same worker sends it before the message. If it is put on the queue, or if that of the
install's event comes before it, the message waits for its final state. The event is neither certain nor single.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta

from notify import policy
from notify.delivery.record import Sending, record_outcome
from notify.policy import PolicyInput, Step, Target
from notify.recipients import ResolvedRecipient, resolve
from shared import publishing, welcomes
from shared.queue_messages import Delivery
from shared.records import ConversationReference, DeliveryRecord, StoredNotification
from shared.states import DeliveryState, Purpose, ReferenceKind, ReferenceStatus
from shared.storage.deliveries import shard_of
from shared.storage.markers import welcomed
from shared.teams.graph_answers import MailboxSettings
from shared.teams.hosts import DEFAULT_SERVICE_URLS
from shared.teams.outcome import Outcome, Verdict
from shared.texts import language_of

#: Delay before a message is tried again whose recipient is being welcomed, and how long it waits for that.
WELCOME_DELAY_SECONDS = 2.0
LONGEST_WELCOME = timedelta(minutes=10)
#: How long after the end of its claim, or the time of its next try, the message of a welcome may be lost.
WELCOME_OVERDUE = timedelta(seconds=30)


def may_install(sending: Sending, recipient: ResolvedRecipient) -> bool:
    """Return whether the app may have to be installed for the recipient."""
    notification, target = sending.notification, recipient.target
    if notification.content.on_missing != "install" or notification.purpose is not Purpose.NOTIFICATION:
        return False
    is_unknown = target in policy.MISSING if not isinstance(target, Target) else not target.conversation
    return is_unknown and sending.message.recipient.startswith("u:")


async def meet(sending: Sending, recipient: ResolvedRecipient) -> ResolvedRecipient:
    """Return the recipient with the time zone of their mailbox, if nothing is known of them."""
    services, tenant, person = sending.services, sending.notification.tenant, sending.message.recipient[2:]
    if await _find(sending):
        return recipient
    settings = await services.graph.mailbox_settings(tenant, person)
    if not isinstance(settings, MailboxSettings) or not (settings.time_zone or settings.locale):
        return recipient
    observed = {"time_zone": settings.time_zone, "locale": settings.locale}
    await services.conversations.save(tenant, ReferenceKind.USER, person, observed, at=services.real_time())
    found = await resolve(services, tenant, sending.message.recipient)
    return replace(found, target=recipient.target)


def pretend_installed(policy_input: PolicyInput) -> PolicyInput:
    """Return the input as if the app was installed: it is not installed for what is not sent now."""
    return replace(policy_input, target=Target(ReferenceKind.USER, "", "", ""))


async def install(
    sending: Sending, send_welcome: Callable[[StoredNotification, bool], Awaitable[None]]
) -> ResolvedRecipient | None:
    """Install the app for the recipient, and return them; None if the delivery was requeued or has ended.

    `send_welcome` is called with the welcome that is stored, and whether it is new. Whoever has removed the app does
    not get it again.
    """
    services, tenant, person = sending.services, sending.notification.tenant, sending.message.recipient[2:]
    now, known = services.real_time(), await _find(sending)
    if known is None or not (known.conversation_id or known.status_at):
        outcome = await services.graph.install_for_person(tenant, person)
        if isinstance(outcome, Outcome):
            await _record_refusal(sending, outcome)
            return None
        await _store_default_host(sending, now)
        if not welcomes.are_off(services):  # before the mark, so that a crash loses no welcome
            language = language_of(known.locale if known else "")
            welcome = await welcomes.store_welcome(services, tenant, person, f"{person};install", language)
            await send_welcome(*welcome)
        await services.conversations.save(
            tenant, ReferenceKind.USER, person, {"status_at": now.isoformat()}, at=now, status=ReferenceStatus.ACTIVE
        )
    return await resolve(services, tenant, sending.message.recipient)


async def is_being_welcomed(sending: Sending, recipient: ResolvedRecipient) -> bool:
    """Return whether a message that may have caused the install has to wait for the welcome."""
    services, tenant, person = sending.services, sending.notification.tenant, sending.message.recipient
    if sending.notification.content.on_missing != "install" or not recipient.status_at or welcomes.are_off(services):
        return False
    if services.real_time() - datetime.fromisoformat(recipient.status_at) >= LONGEST_WELCOME:
        return False
    owner = await services.markers.owner(welcomed(tenant), person)
    if not owner:
        return True
    welcome = await services.notifications.recent(owner)
    if welcome is None:
        return False
    known = await services.deliveries.get(Delivery(owner, shard_of(person, welcome.shards), person, "", 0))
    if known and known.state.final:
        return False
    if not welcome.shards and _has_no_worker(known, services.real_time()):
        await publishing.enqueue(services, welcome, person)
    return True


def _has_no_worker(known: DeliveryRecord | None, now: datetime) -> bool:
    """Return whether the worker that was to send a welcome itself may have died; its row comes with its claim."""
    if known is None:
        return True
    step, _ = policy.next_step(known, now - WELCOME_OVERDUE)
    return step is Step.RESOLVE or (step is Step.SEND and known.not_before is not None)


async def _find(sending: Sending) -> ConversationReference | None:
    person = sending.message.recipient[2:]
    return await sending.services.conversations.get(sending.notification.tenant, ReferenceKind.USER, person)


async def _record_refusal(sending: Sending, outcome: Outcome) -> None:
    """Try again later, or end the delivery with Graph's reason. An install may be repeated."""
    if outcome.verdict in (Verdict.RETRY, Verdict.UNKNOWN):
        await record_outcome(sending, replace(outcome, verdict=Verdict.RETRY), "")
        return
    state = DeliveryState.SUPPRESSED if outcome.verdict is Verdict.SUPPRESSED else DeliveryState.FAILED
    await sending.end(state, outcome.reason)


async def _store_default_host(sending: Sending, now: datetime) -> None:
    """Store Teams' host of the bot's cloud for a tenant from which no activity has come yet."""
    services, tenant = sending.services, sending.notification.tenant
    host = DEFAULT_SERVICE_URLS.get(services.settings.graph_url)
    if host and await services.conversations.get(tenant, ReferenceKind.TENANT, tenant) is None:
        await services.conversations.save(tenant, ReferenceKind.TENANT, tenant, {"service_url": host}, at=now)
