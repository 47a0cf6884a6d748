"""List the recipients of a notification, page by page.

A recipient is a row key of table Deliveries: `u:` and an Entra object id, or `c:` and a conversation id. All the names
of a person lead to the same `u:`, so that overlapping audiences meet in one row. `t:` and a team id stands for members
whom Teams does not list: nothing is ever sent there, and its row gives the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from shared.concurrency import gather_limited
from shared.contract.models import (
    AllRecipient,
    ChannelId,
    ChannelRecipient,
    ConversationRecipient,
    Recipient,
    TeamRecipient,
    TopicRecipient,
    UserRecipient,
)
from shared.conversation_ids import channel_of
from shared.records import ConversationReference
from shared.services import Services
from shared.states import Reason, ReferenceKind, ReferenceStatus
from shared.teams.connector import Route
from shared.teams.outcome import Verdict
from shared.teams.rate_limiter import RetryLater

#: Members of a team that Teams tells at once ("Get Teams specific context": 50 to 500).
MIN_PAGE_MEMBERS, MAX_PAGE_MEMBERS = 50, 500
#: Seconds until Teams is asked again for the members of a team, where it names no time.
RETRY_DELAY_SECONDS = 5.0

log = logging.getLogger(__name__)

_MANY = (TeamRecipient, TopicRecipient, AllRecipient)


@dataclass(frozen=True, slots=True)
class AudiencePage:
    """Some recipients, each with its place in the audience, and where the next page begins; "" after the last."""

    recipients: Mapping[str, int]
    cursor: str


async def list_page(
    services: Services, tenant: str, audience: Sequence[Recipient], cursor: str, limit: int
) -> AudiencePage:
    """The recipients from `cursor` ("" at first) on, about `limit` at most; maybe none, before the end too.

    Those that are named one by one come first. Raises `RetryLater` where Teams has to be asked and does not answer.
    """
    many = [(place, each) for place, each in enumerate(audience) if isinstance(each, _MANY)]
    named = [(place, each) for place, each in enumerate(audience) if not isinstance(each, _MANY)]
    start, after = orjson.loads(cursor) if cursor else (0, "")
    if start < len(named):
        part = named[start : start + limit]
        found: Sequence[str] = await gather_limited(part, lambda pair: _named(services, tenant, pair[1]))
        places = [place for place, _ in part]
        start, after = start + len(part), ""
    else:
        place, each = many[start - len(named)]
        found, after = await _some(services, tenant, each, after, limit)
        places = [place] * len(found)
        start += not after
    recipients: dict[str, int] = {}
    for recipient, place in zip(found, places, strict=True):
        recipients.setdefault(recipient, place)
    return AudiencePage(recipients, _cursor(start, after) if start < len(audience) else "")


async def _some(
    services: Services, tenant: str, audience: Recipient, after: str, limit: int
) -> tuple[Sequence[str], str]:
    """Some recipients of one audience, from `after` ("" at first) on, and where to go on; "" at the end."""
    if isinstance(audience, TeamRecipient):
        return await _members(services, tenant, audience.team, after, limit)
    if isinstance(audience, TopicRecipient):
        return await services.topics.subscribers(tenant, audience.topic, after, limit)
    ids, after = await services.conversations.list_people(tenant, after, limit)
    return [f"u:{each}" for each in ids], after


async def _members(services: Services, tenant: str, team_id: str, after: str, limit: int) -> tuple[Sequence[str], str]:
    """Members of a team or group chat as Teams tells them, or that itself as `t:` where it does not."""
    team = await _with_members(services, tenant, team_id)
    if team is None or team.status is not ReferenceStatus.ACTIVE:
        return [f"t:{team.id if team else team_id}"], ""
    route = Route(tenant, team.service_url)
    size = min(max(limit, MIN_PAGE_MEMBERS), MAX_PAGE_MEMBERS)
    outcome = await services.connector.members(route, team.id, size, after)
    if outcome.verdict in (Verdict.RETRY, Verdict.UNKNOWN):
        raise RetryLater(outcome.retry_after or RETRY_DELAY_SECONDS)
    if outcome.verdict is not Verdict.DONE:
        log.warning("Teams does not tell the members of a team: %s", outcome.reason)
        if outcome.reason is Reason.NOT_INSTALLED:
            now = services.real_time()
            await services.conversations.save(
                tenant, team.kind, team.id, {}, at=now, status=ReferenceStatus.UNINSTALLED
            )
        return [f"t:{team.id}"], ""
    members = outcome.body.get("members")
    found = [each.get("aadObjectId") or each.get("objectId") for each in members or () if isinstance(each, dict)]
    return [f"u:{each.lower()}" for each in found if isinstance(each, str)], str(
        outcome.body.get("continuationToken") or ""
    )


def _cursor(start: int, after: str) -> str:
    return orjson.dumps([start, after]).decode()


async def _named(services: Services, tenant: str, recipient: Recipient) -> str:
    if isinstance(recipient, UserRecipient):
        return f"u:{recipient.user}"
    if isinstance(recipient, ChannelRecipient):
        await _know_channel(services, tenant, recipient.channel)
        return f"c:{recipient.channel.channel_id}"
    assert isinstance(recipient, ConversationRecipient)
    reference = await services.conversations.get(tenant, ReferenceKind.CONVERSATION, channel_of(recipient.conversation))
    if reference and reference.user:
        return f"u:{reference.user}"
    return f"c:{recipient.conversation}"


async def _know_channel(services: Services, tenant: str, channel: ChannelId) -> None:
    """Store the reference of a channel from which nothing came yet, by that of its team."""
    conversations = services.conversations
    if await conversations.get(tenant, ReferenceKind.CONVERSATION, channel.channel_id):
        return
    team = await _team(services, tenant, channel.team_id)
    if team:
        seen = {"conversation_type": "channel", "team": team.id, "service_url": team.service_url}
        await conversations.save(tenant, ReferenceKind.CONVERSATION, channel.channel_id, seen, at=services.real_time())


async def _team(services: Services, tenant: str, identifier: str) -> ConversationReference | None:
    """The team of this thread id or Entra group id, or None."""
    team = await services.conversations.get(tenant, ReferenceKind.TEAM, identifier)
    if team and team.team:  # the alias of its group id
        team = await services.conversations.get(tenant, ReferenceKind.TEAM, team.team)
    return team


async def _with_members(services: Services, tenant: str, identifier: str) -> ConversationReference | None:
    """The team of this id, or the group chat, or None."""
    team = await _team(services, tenant, identifier)
    return team or await services.conversations.get(tenant, ReferenceKind.CONVERSATION, identifier)
