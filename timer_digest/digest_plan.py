"""Plan what to do with a recipient's held deliveries: include in a digest, send one by one, or keep holding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from shared.cards.texts import language
from shared.concurrency import gather_limited
from shared.early import rule_of, without_holds
from shared.preferences.delivery_rules import parse_digest_schedule, quiet_until
from shared.preferences.digest_schedule import DigestSchedule, DigestTime
from shared.preferences.preferences import Preferences
from shared.queue_messages import Delivery, RecipientTask, Task
from shared.records import HeldDelivery
from shared.services import Services
from shared.states import DeliveryState, Reason, Rule
from timer_digest.thread_groups import DigestEntry, ThreadGroup, limited, stories

#: What a pause, a mute or quiet hours held goes out message by message up to so many; more becomes one digest.
MAX_SEPARATE_MESSAGES = 5
#: Most deliveries that one digest tells.
MAX_DIGEST_ITEMS = 200
#: How far back a slot is sought that had no digest yet; every rule has one a week.
LOOK_BACK = timedelta(days=15)


@dataclass(frozen=True, slots=True)
class ReleasedItem:
    """An item that waits no longer; `state` is its delivery's final one, None where policy is to decide again."""

    item: HeldDelivery
    state: DeliveryState | None = None


@dataclass(frozen=True, slots=True)
class DigestPlan:
    """What is done now: `go` waits no longer, `wait` does until `next_at`, and `tell` is for one digest.

    `more` is how many are left for the next digest, None where that follows at once. `slot` is the one whose digest
    this is, None for one out of turn, and `next_at` is when the next comes, if one does.
    """

    go: Sequence[ReleasedItem]
    wait: Sequence[HeldDelivery] = ()
    tell: Sequence[tuple[HeldDelivery, DigestEntry]] = ()
    more: int | None = 0
    slot: DigestTime | None = None
    next_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DigestPreferences:
    """What somebody wants to be told, in which language, and when their digests come on the clocks of `zone`."""

    preferences: Preferences
    zone: ZoneInfo
    tongue: str
    rule: DigestSchedule


@dataclass(frozen=True, slots=True)
class _Decided:
    """An item of which there is something to tell, and the wish that decides about it now."""

    item: HeldDelivery
    case: DigestEntry
    rule: Rule

    @property
    def freed(self) -> bool:
        """Whether it is to be sent, as what held it has ended."""
        return self.rule is Rule.SEND and self.item.reason is not Reason.DIGEST


async def choose(
    services: Services,
    person: RecipientTask,
    digest_preferences: DigestPreferences,
    last: date | None,
    items: Sequence[HeldDelivery],
) -> DigestPlan:
    """What to do now with these items, each of which waits for a digest, or the wish that held it has ended.

    `last` is the local date of the last regular digest. Where it is too early for the next one, what waits for it goes
    on waiting, unseen unless wishes have changed (`Task.RECONSIDER`). `Task.DIGEST_NOW` has it come at once.
    """
    now = services.clock()
    waits = [item for item in items if item.reason is Reason.DIGEST]
    held = [item for item in items if item.reason is not Reason.DIGEST]
    decided = await _decided(services, digest_preferences, now, held)
    for_digest = [*waits, *(each.item for each in decided if each.rule is Rule.DIGEST)]
    ripe = [item.eligible_since for item in for_digest if item.until <= now or item.reason is not Reason.DIGEST]
    slot, next_at = times(min(ripe, default=None), digest_preferences, now, last)
    timely = slot is not None or person.task is Task.DIGEST_NOW
    wait = waits
    if timely or not next_at or person.task is Task.RECONSIDER:
        anew = await _decided(services, digest_preferences, now, waits)
        decided += anew
        wait = [] if timely or not next_at else [each.item for each in anew if each.rule is Rule.DIGEST]
    many = sum(each.freed for each in decided) > MAX_SEPARATE_MESSAGES
    chosen = [each for each in decided if (timely and each.rule is Rule.DIGEST) or (many and each.freed)]
    included, fit, ended = await _told(services, person, [each.case for each in chosen])
    stay = {item.delivery for item in wait} | {case.delivery for story in included for case in story}
    go = [ReleasedItem(item, ended.get(item.delivery)) for item in (*held, *waits) if item.delivery not in stay]
    items_of = {each.case.delivery: each.item for each in chosen}
    tell = [(items_of[case.delivery], case) for story in included[:fit] for case in story]
    return DigestPlan(go, wait, tell, sum(map(len, included[fit:])) if timely else None, slot, next_at)


