"""Decide on one delivery, on plain values: is it wanted, is it due, what does its row say, when is the next attempt."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from zoneinfo import ZoneInfo

from shared.preferences.categories import Category
from shared.preferences.delivery_rules import evaluate, evaluate_digest, without_holds
from shared.preferences.preferences import Preferences
from shared.records import ConversationReference, DeliveryRecord
from shared.states import DeliveryState, Purpose, Reason, ReferenceKind, ReferenceStatus, Rule
from shared.teams.outcome import Outcome, Verdict

#: Seconds before the second try, at most, doubled for each one after it, and the longest such wait. The first
#: is between 1 s and this, as Teams asks for ("Rate limiting for bots": exponential backoff with jitter).
FIRST_BACKOFF_SECONDS = 5.0
MAX_BACKOFF_SECONDS = 900.0
#: How long a delivery is tried, from its first try on.
TRY_FOR = timedelta(days=1)
#: Reasons that cost a delivery no attempt and never end it: the delivery does not cause them, and a wrong secret of the
#: bot must not turn a broadcast into failures.
NOT_ITS_MAKING = (Reason.THROTTLED, Reason.PACED, Reason.UNAUTHORIZED, Reason.NO_TOKEN)

#: Why a delivery is held (table HeldDeliveries): its recipient's preferences, or its time in their zone. Both go by the
#: clock of people (`shared.time.clock`), and are evaluated again whenever the delivery's message arrives.
HELD = (Reason.PAUSED, Reason.MUTED, Reason.QUIET_HOURS, Reason.DIGEST, Reason.LOCAL_TIME)

_BY_STATUS = {
    ReferenceStatus.UNINSTALLED: Reason.NOT_INSTALLED,
    ReferenceStatus.BLOCKED: Reason.BLOCKED,
    ReferenceStatus.DELETED: Reason.CONVERSATION_GONE,
}


class Step(Enum):
    """The step that a worker takes with a delivery's message, by the delivery's row."""

    END = "end"  #: nothing: it has its final state
    WAIT = "wait"  #: come back later: another process sends it, or its next try is not due
    SEND = "send"
    RESOLVE = "resolve"  #: a sender died: whether the message arrived is not known


def step(known: DeliveryRecord, now: datetime) -> tuple[Step, datetime]:
    """Return the step to take at `now`, and the time until which `Step.WAIT` waits."""
    if known.state.final:
        return Step.END, now
    if known.state is DeliveryState.SENDING:
        until = known.claimed_until or now
        return (Step.WAIT, until) if until > now else (Step.RESOLVE, now)
    if known.not_before and known.not_before > now:
        return Step.WAIT, known.not_before
    return Step.SEND, now


@dataclass(frozen=True, slots=True)
class Target:
    """Where a delivery goes, and by which row that is known (`kind`, `id`).

    A person's chat which has no `conversation` yet is created; `bot_id` is "" where it is not known.
    """

    kind: ReferenceKind
    id: str
    service_url: str
    conversation: str
    bot_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInput:
    """All by which it is decided whether a notification is sent to a recipient at `now`.

    `target` says where, or why nowhere. `local_at` is its time in the recipient's zone, None where it has none of its
    own, and `missed` that nobody looked until after its grace; `past` says that it had passed from the start, and is
    not to be sent then. `welcomed` says that another welcome reached them, `own` that they set it off themselves.
    `thread` is the key of its thread, "" for none, and `digest` the rule of digests for people who chose none.
    """

    now: datetime
    target: Target | Reason
    category: Category
    preferences: Preferences = field(default_factory=Preferences)
    zone: ZoneInfo
    digest: str = ""
    purpose: Purpose = Purpose.NOTIFICATION
    cancelled: bool = False
    expires: datetime | None = None
    local_at: datetime | None = None
    missed: bool = False
    past: bool = False
    welcomed: bool = False
    own: bool = False
    thread: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The rule that decided. The delivery ends in `state`, or waits until `until`, or else is sent."""

    rule: Rule
    state: DeliveryState | None = None
    reason: Reason | None = None
    until: datetime | None = None


