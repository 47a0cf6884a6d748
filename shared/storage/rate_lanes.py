"""Table RateLanes: the next free slot of each tenant, and the recent requests to each conversation.

A row is changed only by its ETag, so that workers never use the same slot twice.
"""

from __future__ import annotations

import orjson

from shared import keys
from shared.rate_windows import RequestHistory
from shared.storage.table import Table

VERSION = 1
_TENANT, _CONVERSATION = "tenant", "conversation"


class RateLanes:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def tenant(self, tenant: str) -> tuple[int, str]:
        """Return the lane's next free slot (microseconds since 1970) and its ETag, or 0 and "" if it has no row."""
        found = await self._table.get(tenant, _TENANT)
        return (int(found[0]["next_slot"]), found[1]) if found else (0, "")

    async def save_tenant(self, tenant: str, next_slot: int, etag: str) -> str:
        """Set the next free slot if the lane still has this ETag; return the new one, or raise `Conflict`."""
        # As text, because `entity_writes` writes integers of 32 bits.
        return await self._write(tenant, _TENANT, {"next_slot": str(next_slot)}, etag)

    async def conversation(self, tenant: str, conversation: str) -> tuple[RequestHistory, str]:
        """Return the recent requests to a conversation, and the ETag of the row, "" if there is none."""
        found = await self._table.get(_partition(tenant, conversation), _CONVERSATION)
        return (_decode(str(found[0]["requests"])), found[1]) if found else (RequestHistory(), "")

    async def save_conversation(self, tenant: str, conversation: str, history: RequestHistory, etag: str) -> str:
        """Save the recent requests if the row still has this ETag; return the new one, or raise `Conflict`."""
        text = orjson.dumps([history.recent, list(history.parts.items()), history.paused_until]).decode()
        return await self._write(_partition(tenant, conversation), _CONVERSATION, {"requests": text}, etag)

    async def _write(self, partition: str, row: str, values: dict[str, str], etag: str) -> str:
        columns = {"PartitionKey": partition, "RowKey": row, "v": VERSION, **values}
        return await (self._table.merge(columns, etag) if etag else self._table.insert(columns))


def _partition(tenant: str, conversation: str) -> str:
    return keys.key(f"{tenant};{conversation}")


def _decode(text: str) -> RequestHistory:
    recent, parts, paused_until = orjson.loads(text)
    return RequestHistory(tuple(recent), dict(parts), paused_until)
