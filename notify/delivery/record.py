"""Record what becomes of a delivery: it ends, is held, or is requeued for another try."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeVar

from notify import policy
from notify.progress import finish_after
from shared.conversation_ids import channel_of
from shared.preferences.preferences import FOREVER
from shared.queue_messages import Delivery, RecipientTask, Task
from shared.records import ConversationReference, DeliveryRecord, HeldDelivery, StoredNotification
from shared.services import Services
from shared.states import DIGESTS, DeliveryState, Purpose, Reason, ReferenceKind, Rule
from shared.storage import timers
from shared.storage.markers import welcomed
from shared.storage.outages import OUTAGE_SECONDS, outlast_faults
from shared.teams.outcome import Outcome, Verdict

T = TypeVar("T")

#: Final states after which a person is not welcomed again.
_ARRIVED = (DeliveryState.SENT, DeliveryState.SIMULATED, DeliveryState.UNKNOWN, DeliveryState.RECALLED)


@dataclass(frozen=True, slots=True)
class Sending:
    """One try of a delivery: its notification, its queue message, and its row as last read or written.

    `now` is when the try began (UTC, `services.real_time`). `rule` is the policy rule that decided, None before that.
    A row that does not exist yet has the ETag "". `ended` is None for a delivery from the queue; otherwise it receives
    the final states of the notification's deliveries, by recipient, and the caller does what follows from them; a
    delivery that may have arrived twice is left out, and treated like one from the queue.
    The delivery is enqueued if it would wait for a slot longer than `longest_wait`, in seconds. `reference` is that of
    its recipient if it was read for this try, at `now` or later.
    """

    services: Services
    notification: StoredNotification
    message: Delivery
    known: DeliveryRecord
    now: datetime
    rule: Rule | None = None
    ended: dict[str, DeliveryState] | None = None
    longest_wait: float = math.inf
    reference: ConversationReference | None = None

    @property
    def only_schedule_held_it(self) -> bool:
        """Whether only its schedule has kept it from being sent so far."""
        return self.known.since is None and self.known.reason in ("", Reason.LOCAL_TIME)

    @property
    def on_unknown(self) -> str:
        """`resend` or `stop`: the answer to whether a message is sent again if nobody knows whether it arrived."""
        content = self.notification.content
        return content.on_unknown or self.services.categories.of(content.category).on_unknown

    async def end(
        self,
        state: DeliveryState,
        reason: Reason | None = None,
        *,
        activity_id: str = "",
        conversation_id: str = "",
        revision: int = 0,
    ) -> None:
        """Write the final state, with the ids of the activity that was sent, and do what follows from it.

        Raises `Conflict` if another worker changed the row.
        """
        if state not in _ARRIVED and self.notification.purpose is Purpose.WELCOME and self.rule is not Rule.WELCOMED:
            marker = welcomed(self.notification.tenant)
            await self.services.markers.delete(marker, self.message.recipient, self.notification.key)
        is_last = await self.services.deliveries.settle(
            self.message,
            self.known.etag,
            state,
            recipient_index=self.known.recipient_index,
            now=self.services.real_time(),
            reason=reason,
            maybe_twice=self.known.maybe_twice,
            rule=str(self.rule or ""),
            activity_id=activity_id,
            conversation_id=conversation_id,
            revision=revision,
        )
        await self.follow_up(state, is_last=is_last)

    async def follow_up(self, state: DeliveryState, *, is_last: bool) -> None:
        """Finish the notification after its last delivery, and have a digest settled; safe to repeat."""
        notification = self.notification
        if self.ended is not None and not self.known.maybe_twice:
            self.ended[self.message.recipient] = state  # maybe again: a later step may meet a conflict
            return
        if is_last:
            await finish_after(self.services, notification, self.message.shard, state)
        if notification.purpose in DIGESTS:
            is_surely_sent = state is DeliveryState.SENT and not self.known.maybe_twice
            sent_digest = notification.key if is_surely_sent else ""
            await self.services.queues.enqueue_recipient(
                RecipientTask(notification.tenant, self.message.recipient, Task.RELEASE, sent_digest=sent_digest)
            )

    async def end_unsent(self, state: DeliveryState, reason: Reason | None) -> None:
        """End it in `state` without a request, or as `unknown` if an earlier request may have reached Teams."""
        if self.known.maybe_twice:
            crashed = self.known.state is DeliveryState.SENDING
            await self.end(DeliveryState.UNKNOWN, Reason.CRASHED if crashed else Reason.NO_ANSWER)
        else:
            await self.end(state, reason)

    async def hold(self, reason: Reason, until: datetime, eligible_since: datetime, *, for_digest: bool) -> None:
        """Hold it until `until`. If the worker dies before all is stored, its queue message comes again.

        `eligible_since` and `for_digest` are as in `HeldDelivery`.
        """
        services, tenant, recipient = self.services, self.notification.tenant, self.message.recipient
        etag = await services.deliveries.defer(
            self.message,
            self.known.etag,
            reason,
            recipient_index=self.known.recipient_index,
            attempts=self.known.attempts,
            maybe_twice=self.known.maybe_twice,
            not_before=until,
            now=self.now,
            rule=str(self.rule or ""),
        )
        item = HeldDelivery(
            delivery=replace(self.message, etag="", attempts=0, reserved_turn=0.0),
            reason=reason,
            until=until,
            notification_time=self.notification.notification_time,
            eligible_since=eligible_since,
            delivery_etag=etag,
            urgent=self.notification.urgent,
            for_digest=for_digest,
        )
        await services.held_deliveries.put(tenant, item)
        if until < FOREVER:
            kind = timers.DIGEST if reason is Reason.DIGEST else timers.RELEASE
            await services.timers.put(until, kind, tenant, channel_of(recipient))

    async def release(self, known: DeliveryRecord) -> None:
        """Give up the claim before a request was sent, so that the delivery is as `known` before."""
        await self.outlast_faults(
            lambda: self.services.deliveries.defer(
                self.message,
                self.known.etag,
                None,
                attempts=known.attempts,
                maybe_twice=known.maybe_twice,
                not_before=self.now,
                now=self.now,
            )
        )

    async def outlast_faults(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write what only this worker knows about the delivery, again and again while the storage fails.

        Without it, nobody would know whether the message arrived. Raises `Conflict` also if an earlier try succeeded
        and its answer was lost: the row then has the result.
        """
        return await outlast_faults(write, self.outage_seconds)

    @property
    def outage_seconds(self) -> float:
        """The seconds for which this try may still wait for the storage."""
        return OUTAGE_SECONDS - (self.services.real_time() - self.now).total_seconds()

    async def delete_held(self) -> None:
        """Delete its row in HeldDeliveries, if there is one."""
        await self.services.held_deliveries.delete_delivery(
            self.notification.tenant, self.message, self.notification.notification_time
        )

    async def requeue(self, delay: float, message: Delivery | None = None) -> None:
        """Enqueue its message again, or another in its place, visible in `delay` seconds; a new row is first."""
        message = message or self.message
        if not self.known.etag:
            recipients = {message.recipient: self.known.recipient_index}
            now = self.services.clock()
            added = await self.services.deliveries.add(message.notification, message.shard, recipients, now, fresh=True)
            message = replace(message, etag=added[0].etag if added else "")
        await self.services.queues.enqueue_delivery(message, delay, urgent=self.notification.urgent)


