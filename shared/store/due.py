"""Table Due: what to wake at which minute.

The partition key begins with the minute (UTC), so that one range query from the table's start finds all that is
due, and a row written late into a minute that has passed is found too. A row is deleted only once its effect
is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from shared.store import keys
from shared.store.table import Table

VERSION = 1


@dataclass(frozen=True, slots=True)
class Waking:
    """What is to wake: `kind` says what `key` names; `partition` and `row` are the row's own keys."""

    kind: str
    key: str
    partition: str
    row: str


class Due:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def put(self, at: datetime, kind: str, key: str) -> None:
        """Wake `key` in the first minute that begins at or after `at`; the same again changes nothing."""
        minute = at.astimezone(UTC) + timedelta(seconds=59, microseconds=999_999)
        partition = f"{minute:%Y-%m-%dT%H:%M};{keys.shard(key)}"
        await self._table.put({"PartitionKey": partition, "RowKey": f"{kind};{key}", "v": VERSION})

    async def until(self, now: datetime, limit: int) -> list[Waking]:
        """The first `limit` that are due at `now`, oldest minute first."""
        end = f"{now.astimezone(UTC):%Y-%m-%dT%H:%M};~"
        rows = await self._table.query(
            "PartitionKey lt @end", {"end": end}, limit=limit, select=["PartitionKey", "RowKey"]
        )
        return [_waking(row["PartitionKey"], row["RowKey"]) for row in rows]

    async def done(self, waking: Waking) -> None:
        """Forget it: its effect is stored."""
        await self._table.delete(waking.partition, waking.row)


def _waking(partition: str, row: str) -> Waking:
    kind, key = row.split(";", 1)
    return Waking(kind, key, partition, row)
