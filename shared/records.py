"""Table rows as plain values, for code that decides without storage: references, deliveries, held deliveries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import cached_property
from typing import Self
from zoneinfo import ZoneInfo

from shared import keys
from shared.contract import models, parsing
from shared.contract.identity import Identity
from shared.preferences.preferences import Preferences
from shared.queue_messages import Delivery
from shared.states import DeliveryState, NotificationState, Purpose, Reason, ReferenceKind, ReferenceStatus
from shared.time.localtime import load_zone

#: How far the clock of an upstream system may be ahead.
MAX_TIME_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class StoredLane:
    """A rate lane as its row has it (`shared.storage.rate_lanes`), and the row's ETag, "" if there is no row."""

    requests: str = ""
    turns: str = ""
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationReference:
    """How a person, chat, channel, team or tenant is reached. Ids are those of Teams; an unknown value is "".

    `status_at` is the time of the event that last changed `status` (ISO 8601 with offset). An older event, such as one
    that Teams repeats, does not change the status. `lane` has the latest requests to a person, chat or channel.
    """

    tenant: str
    kind: ReferenceKind
    id: str
    service_url: str = ""
    conversation_id: str = ""
    conversation_type: str = ""
    user_id: str = ""
    bot_id: str = ""
    name: str = ""
    locale: str = ""
    time_zone: str = ""
    team: str = ""
    group: str = ""
    user: str = ""
    status: ReferenceStatus = ReferenceStatus.ACTIVE
    status_at: str = ""
    preferences: Preferences = field(default_factory=Preferences)
    lane: StoredLane = field(default=StoredLane(), compare=False)

    def zone(self, default: str) -> ZoneInfo:
        """Return the chosen time zone, else that of the Teams client, else `default`."""
        return load_zone(self.preferences.time_zone or self.time_zone or default)


