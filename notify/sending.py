"""One delivery in progress, and what can become of it: it ends, is held, is requeued, or is retried."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from notify.progress import finish, finish_single
from shared.conversation_ids import channel_of
from shared.preferences.preferences import FOREVER
from shared.queue_messages import Delivery, RecipientTask, Task
from shared.records import DeliveryRecord, HeldDelivery
from shared.services import Services
from shared.states import DIGESTS, DeliveryState, Purpose, Reason, Rule
from shared.storage import timers
from shared.storage.delivery_counts import SINGLE_SHARD
from shared.storage.markers import welcomed
from shared.storage.notifications import StoredNotification

#: States in which it was seen by the recipient, or may have been.
_ARRIVED = (DeliveryState.SENT, DeliveryState.SIMULATED, DeliveryState.UNKNOWN, DeliveryState.RECALLED)


@dataclass(frozen=True, slots=True)
class Sending:
    """One delivery under way: what is to be sent, the message that asks for it, and its row as last known.

    `rule` is what decided about it, None before that.
    """

    services: Services
    notification: StoredNotification
    message: Delivery
    known: DeliveryRecord
    now: datetime
    rule: Rule | None = None

    @property
    def unhindered(self) -> bool:
        """Whether nothing but its time has kept it from being sent so far."""
        return self.known.since is None and self.known.reason in ("", Reason.LOCAL_TIME)

    @property
    def on_unknown(self) -> str:
        """The notification's choice where it is unknown whether a request arrived: `resend` or `stop`."""
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
        """Write the final state, and of what was sent where it is; see to what follows from that."""
        if state not in _ARRIVED and self.notification.purpose is Purpose.WELCOME and self.rule is not Rule.WELCOMED:
            mark = welcomed(self.notification.tenant)
            await self.services.markers.delete(mark, self.message.recipient, self.notification.key)
        last = await self.services.deliveries.settle(
            self.message,
            self.known.etag,
            state,
            now=self.services.real_time(),
            reason=reason,
            maybe_twice=self.known.maybe_twice,
            rule=str(self.rule or ""),
            activity_id=activity_id,
            conversation_id=conversation_id,
            revision=revision,
        )
        await self.ended(state, last=last)

    async def ended(self, state: DeliveryState, *, last: bool) -> None:
        """See to what follows from its end in `state`; to do that again changes nothing."""
        notification = self.notification
        if last and self.message.shard == SINGLE_SHARD:
            await finish_single(self.services, notification, state)
        elif last:
            await finish(self.services, notification.key)
        if notification.purpose in DIGESTS:
            task = RecipientTask(notification.tenant, self.message.recipient, Task.RELEASE)
            await self.services.queues.enqueue_recipient(task)  # which settles the digest

    async def end_unsent(self, state: DeliveryState, reason: Reason | None) -> None:
        """End it without a request; where an earlier one may have arrived, that is what is said."""
        if self.known.maybe_twice:
            crashed = self.known.state is DeliveryState.SENDING
            await self.end(DeliveryState.UNKNOWN, Reason.CRASHED if crashed else Reason.NO_ANSWER)
        else:
            await self.end(state, reason)

    async def hold(self, reason: Reason, until: datetime, since: datetime, *, for_digest: bool) -> None:
        """Let it wait until then; who dies before all is stored leaves its message, which comes again.

        `since` is when its recipient's turn came, `for_digest` is as in `HeldDelivery`.
        """
        services, tenant, recipient = self.services, self.notification.tenant, self.message.recipient
        etag = await services.deliveries.defer(
            self.message,
            self.known.etag,
            reason,
            attempts=self.known.attempts,
            maybe_twice=self.known.maybe_twice,
            not_before=until,
            now=self.now,
            rule=str(self.rule or ""),
        )
        item = HeldDelivery(
            delivery=replace(self.message, etag="", attempts=0),
            reason=reason,
            until=until,
            notification_time=self.notification.notification_time,
            eligible_since=since,
            delivery_etag=etag,
            urgent=self.notification.urgent,
            for_digest=for_digest,
        )
        await services.held_deliveries.put(tenant, item)
        if until < FOREVER:
            kind = timers.DIGEST if reason is Reason.DIGEST else timers.RELEASE
            await services.timers.put(until, kind, tenant, channel_of(recipient))

    async def delete_held(self) -> None:
        """Remove what says that it waits for its recipient, where that is there."""
        await self.services.held_deliveries.forget(
            self.notification.tenant, self.message, self.notification.notification_time
        )

    async def requeue(self, delay: float, message: Delivery | None = None) -> None:
        """Put the message back, or another in its place, visible in `delay` seconds."""
        await self.services.queues.enqueue_delivery(message or self.message, delay, urgent=self.notification.urgent)
