"""Who a notification goes to, page by page.

A recipient is a row key of table Deliveries: `u:` and an Entra object id, or `c:` and a conversation id. All
the names by which a person can be given lead to the same `u:`, so that overlapping audiences meet in one row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from shared.contract import AllRecipient, ChannelId, ChannelRecipient, ConversationRecipient, Recipient, UserRecipient
from shared.services import Services
from shared.store.conversations import Kind
from shared.teams.ids import channel_of

#: Recipients that are looked up at the same time.
AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Page:
    """Some recipients, and where the next page begins; "" after the last."""

    recipients: Sequence[str]
    cursor: str


async def page(services: Services, tenant: str, audience: Sequence[Recipient], cursor: str, limit: int) -> Page:
    """The recipients from `cursor` ("" at first) on, `limit` at most; maybe none, before the end too.

    Those that are named one by one come first, then everyone.
    """
    named = [each for each in audience if not isinstance(each, AllRecipient)]
    everyone = len(named) < len(audience)
    start, after = orjson.loads(cursor) if cursor else (0, "")
    if start < len(named):
        part = named[start : start + limit]
        gate = asyncio.Semaphore(AT_ONCE)
        found = await asyncio.gather(*(_named(services, tenant, each, gate) for each in part))
        end = start + len(part)
        more = end < len(named) or everyone
        return Page(list(dict.fromkeys(found)), _cursor(end, "") if more else "")
    ids, after = await services.conversations.people(tenant, after, limit)
    return Page([f"u:{each}" for each in ids], _cursor(start, after) if after else "")


def _cursor(start: int, after: str) -> str:
    return orjson.dumps([start, after]).decode()


async def _named(services: Services, tenant: str, recipient: Recipient, gate: asyncio.Semaphore) -> str:
    async with gate:
        if isinstance(recipient, UserRecipient):
            return f"u:{recipient.user}"
        if isinstance(recipient, ChannelRecipient):
            await _know_channel(services, tenant, recipient.channel)
            return f"c:{recipient.channel.channel_id}"
        assert isinstance(recipient, ConversationRecipient)
        reference = await services.conversations.get(tenant, Kind.CONVERSATION, channel_of(recipient.conversation))
        if reference and reference.user:
            return f"u:{reference.user}"
        return f"c:{recipient.conversation}"


async def _know_channel(services: Services, tenant: str, channel: ChannelId) -> None:
    """Store the reference of a channel from which nothing came yet, by that of its team."""
    conversations = services.conversations
    if await conversations.get(tenant, Kind.CONVERSATION, channel.channel_id):
        return
    team = await conversations.get(tenant, Kind.TEAM, channel.team_id)
    if team and team.team:  # named by its Entra group id
        team = await conversations.get(tenant, Kind.TEAM, team.team)
    if team:
        seen = {"conversation_type": "channel", "team": team.id, "service_url": team.service_url}
        await conversations.save(tenant, Kind.CONVERSATION, channel.channel_id, seen, at=services.clock())
