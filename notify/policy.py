"""Decide on one delivery from plain values: whether to send, hold or end it, and when to try again."""

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

#: Upper bound of the wait before the second try; it doubles for each later try, up to the second value. A wait is
#: between 1 s and that bound: Teams asks for exponential backoff with jitter ("Rate limiting for bots").
FIRST_BACKOFF_SECONDS = 5.0
MAX_BACKOFF_SECONDS = 900.0
#: A delivery is tried for this long after its first try.
RETRY_PERIOD = timedelta(days=1)
#: Requests of one delivery whose outcome is unknown: the message may then have arrived that often.
MAX_UNKNOWN_OUTCOMES = 3
#: Reasons that do not count as an attempt and never end a delivery: the delivery does not cause them. A wrong secret of
#: the bot must not make a broadcast fail.
UNCOUNTED_REASONS = (Reason.THROTTLED, Reason.PACED, Reason.UNAUTHORIZED, Reason.NO_TOKEN)

#: A digest is made when a pause or quiet hours end, by an instance whose clock may be ahead by this much.
CLOCK_SKEW = timedelta(seconds=5)

#: Reasons to hold a delivery (table HeldDeliveries): its recipient's preferences, its time in their zone, or an install
#: that it waits for. All follow the movable clock (`Services.clock`), and are evaluated again when the delivery's
#: message arrives.
HOLD_REASONS = (
    Reason.PAUSED,
    Reason.MUTED,
    Reason.QUIET_HOURS,
    Reason.DIGEST,
    Reason.LOCAL_TIME,
    Reason.NOT_INSTALLED,
)

#: Reasons that an install ends.
MISSING = (Reason.NOT_INSTALLED, Reason.NOT_PERSONAL_SCOPE)

_REASON_BY_STATUS = {
    ReferenceStatus.UNINSTALLED: Reason.NOT_INSTALLED,
    ReferenceStatus.BLOCKED: Reason.BLOCKED,
    ReferenceStatus.DELETED: Reason.CONVERSATION_GONE,
}


class Step(Enum):
    """The step that a worker takes with a delivery's message, depending on the delivery's row."""

    END = "end"  #: it has its final state: only repeat what follows from that
    WAIT = "wait"  #: requeue, unless it is held: another worker has the claim, or the next try is not due
    SEND = "send"
    RESOLVE = "resolve"  #: the claim ended without a result: its request may have reached Teams


