"""Plan what to do with a recipient's held deliveries: include in a digest, send one by one, or keep holding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from shared.cards.texts import language_of
from shared.concurrency import gather_limited
from shared.preferences.delivery_rules import digest_rule, evaluate, quiet_until, without_holds
from shared.preferences.digest_schedule import DigestRule, Slot
from shared.preferences.preferences import Preferences
from shared.queue_messages import Delivery, RecipientTask, Task
from shared.records import HeldDelivery
from shared.services import Services
from shared.states import DeliveryState, Reason, Rule
from timer_digest.thread_groups import DigestEntry, ThreadGroup, group_by_priority, limit_groups

#: Up to this number, the deliveries that a pause, a mute or quiet hours held are sent one by one at its end; more of
#: them become one digest.
MAX_SEPARATE_MESSAGES = 5
#: Most deliveries in one digest.
MAX_DIGEST_ITEMS = 200
#: How far back a slot that had no digest is looked for. Every schedule has a slot at least once a week.
MAX_SLOT_AGE = timedelta(days=15)


@dataclass(frozen=True, slots=True)
class ReleasedItem:
    """A held delivery to release. `state` is its final state, or None if policy is to evaluate it again."""

    item: HeldDelivery
    state: DeliveryState | None = None


@dataclass(frozen=True, slots=True)
class DigestPlan:
    """`release`: send now. `hold`: keep until `next_at`. `digest`: include in the next digest.

    `more` is the number of deliveries left for the digest after this one, None if that one follows at once. `slot` is
    the scheduled time of this digest, None for one out of schedule. `next_at` is the time of the next scheduled digest,
    None if there is none.
    """

    release: Sequence[ReleasedItem]
    hold: Sequence[HeldDelivery] = ()
    digest: Sequence[tuple[HeldDelivery, DigestEntry]] = ()
    more: int | None = 0
    slot: Slot | None = None
    next_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DigestPreferences:
    """A recipient's preferences, language and digest schedule, which follows the clocks of `zone`."""

    preferences: Preferences
    zone: ZoneInfo
    language: str
    rule: DigestRule


@dataclass(frozen=True, slots=True)
class _EvaluatedItem:
    """A held delivery of a current notification, and the rule that applies to it now."""

    item: HeldDelivery
    entry: DigestEntry
    rule: Rule

    @property
    def is_released(self) -> bool:
        """Whether the pause, mute or quiet hours that held it have ended, and it is to be sent."""
        return self.rule is Rule.SEND and self.item.reason is not Reason.DIGEST


async def plan_digest(
    services: Services,
    task: RecipientTask,
    digest_preferences: DigestPreferences,
    last: date | None,
    items: Sequence[HeldDelivery],
) -> DigestPlan:
    """Plan what to do now with these items: all that are held for a digest, and others whose hold has ended.

    `last` is the local date of the last scheduled digest. Items that are held for a digest which is not due yet stay
    held; they are evaluated only if the preferences may have changed (`Task.RECONSIDER`). `Task.DIGEST_NOW` makes the
    digest due.
    """
    now = services.clock()
    for_digest = [item for item in items if item.reason is Reason.DIGEST]
    held = [item for item in items if item.reason is not Reason.DIGEST]
    evaluated = await _evaluate_items(services, digest_preferences, now, held)
    candidates = [*for_digest, *(each.item for each in evaluated if each.rule is Rule.DIGEST)]
    eligible = [item.eligible_since for item in candidates if item.until <= now or item.reason is not Reason.DIGEST]
    slot, next_at = digest_times(min(eligible, default=None), digest_preferences, now, last)
    is_due = slot is not None or task.task is Task.DIGEST_NOW
    hold = for_digest
    if is_due or not next_at or task.task is Task.RECONSIDER:
        again = await _evaluate_items(services, digest_preferences, now, for_digest)
        evaluated += again
        hold = [] if is_due or not next_at else [each.item for each in again if each.rule is Rule.DIGEST]
    many = sum(each.is_released for each in evaluated) > MAX_SEPARATE_MESSAGES
    chosen = [each for each in evaluated if (is_due and each.rule is Rule.DIGEST) or (many and each.is_released)]
    groups, fit, final_states = await _group_entries(services, task, [each.entry for each in chosen])
    kept = {item.delivery for item in hold} | {entry.delivery for group in groups for entry in group}
    release = [
        ReleasedItem(item, final_states.get(item.delivery))
        for item in (*held, *for_digest)
        if item.delivery not in kept
    ]
    item_of = {each.entry.delivery: each.item for each in chosen}
    digest = [(item_of[entry.delivery], entry) for group in groups[:fit] for entry in group]
    return DigestPlan(release, hold, digest, sum(map(len, groups[fit:])) if is_due else None, slot, next_at)


