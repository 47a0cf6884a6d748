"""Where a recipient is reached, by what the tables know."""

from __future__ import annotations

from notify import policy
from notify.policy import Target
from shared.services import Services
from shared.states import Reason
from shared.store.conversations import Kind
from shared.teams.ids import channel_of


async def find_target(services: Services, tenant: str, recipient: str) -> Target | Reason:
    """Where a recipient (`notify.audience`) is reached; or why it is not."""
    conversations, identifier = services.conversations, recipient[2:]
    if recipient.startswith("u:"):
        reference = await conversations.get(tenant, Kind.USER, identifier)
        known = reference and reference.service_url
        of_tenant = None if known else await conversations.get(tenant, Kind.TENANT, tenant)
        return policy.person(identifier, reference, of_tenant)
    if recipient.startswith("t:"):
        return policy.untold(await conversations.get(tenant, Kind.TEAM, identifier))
    reference = await conversations.get(tenant, Kind.CONVERSATION, channel_of(identifier))
    team = await conversations.get(tenant, Kind.TEAM, reference.team) if reference and reference.team else None
    return policy.conversation(identifier, reference, team)