def next_step(known: DeliveryRecord, now: datetime) -> tuple[Step, datetime]:
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
    """The conversation of a delivery, and the conversation reference (`kind`, `id`) that names it.

    `conversation` is "" for a person whose chat is still to be created, and `bot_id` is "" if it is not known.
    `is_probe`: an old mark says that it cannot be reached, and the request shows whether that still holds.
    """

    kind: ReferenceKind
    id: str
    service_url: str
    conversation: str
    bot_id: str = ""
    is_channel: bool = False
    is_probe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInput:
    """The values that decide whether a notification is sent to a recipient at `now`.

    `target` is where to send it, or the reason why it cannot be sent. `local_at` is when it is due in the recipient's
    zone, None if it is due everywhere at once. `hold_until` is until when it waits for an install where the bot is not
    installed, None if it does not. `is_missed` means that its grace ended before a worker got to it, and
    `is_past` that its local time had passed from the start and `ifPast` is `skip`. `is_welcomed` means that another
    welcome was sent to the recipient, `is_own_action` that the recipient caused the notification. `thread` is its
    thread key, "" for none, and `default_digest` the digest schedule of people who chose none.
    """

    now: datetime
    target: Target | Reason
    category: Category
    preferences: Preferences = field(default_factory=Preferences)
    zone: ZoneInfo
    default_digest: str = ""
    purpose: Purpose = Purpose.NOTIFICATION
    is_cancelled: bool = False
    expires: datetime | None = None
    local_at: datetime | None = None
    hold_until: datetime | None = None
    is_missed: bool = False
    is_past: bool = False
    is_welcomed: bool = False
    is_own_action: bool = False
    thread: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The rule that decided: the delivery ends in `state`, or is held until `until`, or is sent if both are None."""

    rule: Rule
    state: DeliveryState | None = None
    reason: Reason | None = None
    until: datetime | None = None


def decide(policy_input: PolicyInput) -> Decision:
    """Decide on a delivery just before it is sent: the first rule that applies wins."""
    now, preferences = policy_input.now, policy_input.preferences
    if policy_input.is_cancelled:
        return Decision(Rule.CANCELLED, DeliveryState.CANCELLED)
    if policy_input.expires and policy_input.expires <= now:
        return Decision(Rule.EXPIRED, DeliveryState.EXPIRED)
    if policy_input.local_at and policy_input.local_at > now:
        return Decision(Rule.LOCAL_TIME, reason=Reason.LOCAL_TIME, until=policy_input.local_at)
    if policy_input.is_missed:
        return Decision(Rule.LOCAL_TIME, DeliveryState.MISSED)
    if policy_input.is_past:
        return Decision(Rule.LOCAL_TIME, DeliveryState.SUPPRESSED, Reason.PAST)
    if isinstance(policy_input.target, Reason):
        hold_until = policy_input.hold_until
        if policy_input.target in MISSING and hold_until and hold_until > now:
            return Decision(Rule.UNREACHABLE, reason=Reason.NOT_INSTALLED, until=hold_until)
        return Decision(Rule.UNREACHABLE, DeliveryState.SUPPRESSED, policy_input.target)
    if policy_input.purpose in (Purpose.REPLY, Purpose.SNOOZE, Purpose.EXEMPT_DIGEST):
        return Decision(Rule.ASKED)
    if policy_input.purpose in (Purpose.DIGEST, Purpose.DIGEST_NOW):
        is_asked = policy_input.purpose is Purpose.DIGEST_NOW
        checked = without_holds(preferences) if is_asked else preferences
        return _decision(*evaluate_digest(checked, now + CLOCK_SKEW, policy_input.zone))
    if policy_input.is_welcomed:
        return Decision(Rule.WELCOMED, DeliveryState.SUPPRESSED, Reason.WELCOMED)
    if policy_input.is_own_action and not preferences.own_actions:
        return Decision(Rule.OWN_ACTION, DeliveryState.SUPPRESSED, Reason.OWN_ACTION)
    return _decision(*_evaluate(policy_input, preferences))


def is_for_digest(policy_input: PolicyInput, rule: Rule) -> bool:
    """Return whether `digest now` includes a delivery held by `rule`."""
    if rule in (Rule.PAUSED, Rule.QUIET_HOURS):
        rule, _ = _evaluate(policy_input, without_holds(policy_input.preferences))
    return rule is Rule.DIGEST


def _decision(rule: Rule, until: datetime | None) -> Decision:
    if rule is Rule.OPTED_OUT:
        return Decision(rule, DeliveryState.SUPPRESSED, Reason.OPTED_OUT)
    return Decision(rule, reason=Reason(rule) if until else None, until=until)


def _evaluate(policy_input: PolicyInput, preferences: Preferences) -> tuple[Rule, datetime | None]:
    return evaluate(
        preferences,
        policy_input.category,
        policy_input.thread,
        now=policy_input.now,
        zone=policy_input.zone,
        digest=policy_input.default_digest,
    )


def person_target(
    reference: ConversationReference, tenant: ConversationReference | None, probe_before: datetime
) -> Target | Reason:
    """Return how to reach a person, or why not. A serviceUrl that is unknown is taken from their tenant.

    Somebody who blocked the bot before `probe_before` may have unblocked it.
    """
    is_marked = reference.status is not ReferenceStatus.ACTIVE
    if is_marked and not is_probed(reference, probe_before):
        return _REASON_BY_STATUS[reference.status]
    service_url = reference.service_url or (tenant and tenant.service_url)
    if not service_url:
        return Reason.NOT_INSTALLED
    return Target(
        ReferenceKind.USER, reference.id, service_url, reference.conversation_id, reference.bot_id, is_probe=is_marked
    )


def conversation_target(
    identifier: str, reference: ConversationReference, team: ConversationReference | None, probe_before: datetime
) -> Target | Reason:
    """Return how to reach a group chat or channel, or why not; `team` is the channel's team.

    A mark from before `probe_before` may no longer hold.
    """
    if team and team.status is not ReferenceStatus.ACTIVE and not is_probed(team, probe_before):
        return _REASON_BY_STATUS[team.status]
    # A refusal marks one channel. The bot may since have been installed in the team again.
    is_marked = reference.status is not ReferenceStatus.ACTIVE
    is_outdated = team and reference.status is ReferenceStatus.UNINSTALLED and team.status_at > reference.status_at
    if is_marked and not is_outdated and not is_probed(reference, probe_before):
        return _REASON_BY_STATUS[reference.status]
    if not reference.service_url:
        return Reason.NOT_INSTALLED
    return Target(
        reference.kind,
        reference.id,
        reference.service_url,
        identifier,
        is_channel=team is not None,
        is_probe=is_marked,
    )


def is_probed(reference: ConversationReference, probe_before: datetime) -> bool:
    """Return whether a mark is so old that one request shows whether it still holds: no event tells of an unblocking.

    An uninstall of a person is an event, and its mark stays until the next install. One of a team is also marked after
    Teams has refused to list its members.
    """
    may_be_outdated = reference.status is ReferenceStatus.BLOCKED or (
        reference.status is ReferenceStatus.UNINSTALLED and reference.kind is not ReferenceKind.USER
    )
    return may_be_outdated and reference.status_at < probe_before.isoformat()


def unlisted_reason(team: ConversationReference | None) -> Reason:
    """Return why Teams did not list the members of a team."""
    if team is None:
        return Reason.NOT_INSTALLED
    return Reason.NOT_PERMITTED if team.status is ReferenceStatus.ACTIVE else _REASON_BY_STATUS[team.status]


def final_state(outcome: Outcome, on_unknown: str, age: timedelta, unknown_outcomes: int = 0) -> DeliveryState | None:
    """Return the final state after a request's outcome, or None for another try.

    `age` is the time since the first try, and `unknown_outcomes` counts the earlier requests whose outcome is unknown.
    """
    if outcome.verdict is Verdict.DONE:
        return DeliveryState.SENT
    if outcome.verdict is Verdict.SUPPRESSED:
        return DeliveryState.SUPPRESSED
    if outcome.verdict is Verdict.UNKNOWN and not may_resend(on_unknown, unknown_outcomes + 1):
        return DeliveryState.UNKNOWN
    exhausted = age > RETRY_PERIOD and outcome.reason not in UNCOUNTED_REASONS
    return DeliveryState.FAILED if outcome.verdict is Verdict.FAILED or exhausted else None


def may_resend(on_unknown: str, unknown_outcomes: int) -> bool:
    """Return whether to send a message again after so many requests whose outcome is unknown."""
    return on_unknown != "stop" and unknown_outcomes < MAX_UNKNOWN_OUTCOMES


def backoff(attempt: int, jitter: float) -> float:
    """Return the seconds to wait after attempt number `attempt` (from 1); `jitter` is from 0 to 1."""
    longest = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** (min(attempt, 20) - 1))
    return 1.0 + jitter * (longest - 1.0)
