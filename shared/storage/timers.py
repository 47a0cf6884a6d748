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
from shared.storage.unreadable import UnreadableRow, check_version, read_text

VERSION = 1
#: The kinds of timers, and what their `subject` is.
NOTIFICATION = "notification"  #: expand the audience of a notification: its key
WATCHDOG = "watchdog"  #: resume a notification if it makes no progress: its key
RELEASE = "release"  #: release the deliveries held for a recipient until now: tenant, recipient
DIGEST = "digest"  #: the same for a digest: enqueued at the tenant's rate: tenant, recipient
OCCURRENCE = "occurrence"  #: announce the due occurrences of a schedule: tenant, name
#: The number of parts of the subject of each kind.
_SUBJECT_PARTS = {NOTIFICATION: 1, WATCHDOG: 1, RELEASE: 2, DIGEST: 2, OCCURRENCE: 2}


@dataclass(frozen=True, slots=True)
class DueTimer:
    """A timer of `kind` for `subject` that is due at `minute` (UTC), with the keys and the ETag of its row.

    If the row cannot be read, `unreadable` says why, and `subject` and `minute` have no meaning.
    """

    kind: str
    subject: Sequence[str]
    minute: datetime
    partition: str
    row: str
    etag: str
    unreadable: UnreadableRow | None = None


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
    partition, key, etag = row["PartitionKey"], row["RowKey"], etag_of(row)
    try:
        return DueTimer(*_read(row), partition, key, etag)
    except UnreadableRow as unreadable:
        return DueTimer(key.split(";", 1)[0], (), datetime.min.replace(tzinfo=UTC), partition, key, etag, unreadable)


def _read(row: Row) -> tuple[str, Sequence[str], datetime]:
    """Return the kind, the subject and the minute of a timer; raises `UnreadableRow`."""
    check_version(row, VERSION)
    minute, kind = row["PartitionKey"].split(";")[0], row["RowKey"].split(";", 1)[0]
    if kind not in _SUBJECT_PARTS:
        raise UnreadableRow(
            f"is a timer of the kind {kind[:40]!r}, which this version does not know: it stays for a newer instance",
            row,
            is_newer=True,
        )
    # The subject is read from a column: a row key may be hashed because of its length, or encoded.
    subject = read_text(row, "key").split(";", 1)
    if len(subject) != _SUBJECT_PARTS[kind] or not all(subject):
        raise UnreadableRow(f"is a timer of the kind {kind} whose column key does not name its subject", row)
    try:
        return kind, subject, datetime.strptime(minute, "%Y-%m-%dT%H:%M").replace(tzinfo=UTC)
    except ValueError:
        raise UnreadableRow(f"has a partition key that does not begin with a minute: {minute[:40]!r}", row) from None
