"""Table Timers: what becomes due at which minute.

The partition key begins with the minute (UTC). One range query from the table's start finds all timers that are due,
also one that was written late into a minute that has passed. A row is removed only after its effect is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from shared import keys
from shared.storage.entity_writes import Row
from shared.storage.table import Table, etag_of

VERSION = 1
#: Kinds of what wakes, and what they name.
NOTIFICATION = "notification"  #: list the recipients of the notification of this key
WATCH = "watch"  #: look whether the notification of this key stands still
RELEASE = "release"  #: let go what waited for a recipient until now: tenant, recipient
DIGEST = "digest"  #: the same, and send their digest
OCCURRENCE = "occurrence"  #: announce what is due of a schedule: tenant, name


@dataclass(frozen=True, slots=True)
class DueTimer:
    """What is to wake at `minute` (UTC): `named`, of this `kind`; `partition`, `row` and `etag` are its row's."""

    kind: str
    named: Sequence[str]
    minute: datetime
    partition: str
    row: str
    etag: str


class Timers:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def put(self, at: datetime, kind: str, *named: str) -> None:
        """Wake what is named in the first minute that begins at or after `at`; the same again changes nothing."""
        key = ";".join(named)
        minute = at.astimezone(UTC) + timedelta(seconds=59, microseconds=999_999)
        partition = f"{minute:%Y-%m-%dT%H:%M};{keys.shard(key)}"
        await self._table.put(
            {"PartitionKey": partition, "RowKey": f"{kind};{keys.key(key)}", "v": VERSION, "key": key}
        )

    async def until(self, now: datetime, size: int) -> AsyncIterator[list[DueTimer]]:
        """All that are due at `now`, oldest minute first, `size` at a time, each once, also where it is not removed."""
        end = f"{now.astimezone(UTC):%Y-%m-%dT%H:%M};~"
        async for rows in self._table.pages("PartitionKey lt @end", {"end": end}, size=size):
            yield [_waking(row) for row in rows]

    async def done(self, wakings: Iterable[DueTimer]) -> None:
        """Forget them, as their effect is stored; what was put again since it was read is due again."""
        rows: dict[str, dict[str, str]] = {}
        for waking in wakings:
            rows.setdefault(waking.partition, {})[waking.row] = waking.etag
        await asyncio.gather(*(self._table.clear(partition, those) for partition, those in rows.items()))


def _waking(row: Row) -> DueTimer:
    partition, kind = row["PartitionKey"], row["RowKey"].split(";", 1)[0]
    minute = datetime.fromisoformat(partition.split(";")[0]).replace(tzinfo=UTC)
    # The whole key is a column, as it may be too long for a row's, or hold what that may not.
    return DueTimer(kind, row["key"].split(";", 1), minute, partition, row["RowKey"], etag_of(row))
