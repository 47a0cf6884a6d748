"""Resolve a recipient to its conversation reference, time zone and preferences."""

from __future__ import annotations

from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from notify import policy
from notify.policy import Target
from shared.preferences.preferences import Preferences
from shared.records import ConversationReference, StoredLane
from shared.services import Services
from shared.states import Reason, ReferenceKind
from shared.teams.outcome import Outcome
from shared.time.localtime import load_zone

_REASONS = frozenset(str(reason) for reason in Reason)


@dataclass(frozen=True, slots=True)
class ResolvedRecipient:
    """A recipient's target, or the reason why there is none, with their time zone and preferences.

    `status_at` is that of the reference of a person, `lane` that of any reference (`ConversationReference`).
    """

    target: Target | Reason
    zone: ZoneInfo
    preferences: Preferences = field(default_factory=Preferences)
    status_at: str = ""
    lane: StoredLane = field(default=StoredLane(), compare=False)


async def resolve(
    services: Services, tenant: str, recipient: str, reference: ConversationReference | None = None
) -> ResolvedRecipient:
    """Read what the tables hold about a recipient, which is written as in `notify.audience`.

    `reference` is the recipient's, if it was just read.
    """
    conversations, identifier = services.conversations, recipient[2:]
    default_zone = services.settings.default_time_zone
    probe_before = services.real_time() - services.settings.probe_after
    if recipient.startswith("t:"):
        if (reason := identifier.partition(":")[0]) in _REASONS:
            return ResolvedRecipient(Reason(reason), load_zone(default_zone))
        team = await conversations.get(tenant, ReferenceKind.TEAM, identifier)
        return ResolvedRecipient(policy.unlisted_reason(team), load_zone(default_zone))
    reference = reference or await conversations.get_recipient(tenant, recipient)
    if recipient.startswith("u:"):
        of_tenant = None if reference.service_url else await conversations.get(tenant, ReferenceKind.TENANT, tenant)
        target = policy.person_target(reference, of_tenant, probe_before)
    else:
        team = await conversations.get(tenant, ReferenceKind.TEAM, reference.team) if reference.team else None
        target = policy.conversation_target(identifier, reference, team, probe_before)
    status_at = reference.status_at if recipient.startswith("u:") else ""
    return ResolvedRecipient(target, reference.zone(default_zone), reference.preferences, status_at, reference.lane)


async def store_host(services: Services, tenant: str, target: Target | ConversationReference, outcome: Outcome) -> None:
    """Store the serviceUrl in the target's reference if another one executed the request than was asked first."""
    if outcome.service_url:
        observed, at = {"service_url": outcome.service_url}, services.real_time()
        await services.conversations.save(tenant, target.kind, target.id, observed, at=at, create=False)