def digest_times(
    since: datetime | None, digest_preferences: DigestPreferences, now: datetime, last: date | None
) -> tuple[Slot | None, datetime | None]:
    """Return the slot whose digest is due at `now`, or None, and the time of the next digest; quiet hours defer it.

    `since` is when the oldest held delivery became eligible, None if there is none; `last` is the local date of the
    last scheduled digest.
    """
    slot = newest_slot(digest_preferences.rule, since, now, digest_preferences.zone, last) if since else None
    if slot and (quiet := quiet_until(digest_preferences.preferences, now, digest_preferences.zone)):
        return None, quiet
    following = digest_preferences.rule.following(now, digest_preferences.zone, slot.date if slot else last)
    return slot, following.at if following else None


def newest_slot(rule: DigestRule, since: datetime, now: datetime, zone: ZoneInfo, last: date | None) -> Slot | None:
    """Return the newest slot after `since` and not after `now` whose local date is after `last`, or None."""
    newest, after = None, max(since, now - MAX_SLOT_AGE)
    while (slot := rule.following(after, zone, last)) and slot.at <= now:
        newest, after = slot, slot.at
    return newest


async def digest_preferences_of(services: Services, task: RecipientTask) -> DigestPreferences:
    """Return the current preferences of the recipient of `task`; for `digest now`, without pause and quiet hours."""
    settings, reference = services.settings, await services.conversations.of(task.tenant, task.recipient)
    preferences = reference.preferences
    rule = digest_rule(preferences.digest or settings.default_digest)
    if task.task is Task.DIGEST_NOW:
        preferences = without_holds(preferences)
    language = language_of(preferences.locale, reference.locale)
    return DigestPreferences(preferences, reference.zone(settings.default_time_zone), language, rule)


async def _evaluate_items(
    services: Services, digest_preferences: DigestPreferences, now: datetime, items: Sequence[HeldDelivery]
) -> list[_EvaluatedItem]:
    """Evaluate the items whose notification is neither expired nor cancelled."""
    found = await gather_limited(items, lambda item: services.notifications.recent(item.delivery.notification))
    preferences, zone = digest_preferences.preferences, digest_preferences.zone
    default = services.settings.default_digest
    evaluated = []
    for item, notification in zip(items, found, strict=True):
        if notification and notification.is_current(now):
            category = services.categories.of(notification.content.category)
            rule, _ = evaluate(preferences, category, notification.thread, now=now, zone=zone, digest=default)
            entry = DigestEntry(item.delivery, notification, category, item.eligible_since)
            evaluated.append(_EvaluatedItem(item, entry, rule))
    return evaluated


async def _group_entries(
    services: Services, task: RecipientTask, entries: Sequence[DigestEntry]
) -> tuple[list[ThreadGroup], int, dict[Delivery, DeliveryState]]:
    """Return the groups of these entries, how many groups fit in one digest, and the final states of the others."""
    final_states = await _final_states(services, task, entries)
    whole = group_by_priority(entry for entry in entries if entry.delivery not in final_states)
    groups, fit = limit_groups(whole, MAX_DIGEST_ITEMS)
    oldest = (entry.delivery for group, kept in zip(whole, groups, strict=True) for entry in group[len(kept) :])
    return groups, fit, final_states | dict.fromkeys(oldest, DeliveryState.SUPERSEDED)


async def _final_states(
    services: Services, task: RecipientTask, entries: Sequence[DigestEntry]
) -> dict[Delivery, DeliveryState]:
    """Return the final states of the deliveries that no digest includes: simulated ones, and those that their thread
    has superseded."""
    threads = sorted({(entry.delivery.recipient, entry.thread) for entry in entries if entry.thread})
    found = await gather_limited(threads, lambda thread: services.threads.get(task.tenant, *thread))
    newest = {thread: shown.newest for thread, shown in zip(threads, found, strict=True) if shown}

    def final_state(entry: DigestEntry) -> DeliveryState | None:
        if entry.notification.content.simulate or entry.category.simulate:
            return DeliveryState.SIMULATED
        shown_at = newest.get((entry.delivery.recipient, entry.thread), entry.at)
        return DeliveryState.SUPERSEDED if shown_at > entry.at else None

    return {entry.delivery: state for entry in entries if (state := final_state(entry))}