def merge_observed(
    old: ConversationReference, observed: Mapping[str, str], status: ReferenceStatus | None, at: datetime
) -> ConversationReference:
    """Return the reference after an event at `at` (UTC) with these values; empty values do not change it.

    An event older than `status_at` does not change the status. An observed `status_at` counts even if the status stays
    the same, but never moves back.
    """
    changes = {name: value for name, value in observed.items() if value}
    if changes.get("status_at", "") < old.status_at:
        changes.pop("status_at", None)
    if status is not None and status is not old.status and at.isoformat() >= old.status_at:
        changes |= {"status": status, "status_at": at.isoformat()}
    return replace(old, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class StoredNotification:
    """A notification. `key` is the hash of tenant, source and id; `data` is canonical JSON (`models.Notification`).

    `page` and `cursor` are the number and the start of the next page of recipients to list. `shards` is the number of
    partitions of its deliveries (`deliveries.shard_names`). `total` is the number of recipients, None until all are
    listed. `due` is when a scheduled notification is to be sent, and `rescheduled` when that was last changed. `time`
    is the time of the event, if the upstream system sent it. `revision` counts the edits of the content. `counts` has
    the number of deliveries in each final state, as JSON, and is "" while any is open; `refused_changes` is how many of
    these show an old message because their edit or recall was refused. `page_retry` is when the page is listed again
    that Teams did not list. `left_out` has the number of accounts that its groups and lists of the organisation have
    and that get no delivery, by reason, as JSON.
    """

    key: str
    tenant: str
    source: str
    id: str
    content_hash: str
    data: bytes
    state: NotificationState
    created: datetime
    shards: int
    page: int = 0
    cursor: str = ""
    total: int | None = None
    revision: int = 0
    recalled: bool = False
    counts: str = ""
    refused_changes: int = 0
    due: datetime | None = None
    rescheduled: datetime | None = None
    expires: datetime | None = None
    time: datetime | None = None
    page_retry: datetime | None = None
    left_out: str = ""
    purpose: Purpose = Purpose.NOTIFICATION
    etag: str = ""

    @cached_property
    def content(self) -> models.Notification:
        return parsing.parse_stored(self.data)

    def changed(self, **changes: object) -> Self:
        """Return the notification with other values. Content that does not change is not parsed again."""
        new = replace(self, **changes)  # type: ignore[arg-type]
        if "data" not in changes and "content" in vars(self):
            vars(new)["content"] = self.content
        return new

    @property
    def identity(self) -> Identity:
        return Identity(self.source, self.id)

    @property
    def reference(self) -> str:
        """The upstream system's own text about it, "" for none."""
        return self.content.reference or ""

    @property
    def schedule_set_at(self) -> datetime:
        """The time when its schedule was set; `ifPast` applies to times before that.

        For an occurrence of a recurring announcement, this is the time when it is due.
        """
        at = self.rescheduled or self.created
        return min(at, self.due) if self.due else at

    @property
    def notification_time(self) -> datetime:
        """The time when it was to be sent: when it was accepted, or when it was due."""
        return max(self.created, self.due) if self.due else self.created

    @property
    def occurred_at(self) -> datetime:
        """The time of the event: as the upstream system sent it, else when the notification was to be sent.

        A time in the future, beyond a skew of clocks, is wrong: it would supersede the events of its thread until then.
        """
        return min(self.time, self.created + MAX_TIME_SKEW) if self.time else self.notification_time

    @property
    def urgent(self) -> bool:
        return self.content.priority == "urgent"

    @property
    def thread(self) -> str:
        """The thread key, "" for none."""
        return self.content.thread.key if self.content.thread else ""

    def is_current(self, now: datetime) -> bool:
        """Return whether it is neither cancelled nor expired at `now`."""
        return self.state is not NotificationState.CANCELLED and not (self.expires and self.expires <= now)


def notification_key(tenant: str, source: str, identifier: str) -> str:
    """Return the key of a notification: 64 hex digits."""
    return keys.hash_of(tenant, source, identifier)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRecord:
    """The state of one delivery.

    `attempts` counts the requests that were sent or started, the first of them at `since`. `maybe_twice` means that an
    earlier request may have arrived, and `unknown_outcomes` counts those of which nobody knows. `not_before` is when
    the next attempt is due, `claimed_until` when the claim of a worker ends. The sent message is the activity
    `activity_id` of `conversation_id`, with the content of `revision`. `recipient_index` is the index, in the
    notification's `recipients`, of the one that led to this delivery. `rule` is the policy rule that decided. If the
    sent message could not be edited or recalled, `refused_change` is `edit` or `recall`, and `change_reason` why.
    """

    state: DeliveryState
    attempts: int
    etag: str
    since: datetime | None = None
    maybe_twice: bool = False
    claimed_until: datetime | None = None
    not_before: datetime | None = None
    reason: str = ""
    activity_id: str = ""
    conversation_id: str = ""
    revision: int = 0
    recipient_index: int = 0
    rule: str = ""
    unknown_outcomes: int = 0
    refused_change: str = ""
    change_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldDelivery:
    """One held delivery.

    `key` and `etag` are those of its row. `until` is when it is evaluated again. `notification_time` orders the rows of
    a recipient. `eligible_since` is when the delivery became due; it is later than `notification_time` where it goes by
    the recipient's own time. `delivery_etag` is the ETag of the delivery's row since it is held. `urgent` selects the
    queue for its message. `for_digest` means that `digest now` includes it: it is held for the digest, or would be
    without a pause or quiet hours.
    """

    delivery: Delivery
    reason: Reason
    until: datetime
    notification_time: datetime
    eligible_since: datetime
    delivery_etag: str
    urgent: bool = False
    for_digest: bool = False
    key: str = ""
    etag: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DigestState:
    """The state of a recipient's digests.

    `number` counts the digests made. `last_date` is the last local date that had its scheduled digest, `previous_date`
    what it was before the last digest. `included` lists the deliveries in the last digest, each with the ETag of its
    row; it is empty once that digest is settled.
    """

    number: int = 0
    last_date: date | None = None
    previous_date: date | None = None
    included: Sequence[Delivery] = ()
    etag: str = ""