def decide(case: PolicyInput) -> Decision:
    """What to do with a delivery at the moment of sending: the first rule that has something to say."""
    now, preferences = case.now, case.preferences
    if case.cancelled:
        return Decision(Rule.CANCELLED, DeliveryState.CANCELLED)
    if case.expires and case.expires <= now:
        return Decision(Rule.EXPIRED, DeliveryState.EXPIRED)
    if case.local_at and case.local_at > now:
        return Decision(Rule.LOCAL_TIME, reason=Reason.LOCAL_TIME, until=case.local_at)
    if case.missed:
        return Decision(Rule.LOCAL_TIME, DeliveryState.MISSED)
    if case.past:
        return Decision(Rule.LOCAL_TIME, DeliveryState.SUPPRESSED, Reason.PAST)
    if isinstance(case.target, Reason):
        return Decision(Rule.UNREACHABLE, DeliveryState.SUPPRESSED, case.target)
    if case.purpose in (Purpose.REPLY, Purpose.SNOOZE, Purpose.DIGEST_NOW):
        return Decision(Rule.ASKED)
    if case.purpose is Purpose.DIGEST:
        return _decision(*evaluate_digest(preferences, now, case.zone))
    if case.welcomed:
        return Decision(Rule.WELCOMED, DeliveryState.SUPPRESSED, Reason.WELCOMED)
    if case.own and not preferences.own_actions:
        return Decision(Rule.OWN_ACTION, DeliveryState.SUPPRESSED, Reason.OWN_ACTION)
    return _decision(*_evaluate(case, preferences))


def is_for_digest(case: PolicyInput, rule: Rule) -> bool:
    """Return whether `digest now` includes a delivery held by `rule`."""
    if rule in (Rule.PAUSED, Rule.QUIET_HOURS):
        rule, _ = _evaluate(case, without_holds(case.preferences))
    return rule is Rule.DIGEST


def _decision(rule: Rule, until: datetime | None) -> Decision:
    if rule is Rule.OPTED_OUT:
        return Decision(rule, DeliveryState.SUPPRESSED, Reason.OPTED_OUT)
    return Decision(rule, reason=Reason(rule) if until else None, until=until)


def _evaluate(case: PolicyInput, preferences: Preferences) -> tuple[Rule, datetime | None]:
    return evaluate(preferences, case.category, case.thread, now=case.now, zone=case.zone, digest=case.digest)


def person(reference: ConversationReference, tenant: ConversationReference | None) -> Target | Reason:
    """How to reach a person, by what is known of them, maybe nothing, and of their tenant; or why not."""
    if reference.status is not ReferenceStatus.ACTIVE:
        return _BY_STATUS[reference.status]
    service_url = reference.service_url or (tenant and tenant.service_url)
    if not service_url:
        return Reason.NOT_INSTALLED
    return Target(ReferenceKind.USER, reference.id, service_url, reference.conversation_id, reference.bot_id)


def conversation(
    identifier: str, reference: ConversationReference, team: ConversationReference | None
) -> Target | Reason:
    """How to reach a group chat or channel, by what is known of it and of its team; or why not."""
    for known in (reference, team):
        if known and known.status is not ReferenceStatus.ACTIVE:
            return _BY_STATUS[known.status]
    if not reference.service_url:
        return Reason.NOT_INSTALLED
    # A bot is installed in a team, not in its channels: what is learnt of one is true of all.
    of = team or reference
    return Target(of.kind, of.id, reference.service_url, identifier)


def unlisted_reason(team: ConversationReference | None) -> Reason:
    """Why the members of a team were not told, by what is known of it."""
    if team is None:
        return Reason.NOT_INSTALLED
    return Reason.NOT_PERMITTED if team.status is ReferenceStatus.ACTIVE else _BY_STATUS[team.status]


def final_state(outcome: Outcome, on_unknown: str, age: timedelta) -> DeliveryState | None:
    """The final state that an outcome leads to, or None for another try; `age` is since the first try."""
    if outcome.verdict is Verdict.DONE:
        return DeliveryState.SENT
    if outcome.verdict is Verdict.SUPPRESSED:
        return DeliveryState.SUPPRESSED
    if outcome.verdict is Verdict.UNKNOWN and on_unknown == "stop":
        return DeliveryState.UNKNOWN
    over = age > TRY_FOR and outcome.reason not in NOT_ITS_MAKING
    return DeliveryState.FAILED if outcome.verdict is Verdict.FAILED or over else None


def backoff(attempt: int, share: float) -> float:
    """Seconds to wait after attempt number `attempt` (from 1); `share`, from 0 to 1, is the jitter."""
    longest = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** (min(attempt, 20) - 1))
    return 1.0 + share * (longest - 1.0)
