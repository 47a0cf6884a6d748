"""Table Timers: what becomes due at which minute.

The partition key begins with the minute (UTC). One range query from the start of the table finds all due timers,
including one that was written late for a minute that has passed. A timer is deleted only after its effect is stored.
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
#: The kinds of timers, and what their `subject` is.
NOTIFICATION = "notification"  #: expand the audience of a notification: its key
WATCHDOG = "watchdog"  #: resume a notification if it makes no progress: its key
RELEASE = "release"  #: release the deliveries held for a recipient until now: tenant, recipient
DIGEST = "digest"  #: the same for a digest: enqueued at the tenant's rate: tenant, recipient
OCCURRENCE = "occurrence"  #: announce the due occurrences of a schedule: tenant, name


@dataclass(frozen=True, slots=True)
class DueTimer:
    """A timer of `kind` for `subject` that is due at `minute` (UTC), with the keys and the ETag of its row."""

    kind: str
    subject: Sequence[str]
    minute: datetime
    partition: str
    row: str
    etag: str


class Timers:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def put(self, at: datetime, kind: str, *subject: str) -> None:
        """Set a timer for the first minute that begins at or after `at`; to repeat it has no effect."""
        key = ";".join(subject)
        minute = at.astimezone(UTC) + timedelta(seconds=59, microseconds=999_999)
        partition = f"{minute:%Y-%m-%dT%H:%M};{keys.shard(key)}"
        await self._table.put(
            {"PartitionKey": partition, "RowKey": f"{kind};{keys.key(key)}", "v": VERSION, "key": key}
        )

    async def read_due(self, now: datetime, size: int) -> AsyncIterator[list[DueTimer]]:
        """Yield the timers that are due at `now`, `size` at a time, the oldest minute first.

        Each timer is yielded once, even if it is not deleted.
        """
        end = f"{now.astimezone(UTC):%Y-%m-%dT%H:%M};~"
        async for rows in self._table.pages("PartitionKey lt @end", {"end": end}, size=size):
            yield [_due_timer(row) for row in rows]

    async def delete(self, timers: Iterable[DueTimer]) -> None:
        """Delete timers whose effect is stored; a timer that was set again since it was read stays."""
        partitions: dict[str, dict[str, str]] = {}
        for timer in timers:
            partitions.setdefault(timer.partition, {})[timer.row] = timer.etag
        await asyncio.gather(*(self._table.clear(partition, rows) for partition, rows in partitions.items()))


def _due_timer(row: Row) -> DueTimer:
    partition, kind = row["PartitionKey"], row["RowKey"].split(";", 1)[0]
    minute = datetime.fromisoformat(partition.split(";")[0]).replace(tzinfo=UTC)
    # The subject is read from a column: a row key may be hashed because of its length, or encoded.
    return DueTimer(kind, row["key"].split(";", 1), minute, partition, row["RowKey"], etag_of(row))
