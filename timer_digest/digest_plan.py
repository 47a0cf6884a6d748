"""Plan what to do with a recipient's held deliveries: include in a digest, send one by one, or keep holding.

All functions are pure; `timer_digest.held_items` reads what they need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from shared.preferences.delivery_rules import quiet_until
from shared.preferences.digest_schedule import DigestSchedule, DigestTime
from shared.preferences.preferences import Preferences
from shared.queue_messages import Delivery
from shared.records import ConversationReference, HeldDelivery
from shared.states import DeliveryState, Reason, Rule
from timer_digest.thread_groups import DigestEntry, group_by_priority, limit_groups

#: Up to this number, the deliveries that a pause, a mute or quiet hours held are sent one by one at its end; more of
#: them become one digest.
MAX_SEPARATE_MESSAGES = 5
#: Most deliveries in one digest.
MAX_DIGEST_ITEMS = 200
#: Age of the oldest scheduled time that still gets its digest. Every schedule has one at least once a week.
MAX_DIGEST_AGE = timedelta(days=15)


@dataclass(frozen=True, slots=True)
class ReleasedItem:
    """A held delivery to send or end now. `state` is its final state, or None if policy is to evaluate it again."""

    item: HeldDelivery
    state: DeliveryState | None = None


@dataclass(frozen=True, slots=True)
class DigestPlan:
    """`release`: send now. `hold`: keep until `next_at`. `digest`: include in the next digest.

    `more` is the number of deliveries left for the digest after this one, None if the rest follows at once.
    `digest_time` is the scheduled time of this digest, None for an unscheduled one. `next_at` is the time of the next
    scheduled digest, None if there is none.
    """

    release: Sequence[ReleasedItem]
    hold: Sequence[HeldDelivery] = ()
    digest: Sequence[tuple[HeldDelivery, DigestEntry]] = ()
    more: int | None = 0
    digest_time: DigestTime | None = None
    next_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DigestPreferences:
    """A recipient's preferences, language and digest schedule, which follows the clocks of `zone`.

    `is_installed`: the bot is installed at the recipient, as far as events tell. `read` is the reference that has these
    preferences, and when reading it began (UTC).
    """

    preferences: Preferences
    zone: ZoneInfo
    language: str
    schedule: DigestSchedule
    is_installed: bool = True
    read: tuple[ConversationReference, datetime] | None = None


@dataclass(frozen=True, slots=True)
class EvaluatedItem:
    """A held delivery of a current notification, and the rule that applies to it now."""

    item: HeldDelivery
    entry: DigestEntry
    rule: Rule

    @property
    def is_released(self) -> bool:
        """Whether the pause, mute or quiet hours that held it have ended, and it is to be sent."""
        return self.rule is Rule.SEND and self.item.reason is not Reason.DIGEST


def first_eligible(
    for_digest: Sequence[HeldDelivery], evaluated: Sequence[EvaluatedItem], now: datetime
) -> datetime | None:
    """Return when the oldest delivery that a digest may include became eligible, None if there is none.

    `for_digest` are held for a digest; one of them counts once its `until` has passed.
    """
    times = [item.eligible_since for item in for_digest if item.until <= now]
    times += [each.item.eligible_since for each in evaluated if each.rule is Rule.DIGEST]
    return min(times, default=None)


def choose_items(evaluated: Sequence[EvaluatedItem], *, is_due: bool) -> list[EvaluatedItem]:
    """Return the items that a digest is to include now: those for a digest that is due, and many released ones."""
    many = sum(each.is_released for each in evaluated) > MAX_SEPARATE_MESSAGES
    return [each for each in evaluated if (is_due and each.rule is Rule.DIGEST) or (many and each.is_released)]


def plan_digest(
    items: Sequence[HeldDelivery],
    hold: Sequence[HeldDelivery],
    chosen: Sequence[EvaluatedItem],
    final_states: Mapping[Delivery, DeliveryState],
    *,
    is_due: bool,
    digest_time: DigestTime | None,
    next_at: datetime | None,
) -> DigestPlan:
    """Plan what to do with `items`, of which `hold` are held further and `chosen` are for a digest.

    `final_states` are those of chosen deliveries that no digest includes.
    """
    whole = group_by_priority(each.entry for each in chosen if each.entry.delivery not in final_states)
    groups, fit = limit_groups(whole, MAX_DIGEST_ITEMS)
    oldest = (entry.delivery for group, newest in zip(whole, groups, strict=True) for entry in group[len(newest) :])
    ended = {**final_states, **dict.fromkeys(oldest, DeliveryState.SUPERSEDED)}
    staying = {item.delivery for item in hold} | {entry.delivery for group in groups for entry in group}
    release = [ReleasedItem(item, ended.get(item.delivery)) for item in items if item.delivery not in staying]
    item_of = {each.entry.delivery: each.item for each in chosen}
    digest = [(item_of[entry.delivery], entry) for group in groups[:fit] for entry in group]
    return DigestPlan(release, hold, digest, sum(map(len, groups[fit:])) if is_due else None, digest_time, next_at)


def digest_times(
    since: datetime | None, digest_preferences: DigestPreferences, now: datetime, last: date | None
) -> tuple[DigestTime | None, datetime | None]:
    """Return the scheduled time whose digest is due at `now`, or None, and the time of the next; quiet hours defer it.

    `since` is when the oldest held delivery became eligible, None if there is none; `last` is the local date of the
    last scheduled digest.
    """
    schedule, zone = digest_preferences.schedule, digest_preferences.zone
    due = newest_digest_time(schedule, since, now, zone, last) if since else None
    if due and (quiet := quiet_until(digest_preferences.preferences, now, zone)):
        return None, quiet
    following = schedule.next_time(now, zone, due.date if due else last)
    return due, following.at if following else None


def newest_digest_time(
    schedule: DigestSchedule, since: datetime, now: datetime, zone: ZoneInfo, last: date | None
) -> DigestTime | None:
    """Return the newest scheduled time after `since` and not after `now` whose date is after `last`, or None."""
    newest, after = None, max(since, now - MAX_DIGEST_AGE)
    while (found := schedule.next_time(after, zone, last)) and found.at <= now:
        newest, after = found, found.at
    return newest