async def record_outcome(sending: Sending, outcome: Outcome, conversation: str) -> None:
    """Record a request's outcome: end the delivery, or defer and requeue it for another try."""
    services, notification, claimed = sending.services, sending.notification, sending.known
    now = services.real_time()
    age = now - claimed.since if claimed.attempts and claimed.since else timedelta()
    state = policy.final_state(outcome, sending.on_unknown, age, claimed.unknown_outcomes)
    if state is not None:
        if outcome.may_have_arrived:
            sending = replace(sending, known=replace(claimed, maybe_twice=True))
        is_exhausted = state is DeliveryState.FAILED and outcome.verdict is not Verdict.FAILED
        reason = Reason.EXHAUSTED if is_exhausted else outcome.reason
        ids = {"activity_id": outcome.activity_id, "conversation_id": conversation}
        await sending.outlast_faults(lambda: sending.end(state, reason, **ids, revision=notification.revision))
        if state is DeliveryState.SENT:
            await enqueue_missed_change(sending, notification.revision)
        return
    wait = outcome.retry_after
    if wait is None:
        wait = policy.backoff(claimed.attempts + 1, random.random())  # noqa: S311 (jitter)
    attempts = claimed.attempts + (outcome.reason not in policy.UNCOUNTED_REASONS)
    etag = await sending.outlast_faults(
        lambda: services.deliveries.defer(
            sending.message,
            claimed.etag,
            outcome.reason,
            attempts=attempts,
            maybe_twice=claimed.maybe_twice or outcome.verdict is Verdict.UNKNOWN,
            unknown_outcomes=claimed.unknown_outcomes + (outcome.verdict is Verdict.UNKNOWN),
            not_before=now + timedelta(seconds=wait),
            now=now,
        )
    )
    # With the ETag, the row is not read again: only if it says no more than the message.
    is_read = attempts or claimed.maybe_twice or outcome.verdict is Verdict.UNKNOWN
    await sending.requeue(
        wait, replace(sending.message, etag="" if is_read else etag, attempts=attempts, reserved_turn=0.0)
    )


async def enqueue_missed_change(sending: Sending, shown: int) -> None:
    """Enqueue the edit or recall that came while revision `shown` was being sent, after the sweep had passed it."""
    current = await sending.services.notifications.recent(sending.notification.key)
    if current and (current.recalled or current.revision > shown):
        task = Task.RECALL if current.recalled else Task.EDIT
        await sending.requeue(0, replace(sending.message, etag="", attempts=0, reserved_turn=0.0, task=task))


async def store_chat(services: Services, tenant: str, person: str, conversation: str, service_url: str = "") -> None:
    """Store the reference of a created chat, once a message was sent: Teams also creates chats for unknown ids."""
    now = services.real_time()
    observed = {"conversation_id": conversation, "conversation_type": "personal", "service_url": service_url}
    await services.conversations.put_alias(tenant, conversation, person)
    await services.conversations.save(tenant, ReferenceKind.USER, person, observed, at=now)
