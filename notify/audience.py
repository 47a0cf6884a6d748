"""List the recipients of a notification, page by page.

A recipient is written as its row key in table Deliveries: `u:` and an Entra object id, or `c:` and a conversation id.
All ids of one person resolve to the same `u:`, so a person in several audiences gets one delivery. `t:` and a team id
stands for members that Teams does not list: nothing is sent to it, and its row gives the reason.
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

#: Members that Teams returns per request ("Get Teams specific context": 50 to 500).
MIN_PAGE_MEMBERS, MAX_PAGE_MEMBERS = 50, 500
#: Delay before Teams is asked again for the members of a team, unless its answer names one.
RETRY_DELAY_SECONDS = 5.0
#: The prefix of a recipient that stands for the members of a team that Teams does not list.
UNLISTED_TEAM = "t:"

log = logging.getLogger(__name__)

_GROUPS = (TeamRecipient, TopicRecipient, AllRecipient)


@dataclass(frozen=True, slots=True)
class AudiencePage:
    """One page: each recipient with its index in the audience, and the cursor of the next page, "" after the last.

    `empty` has the index of a team, topic or `all` that turned out to have nobody.
    """

    recipients: Mapping[str, int]
    cursor: str
    empty: Sequence[int] = ()


async def list_page(
    services: Services, tenant: str, audience: Sequence[Recipient], cursor: str, limit: int
) -> AudiencePage:
    """Return about `limit` recipients from `cursor` on ("" for the first page). A page may be empty before the last.

    Single recipients come before teams, topics and `all`. The cursor has the position in the audience, where the next
    page of a team, topic or `all` begins, and whether that had anybody so far. Raises `RetryLater` if Teams does not
    answer a request.
    """
    groups = [(index, entry) for index, entry in enumerate(audience) if isinstance(entry, _GROUPS)]
    singles = [(index, entry) for index, entry in enumerate(audience) if not isinstance(entry, _GROUPS)]
    position, after, had_any = orjson.loads(cursor) if cursor else (0, "", False)
    empty: Sequence[int] = ()
    if position < len(singles):
        batch = singles[position : position + limit]
        found: Sequence[str] = await gather_limited(batch, lambda pair: _resolve_single(services, tenant, pair[1]))
        indexes = [index for index, _ in batch]
        position, after, had_any = position + len(batch), "", False
    else:
        index, entry = groups[position - len(singles)]
        found, after = await _list_group(services, tenant, entry, after, limit)
        had_any = bool(had_any or found)
        if not after:
            empty, had_any = () if had_any else [index], False
        indexes = [index] * len(found)
        position += not after
    recipients: dict[str, int] = {}
    for recipient, index in zip(found, indexes, strict=True):
        recipients.setdefault(recipient, index)
    next_cursor = orjson.dumps([position, after, had_any]).decode() if position < len(audience) else ""
    return AudiencePage(recipients, next_cursor, empty)


def explain_empty(audience: Recipient) -> str:
    """Return why a team, topic or `all` has nobody, for a log line."""
    if isinstance(audience, TopicRecipient):
        return "nobody has subscribed to this topic"
    if isinstance(audience, TeamRecipient):
        return "Teams lists no member of this team"
    return "nobody in the tenant has a personal chat with the bot"


async def _list_group(
    services: Services, tenant: str, group: Recipient, after: str, limit: int
) -> tuple[Sequence[str], str]:
    """Return recipients of one team, topic or `all`, and where the next page begins; "" stands for start and end."""
    if isinstance(group, TeamRecipient):
        return await _list_members(services, tenant, group.team, after, limit)
    if isinstance(group, TopicRecipient):
        return await services.topics.subscribers(tenant, group.topic, after, limit)
    ids, after = await services.conversations.list_people(tenant, after, limit)
    return [f"u:{identifier}" for identifier in ids], after


async def _list_members(
    services: Services, tenant: str, team_id: str, after: str, limit: int
) -> tuple[Sequence[str], str]:
    """Return members of a team or group chat as Teams lists them; if Teams refuses, `t:` and its id."""
    team = await _find_team_or_chat(services, tenant, team_id)
    if team is None or team.status is not ReferenceStatus.ACTIVE:
        return [f"{UNLISTED_TEAM}{team.id if team else team_id}"], ""
    route = Route(tenant, team.service_url)
    size = min(max(limit, MIN_PAGE_MEMBERS), MAX_PAGE_MEMBERS)
    outcome = await services.connector.members(route, team.id, size, after)
    if outcome.verdict in (Verdict.RETRY, Verdict.UNKNOWN):
        raise RetryLater(outcome.retry_after or RETRY_DELAY_SECONDS)
    if outcome.verdict is not Verdict.DONE:
        log.warning("Teams refused to list the members of a team (%s); nobody in it is notified", outcome.reason)
        if outcome.reason is Reason.NOT_INSTALLED:
            now = services.real_time()
            await services.conversations.save(
                tenant, team.kind, team.id, {}, at=now, status=ReferenceStatus.UNINSTALLED
            )
        return [f"{UNLISTED_TEAM}{team.id}"], ""
    members = outcome.body.get("members")
    ids = [each.get("aadObjectId") or each.get("objectId") for each in members or () if isinstance(each, dict)]
    token = str(outcome.body.get("continuationToken") or "")
    return [f"u:{identifier.lower()}" for identifier in ids if isinstance(identifier, str)], token


async def _resolve_single(services: Services, tenant: str, recipient: Recipient) -> str:
    if isinstance(recipient, UserRecipient):
        return f"u:{recipient.user}"
    if isinstance(recipient, ChannelRecipient):
        await _store_channel(services, tenant, recipient.channel)
        return f"c:{recipient.channel.channel_id}"
    assert isinstance(recipient, ConversationRecipient)
    reference = await services.conversations.get(tenant, ReferenceKind.CONVERSATION, channel_of(recipient.conversation))
    if reference and reference.user:
        return f"u:{reference.user}"
    return f"c:{recipient.conversation}"


async def _store_channel(services: Services, tenant: str, channel: ChannelId) -> None:
    """Store a reference for a channel that the bot has not heard from, with the serviceUrl of its team."""
    conversations = services.conversations
    if await conversations.get(tenant, ReferenceKind.CONVERSATION, channel.channel_id):
        return
    team = await _find_team(services, tenant, channel.team_id)
    if team:
        observed = {"conversation_type": "channel", "team": team.id, "service_url": team.service_url}
        now = services.real_time()
        await conversations.save(tenant, ReferenceKind.CONVERSATION, channel.channel_id, observed, at=now)


async def _find_team(services: Services, tenant: str, identifier: str) -> ConversationReference | None:
    """Return the reference of the team with this thread id or Entra group id, or None."""
    team = await services.conversations.get(tenant, ReferenceKind.TEAM, identifier)
    if team and team.team:  # the row of a group id holds only the team's thread id
        team = await services.conversations.get(tenant, ReferenceKind.TEAM, team.team)
    return team


async def _find_team_or_chat(services: Services, tenant: str, identifier: str) -> ConversationReference | None:
    team = await _find_team(services, tenant, identifier)
    return team or await services.conversations.get(tenant, ReferenceKind.CONVERSATION, identifier)
