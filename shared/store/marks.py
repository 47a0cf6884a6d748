"""Table Marks: facts that are true once they are written, such as which notifications share a cancellation key."""

from __future__ import annotations

from collections.abc import Sequence

from shared.store import keys
from shared.store.table import Table

VERSION = 1
#: Most marks of one kind that are read.
LONGEST = 1000


class Marks:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def put(self, what: str, which: str) -> None:
        """Mark `which` as `what`; the same again changes nothing."""
        await self._table.put({"PartitionKey": keys.key(what), "RowKey": keys.key(which), "v": VERSION})

    async def of(self, what: str) -> Sequence[str]:
        """All that is marked as `what`."""
        rows = await self._table.query("PartitionKey eq @what", {"what": keys.key(what)}, limit=LONGEST)
        return [keys.unkey(row["RowKey"]) for row in rows]


def cancellation(tenant: str, cancellation_key: str) -> str:
    """The mark of the notifications of a tenant that share this cancellation key."""
    return f"cancellation;{keys.digest(tenant, cancellation_key)}"