def times(
    since: datetime | None, digest_preferences: DigestPreferences, now: datetime, last: date | None
) -> tuple[DigestTime | None, datetime | None]:
    """The slot whose digest goes out at `now`, None for none, and when the next one comes; quiet hours put it off.

    What waits came at `since`, None for nothing; `last` is the local date of the last digest.
    """
    slot = newest_slot(digest_preferences.rule, since, now, digest_preferences.zone, last) if since else None
    if slot and (quiet := quiet_until(digest_preferences.preferences, now, digest_preferences.zone)):
        return None, quiet
    following = digest_preferences.rule.next_time(now, digest_preferences.zone, slot.date if slot else last)
    return slot, following.at if following else None


def newest_slot(
    rule: DigestSchedule, since: datetime, now: datetime, zone: ZoneInfo, last: date | None
) -> DigestTime | None:
    """The newest slot after `since` and until `now` for a local date after `last`, or None."""
    newest, after = None, max(since, now - LOOK_BACK)
    while (slot := rule.next_time(after, zone, last)) and slot.at <= now:
        newest, after = slot, slot.at
    return newest


async def digest_preferences_of(services: Services, person: RecipientTask) -> DigestPreferences:
    """What the recipient of `person` wants now."""
    settings, reference = services.settings, await services.conversations.of(person.tenant, person.recipient)
    preferences = reference.preferences
    rule = parse_digest_schedule(preferences.digest or settings.default_digest)
    if person.task is Task.DIGEST_NOW:
        preferences = without_holds(preferences)
    tongue = language(preferences.locale, reference.locale)
    return DigestPreferences(preferences, reference.zone(settings.default_time_zone), tongue, rule)


async def _decided(
    services: Services, digest_preferences: DigestPreferences, now: datetime, items: Sequence[HeldDelivery]
) -> list[_Decided]:
    found = await gather_limited(items, lambda item: services.notifications.recent(item.delivery.notification))
    wishes = (services, digest_preferences.preferences, digest_preferences.zone, now)
    return [
        _Decided(item, DigestEntry(item.delivery, notification, item.eligible_since), rule_of(*wishes, notification))
        for item, notification in zip(items, found, strict=True)
        if notification and notification.is_current(now)
    ]


async def _told(
    services: Services, person: RecipientTask, cases: Sequence[DigestEntry]
) -> tuple[list[ThreadGroup], int, dict[Delivery, DeliveryState]]:
    """The stories of these cases, how many of the first one digest tells, and how those end that none tells."""
    ended = await _ended(services, person, cases)
    whole = stories(case for case in cases if case.delivery not in ended)
    included, fit = limited(whole, MAX_DIGEST_ITEMS)
    older = (case.delivery for story, newest in zip(whole, included, strict=True) for case in story[len(newest) :])
    return included, fit, ended | dict.fromkeys(older, DeliveryState.SUPERSEDED)


async def _ended(
    services: Services, person: RecipientTask, cases: Sequence[DigestEntry]
) -> dict[Delivery, DeliveryState]:
    """The final states of those that no digest tells."""
    threads = sorted({(case.delivery.recipient, case.thread) for case in cases if case.thread})
    seen = await gather_limited(threads, lambda thread: services.threads.get(person.tenant, *thread))
    newest = {thread: shown.newest for thread, shown in zip(threads, seen, strict=True) if shown}

    def state(case: DigestEntry) -> DeliveryState | None:
        content = case.notification.content
        if content.simulate or services.categories.of(content.category).simulate:
            return DeliveryState.SIMULATED
        shown = newest.get((case.delivery.recipient, case.thread), case.at)
        return DeliveryState.SUPERSEDED if shown > case.at else None

    return {case.delivery: found for case in cases if (found := state(case))}
