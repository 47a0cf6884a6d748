"""Plan a digest with what it needs: preferences, the notifications of held deliveries, and their threads."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from shared.concurrency import gather_limited
from shared.preferences.delivery_rules import evaluate, parse_digest_schedule, without_holds
from shared.queue_messages import Delivery, RecipientTask, Task
from shared.records import DigestState, HeldDelivery
from shared.services import Services
from shared.states import DeliveryState, Reason, ReferenceStatus, Rule
from shared.texts import language_of
from timer_digest.digest_plan import (
    DigestPlan,
    DigestPreferences,
    EvaluatedItem,
    choose_items,
    digest_times,
    first_eligible,
    plan_digest,
)
from timer_digest.thread_groups import DigestEntry


async def make_plan(
    services: Services,
    task: RecipientTask,
    digest_preferences: DigestPreferences,
    state: DigestState,
    items: Sequence[HeldDelivery],
) -> DigestPlan:
    """Plan what to do now with these items: all that are held for a digest, and others whose hold has ended.

    Items that are held for a digest which is not due yet stay held; they are evaluated only if the preferences may have
    changed (`Task.RECONSIDER`). `Task.DIGEST_NOW` makes the digest due.
    """
    now = services.clock()
    for_digest = [item for item in items if item.reason is Reason.DIGEST]
    others = [item for item in items if item.reason is not Reason.DIGEST]
    evaluated = await _evaluate(services, digest_preferences, now, others)
    digest_time, next_at = digest_times(
        first_eligible(for_digest, evaluated, now), digest_preferences, now, state.last_date
    )
    is_due = digest_time is not None or task.task is Task.DIGEST_NOW
    hold = for_digest
    if is_due or not next_at or task.task is Task.RECONSIDER:
        again = await _evaluate(services, digest_preferences, now, for_digest)
        evaluated += again
        hold = [] if is_due or not next_at else [each.item for each in again if each.rule is Rule.DIGEST]
    chosen = choose_items(evaluated, is_due=is_due)
    final_states = await _final_states(services, task, [each.entry for each in chosen])
    ordered = [*others, *for_digest]
    return plan_digest(ordered, hold, chosen, final_states, is_due=is_due, digest_time=digest_time, next_at=next_at)


async def digest_preferences_of(services: Services, task: RecipientTask) -> DigestPreferences:
    """Return the current preferences of the recipient of `task`; for `digest now`, without pause and quiet hours."""
    settings, began = services.settings, services.real_time()
    reference = await services.conversations.get_recipient(task.tenant, task.recipient)
    preferences = reference.preferences
    schedule = parse_digest_schedule(preferences.digest or settings.default_digest)
    if task.task is Task.DIGEST_NOW:
        preferences = without_holds(preferences)
    language = language_of(preferences.locale, reference.locale)
    is_installed = reference.status is ReferenceStatus.ACTIVE and bool(reference.conversation_id)
    zone = reference.zone(settings.default_time_zone)
    return DigestPreferences(preferences, zone, language, schedule, is_installed, (reference, began))


async def _evaluate(
    services: Services, digest_preferences: DigestPreferences, now: datetime, items: Sequence[HeldDelivery]
) -> list[EvaluatedItem]:
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
            evaluated.append(EvaluatedItem(item, entry, rule))
    return evaluated


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
