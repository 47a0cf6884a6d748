"""Table RateLanes: the slots of each tenant, and the recent requests to each roster, and through Graph to each team.

Those to a person, chat or channel are in their row in table Conversations, which a delivery reads anyway. A row is
changed only by its ETag, so that workers never use the same slot twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import orjson

from shared import keys
from shared.rate_windows import (
    GRAPH_TEAM_WINDOWS,
    MAX_TURN_LEAD,
    ROSTER_WINDOWS,
    SEND_WINDOWS,
    TURN_WINDOWS,
    ConversationLane,
    RequestHistory,
    TenantLane,
    Windows,
)
from shared.records import StoredLane
from shared.storage.conversations import Conversations
from shared.storage.table import Table

VERSION = 1


class TenantLaneKind(StrEnum):
    """The requests that share the slots of a tenant."""

    CONNECTOR = "tenant"  #: all requests to the Bot Connector
    GRAPH_INSTALL = "graphInstall"  #: installs of the app through Graph
    GRAPH_CHECK = "graphCheck"  #: reads of where the app is installed, through Graph


class LaneKind(StrEnum):
    """The requests that share the windows of a conversation or team."""

    CONVERSATION = "conversation"  #: of a recipient: messages, edits, deletions, and the creation of a person's chat
    ROSTER = "roster"  #: lists of members and channels
    GRAPH_TEAM = "graphTeam"  #: requests to Graph about one team


_WINDOWS: Mapping[LaneKind, Windows] = {
    LaneKind.CONVERSATION: SEND_WINDOWS,
    LaneKind.ROSTER: ROSTER_WINDOWS,
    LaneKind.GRAPH_TEAM: GRAPH_TEAM_WINDOWS,
}


class RateLanes:
    """The lanes of tenants for one kind of request, and those of conversations and teams."""

    def __init__(
        self,
        table: Table,
        kind: TenantLaneKind = TenantLaneKind.CONNECTOR,
        conversations: Conversations | None = None,
    ) -> None:
        """Without `conversations`, this table has the lanes of recipients, too."""
        self._table, self._kind, self._conversations = table, kind, conversations

    async def tenant(self, tenant: str, now: int) -> tuple[TenantLane, str]:
        """Return the tenant's lane and its ETag, "" if it has no row; `now` in microseconds since 1970."""
        found = await self._table.get(tenant, self._kind)
        if found is None:
            return TenantLane(), ""
        row, etag = found
        refused = tuple((int(at), str(name)) for at, name in orjson.loads(row.get("refused") or b"[]"))
        return TenantLane(int(row["next_slot"]), int(row.get("paused_until", 0)), refused).believed(now), etag

    async def save_tenant(self, tenant: str, lane: TenantLane, etag: str) -> str:
        """Save the lane if its row still has this ETag; return the new one, or raise `Conflict`."""
        # As text, because `entity_writes` writes integers of 32 bits.
        columns = {"next_slot": str(lane.next_slot), "paused_until": str(lane.paused_until)}
        return await self._write(tenant, self._kind, columns | {"refused": orjson.dumps(lane.refused).decode()}, etag)

    async def conversation(
        self, tenant: str, conversation: str, now: int, kind: LaneKind = LaneKind.CONVERSATION
    ) -> tuple[ConversationLane, str]:
        """Return the lane of a recipient (`Delivery.recipient`), a roster or team, and the ETag of its row.

        The ETag is "" if there is no row.
        """
        if kind is LaneKind.CONVERSATION and self._conversations:
            stored = (await self._conversations.get_recipient(tenant, conversation)).lane
        else:
            row, etag = await self._table.get(_partition(tenant, conversation), kind) or ({}, "")
            stored = StoredLane(row.get("requests", ""), row.get("turns", ""), etag)
        return decode_lane(stored, now, kind), stored.etag

    async def save_conversation(
        self,
        tenant: str,
        conversation: str,
        lane: ConversationLane,
        etag: str,
        now: int,
        kind: LaneKind = LaneKind.CONVERSATION,
    ) -> str:
        """Save the lane if its row still has this ETag; return the new one, or raise `Conflict`.

        Turns are saved while one of them is still to come.
        """
        columns = {"requests": _encode(lane.sent), "turns": _encode(lane.turns) if lane.is_reserved(now) else ""}
        if kind is LaneKind.CONVERSATION and self._conversations:
            return await self._conversations.save_lane(tenant, conversation, StoredLane(**columns, etag=etag))
        return await self._write(_partition(tenant, conversation), kind, columns, etag)

    async def _write(self, partition: str, row: str, values: dict[str, str], etag: str) -> str:
        columns = {"PartitionKey": partition, "RowKey": str(row), "v": VERSION, **values}
        return await (self._table.merge(columns, etag) if etag else self._table.insert(columns))


def decode_lane(stored: StoredLane, now: int, kind: LaneKind = LaneKind.CONVERSATION) -> ConversationLane:
    """Return a stored lane, without times that no worker writes; `now` in microseconds since 1970."""
    # Without turns, none is reserved: those of the latest messages were when they were sent.
    sent, turns = _decode(stored.requests, _WINDOWS[kind]), _decode(stored.turns or stored.requests, TURN_WINDOWS)
    return ConversationLane(sent.believed(now), turns.believed(now, MAX_TURN_LEAD))


def _partition(tenant: str, conversation: str) -> str:
    return keys.key(f"{tenant};{conversation}")


def _encode(history: RequestHistory) -> str:
    return orjson.dumps([history.recent, list(history.parts.items()), history.paused_until]).decode()


def _decode(text: object, windows: Windows) -> RequestHistory:
    if not text:
        return RequestHistory(windows=windows)
    recent, parts, paused_until = orjson.loads(str(text))
    return RequestHistory(tuple(recent), dict(parts), paused_until, windows)
