"""Table RateLanes: the next free slot of a tenant, and the recent requests to a conversation.

A row is changed only by its ETag, so that workers never give out the same slot twice.
"""

from __future__ import annotations

import orjson

from shared import keys
from shared.rate_windows import Sends
from shared.storage.table import Table

VERSION = 1
_TENANT, _CONVERSATION = "tenant", "conversation"


class RateLanes:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def tenant(self, tenant: str) -> tuple[int, str]:
        """The lane's next free slot (microseconds since 1970), and its ETag, "" where it has none."""
        found = await self._table.get(tenant, _TENANT)
        return (int(found[0]["following"]), found[1]) if found else (0, "")

    async def move_tenant(self, tenant: str, following: int, etag: str) -> str:
        """Set the next free slot where the lane still has this ETag; returns the new one, or raises `Conflict`."""
        # As text: a column of numbers holds 32 bits unless told otherwise.
        return await self._write(tenant, _TENANT, {"following": str(following)}, etag)

    async def conversation(self, tenant: str, conversation: str) -> tuple[Sends, str]:
        """What went to a conversation lately, and the ETag of that, "" where there is none."""
        found = await self._table.get(_partition(tenant, conversation), _CONVERSATION)
        return (_sends(str(found[0]["sends"])), found[1]) if found else (Sends(), "")

    async def move_conversation(self, tenant: str, conversation: str, sends: Sends, etag: str) -> str:
        """Write what went to it where the row still has this ETag; returns the new one, or raises `Conflict`."""
        text = orjson.dumps([sends.recent, list(sends.parts.items()), sends.held]).decode()
        return await self._write(_partition(tenant, conversation), _CONVERSATION, {"sends": text}, etag)

    async def _write(self, partition: str, row: str, columns: dict[str, str], etag: str) -> str:
        whole = {"PartitionKey": partition, "RowKey": row, "v": VERSION, **columns}
        return await (self._table.merge(whole, etag) if etag else self._table.insert(whole))


def _partition(tenant: str, conversation: str) -> str:
    return keys.key(f"{tenant};{conversation}")


def _sends(text: str) -> Sends:
    recent, parts, held = orjson.loads(text)
    return Sends(tuple(recent), dict(parts), held)
