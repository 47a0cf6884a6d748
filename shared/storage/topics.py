"""Table Topics: the subscribers of each topic."""

from __future__ import annotations

from collections.abc import Sequence

from shared import keys
from shared.storage.table import Table

VERSION = 1


class Topics:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def subscribe(self, tenant: str, topic: str, recipient: str) -> None:
        """Subscribe a recipient: `u:` and an Entra object id, or `c:` and a conversation id."""
        row = {"PartitionKey": _partition(tenant, topic), "RowKey": keys.key(recipient)}
        await self._table.put(row | {"recipient": recipient, "v": VERSION})

    async def unsubscribe(self, tenant: str, topic: str, recipient: str) -> None:
        await self._table.delete(_partition(tenant, topic), keys.key(recipient))

    async def subscribers(self, tenant: str, topic: str, after: str, limit: int) -> tuple[Sequence[str], str]:
        """Return up to `limit` subscribers, and the cursor of the next page ("" at the end)."""
        rows = await self._table.query(
            "PartitionKey eq @partition and RowKey gt @after",
            {"partition": _partition(tenant, topic), "after": after},
            limit=limit,
        )
        return [row["recipient"] for row in rows], rows[-1]["RowKey"] if len(rows) == limit else ""


def _partition(tenant: str, topic: str) -> str:
    return keys.key(f"{tenant};{keys.hash_of(topic.strip().casefold())}")
