"""Where a recipient is reached, and what they want, by what the tables know."""

from __future__ import annotations

from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from notify import policy
from notify.policy import Target
from shared.localtime import zone
from shared.preferences import Preferences
from shared.services import Services
from shared.states import Reason
from shared.store.conversations import Kind, Reference
from shared.teams.ids import channel_of


@dataclass(frozen=True, slots=True)
class Addressee:
    """A recipient: where they are reached, or why not; what they want; and the zone in which they live."""

    target: Target | Reason
    zone: ZoneInfo
    preferences: Preferences = field(default_factory=Preferences)


async def find(services: Services, tenant: str, recipient: str) -> Addressee:
    """All that is known of a recipient (`notify.audience`)."""
    conversations, identifier = services.conversations, recipient[2:]
    if recipient.startswith("t:"):
        team = await conversations.get(tenant, Kind.TEAM, identifier)
        return _addressee(services, policy.untold(team), None)
    if recipient.startswith("u:"):
        reference = await conversations.get(tenant, Kind.USER, identifier)
        known = reference and reference.service_url
        of_tenant = None if known else await conversations.get(tenant, Kind.TENANT, tenant)
        return _addressee(services, policy.person(identifier, reference, of_tenant), reference)
    reference = await conversations.get(tenant, Kind.CONVERSATION, channel_of(identifier))
    team = await conversations.get(tenant, Kind.TEAM, reference.team) if reference and reference.team else None
    return _addressee(services, policy.conversation(identifier, reference, team), reference)


def _addressee(services: Services, target: Target | Reason, reference: Reference | None) -> Addressee:
    if reference is None:
        return Addressee(target, zone(services.settings.default_time_zone))
    chosen = reference.preferences.time_zone or reference.time_zone or services.settings.default_time_zone
    return Addressee(target, zone(chosen), reference.preferences)
